#include "client/main/stop_watcher.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/check.h"
#include "base/cli.h"

namespace choir::client {

StopWatcher::StopWatcher(std::function<void()> on_stop)
    : on_stop_(std::move(on_stop)) {
  CHOIR_CHECK(pipe2(wake_, O_CLOEXEC) == 0);
  thread_ = std::thread([this] { Watch(); });
}

StopWatcher::~StopWatcher() {
  close(wake_[1]);
  thread_.join();
  close(wake_[0]);
}

void StopWatcher::Watch() {
  pollfd waits[2] = {{base::StopSignal::file_descriptor(), POLLIN, 0},
                     {wake_[0], POLLIN, 0}};
  while (poll(waits, 2, -1) < 0 && errno == EINTR) {
  }
  if (base::StopSignal::requested()) on_stop_();
}

}  // namespace choir::client
