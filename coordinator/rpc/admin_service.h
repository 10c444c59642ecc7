// The service that operators call (proto/choir/v1/admin.proto).
#ifndef CHOIR_COORDINATOR_RPC_ADMIN_SERVICE_H_
#define CHOIR_COORDINATOR_RPC_ADMIN_SERVICE_H_

#include <cstdint>
#include <string>

#include "base/secure_random.h"
#include "choir/v1/admin.pb.h"
#include "coordinator/registry/registry.h"
#include "coordinator/rpc/front.h"
#include "coordinator/rpc/job_loop.h"

namespace choir::rpc {

// Threads: safe.
class AdminService {
 public:
  // The references outlive the service.
  AdminService(JobLoop& loop, registry::Registry& registry,
               const JobTable& jobs, const store::BlobStore& blobs,
               const base::Clock& clock, base::SecureRandom& random,
               uint64_t chunk_bytes);

  // Adds its methods; the service outlives `front`'s calls.
  void AddTo(Front& front);

 private:
  void AddJobMethods(Front& front);
  void AddClientMethods(Front& front);
  absl::Status CreateToken(const std::string& by,
                           const v1::CreateTokenRequest& request,
                           v1::CreateTokenResponse* response);
  absl::Status ListJobs(v1::ListJobsResponse* response);
  absl::Status ListClients(v1::ListClientsResponse* response);
  absl::Status ApproveClient(const std::string& by,
                             const v1::ApproveClientRequest& request,
                             v1::ClientStatus* response);
  absl::Status RevokeClient(const std::string& by,
                            const v1::RevokeClientRequest& request,
                            v1::ClientStatus* response);
  v1::ClientStatus StatusOf(const registry::Client& client) const;

  JobLoop& loop_;
  registry::Registry& registry_;
  const JobTable& jobs_;
  const store::BlobStore& blobs_;
  const base::Clock& clock_;
  base::SecureRandom& random_;
  const uint64_t chunk_bytes_;
};

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_ADMIN_SERVICE_H_
