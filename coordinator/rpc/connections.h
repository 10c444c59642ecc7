// The connections of the coordinator's port: how many there may be, how long
// one may go without a certificate, and how much of a message that has no end
// yet each may make us hold.
//
// gRPC gives a message to us, and compares its size with a limit, only when all
// of it is in memory. How much has arrived is known to the system, though: for
// each connection that has an unfinished message we look, many times a second,
// how many bytes it has received since, and take away what was consumed
// (docs/adr/0014-messages-are-measured-while-they-arrive.md).
#ifndef CHOIR_COORDINATOR_RPC_CONNECTIONS_H_
#define CHOIR_COORDINATOR_RPC_CONNECTIONS_H_

#include <sys/socket.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"

namespace choir::rpc {

struct ConnectionLimits {
  int most = 8192;
  // Of those on which nobody has proved to hold a certificate of our CA. One
  // address may stand for many agents behind it.
  int most_unproven = 1024;
  int most_unproven_per_address = 256;
  absl::Duration unproven_for = absl::Minutes(1);
};

// A message that somebody waits for.
class IncomingMessage {
 public:
  virtual ~IncomingMessage() = default;
  // At most once, on the thread that calls Look(): so many bytes have arrived,
  // and the message has no end.
  virtual void TooMuch(uint64_t arrived_bytes) = 0;
};

// Threads: safe. Descriptors: one for each connection, besides gRPC's own.
class Connections {
 public:
  // `clock` outlives this.
  Connections(ConnectionLimits limits, const base::Clock& clock);
  ~Connections();

  // Before gRPC gets the connection. RESOURCE_EXHAUSTED: it should be closed.
  // `peer` is as gRPC's context names it, with the port.
  absl::Status Add(const std::string& peer, int fd);
  // Its peer has shown a certificate that counts.
  void Proven(const std::string& peer);

  // A message of at most `most_bytes` is waited for. Every call is followed by
  // one of Received(), with the message's size, 0 if none came. A connection
  // that is not known (any more) is not watched.
  void Expect(const std::string& peer, std::shared_ptr<IncomingMessage> message,
              uint64_t most_bytes) ABSL_LOCKS_EXCLUDED(mu_);
  void Received(const std::string& peer, const IncomingMessage* message,
                uint64_t bytes) ABSL_LOCKS_EXCLUDED(mu_);

  // Ends what has gone over a limit, and forgets connections that are closed.
  // Returns how soon to look again, unless `wake` is called before.
  absl::Duration Look() ABSL_LOCKS_EXCLUDED(mu_);
  // Called when there is something to look after again.
  void set_wake(std::function<void()> wake);

  int size() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Expected {
    std::shared_ptr<IncomingMessage> message;  // gRPC owns it as well
    uint64_t most_bytes = 0;
  };
  struct Connection {
    int fd = -1;
    std::string address;  // without the port
    absl::Time since;
    bool proven = false;
    // Received by the socket when the first of `expected` was; and the sizes of
    // messages that were consumed since.
    uint64_t base_bytes = 0;
    uint64_t consumed_bytes = 0;
    std::vector<Expected> expected;
  };

  void Forget(const std::string& peer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ForgetClosed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckRoom(const std::string& address)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static uint64_t Allowance(const Connection& connection);

  const ConnectionLimits limits_;
  const base::Clock& clock_;
  mutable base::Mutex mu_;
  absl::flat_hash_map<std::string, Connection> connections_
      ABSL_GUARDED_BY(mu_);
  int unproven_ ABSL_GUARDED_BY(mu_) = 0;
  absl::flat_hash_map<std::string, int> unproven_of_ ABSL_GUARDED_BY(mu_);
  // Connections with expected messages.
  int waited_for_ ABSL_GUARDED_BY(mu_) = 0;
  // Looks since there were any.
  int quiet_looks_ ABSL_GUARDED_BY(mu_) = 0;
  bool asleep_ ABSL_GUARDED_BY(mu_) = true;
  absl::Time last_sweep_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  std::function<void()> wake_ ABSL_GUARDED_BY(mu_);
};

// As gRPC writes them: "ipv4:127.0.0.1:4711", "ipv6:%5B::1%5D:4711".
std::string PeerName(const sockaddr_storage& address);
// The same without the port.
std::string PeerAddress(absl::string_view peer);

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_CONNECTIONS_H_
