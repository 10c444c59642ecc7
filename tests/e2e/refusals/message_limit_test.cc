// Messages over the limit, by little and by far, and connections without end,
// against a real coordinator: what the peer is told, what the journal keeps,
// and how much memory it costs.
#include <arpa/inet.h>
#include <grpcpp/grpcpp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/files.h"
#include "choir/v1/coordinator.grpc.pb.h"
#include "tests/e2e/refusals/audited.h"
#include "tests/support/measure.h"

namespace choir::tests {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr size_t kMib = 1 << 20;
// Whatever a peer sends. Of a message over the limit what arrives between two
// looks is held, which is more the busier the machine is.
constexpr double kMostGrowthMib = 96.0;

class MessageLimits : public AuditedTest {
 protected:
  // gRPC as it comes, and without its limit on what may be sent. `name` empty:
  // without a certificate.
  static std::unique_ptr<v1::Coordinator::Stub> Dial(const std::string& name) {
    grpc::SslCredentialsOptions tls;
    tls.pem_root_certs = *base::ReadFile(cluster().PathOf("ca/ca.crt"));
    if (!name.empty()) {
      const std::string own = cluster().PathOf(absl::StrCat("ca/", name));
      tls.pem_cert_chain = *base::ReadFile(own + ".crt");
      tls.pem_private_key = *base::ReadFile(own + ".key");
    }
    grpc::ChannelArguments arguments;
    arguments.SetMaxSendMessageSize(-1);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return v1::Coordinator::NewStub(grpc::CreateCustomChannel(
        cluster().address(), grpc::SslCredentials(tls), arguments));
  }
  static std::unique_ptr<grpc::ClientContext> Context() {
    auto context = std::make_unique<grpc::ClientContext>();
    context->set_deadline(std::chrono::system_clock::now() +
                          std::chrono::seconds(60));
    return context;
  }

  static grpc::Status CheckIn(v1::Coordinator::Stub& stub, size_t bytes,
                              grpc::ClientContext* context) {
    v1::CheckInRequest request;
    request.mutable_capabilities()->set_device(std::string(bytes, 'x'));
    v1::CheckInResponse response;
    return stub.CheckIn(context, request, &response);
  }
  static grpc::Status CheckIn(v1::Coordinator::Stub& stub, size_t bytes) {
    return CheckIn(stub, bytes, Context().get());
  }
  static grpc::Status Enroll(v1::Coordinator::Stub& stub, size_t bytes) {
    v1::EnrollRequest request;
    request.set_token(std::string(bytes, 'x'));
    v1::EnrollResponse response;
    return stub.Enroll(Context().get(), request, &response);
  }
  static grpc::Status Upload(v1::Coordinator::Stub& stub, size_t bytes) {
    v1::UploadStatusResponse response;
    const auto context = Context();
    const auto writer = stub.Upload(context.get(), &response);
    v1::UploadChunk chunk;
    chunk.set_data(std::string(bytes, 'x'));
    writer->Write(chunk);
    writer->WritesDone();
    return writer->Finish();
  }

  // Of the coordinator, at most, so far.
  static double PeakMib() {
    return static_cast<double>(
               MemoryBytes("VmHWM", cluster().coordinator()->pid())) /
           kMib;
  }
};

MATCHER_P(IsTooLarge, what, "") {
  *result_listener << arg.error_code() << " " << arg.error_message();
  return arg.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED &&
         arg.error_message().find(what) != std::string::npos;
}

TEST_F(MessageLimits, UnaryRequests) {
  Issue("agent", "gina");
  const auto stub = Dial("gina");
  EXPECT_THAT(CheckIn(*stub, 70000), IsTooLarge("at most 65536 are taken"));
  EXPECT_THAT(PeerRefusals(cluster()),
              Contains(AllOf(StartsWith("gina /choir.v1.Coordinator/CheckIn: "
                                        "a request of 7000"),
                             HasSubstr("at most 65536 are taken"))));
}

TEST_F(MessageLimits, UnaryRequestsThatNeverEnd) {
  Issue("agent", "hugo");
  const auto stub = Dial("hugo");
  const double before = PeakMib();
  EXPECT_THAT(CheckIn(*stub, 64 * kMib), IsTooLarge("at most 65536 are taken"));
  EXPECT_THAT(CheckIn(*stub, 400 * kMib),
              IsTooLarge("at most 65536 are taken"));
  EXPECT_LT(PeakMib() - before, kMostGrowthMib);
  RecordProperty("grown_mib", static_cast<int>(PeakMib() - before));
  // Once a minute.
  int recorded = 0;
  for (const std::string& refusal : PeerRefusals(cluster())) {
    if (refusal.rfind("hugo ", 0) != 0) continue;
    ++recorded;
    EXPECT_THAT(refusal, AllOf(HasSubstr("/choir.v1.Coordinator/CheckIn: a "
                                         "request of "),
                               HasSubstr("at most 65536 are taken")));
  }
  EXPECT_EQ(recorded, 1);
  // The connection has not suffered.
  EXPECT_THAT(CheckIn(*stub, 70000), IsTooLarge("a request of 7000"));
}

TEST_F(MessageLimits, ChunksThatNeverEnd) {
  Issue("agent", "ida");
  const auto stub = Dial("ida");
  const double before = PeakMib();
  for (const size_t size : {2 * kMib, 64 * kMib, 400 * kMib}) {
    EXPECT_THAT(Upload(*stub, size),
                IsTooLarge("; send chunks of at most 262144 "
                           "(limits.chunk_kib)"))
        << size;
  }
  EXPECT_LT(PeakMib() - before, kMostGrowthMib);
  RecordProperty("grown_mib", static_cast<int>(PeakMib() - before));
  EXPECT_THAT(PeerRefusals(cluster()),
              Contains(AllOf(StartsWith("ida /choir.v1.Coordinator/Upload: a "
                                        "request of "),
                             HasSubstr("(limits.chunk_kib)"))));
}

TEST_F(MessageLimits, WithoutACertificate) {
  const double before = PeakMib();
  EXPECT_THAT(Enroll(*Dial(""), 400 * kMib),
              IsTooLarge("at most 65536 are taken"));
  EXPECT_THAT(PeerRefusals(cluster()),
              Contains(AllOf(StartsWith("ipv4:127.0.0.1 /choir.v1.Coordinator/"
                                        "Enroll: a request of "),
                             HasSubstr("at most 65536 are taken"))));
  // Of what such a peer may not call, no byte is taken.
  const grpc::Status refused = CheckIn(*Dial(""), 400 * kMib);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_LT(PeakMib() - before, kMostGrowthMib);
  RecordProperty("grown_mib", static_cast<int>(PeakMib() - before));
}

// Sixty MiB of one letter are sixty KiB when packed.
TEST_F(MessageLimits, PackedRequestsAreNotUnpacked) {
  Issue("agent", "jan");
  const auto stub = Dial("jan");
  const double before = PeakMib();
  const auto context = Context();
  context->set_compression_algorithm(GRPC_COMPRESS_GZIP);
  const grpc::Status refused = CheckIn(*stub, 60 * kMib, context.get());
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(refused.error_message(), HasSubstr("send it uncompressed"));
  EXPECT_LT(PeakMib() - before, 30.0);
  EXPECT_THAT(PeerRefusals(cluster()),
              Contains(AllOf(StartsWith("jan /choir.v1.Coordinator/CheckIn: "),
                             HasSubstr("cannot be decoded"))));
}

TEST_F(MessageLimits, HangingUpIsNotTooMuch) {
  Issue("agent", "karl");
  const auto stub = Dial("karl");
  for (int i = 0; i < 5; ++i) {
    v1::UploadStatusResponse response;
    const auto context = Context();
    const auto writer = stub->Upload(context.get(), &response);
    v1::UploadChunk chunk;
    chunk.set_data(std::string(kMib, 'x'));
    if (i > 0) writer->Write(chunk, grpc::WriteOptions().set_buffer_hint());
    context->TryCancel();
    EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_THAT(PeerRefusals(cluster()), Each(Not(StartsWith("karl "))));
}

TEST_F(MessageLimits, ConnectionsWithoutACertificate) {
  const std::string address = cluster().address();
  int port = 0;
  ASSERT_TRUE(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port));
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(port));
  std::vector<pollfd> sockets;
  for (int i = 0; i < 400; ++i) {
    sockets.push_back({::socket(AF_INET, SOCK_STREAM, 0), POLLIN, 0});
    ASSERT_EQ(::connect(sockets.back().fd, reinterpret_cast<sockaddr*>(&to),
                        sizeof(to)),
              0);
  }
  // Closed are those beyond 256; the others say nothing.
  const absl::Time end = absl::Now() + absl::Seconds(20);
  int closed = 0;
  while (closed < 144 && absl::Now() < end) {
    closed = ::poll(sockets.data(), sockets.size(), 100);
  }
  EXPECT_GE(closed, 144);
  EXPECT_LE(closed, 150);
  for (const pollfd& entry : sockets) ::close(entry.fd);
  // It takes a moment until the coordinator has noticed.
  while (cluster().Admin({"job", "list"}).exit_code != 0 && absl::Now() < end) {
  }
  EXPECT_THAT(PeerRefusals(cluster()),
              Contains(AllOf(StartsWith("ipv4:127.0.0.1 connect: "),
                             HasSubstr("beyond the 256 that one address may "
                                       "have without a certificate"))));
}

}  // namespace
}  // namespace choir::tests
