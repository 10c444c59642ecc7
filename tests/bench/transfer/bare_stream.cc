#include "tests/bench/transfer/bare_stream.h"

#include <grpcpp/grpcpp.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/files.h"
#include "base/sha256.h"
#include "choir/v1/coordinator.grpc.pb.h"

namespace choir::bench {
namespace {

class BareService final : public v1::Coordinator::Service {
 public:
  BareService(uint64_t bytes, uint64_t chunk_bytes)
      : bytes_(bytes), chunk_bytes_(chunk_bytes) {}

  grpc::Status Download(
      grpc::ServerContext*, const v1::DownloadRequest*,
      grpc::ServerWriter<v1::DownloadChunk>* writer) override {
    v1::DownloadChunk chunk;
    for (uint64_t sent = 0; sent < bytes_; sent += chunk.data().size()) {
      chunk.mutable_data()->assign(std::min(chunk_bytes_, bytes_ - sent), 'x');
      if (!writer->Write(chunk)) break;
    }
    return grpc::Status::OK;
  }

 private:
  uint64_t bytes_;
  uint64_t chunk_bytes_;
};

}  // namespace

int ServeBareStream(const TlsFiles& tls, uint64_t bytes, uint64_t chunk_bytes,
                    const std::string& port_file) {
  grpc::SslServerCredentialsOptions options(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = *base::ReadFile(tls.ca_certificate);
  options.pem_key_cert_pairs.push_back(
      {*base::ReadFile(tls.private_key), *base::ReadFile(tls.certificate)});
  BareService service(bytes, chunk_bytes);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::SslServerCredentials(options),
                           &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  CHOIR_CHECK(server != nullptr && port != 0);
  CHOIR_CHECK(base::WriteFileAtomic(port_file, absl::StrCat(port)).ok());
  server->Wait();
  return 0;
}

double UsedSeconds() {
  rusage used = {};
  getrusage(RUSAGE_SELF, &used);
  return static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
         static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec) *
             1e-6;
}

BareRead ReadBareStream(const TlsFiles& tls, const std::string& address,
                        uint64_t bytes, const std::string& file) {
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = *base::ReadFile(tls.ca_certificate);
  options.pem_private_key = *base::ReadFile(tls.private_key);
  options.pem_cert_chain = *base::ReadFile(tls.certificate);
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  const auto channel = grpc::CreateCustomChannel(
      address, grpc::SslCredentials(options), arguments);
  const auto stub = v1::Coordinator::NewStub(channel);
  CHOIR_CHECK(channel->WaitForConnected(
      absl::ToChronoTime(absl::Now() + absl::Seconds(30))));
  const absl::Time start = absl::Now();
  const double used_before = UsedSeconds();
  grpc::ClientContext context;
  const auto reader = stub->Download(&context, v1::DownloadRequest());
  v1::DownloadChunk chunk;
  uint64_t received = 0;
  base::Sha256 digest;
  std::FILE* out = file.empty() ? nullptr : std::fopen(file.c_str(), "wb");
  while (reader->Read(&chunk)) {
    const std::string& data = chunk.data();
    received += data.size();
    if (out == nullptr) continue;
    digest.Update(absl::string_view(data));
    CHOIR_CHECK(std::fwrite(data.data(), 1, data.size(), out) == data.size());
  }
  CHOIR_CHECK(reader->Finish().ok() && received == bytes);
  if (out != nullptr) {
    (void)digest.Finish();
    CHOIR_CHECK(std::fclose(out) == 0);
  }
  const BareRead read = {absl::ToDoubleSeconds(absl::Now() - start),
                         UsedSeconds() - used_before};
  if (out != nullptr) std::remove(file.c_str());
  return read;
}

}  // namespace choir::bench
