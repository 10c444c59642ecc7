// The coordinator's port: accepts connections within the limits, hands them on,
// and looks after them, on a thread of its own.
//
// gRPC's own listener knows no limit, and once the process is out of
// descriptors it never accepts again.
#ifndef CHOIR_COORDINATOR_RPC_LISTENER_H_
#define CHOIR_COORDINATOR_RPC_LISTENER_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "coordinator/rpc/connections.h"

namespace choir::rpc {

// Threads: one thread at a time, not from within the callbacks.
class Listener {
 public:
  // Both run on the listener's thread.
  struct Callbacks {
    // Owns `fd` from now on. `listener_fd` outlives the call only.
    std::function<void(int listener_fd, int fd)> accepted;
    // A connection was closed at once; `peer` as PeerAddress() gives it.
    std::function<void(const std::string& peer, const absl::Status& why)>
        refused;
  };

  // Binds every address that `listen` (host:port, port 0: the system chooses)
  // stands for; 0.0.0.0 and [::] stand for all of both kinds. UNAVAILABLE with
  // the system's reason if none can be had, INVALID_ARGUMENT if it is none.
  static absl::StatusOr<std::unique_ptr<Listener>> Bind(
      const std::string& listen, Connections& connections);
  ~Listener();

  int port() const { return port_; }
  // From now on connections are taken. Once.
  void Start(Callbacks callbacks);
  // Closes the port; connections go on. Blocks until the thread has ended.
  void Stop();

 private:
  explicit Listener(Connections& connections) : connections_(connections) {}

  absl::Status BindAddress(const sockaddr* address, socklen_t size);
  void Run();
  // False when the process is out of something: to be tried again later.
  bool Accept(int listener);
  void Wake();

  Connections& connections_;
  std::vector<int> listeners_;
  int port_ = 0;
  int wake_fd_ = -1;
  Callbacks callbacks_;
  base::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  absl::Time warned_ = absl::InfinitePast();  // of the thread
  std::thread thread_;
};

// So many descriptors as the system lets the process have, up to `wanted`;
// returns how many it may have now.
int RaiseDescriptorLimit(int wanted);

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_LISTENER_H_
