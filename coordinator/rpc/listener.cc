#include "coordinator/rpc/listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace choir::rpc {
namespace {

// Taken before looking after the others again.
constexpr int kMostAtOnce = 64;
// How long to wait for descriptors or memory.
constexpr int kOutOfSomethingMs = 100;
// When data is not acknowledged for so long, the peer is gone.
constexpr unsigned kUserTimeoutMs = 20000;

absl::Status SetOption(int fd, int level, int option, int value) {
  if (::setsockopt(fd, level, option, &value, sizeof(value)) == 0) {
    return absl::OkStatus();
  }
  return base::ErrnoStatus(errno, "set a socket's option");
}

int PortOf(int fd) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return 0;
  }
  return ntohs(address.ss_family == AF_INET
                   ? reinterpret_cast<sockaddr_in&>(address).sin_port
                   : reinterpret_cast<sockaddr_in6&>(address).sin6_port);
}

void SetPort(sockaddr* address, int port) {
  const auto network = htons(static_cast<uint16_t>(port));
  if (address->sa_family == AF_INET) {
    reinterpret_cast<sockaddr_in*>(address)->sin_port = network;
  } else {
    reinterpret_cast<sockaddr_in6*>(address)->sin6_port = network;
  }
}

absl::Status Unavailable(const std::string& listen, absl::string_view why) {
  return absl::UnavailableError(absl::StrCat(
      "cannot listen on ", listen, ": ", why,
      "; `listen` must be an address of this machine and a port that nobody "
      "has taken"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Bind(
    const std::string& listen, Connections& connections) {
  const size_t colon = listen.rfind(':');
  int port = 0;
  if (colon == std::string::npos ||
      !absl::SimpleAtoi(listen.substr(colon + 1), &port) || port < 0 ||
      port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", listen, "\" is not host:port"));
  }
  absl::string_view host = absl::string_view(listen).substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  auto listener = absl::WrapUnique(new Listener(connections));
  listener->port_ = port;
  listener->wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (listener->wake_fd_ < 0) return base::ErrnoStatus(errno, "eventfd");

  if (host.empty() || host == "0.0.0.0" || host == "::") {
    sockaddr_in6 both = {};
    both.sin6_family = AF_INET6;
    const absl::Status bound = listener->BindAddress(
        reinterpret_cast<const sockaddr*>(&both), sizeof(both));
    if (bound.ok()) return listener;
    // A machine without IPv6.
    host = "0.0.0.0";
  }
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int failed =
      ::getaddrinfo(std::string(host).c_str(), "0", &hints, &found);
  if (failed != 0) return Unavailable(listen, ::gai_strerror(failed));
  absl::Status last = absl::OkStatus();
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    const absl::Status bound = listener->BindAddress(a->ai_addr, a->ai_addrlen);
    if (!bound.ok()) last = bound;
  }
  ::freeaddrinfo(found);
  if (listener->listeners_.empty()) return Unavailable(listen, last.message());
  return listener;
}

absl::Status Listener::BindAddress(const sockaddr* address, socklen_t size) {
  sockaddr_storage wanted = {};
  std::memcpy(&wanted, address, size);
  SetPort(reinterpret_cast<sockaddr*>(&wanted), port_);
  const int fd = ::socket(address->sa_family,
                          SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return base::ErrnoStatus(errno, "socket");
  // What is accepted inherits the options. Two coordinators cannot share a
  // port: their clients would be divided by chance.
  absl::Status set = SetOption(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (set.ok()) set = SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  if (set.ok())
    set = SetOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT,
                    static_cast<int>(kUserTimeoutMs));
  if (set.ok() && address->sa_family == AF_INET6) {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address);
    set = SetOption(fd, IPPROTO_IPV6, IPV6_V6ONLY,
                    IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr) ? 0 : 1);
  }
  if (set.ok() &&
      (::bind(fd, reinterpret_cast<sockaddr*>(&wanted), size) != 0 ||
       ::listen(fd, SOMAXCONN) != 0)) {
    set = base::ErrnoStatus(errno, "bind");
  }
  if (!set.ok()) {
    ::close(fd);
    return set;
  }
  port_ = PortOf(fd);
  listeners_.push_back(fd);
  return absl::OkStatus();
}

void Listener::Start(Callbacks callbacks) {
  callbacks_ = std::move(callbacks);
  connections_.set_wake([this] { Wake(); });
  thread_ = std::thread([this] { Run(); });
}

void Listener::Wake() {
  const uint64_t one = 1;
  // Full means that it is awake already.
  [[maybe_unused]] const ssize_t put = ::write(wake_fd_, &one, sizeof(one));
}

void Listener::Stop() {
  {
    base::MutexLock lock(&mu_);
    stopping_ = true;
  }
  Wake();
  if (thread_.joinable()) thread_.join();
  connections_.set_wake(nullptr);
  for (const int fd : listeners_) ::close(fd);
  listeners_.clear();
}

Listener::~Listener() {
  Stop();
  if (wake_fd_ >= 0) ::close(wake_fd_);
}

void Listener::Run() {
  std::vector<pollfd> polled;
  for (const int fd : listeners_) polled.push_back({fd, POLLIN, 0});
  polled.push_back({wake_fd_, POLLIN, 0});
  absl::Time not_before = absl::InfinitePast();
  while (true) {
    {
      base::MutexLock lock(&mu_);
      if (stopping_) return;
    }
    const absl::Duration next = connections_.Look();
    const bool accepting = absl::Now() >= not_before;
    for (pollfd& entry : polled) {
      entry.events = accepting || entry.fd == wake_fd_ ? POLLIN : 0;
    }
    const int64_t wait =
        std::min<int64_t>(absl::ToInt64Milliseconds(next),
                          accepting ? INT_MAX : kOutOfSomethingMs);
    const int ready =
        ::poll(polled.data(), polled.size(), static_cast<int>(wait));
    if (ready < 0 && errno != EINTR) {
      absl::SleepFor(absl::Milliseconds(kOutOfSomethingMs));  // no memory
    }
    if (ready <= 0) continue;
    for (const pollfd& entry : polled) {
      if (entry.revents == 0) continue;
      if (entry.fd == wake_fd_) {
        uint64_t count = 0;
        [[maybe_unused]] const ssize_t got =
            ::read(wake_fd_, &count, sizeof(count));
      } else if (!Accept(entry.fd)) {
        not_before = absl::Now() + absl::Milliseconds(kOutOfSomethingMs);
      }
    }
  }
}

bool Listener::Accept(int listener) {
  for (int taken = 0; taken < kMostAtOnce; ++taken) {
    sockaddr_storage address = {};
    socklen_t size = sizeof(address);
    const int fd = ::accept4(listener, reinterpret_cast<sockaddr*>(&address),
                             &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
          errno == ENOMEM) {
        const absl::Status why = base::ErrnoStatus(errno, "accept");
        if (absl::Now() >= warned_ + absl::Minutes(1)) {
          warned_ = absl::Now();
          base::LogWarning("cannot take connections: ", why.message());
        }
        return false;
      }
      // Nobody is waiting, or the one who was has gone.
      return true;
    }
    const std::string peer = PeerName(address);
    if (const absl::Status room = connections_.Add(peer, fd); !room.ok()) {
      ::close(fd);
      callbacks_.refused(PeerAddress(peer), room);
      continue;
    }
    callbacks_.accepted(listener, fd);
  }
  return true;
}

int RaiseDescriptorLimit(int wanted) {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  const rlim_t most = std::min<rlim_t>(limit.rlim_max, wanted);
  if (limit.rlim_cur < most) {
    limit.rlim_cur = most;
    ::setrlimit(RLIMIT_NOFILE, &limit);
    ::getrlimit(RLIMIT_NOFILE, &limit);
  }
  return static_cast<int>(std::min<rlim_t>(limit.rlim_cur, INT_MAX));
}

}  // namespace choir::rpc
