// The service that agents call (proto/choir/v1/coordinator.proto).
#ifndef CHOIR_COORDINATOR_RPC_AGENT_SERVICE_H_
#define CHOIR_COORDINATOR_RPC_AGENT_SERVICE_H_

#include <atomic>
#include <cstdint>

#include "choir/v1/coordinator.grpc.pb.h"
#include "coordinator/rpc/enrolment.h"
#include "coordinator/rpc/gate.h"
#include "coordinator/rpc/job_loop.h"
#include "coordinator/rpc/transfers.h"

namespace choir::rpc {

// Callback handlers: no call holds a thread while it waits. Threads: safe.
class AgentService final
    : public v1::Coordinator::WithRawCallbackMethod_Download<
          v1::Coordinator::CallbackService> {
 public:
  // The references outlive the service.
  AgentService(Gate& gate, JobLoop& loop, Enrolment& enrolment,
               Uploads& uploads, const WorkBoard& board,
               const store::BlobStore& blobs, uint64_t chunk_bytes);

  grpc::ServerUnaryReactor* Enroll(grpc::CallbackServerContext* context,
                                   const v1::EnrollRequest* request,
                                   v1::EnrollResponse* response) override;
  grpc::ServerUnaryReactor* RenewCertificate(
      grpc::CallbackServerContext* context,
      const v1::RenewCertificateRequest* request,
      v1::RenewCertificateResponse* response) override;
  grpc::ServerUnaryReactor* CheckIn(grpc::CallbackServerContext* context,
                                    const v1::CheckInRequest* request,
                                    v1::CheckInResponse* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Download(
      grpc::CallbackServerContext* context,
      const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* GetUploadStatus(
      grpc::CallbackServerContext* context,
      const v1::UploadStatusRequest* request,
      v1::UploadStatusResponse* response) override;
  grpc::ServerReadReactor<v1::UploadChunk>* Upload(
      grpc::CallbackServerContext* context,
      v1::UploadStatusResponse* response) override;
  grpc::ServerUnaryReactor* SecureExchange(
      grpc::CallbackServerContext* context,
      const v1::SecureExchangeRequest* request,
      v1::SecureExchangeResponse* response) override;
  grpc::ServerUnaryReactor* Report(grpc::CallbackServerContext* context,
                                   const v1::ReportRequest* request,
                                   v1::ReportResponse* response) override;

 private:
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
