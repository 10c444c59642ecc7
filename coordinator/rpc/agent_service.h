// The service that agents call (proto/choir/v1/coordinator.proto).
#ifndef CHOIR_COORDINATOR_RPC_AGENT_SERVICE_H_
#define CHOIR_COORDINATOR_RPC_AGENT_SERVICE_H_

#include <atomic>
#include <cstdint>

#include "choir/v1/coordinator.pb.h"
#include "coordinator/rpc/call.h"
#include "coordinator/rpc/enrolment.h"
#include "coordinator/rpc/front.h"
#include "coordinator/rpc/gate.h"
#include "coordinator/rpc/job_loop.h"
#include "coordinator/rpc/transfers.h"

namespace choir::rpc {

// No call holds a thread while it waits. Threads: safe.
class AgentService {
 public:
  // The references outlive the service.
  AgentService(Gate& gate, JobLoop& loop, Enrolment& enrolment,
               Uploads& uploads, const WorkBoard& board,
               const store::BlobStore& blobs, uint64_t chunk_bytes);

  // Adds its methods; the service outlives `front`'s calls.
  void AddTo(Front& front);

 private:
  void Enroll(const CallPtr<v1::EnrollRequest, v1::EnrollResponse>& call);
  void Renew(const CallPtr<v1::RenewCertificateRequest,
                           v1::RenewCertificateResponse>& call);
  void CheckIn(const CallPtr<v1::CheckInRequest, v1::CheckInResponse>& call);
  void SecureExchange(const CallPtr<v1::SecureExchangeRequest,
                                    v1::SecureExchangeResponse>& call);
  void Report(const CallPtr<v1::ReportRequest, v1::ReportResponse>& call);

  Gate& gate_;
  JobLoop& loop_;
  Enrolment& enrolment_;
  Uploads& uploads_;
  const WorkBoard& board_;
  const store::BlobStore& blobs_;
  const uint64_t chunk_bytes_;
  std::atomic<uint64_t> next_call_{1};
};

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_AGENT_SERVICE_H_
