// Calls a function when the program is asked to stop.
#ifndef CHOIR_CLIENT_MAIN_STOP_WATCHER_H_
#define CHOIR_CLIENT_MAIN_STOP_WATCHER_H_

#include <functional>
#include <thread>

namespace choir::client {

// Calls `on_stop`, on its own thread, at most once: when base::StopSignal is
// set. The destructor ends the watching.
class StopWatcher {
 public:
  explicit StopWatcher(std::function<void()> on_stop);
  ~StopWatcher();
  StopWatcher(const StopWatcher&) = delete;
  StopWatcher& operator=(const StopWatcher&) = delete;

 private:
  void Watch();

  std::function<void()> on_stop_;
  int wake_[2];
  std::thread thread_;
};

}  // namespace choir::client

#endif  // CHOIR_CLIENT_MAIN_STOP_WATCHER_H_
