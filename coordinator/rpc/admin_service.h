// The service that operators call (proto/choir/v1/admin.proto).
#ifndef CHOIR_COORDINATOR_RPC_ADMIN_SERVICE_H_
#define CHOIR_COORDINATOR_RPC_ADMIN_SERVICE_H_

#include <cstdint>
#include <functional>

#include "base/secure_random.h"
#include "choir/v1/admin.grpc.pb.h"
#include "coordinator/registry/registry.h"
#include "coordinator/rpc/gate.h"
#include "coordinator/rpc/job_loop.h"

namespace choir::rpc {

// Threads: safe.
class AdminService final : public v1::Admin::WithRawCallbackMethod_Download<
                               v1::Admin::CallbackService> {
 public:
  // The references outlive the service.
  AdminService(Gate& gate, JobLoop& loop, registry::Registry& registry,
               const JobTable& jobs, const store::BlobStore& blobs,
               const base::Clock& clock, base::SecureRandom& random,
               uint64_t chunk_bytes);

  grpc::ServerUnaryReactor* CreateToken(
      grpc::CallbackServerContext* context,
      const v1::CreateTokenRequest* request,
      v1::CreateTokenResponse* response) override;
  grpc::ServerUnaryReactor* SubmitJob(grpc::CallbackServerContext* context,
                                      const v1::SubmitJobRequest* request,
                                      v1::SubmitJobResponse* response) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context,
                                     const v1::ListJobsRequest* request,
                                     v1::ListJobsResponse* response) override;
  grpc::ServerUnaryReactor* ShowJob(grpc::CallbackServerContext* context,
                                    const v1::ShowJobRequest* request,
                                    v1::JobStatus* response) override;
  grpc::ServerUnaryReactor* StopJob(grpc::CallbackServerContext* context,
                                    const v1::StopJobRequest* request,
                                    v1::JobStatus* response) override;
  grpc::ServerUnaryReactor* ListClients(
      grpc::CallbackServerContext* context,
      const v1::ListClientsRequest* request,
      v1::ListClientsResponse* response) override;
  grpc::ServerUnaryReactor* ApproveClient(
      grpc::CallbackServerContext* context,
      const v1::ApproveClientRequest* request,
      v1::ClientStatus* response) override;
  grpc::ServerUnaryReactor* RevokeClient(grpc::CallbackServerContext* context,
                                         const v1::RevokeClientRequest* request,
                                         v1::ClientStatus* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Download(
      grpc::CallbackServerContext* context,
      const grpc::ByteBuffer* request) override;

 private:
  // Admits an operator, then runs `work(operator's name)` on the loop.
  template <typename Request, typename Work>
  grpc::ServerUnaryReactor* Serve(grpc::CallbackServerContext* context,
                                  absl::string_view method,
                                  const Request& request, Work work);
  v1::ClientStatus StatusOf(const registry::Client& client) const;

  Gate& gate_;
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
