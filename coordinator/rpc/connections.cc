#include "coordinator/rpc/connections.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/files.h"

namespace choir::rpc {
namespace {

// How often is looked while a message is unfinished; and when nothing is.
constexpr absl::Duration kLookPeriod = absl::Milliseconds(20);
constexpr absl::Duration kSleepPeriod = absl::Seconds(1);
// Looks without anything to look after before sleeping: a call that follows at
// once wakes nobody.
constexpr int kQuietLooks = 50;
// Beyond the messages themselves: what other calls of the connection have sent
// and nobody has asked for yet.
constexpr uint64_t kSlackBytes = 8u << 20;
constexpr uint64_t kUnprovenSlackBytes = 256u << 10;
// Frames and encryption add less than a sixteenth.
constexpr uint64_t kFramingPart = 16;

// From linux/tcp_states.h.
constexpr uint8_t kEstablished = 1;
constexpr uint8_t kSynReceived = 3;
constexpr uint8_t kCloseWait = 8;

bool ReadTcpInfo(int fd, tcp_info* info) {
  std::memset(info, 0, sizeof(*info));
  socklen_t size = sizeof(*info);
  return ::getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) == 0;
}

// gRPC shuts a socket down before it lets go of it.
bool Closed(int fd) {
  tcp_info info;
  return !ReadTcpInfo(fd, &info) ||
         (info.tcpi_state != kEstablished && info.tcpi_state != kSynReceived &&
          info.tcpi_state != kCloseWait);
}

uint64_t ReceivedBytes(int fd) {
  tcp_info info;
  return ReadTcpInfo(fd, &info) ? info.tcpi_bytes_received : 0;
}

}  // namespace

Connections::Connections(ConnectionLimits limits, const base::Clock& clock)
    : limits_(limits), clock_(clock) {}

Connections::~Connections() {
  base::MutexLock lock(&mu_);
  for (auto& [peer, connection] : connections_) ::close(connection.fd);
}

void Connections::set_wake(std::function<void()> wake) {
  base::MutexLock lock(&mu_);
  wake_ = std::move(wake);
}

int Connections::size() const {
  base::MutexLock lock(&mu_);
  return static_cast<int>(connections_.size());
}

absl::Status Connections::CheckRoom(const std::string& address) {
  if (static_cast<int>(connections_.size()) >= limits_.most) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a connection beyond the ", limits_.most,
                     " that this coordinator keeps"));
  }
  if (unproven_ >= limits_.most_unproven) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a connection beyond the ", limits_.most_unproven,
                     " that may be without a certificate"));
  }
  const auto of = unproven_of_.find(address);
  if ((of == unproven_of_.end() ? 0 : of->second) >=
      limits_.most_unproven_per_address) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a connection beyond the ", limits_.most_unproven_per_address,
        " that one address may have without a certificate"));
  }
  return absl::OkStatus();
}

absl::Status Connections::Add(const std::string& peer, int fd) {
  Connection connection;
  connection.address = PeerAddress(peer);
  connection.since = clock_.Now();
  base::MutexLock lock(&mu_);
  // An older one of that name is closed: the system gave its port away again.
  Forget(peer);
  absl::Status room = CheckRoom(connection.address);
  if (!room.ok() && absl::Now() > last_sweep_ + 5 * kLookPeriod) {
    ForgetClosed();
    room = CheckRoom(connection.address);
  }
  if (!room.ok()) return room;
  connection.fd = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (connection.fd < 0) return base::ErrnoStatus(errno, "duplicate a socket");
  ++unproven_;
  ++unproven_of_[connection.address];
  connections_[peer] = std::move(connection);
  return absl::OkStatus();
}

void Connections::Proven(const std::string& peer) {
  base::MutexLock lock(&mu_);
  const auto found = connections_.find(peer);
  if (found == connections_.end() || found->second.proven) return;
  found->second.proven = true;
  --unproven_;
  const auto of = unproven_of_.find(found->second.address);
  if (--of->second == 0) unproven_of_.erase(of);
}

void Connections::Forget(const std::string& peer) {
  const auto found = connections_.find(peer);
  if (found == connections_.end()) return;
  const Connection& connection = found->second;
  if (!connection.proven) {
    --unproven_;
    const auto of = unproven_of_.find(connection.address);
    if (--of->second == 0) unproven_of_.erase(of);
  }
  if (!connection.expected.empty()) --waited_for_;
  ::close(connection.fd);
  connections_.erase(found);
}

void Connections::ForgetClosed() {
  last_sweep_ = absl::Now();
  std::vector<std::string> closed;
  for (const auto& [peer, connection] : connections_) {
    if (Closed(connection.fd)) closed.push_back(peer);
  }
  for (const std::string& peer : closed) Forget(peer);
}

void Connections::Expect(const std::string& peer,
                         std::shared_ptr<IncomingMessage> message,
                         uint64_t most_bytes) {
  std::function<void()> wake;
  {
    base::MutexLock lock(&mu_);
    const auto found = connections_.find(peer);
    if (found == connections_.end()) return;
    Connection& connection = found->second;
    if (connection.expected.empty()) {
      connection.base_bytes = ReceivedBytes(connection.fd);
      connection.consumed_bytes = 0;
      ++waited_for_;
    }
    connection.expected.push_back({std::move(message), most_bytes});
    if (std::exchange(asleep_, false)) wake = wake_;
  }
  if (wake) wake();
}

void Connections::Received(const std::string& peer,
                           const IncomingMessage* message, uint64_t bytes) {
  std::shared_ptr<IncomingMessage> held;  // let go of without the lock
  base::MutexLock lock(&mu_);
  const auto found = connections_.find(peer);
  if (found == connections_.end()) return;
  Connection& connection = found->second;
  const auto expected = std::find_if(
      connection.expected.begin(), connection.expected.end(),
      [message](const Expected& e) { return e.message.get() == message; });
  if (expected == connection.expected.end()) return;
  connection.consumed_bytes += bytes;
  held = std::move(expected->message);
  connection.expected.erase(expected);
  if (connection.expected.empty()) --waited_for_;
}

uint64_t Connections::Allowance(const Connection& connection) {
  const uint64_t consumed = connection.consumed_bytes;
  uint64_t bytes = consumed + consumed / kFramingPart;
  // Who is not known has one message at a time, and a small one.
  uint64_t expected = 0;
  for (const Expected& e : connection.expected) {
    expected = connection.proven ? expected + e.most_bytes
                                 : std::max(expected, e.most_bytes);
  }
  bytes += expected + expected / kFramingPart;
  return bytes + (connection.proven ? kSlackBytes : kUnprovenSlackBytes);
}

absl::Duration Connections::Look() {
  std::vector<std::pair<std::shared_ptr<IncomingMessage>, uint64_t>> too_much;
  absl::Duration next = kLookPeriod;
  {
    base::MutexLock lock(&mu_);
    const bool sweep = absl::Now() >= last_sweep_ + kSleepPeriod;
    if (sweep) ForgetClosed();
    const absl::Time now = clock_.Now();
    for (auto& [peer, connection] : connections_) {
      if (sweep && !connection.proven &&
          now >= connection.since + limits_.unproven_for) {
        ::shutdown(connection.fd, SHUT_RDWR);
      }
      if (connection.expected.empty()) continue;
      const uint64_t received = ReceivedBytes(connection.fd);
      if (received < connection.base_bytes) continue;
      const uint64_t arrived = received - connection.base_bytes;
      if (arrived <= Allowance(connection)) continue;
      for (Expected& expected : connection.expected) {
        too_much.emplace_back(std::move(expected.message),
                              arrived - connection.consumed_bytes);
      }
      connection.expected.clear();
      --waited_for_;
    }
    quiet_looks_ = waited_for_ > 0 ? 0 : quiet_looks_ + 1;
    if (quiet_looks_ > kQuietLooks) {
      asleep_ = true;
      next = kSleepPeriod;
    }
  }
  for (auto& [message, arrived] : too_much) message->TooMuch(arrived);
  return next;
}

std::string PeerName(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = {};
  if (address.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    ::inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text));
    return absl::StrCat("ipv4:", text, ":", ntohs(v4.sin_port));
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
  if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
    ::inet_ntop(AF_INET, &v6.sin6_addr.s6_addr[12], text, sizeof(text));
    return absl::StrCat("ipv4:", text, ":", ntohs(v6.sin6_port));
  }
  ::inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
  const std::string scope =
      v6.sin6_scope_id == 0 ? "" : absl::StrCat("%25", v6.sin6_scope_id);
  return absl::StrCat("ipv6:%5B", text, scope, "%5D:", ntohs(v6.sin6_port));
}

std::string PeerAddress(absl::string_view peer) {
  return std::string(peer.substr(0, peer.rfind(':')));
}

}  // namespace choir::rpc
