#include "coordinator/rpc/job_loop.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "coordinator/rpc/grpc_status.h"
#include "coordinator/rpc/refusal_log.h"

namespace choir::rpc {
namespace {

constexpr absl::Duration kRetryPeriod = absl::Seconds(1);
// The clock may be a manual one or jump: look at it at least so often.
constexpr absl::Duration kLongestSleep = absl::Seconds(1);

constexpr uint64_t kMostDeadlineMs = uint64_t{1} << 40;

std::string Mebibytes(uint64_t bytes) {
  return absl::StrFormat("%.2f MiB", static_cast<double>(bytes) / (1 << 20));
}

// One line per round and per evaluation, for whoever watches the daemon.
void LogProgress(const v1::JournalRecord& record) {
  if (record.has_round_committed()) {
    const v1::RoundCommitted& round = record.round_committed();
    base::LogInfo("job ", round.job(), " round ", round.round(), ": ",
                  round.survivors_size(), " survivors, train loss ",
                  absl::StrFormat("%.4f", round.mean_train_loss()), ", ",
                  Mebibytes(round.bytes_up()), " received");
  } else if (record.has_round_lost()) {
    const v1::RoundLost& lost = record.round_lost();
    base::LogWarning("job ", lost.job(), " round ", lost.round(), " attempt ",
                     lost.attempt(), " lost: ", lost.reason());
  } else if (record.has_evaluation_finished()) {
    const v1::EvaluationFinished& done = record.evaluation_finished();
    base::LogInfo(
        "job ", done.job(), " version ", done.version(), ": held-out loss ",
        done.tokens() == 0
            ? std::string("unknown")
            : absl::StrFormat(
                  "%.4f", done.loss_sum() / static_cast<double>(done.tokens())),
        " over ", done.clients(), " clients");
  } else if (record.has_job_finished()) {
    const v1::JobFinished& done = record.job_finished();
    base::LogInfo("job ", done.job(), " ",
                  v1::JobFinished::State_Name(done.state()),
                  done.reason().empty() ? "" : ": ", done.reason());
  }
}

}  // namespace

JobLoop::JobLoop(JobLoopOptions options, store::Store& store,
                 registry::Registry& registry, JobTable& jobs, WorkBoard& board,
                 const base::Clock& clock)
    : options_(std::move(options)),
      store_(store),
      registry_(registry),
      jobs_(jobs),
      board_(board),
      clock_(clock) {}

JobLoop::~JobLoop() { Stop(); }

void JobLoop::Start() {
  thread_ = std::thread([this] { Run(); });
}

bool JobLoop::Post(std::function<void()> work) {
  base::MutexLock lock(&mu_);
  if (stopping_) return false;
  work_.push_back({std::move(work), clock_.Now()});
  return true;
}

void JobLoop::Wake() {
  base::MutexLock lock(&mu_);
  woken_ = true;
}

void JobLoop::Stop() {
  {
    base::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

bool JobLoop::Next(Work* work) {
  const absl::Duration sleep = std::clamp(NextTimer() - clock_.Now(),
                                          absl::ZeroDuration(), kLongestSleep);
  base::MutexLock lock(&mu_);
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return !work_.empty() || stopping_ || woken_;
  };
  mu_.AwaitWithTimeout(absl::Condition(&ready), sleep);
  woken_ = false;
  *work = Work();
  if (!work_.empty()) {
    *work = std::move(work_.front());
    work_.pop_front();
    return true;
  }
  return !stopping_;
}

void JobLoop::Run() {
  arrived_ = clock_.Now();
  AdvanceJobs();
  Work work;
  while (Next(&work)) {
    if (work.run != nullptr) {
      arrived_ = work.arrived;
      work.run();
    }
    work = Work();
    FireTimers();
    AdvanceJobs();
  }
  const absl::Status down =
      absl::UnavailableError("the coordinator is shutting down");
  for (auto& [client, peer] : peers_) Answer(peer, down);
  AnswerAllExchanges(down);
  runner_.reset();
}

absl::Time JobLoop::NextTimer() const {
  absl::Time next = std::min(next_peer_timer_, next_exchange_timer_);
  if (troubled_) next = std::min(next, retry_at_);
  if (runner_ != nullptr && !troubled_) {
    next =
        std::min(next, runner_->next_wakeup().value_or(absl::InfiniteFuture()));
  }
  return next;
}

void JobLoop::FirePeerTimers(absl::Time now) {
  if (now < next_peer_timer_) return;
  std::vector<std::string> gone;
  for (auto& [client, peer] : peers_) {
    if (now < peer.until) continue;
    if (peer.answer != nullptr) {
      v1::CheckInResponse again;
      again.set_retry_after_ms(1);
      Answer(peer, again);
      peer.until = now + options_.absence;
    } else {
      gone.push_back(client);
    }
  }
  for (const std::string& client : gone) {
    Leave(client);
    peers_.erase(client);
  }
  next_peer_timer_ = absl::InfiniteFuture();
  for (const auto& [client, peer] : peers_) {
    next_peer_timer_ = std::min(next_peer_timer_, peer.until);
  }
}

absl::Time JobLoop::WorkedOffUntil() {
  base::MutexLock lock(&mu_);
  return work_.empty() ? clock_.Now() : work_.front().arrived;
}

void JobLoop::FireTimers() {
  const absl::Time now = WorkedOffUntil();
  arrived_ = now;
  FirePeerTimers(now);
  FireExchangeTimers(now);
  if (runner_ == nullptr || (troubled_ && clock_.Now() < retry_at_)) return;
  const absl::Time due =
      runner_->next_wakeup().value_or(absl::InfiniteFuture());
  if (now >= due || troubled_) NoteTrouble(runner_->Poll());
}

void JobLoop::NoteTrouble(const absl::Status& status) {
  if (status.ok()) {
    if (troubled_) base::LogInfo("writing works again; going on");
    troubled_ = false;
    return;
  }
  if (!troubled_) {
    base::LogError("cannot go on for now: ", status.message(),
                   "; trying again each ", absl::FormatDuration(kRetryPeriod));
  }
  troubled_ = true;
  retry_at_ = clock_.Now() + kRetryPeriod;
}

absl::Status JobLoop::Record(absl::Span<const v1::JournalRecord> records) {
  if (records.empty()) return absl::OkStatus();
  const absl::Status written = store_.journal().Append(records);
  if (!written.ok()) {
    base::LogError("cannot write the journal: ", written.message());
    return ForPeer(written);
  }
  for (const v1::JournalRecord& record : records) OnRecord(record);
  return absl::OkStatus();
}

void JobLoop::OnRecord(const v1::JournalRecord& record) {
  absl::Status applied = registry_.Apply(record);
  if (applied.ok()) applied = jobs_.Apply(record);
  if (!applied.ok()) base::LogError("bug: ", applied.message());
  DropLate(record);
  LogProgress(record);
}

// ---------------------------------------------------------- waiting clients

void JobLoop::Answer(Peer& peer,
                     const absl::StatusOr<v1::CheckInResponse>& answer) {
  if (peer.answer == nullptr) return;
  const CheckInAnswer call = std::move(peer.answer);
  peer.answer = nullptr;
  peer.until = absl::InfiniteFuture();
  call(answer);
}

void JobLoop::CheckIn(const std::string& client,
                      const v1::Capabilities& capabilities, uint64_t call,
                      CheckInAnswer answer) {
  Peer& peer = peers_[client];
  Answer(peer,
         absl::AbortedError(absl::StrCat("client \"", client,
                                         "\" has checked in again elsewhere; "
                                         "two agents with one name?")));
  peer.capabilities = capabilities;
  // Shown to operators, on terminals too.
  peer.capabilities.set_software_version(
      PrintableText(capabilities.software_version()));
  peer.capabilities.set_device(PrintableText(capabilities.device()));
  peer.call = call;
  peer.answer = std::move(answer);
  peer.until = clock_.Now() + options_.long_poll;
  next_peer_timer_ = std::min(next_peer_timer_, peer.until);
  Arrive(client);
}

void JobLoop::CancelCheckIn(const std::string& client, uint64_t call) {
  auto peer = peers_.find(client);
  if (peer == peers_.end() || peer->second.call != call ||
      peer->second.answer == nullptr) {
    return;
  }
  Answer(peer->second, absl::CancelledError("the client hung up"));
  Leave(client);
  peers_.erase(client);
}

void JobLoop::Dismiss(const std::string& client, const absl::Status& reason) {
  // The round need not wait until its deadline for what cannot come.
  const absl::optional<v1::TaskKey> task = board_.TaskOf(client);
  if (runner_ != nullptr && task.has_value()) {
    PostToRunner(
        engine::TaskFailed{client, *task, std::string(reason.message()), false})
        .IgnoreError();
    Drop(board_.Done(client, *task));
  }
  AnswerExchange(client, reason);
  auto peer = peers_.find(client);
  if (peer == peers_.end()) return;
  Answer(peer->second, reason);
  Leave(client);
  peers_.erase(client);
}

void JobLoop::Arrive(const std::string& client) {
  if (runner_ == nullptr) return;
  peers_[client].present = true;
  PostToRunner(engine::ClientArrived{client}).IgnoreError();
}

void JobLoop::Leave(const std::string& client) {
  if (runner_ == nullptr || !peers_[client].present) return;
  PostToRunner(engine::ClientLeft{client}).IgnoreError();
}

void JobLoop::OnTask(const std::string& client, v1::TaskPlan plan) {
  Drop(board_.Give(client, plan));
  auto peer = peers_.find(client);
  // A client that is away gets its task when it checks in: the engine says it
  // again then.
  if (peer == peers_.end()) return;
  // Whoever has not come back some time after the deadline is gone.
  const uint64_t deadline_ms = std::min(plan.deadline_ms(), kMostDeadlineMs);
  const absl::Time until =
      clock_.Now() + absl::Milliseconds(deadline_ms) + options_.absence;
  v1::CheckInResponse response;
  *response.mutable_task() = std::move(plan);
  Answer(peer->second, response);
  peer->second.until = until;
  next_peer_timer_ = std::min(next_peer_timer_, peer->second.until);
}

bool JobLoop::Connected(const std::string& client) const {
  return peers_.find(client) != peers_.end();
}

std::vector<std::string> JobLoop::ConnectedClients() const {
  std::vector<std::string> names;
  names.reserve(peers_.size());
  for (const auto& [client, peer] : peers_) names.push_back(client);
  return names;
}

v1::Capabilities JobLoop::CapabilitiesOf(const std::string& client) const {
  auto peer = peers_.find(client);
  return peer == peers_.end() ? v1::Capabilities() : peer->second.capabilities;
}

absl::StatusOr<v1::ReportResponse> JobLoop::PostToRunner(engine::Event event) {
  runner_->ArrivedAt(arrived_);
  absl::StatusOr<v1::ReportResponse> response = runner_->Post(std::move(event));
  if (!response.ok() && !absl::IsInvalidArgument(response.status())) {
    NoteTrouble(response.status());
  }
  return response;
}

}  // namespace choir::rpc
