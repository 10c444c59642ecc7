// What an error from the coordinator or the connection means for an agent.
#ifndef CHOIR_CLIENT_AGENT_RETRY_H_
#define CHOIR_CLIENT_AGENT_RETRY_H_

#include <string>

#include "absl/status/status.h"

namespace choir::client {

enum class ErrorKind {
  // The connection or the coordinator is away or in trouble: try again.
  kTransient,
  // This task is over or impossible; others may go well.
  kTask,
  // The coordinator will not talk to this agent: a person must act.
  kFatal,
};

// UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED, UNKNOWN and INTERNAL (how broken
// connections show themselves) are transient; UNAUTHENTICATED,
// PERMISSION_DENIED and UNIMPLEMENTED fatal; all others concern the task.
ErrorKind KindOf(const absl::Status& status);

// "UNAVAILABLE: connection refused", for logs.
std::string Describe(const absl::Status& status);

}  // namespace choir::client

#endif  // CHOIR_CLIENT_AGENT_RETRY_H_
