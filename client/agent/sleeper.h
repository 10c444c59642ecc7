// Waiting that a request to stop ends.
#ifndef CHOIR_CLIENT_AGENT_SLEEPER_H_
#define CHOIR_CLIENT_AGENT_SLEEPER_H_

#include "absl/time/time.h"

namespace choir::client {

// Threads: safe.
class Sleeper {
 public:
  virtual ~Sleeper() = default;
  // Waits; returns early once the agent is asked to stop.
  virtual void Sleep(absl::Duration duration) = 0;
  virtual bool stopping() const = 0;
};

// Sleeps on base::StopSignal's file descriptor.
class SignalSleeper final : public Sleeper {
 public:
  void Sleep(absl::Duration duration) override;
  bool stopping() const override;
};

}  // namespace choir::client

#endif  // CHOIR_CLIENT_AGENT_SLEEPER_H_
