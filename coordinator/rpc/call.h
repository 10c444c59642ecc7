// Answering calls from the job loop.
#ifndef CHOIR_COORDINATOR_RPC_CALL_H_
#define CHOIR_COORDINATOR_RPC_CALL_H_

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "coordinator/rpc/job_loop.h"
#include "coordinator/rpc/message_stream.h"

namespace choir::rpc {

// Shared with gRPC, and with whoever is going to answer.
template <typename Request, typename Response>
using CallPtr = std::shared_ptr<UnaryCall<Request, Response>>;

inline absl::Status ShuttingDown() {
  return absl::UnavailableError("the coordinator is shutting down");
}

// Runs `work` (returning absl::Status) on the job loop and answers the call
// with what it returns.
template <typename Call, typename Work>
void AnswerFromLoop(const std::shared_ptr<Call>& call, JobLoop& loop,
                    Work work) {
  const bool posted = loop.Post(
      [call, work = std::move(work)]() mutable { call->Answer(work()); });
  if (!posted) call->Answer(ShuttingDown());
}

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_CALL_H_
