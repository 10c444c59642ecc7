#include "client/rpc/grpc_transport.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "choir/v1/coordinator.grpc.pb.h"
#include "client/rpc/download_stream.h"

namespace choir::client {
namespace {

// A chunk of 1 MiB with its frame; what else the coordinator sends is small.
constexpr int kMaxMessageBytes = 8 << 20;
// How long a call waits for a connection before it fails, and how often it
// looks whether it was cancelled meanwhile.
constexpr absl::Duration kConnectWait = absl::Seconds(5);
constexpr absl::Duration kConnectStep = absl::Milliseconds(250);

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  if (absl::StrContains(status.error_message(), "certificate verify failed")) {
    return absl::UnavailableError(absl::StrCat(
        status.error_message(),
        "; the coordinator's certificate is not of the CA in ca_certificate, "
        "does not name this host, or has expired; or the clock here is "
        "wrong"));
  }
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                      status.error_message());
}

class GrpcTransport final : public Transport {
 public:
  explicit GrpcTransport(GrpcTransportOptions options)
      : options_(std::move(options)) {
    Connect("", "");
  }

  absl::Status UseIdentity(absl::string_view certificate_pem,
                           absl::string_view private_key_pem) override {
    Connect(certificate_pem, private_key_pem);
    return absl::OkStatus();
  }

  absl::StatusOr<v1::EnrollResponse> Enroll(
      const v1::EnrollRequest& request) override {
    return Call<v1::EnrollResponse>(&v1::Coordinator::Stub::Enroll, request,
                                    options_.call_timeout);
  }
  absl::StatusOr<v1::RenewCertificateResponse> RenewCertificate(
      const v1::RenewCertificateRequest& request) override {
    return Call<v1::RenewCertificateResponse>(
        &v1::Coordinator::Stub::RenewCertificate, request,
        options_.call_timeout);
  }
  absl::StatusOr<v1::CheckInResponse> CheckIn(
      const v1::CheckInRequest& request) override {
    return Call<v1::CheckInResponse>(&v1::Coordinator::Stub::CheckIn, request,
                                     options_.check_in_timeout);
  }
  absl::StatusOr<v1::UploadStatusResponse> GetUploadStatus(
      const v1::UploadStatusRequest& request) override {
    return Call<v1::UploadStatusResponse>(
        &v1::Coordinator::Stub::GetUploadStatus, request,
        options_.call_timeout);
  }
  absl::StatusOr<v1::ReportResponse> Report(
      const v1::ReportRequest& request) override {
    return Call<v1::ReportResponse>(&v1::Coordinator::Stub::Report, request,
                                    options_.call_timeout);
  }
  absl::StatusOr<v1::SecureExchangeResponse> SecureExchange(
      const v1::SecureExchangeRequest& request) override {
    return Call<v1::SecureExchangeResponse>(
        &v1::Coordinator::Stub::SecureExchange, request,
        options_.check_in_timeout);
  }

  absl::Status Download(const v1::DownloadRequest& request,
                        const ChunkSink& sink) override {
    ActiveCall call(*this, options_.transfer_timeout);
    grpc::Status finished;
    CHOIR_RETURN_IF_ERROR(
        RunDownload(channel_, *call.context(), request, sink, &finished));
    return FromGrpc(finished);
  }

  absl::StatusOr<v1::UploadStatusResponse> Upload(
      const ChunkSource& source) override {
    ActiveCall call(*this, options_.transfer_timeout);
    v1::UploadStatusResponse response;
    auto writer = stub_->Upload(call.context(), &response);
    v1::UploadChunk chunk;
    absl::Status local;
    while (true) {
      const absl::StatusOr<bool> more = source(&chunk);
      if (!more.ok()) {
        local = more.status();
        call.context()->TryCancel();
        break;
      }
      // A refused write means that the answer is there already.
      if (!*more || !writer->Write(chunk)) break;
    }
    writer->WritesDone();
    const grpc::Status finished = writer->Finish();
    CHOIR_RETURN_IF_ERROR(local);
    CHOIR_RETURN_IF_ERROR(FromGrpc(finished));
    return response;
  }

  void Cancel() override {
    base::MutexLock lock(&mu_);
    cancelled_ = true;
    if (active_ != nullptr) active_->TryCancel();
  }

 private:
  // A call's context, where Cancel() can reach it.
  class ActiveCall {
   public:
    ActiveCall(GrpcTransport& owner, absl::Duration timeout) : owner_(owner) {
      owner_.AwaitConnection();
      context_.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
      base::MutexLock lock(&owner_.mu_);
      owner_.active_ = &context_;
      if (owner_.cancelled_) context_.TryCancel();
    }
    ~ActiveCall() {
      base::MutexLock lock(&owner_.mu_);
      owner_.active_ = nullptr;
    }
    grpc::ClientContext* context() { return &context_; }

   private:
    GrpcTransport& owner_;
    grpc::ClientContext context_;
  };

  bool cancelled() {
    base::MutexLock lock(&mu_);
    return cancelled_;
  }

  // Returns when connected, or when an attempt to connect has failed. gRPC
  // works on a connection only while a thread waits in it: a call that failed
  // at once, because the last attempt had, would leave the next attempt to
  // itself, whose handshake then times out, again and again.
  void AwaitConnection() {
    const absl::Time end = absl::Now() + kConnectWait;
    bool tried = false;
    grpc_connectivity_state state = channel_->GetState(/*try_to_connect=*/true);
    while (state != GRPC_CHANNEL_READY && absl::Now() < end && !cancelled()) {
      if (state == GRPC_CHANNEL_CONNECTING) tried = true;
      if (state == GRPC_CHANNEL_TRANSIENT_FAILURE && tried) return;
      channel_->WaitForStateChange(
          state, absl::ToChronoTime(absl::Now() + kConnectStep));
      state = channel_->GetState(/*try_to_connect=*/true);
    }
  }

  template <typename Response, typename Request>
  absl::StatusOr<Response> Call(
      grpc::Status (v1::Coordinator::Stub::*method)(grpc::ClientContext*,
                                                    const Request&, Response*),
      const Request& request, absl::Duration timeout) {
    ActiveCall call(*this, timeout);
    Response response;
    CHOIR_RETURN_IF_ERROR(
        FromGrpc((stub_.get()->*method)(call.context(), request, &response)));
    return response;
  }

  void Connect(absl::string_view certificate_pem,
               absl::string_view private_key_pem) {
    grpc::SslCredentialsOptions ssl;
    ssl.pem_root_certs = options_.ca_certificate_pem;
    ssl.pem_cert_chain = std::string(certificate_pem);
    ssl.pem_private_key = std::string(private_key_pem);
    grpc::ChannelArguments arguments;
    if (!options_.server_name.empty()) {
      arguments.SetSslTargetNameOverride(options_.server_name);
    }
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    arguments.SetMaxSendMessageSize(kMaxMessageBytes);
    // The agent has its own, longer backoff; the channel's must not add to it.
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2000);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
    // Finds out that the other side is gone during a long poll.
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 60000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
    // Base models are large: fewer, longer frames and reads.
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 16 << 20);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, 1 << 20);
    arguments.SetInt(GRPC_ARG_TCP_READ_CHUNK_SIZE, 256 << 10);
    arguments.SetInt(GRPC_ARG_TCP_MIN_READ_CHUNK_SIZE, 64 << 10);
    // A new identity must not reuse a connection of the old one.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ = grpc::CreateCustomChannel(options_.address,
                                         grpc::SslCredentials(ssl), arguments);
    stub_ = v1::Coordinator::NewStub(channel_);
  }

  const GrpcTransportOptions options_;
  std::shared_ptr<grpc::Channel> channel_;  // shared with the stub
  std::unique_ptr<v1::Coordinator::Stub> stub_;
  base::Mutex mu_;
  grpc::ClientContext* active_ ABSL_GUARDED_BY(mu_) = nullptr;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> MakeGrpcTransport(
    GrpcTransportOptions options) {
  if (options.ca_certificate_pem.find("BEGIN CERTIFICATE") ==
      std::string::npos) {
    return absl::InvalidArgumentError(
        "ca_certificate: no PEM certificate in the file");
  }
  return std::unique_ptr<Transport>(
      std::make_unique<GrpcTransport>(std::move(options)));
}

}  // namespace choir::client
