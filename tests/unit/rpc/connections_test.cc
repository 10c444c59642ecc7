#include "coordinator/rpc/connections.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <latch>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/rpc/listener.h"
#include "coordinator/rpc/message_stream.h"

namespace choir::rpc {
namespace {

using ::testing::ElementsAre;
using ::testing::Gt;
using ::testing::HasSubstr;

constexpr uint64_t kMib = 1 << 20;

// Two ends of a TCP connection on loopback; `peer` names the client's.
struct Pair {
  int client = -1;
  int server = -1;
  std::string peer;

  Pair() = default;
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;
  ~Pair() {
    ::close(client);
    CloseServer();
  }
  // As gRPC does it.
  void CloseServer() {
    if (server < 0) return;
    ::shutdown(server, SHUT_RDWR);
    ::close(std::exchange(server, -1));
  }
  // For the client: the other end was closed.
  bool HasNews() const {
    pollfd entry = {client, POLLIN, 0};
    return ::poll(&entry, 1, 0) == 1;
  }
  // Sends bytes and takes them at the other end.
  void Pass(uint64_t bytes) const {
    std::vector<char> buffer(64 << 10, 'x');
    while (bytes > 0) {
      const ssize_t put = ::write(client, buffer.data(),
                                  std::min<uint64_t>(bytes, buffer.size()));
      ASSERT_GT(put, 0);
      for (ssize_t left = put; left > 0;) {
        const ssize_t got = ::read(server, buffer.data(), left);
        ASSERT_GT(got, 0);
        left -= got;
      }
      bytes -= put;
    }
  }
};

sockaddr_in Loopback(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

int ConnectTo(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  const sockaddr_in address = Loopback(port);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address),
                sizeof(address)) != 0) {
    ::close(fd);
    return -1;
  }
  return fd;
}

std::unique_ptr<Pair> MakePair() {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  EXPECT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(::listen(listener, 1), 0);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  auto pair = std::make_unique<Pair>();
  pair->client = ConnectTo(ntohs(address.sin_port));
  sockaddr_storage peer = {};
  size = sizeof(peer);
  pair->server = ::accept(listener, reinterpret_cast<sockaddr*>(&peer), &size);
  pair->peer = PeerName(peer);
  ::close(listener);
  return pair;
}

class Message final : public IncomingMessage {
 public:
  void TooMuch(uint64_t arrived) override { arrived_.push_back(arrived); }
  const std::vector<uint64_t>& arrived() const { return arrived_; }

 private:
  std::vector<uint64_t> arrived_;
};

class ConnectionsTest : public testing::Test {
 protected:
  static ConnectionLimits Small() {
    ConnectionLimits limits;
    limits.most = 4;
    limits.most_unproven = 3;
    limits.most_unproven_per_address = 2;
    return limits;
  }
  std::unique_ptr<Pair> Added(Connections& connections) {
    auto pair = MakePair();
    EXPECT_EQ(connections.Add(pair->peer, pair->server), absl::OkStatus());
    return pair;
  }

  base::ManualClock clock_;
};

TEST_F(ConnectionsTest, AnAddressHasSoManyWithoutACertificate) {
  Connections connections(Small(), clock_);
  const auto first = Added(connections);
  const auto second = Added(connections);
  const auto third = MakePair();
  const absl::Status refused = connections.Add(third->peer, third->server);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("beyond the 2 that one address may have"));
  // Another address has its own.
  EXPECT_TRUE(connections.Add("ipv4:192.0.2.1:9", third->server).ok());
  EXPECT_THAT(
      std::string(connections.Add("ipv4:192.0.2.2:9", third->server).message()),
      HasSubstr("beyond the 3 that may be without a certificate"));
  // Who has shown a certificate does not count, once or twice.
  connections.Proven(first->peer);
  connections.Proven(first->peer);
  EXPECT_TRUE(connections.Add(third->peer, third->server).ok());
  EXPECT_THAT(
      std::string(connections.Add("ipv4:192.0.2.2:9", third->server).message()),
      HasSubstr("beyond the 4 that this coordinator keeps"));
  EXPECT_EQ(connections.size(), 4);
}

TEST_F(ConnectionsTest, ClosedOnesMakeRoom) {
  Connections connections(Small(), clock_);
  const auto first = Added(connections);
  const auto second = Added(connections);
  first->CloseServer();
  const auto third = Added(connections);
  EXPECT_EQ(connections.size(), 2);
  // The peer's hanging up is for gRPC to see, which then closes.
  ::shutdown(second->client, SHUT_WR);
  const auto fourth = MakePair();
  EXPECT_FALSE(connections.Add(fourth->peer, fourth->server).ok());
}

TEST_F(ConnectionsTest, WhoShowsNoCertificateIsCutOffAfterAMinute) {
  for (const int seconds : {59, 60}) {
    Connections connections(Small(), clock_);
    const auto proven = Added(connections);
    const auto unproven = Added(connections);
    connections.Proven(proven->peer);
    clock_.Advance(absl::Seconds(seconds));
    connections.Look();
    EXPECT_FALSE(proven->HasNews());
    EXPECT_EQ(unproven->HasNews(), seconds == 60);
  }
}

TEST_F(ConnectionsTest, AMessageWithoutAnEndIsToldOnce) {
  Connections connections(Small(), clock_);
  const auto pair = Added(connections);
  connections.Proven(pair->peer);
  // What came before does not count.
  pair->Pass(20 * kMib);
  const auto message = std::make_shared<Message>();
  connections.Expect(pair->peer, message, kMib);
  pair->Pass(8 * kMib);
  connections.Look();
  EXPECT_THAT(message->arrived(), ElementsAre());
  pair->Pass(2 * kMib);
  connections.Look();
  EXPECT_THAT(message->arrived(), ElementsAre(10 * kMib));
  pair->Pass(20 * kMib);
  connections.Look();
  EXPECT_THAT(message->arrived(), ElementsAre(10 * kMib));
  connections.Received(pair->peer, message.get(), 0);
}

TEST_F(ConnectionsTest, WhatWasConsumedIsNotHeld) {
  Connections connections(Small(), clock_);
  const auto pair = Added(connections);
  connections.Proven(pair->peer);
  // One call waits while another brings message after message.
  const auto idle = std::make_shared<Message>();
  const auto busy = std::make_shared<Message>();
  connections.Expect(pair->peer, idle, kMib);
  for (int i = 0; i < 40; ++i) {
    connections.Expect(pair->peer, busy, kMib);
    pair->Pass(kMib);
    connections.Look();
    connections.Received(pair->peer, busy.get(), kMib);
  }
  EXPECT_THAT(idle->arrived(), ElementsAre());
  // What nobody consumes counts on top.
  pair->Pass(13 * kMib);
  connections.Look();
  EXPECT_THAT(idle->arrived(), ElementsAre(13 * kMib));
  EXPECT_THAT(busy->arrived(), ElementsAre());
}

TEST_F(ConnectionsTest, StrangersAreGivenLittle) {
  Connections connections(Small(), clock_);
  const auto pair = Added(connections);
  std::vector<std::shared_ptr<Message>> messages;
  for (int i = 0; i < 16; ++i) {
    messages.push_back(std::make_shared<Message>());
    connections.Expect(pair->peer, messages.back(), 64 << 10);
  }
  pair->Pass(512 << 10);
  connections.Look();
  for (const auto& message : messages) {
    EXPECT_THAT(message->arrived(), ElementsAre(uint64_t{512} << 10));
  }
}

TEST_F(ConnectionsTest, LooksOftenOnlyWhileSomethingIsExpected) {
  Connections connections(Small(), clock_);
  int woken = 0;
  connections.set_wake([&woken] { ++woken; });
  const auto pair = Added(connections);
  const auto message = std::make_shared<Message>();
  connections.Expect(pair->peer, message, kMib);
  EXPECT_EQ(woken, 1);
  EXPECT_LT(connections.Look(), absl::Milliseconds(100));
  connections.Expect(pair->peer, message, kMib);
  EXPECT_EQ(woken, 1) << "it is awake";
  connections.Received(pair->peer, message.get(), 1);
  connections.Received(pair->peer, message.get(), 1);
  absl::Duration next;
  for (int i = 0; i < 100; ++i) next = connections.Look();
  EXPECT_EQ(next, absl::Seconds(1));
  connections.Expect(pair->peer, message, kMib);
  EXPECT_EQ(woken, 2);
}

TEST_F(ConnectionsTest, PeersThatAreNotKnownAreLeftAlone) {
  Connections connections(Small(), clock_);
  const auto message = std::make_shared<Message>();
  connections.Proven("ipv4:192.0.2.1:9");
  connections.Expect("ipv4:192.0.2.1:9", message, 1);
  connections.Look();
  connections.Received("ipv4:192.0.2.1:9", message.get(), 1);
  EXPECT_EQ(connections.size(), 0);
}

// The names must be those of gRPC, or no connection would be found.
TEST(PeerNameTest, IsWhatGrpcCallsThePeer) {
  for (const char* address : {"127.0.0.1:0", "[::1]:0"}) {
    grpc::CallbackGenericService nothing;
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
    builder.RegisterCallbackGenericService(&nothing);
    const auto server = builder.BuildAndStart();
    if (server == nullptr || port == 0) {
      ASSERT_STREQ(address, "[::1]:0");  // a machine without IPv6
      continue;
    }
    const std::string target = absl::StrCat(
        std::string(address, std::string(address).size() - 1), port);
    grpc::GenericStub stub(
        grpc::CreateChannel(target, grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    grpc::ByteBuffer request, response;
    grpc::Slice empty("");
    request = grpc::ByteBuffer(&empty, 1);
    std::latch done{1};
    stub.UnaryCall(&context, "/a/B", grpc::StubOptions(), &request, &response,
                   [&done](grpc::Status) { done.count_down(); });
    done.wait();
    sockaddr_storage expected = {};
    if (address[0] == '[') {
      auto& v6 = reinterpret_cast<sockaddr_in6&>(expected);
      v6.sin6_family = AF_INET6;
      v6.sin6_addr = in6addr_loopback;
      v6.sin6_port = htons(static_cast<uint16_t>(port));
    } else {
      reinterpret_cast<sockaddr_in&>(expected) = Loopback(port);
    }
    EXPECT_EQ(context.peer(), PeerName(expected));
    EXPECT_EQ(absl::StrCat(PeerAddress(context.peer()), ":", port),
              context.peer());
  }
}

TEST(PeerNameTest, KnowsVersionFourInVersionSix) {
  sockaddr_storage mapped = {};
  auto& v6 = reinterpret_cast<sockaddr_in6&>(mapped);
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(4711);
  ASSERT_EQ(::inet_pton(AF_INET6, "::ffff:192.0.2.7", &v6.sin6_addr), 1);
  EXPECT_EQ(PeerName(mapped), "ipv4:192.0.2.7:4711");
}

class ListenerTest : public testing::Test {
 protected:
  void Start(ConnectionLimits limits, const std::string& listen) {
    connections_ = std::make_unique<Connections>(limits, clock_);
    auto bound = Listener::Bind(listen, *connections_);
    ASSERT_TRUE(bound.ok()) << bound.status();
    listener_ = *std::move(bound);
    listener_->Start({[](int, int fd) {
                        ::shutdown(fd, SHUT_RDWR);
                        ::close(fd);
                      },
                      [this](const std::string& peer, const absl::Status& why) {
                        EXPECT_EQ(peer, "ipv4:127.0.0.1");
                        EXPECT_EQ(why.code(),
                                  absl::StatusCode::kResourceExhausted);
                        if (!refused_.try_wait()) refused_.count_down();
                      }});
  }
  // Whether the other side has closed the connection within some seconds.
  static bool GetsClosed(int fd) {
    pollfd entry = {fd, POLLIN, 0};
    char byte = 0;
    const bool closed =
        ::poll(&entry, 1, 5000) == 1 && ::read(fd, &byte, 1) <= 0;
    ::close(fd);
    return closed;
  }

  base::ManualClock clock_;
  std::unique_ptr<Connections> connections_;
  std::unique_ptr<Listener> listener_;
  std::latch refused_{1};
};

TEST_F(ListenerTest, RefusesWhatIsTooMuchAndSaysSo) {
  ConnectionLimits limits;
  limits.most_unproven_per_address = 0;
  Start(limits, "127.0.0.1:0");
  EXPECT_TRUE(GetsClosed(ConnectTo(listener_->port())));
  refused_.wait();
}

TEST_F(ListenerTest, GoesOnWhenThereAreDescriptorsAgain) {
  Start(ConnectionLimits(), "127.0.0.1:0");
  rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const int waiting = ::socket(AF_INET, SOCK_STREAM, 0);
  // All below are taken.
  const int next = ::dup(waiting);
  ::close(next);
  rlimit none = before;
  none.rlim_cur = static_cast<rlim_t>(next);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const sockaddr_in address = Loopback(listener_->port());
  // The system takes it; the process cannot.
  EXPECT_EQ(::connect(waiting, reinterpret_cast<const sockaddr*>(&address),
                      sizeof(address)),
            0);
  pollfd entry = {waiting, POLLIN, 0};
  EXPECT_EQ(::poll(&entry, 1, 250), 0);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(::poll(&entry, 1, 5000), 1) << "never taken";
  ::close(waiting);
}

TEST_F(ListenerTest, TakesBothKindsOfAddressesOnTheWildcard) {
  Start(ConnectionLimits(), "0.0.0.0:0");
  EXPECT_THAT(listener_->port(), Gt(0));
  const int fd = ConnectTo(listener_->port());
  EXPECT_GE(fd, 0);
  ::close(fd);
  listener_->Stop();
  EXPECT_EQ(ConnectTo(listener_->port()), -1) << "the port is closed";
}

TEST_F(ListenerTest, SaysWhatItCannotHave) {
  Start(ConnectionLimits(), "127.0.0.1:0");
  const std::string taken = absl::StrCat("127.0.0.1:", listener_->port());
  const absl::Status again = Listener::Bind(taken, *connections_).status();
  EXPECT_EQ(again.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(again.message()), HasSubstr(taken));
  EXPECT_EQ(Listener::Bind("192.0.2.1:0", *connections_).status().code(),
            absl::StatusCode::kUnavailable);
  for (const char* bad :
       {"", "localhost", "localhost:", "h:x", "h:65536", "h:-1"}) {
    EXPECT_EQ(Listener::Bind(bad, *connections_).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

}  // namespace
}  // namespace choir::rpc
