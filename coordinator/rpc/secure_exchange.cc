// Clients that wait for the next message of a secure round.
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/rpc/job_loop.h"
#include "coordinator/rpc/refusal_log.h"
#include "proto/codec/task_key.h"

namespace choir::rpc {
namespace {

// Whether the client's part in its task ends with this answer.
bool Ends(const absl::StatusOr<v1::SecureServerMessage>& answer) {
  return answer.ok() ? answer->has_done() || answer->has_abort()
                     : absl::IsAborted(answer.status());
}

}  // namespace

void JobLoop::SecureExchange(const std::string& client,
                             const v1::SecureExchangeRequest& request,
                             uint64_t call, SecureAnswer answer) {
  // The client repeats itself: its earlier call has been given up.
  AnswerExchange(
      client, absl::AbortedError(absl::StrCat("client \"", client,
                                              "\" has asked again elsewhere")));
  if (runner_ == nullptr || request.key().job() != running_job_) {
    return answer(absl::AbortedError(
        absl::StrCat("job \"", PrintableText(request.key().job()),
                     "\" is not running; check in again")));
  }
  const std::string& payload = request.message().masked().digest();
  // Any other spelling of a digest is refused by the runner.
  const bool masked =
      request.message().has_masked() && store::IsDigestText(payload);
  // Whoever names another's vector could have it added in its own name.
  if (masked && !board_.HasPayload(client, request.key(), payload)) {
    return answer(absl::NotFoundError(
        "you have not uploaded this masked vector for your task"));
  }
  // Before it is taken: if it is uploaded again meanwhile, that is noted.
  if (masked) board_.Reported(payload);
  runner_->ArrivedAt(arrived_);
  absl::StatusOr<absl::optional<v1::SecureServerMessage>> said =
      runner_->PostSecure(client, request);
  if (absl::IsUnavailable(said.status())) NoteTrouble(said.status());
  // What was not taken stays until its phase or task ends; that may be now.
  if (masked && !said.ok() &&
      !board_.Uploaded(client, request.key(), payload)) {
    RemoveUpdate(payload, true);
  }
  if (said.ok() && !said->has_value()) {
    Exchange& waiting = exchanges_[client];
    waiting.key = request.key();
    waiting.call = call;
    waiting.answer = std::move(answer);
    waiting.until = clock_.Now() + options_.long_poll;
    next_exchange_timer_ = std::min(next_exchange_timer_, waiting.until);
    return;
  }
  absl::StatusOr<v1::SecureServerMessage> message =
      said.ok() ? absl::StatusOr<v1::SecureServerMessage>(*std::move(*said))
                : said.status();
  if (Ends(message)) Drop(board_.Done(client, request.key()));
  if (!message.ok()) return answer(message.status());
  v1::SecureExchangeResponse response;
  *response.mutable_message() = *std::move(message);
  answer(response);
}

void JobLoop::OnSecure(const std::string& client, const v1::TaskKey& key,
                       const absl::StatusOr<v1::SecureServerMessage>& answer) {
  if (Ends(answer)) Drop(board_.Done(client, key));
  const auto waiting = exchanges_.find(client);
  if (waiting == exchanges_.end() ||
      !codec::SameTask(waiting->second.key, key)) {
    return;
  }
  if (!answer.ok()) return AnswerExchange(client, answer.status());
  v1::SecureExchangeResponse response;
  *response.mutable_message() = *answer;
  AnswerExchange(client, response);
}

void JobLoop::AnswerExchange(
    const std::string& client,
    const absl::StatusOr<v1::SecureExchangeResponse>& answer) {
  const auto waiting = exchanges_.find(client);
  if (waiting == exchanges_.end()) return;
  const SecureAnswer call = std::move(waiting->second.answer);
  exchanges_.erase(waiting);
  call(answer);
}

void JobLoop::CancelExchange(const std::string& client, uint64_t call) {
  const auto waiting = exchanges_.find(client);
  if (waiting == exchanges_.end() || waiting->second.call != call) return;
  // It may ask again: a broken connection is no refusal.
  AnswerExchange(client, absl::CancelledError("the client hung up"));
}

void JobLoop::AnswerAllExchanges(const absl::Status& status) {
  while (!exchanges_.empty()) {
    AnswerExchange(std::string(exchanges_.begin()->first), status);
  }
}

void JobLoop::FireExchangeTimers(absl::Time now) {
  if (now < next_exchange_timer_) return;
  std::vector<std::string> late;
  next_exchange_timer_ = absl::InfiniteFuture();
  for (const auto& [client, waiting] : exchanges_) {
    if (now >= waiting.until) {
      late.push_back(client);
    } else {
      next_exchange_timer_ = std::min(next_exchange_timer_, waiting.until);
    }
  }
  v1::SecureExchangeResponse again;
  again.set_retry_after_ms(1);
  for (const std::string& client : late) AnswerExchange(client, again);
}

}  // namespace choir::rpc
