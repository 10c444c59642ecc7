#include "sim/experiment/simulation_loop.h"

#include <malloc.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "proto/codec/task_key.h"

namespace choir::sim {
namespace {

// Freed pages go back to the system every so many rounds, so that a long run
// does not grow by fragmentation.
constexpr uint32_t kRoundsBetweenTrims = 16;
// Timers that fire in a row without any record mean that nothing can happen.
constexpr int kMaxIdleWakeups = 100;

}  // namespace

SimulationLoop::SimulationLoop(const ExperimentOptions& options,
                               const RunOptions& run,
                               const Population& population,
                               store::Store& store, MetricsLog& metrics,
                               std::shared_ptr<const model::BaseModel> base)
    : options_(options),
      run_(run),
      population_(population),
      store_(store),
      metrics_(metrics),
      base_(std::move(base)),
      session_ids_(options.job.seed) {}

SimulationLoop::~SimulationLoop() = default;

void SimulationLoop::OnRecord(const v1::JournalRecord& record) {
  ++records_;
  Track(record);
  metrics_.Add(record, wall_clock_.Now());
  if (record.has_round_committed() &&
      record.round_committed().round() % kRoundsBetweenTrims == 0) {
    malloc_trim(0);
  }
}

void SimulationLoop::Track(const v1::JournalRecord& record) {
  const auto open = [this](bool training, uint32_t round, uint32_t attempt,
                           int tasks) {
    phase_open_ = true;
    training_ = training;
    round_ = round;
    attempt_ = attempt;
    phase_tasks_ = tasks;
    phase_done_ = 0;
    reporters_.clear();
  };
  if (record.has_round_started()) {
    session_ids_.RoundBegun();
    const v1::RoundStarted& started = record.round_started();
    open(true, started.round(), started.attempt(), started.cohort_size());
  } else if (record.has_evaluation_started()) {
    const v1::EvaluationStarted& started = record.evaluation_started();
    open(false, started.version(), started.attempt(), started.cohort_size());
  } else if (record.has_update_accepted()) {
    reporters_.insert(record.update_accepted().client());
  } else if (record.has_evaluation_accepted()) {
    reporters_.insert(record.evaluation_accepted().client());
  } else if (record.has_round_committed() || record.has_round_lost() ||
             record.has_evaluation_finished() || record.has_job_finished()) {
    phase_open_ = false;
  }
}

void SimulationLoop::OnSend(const std::string& client, v1::TaskPlan plan) {
  Sent sent;
  sent.client = client;
  sent.arrival_order = base::DeriveSeed(
      options_.job.seed,
      {"arrival", absl::StrCat(run_.arrival_seed),
       absl::StrCat(plan.key().round()), absl::StrCat(plan.key().attempt()),
       absl::StrCat(static_cast<int>(plan.key().kind())), client});
  sent.plan = std::move(plan);
  sent_.push_back(std::move(sent));
}

absl::Status SimulationLoop::Start() {
  runner::RunnerHooks hooks;
  hooks.send_task = [this](const std::string& client, v1::TaskPlan plan) {
    OnSend(client, std::move(plan));
  };
  hooks.on_record = [this](const v1::JournalRecord& record) {
    OnRecord(record);
  };
  hooks.send_secure =
      [this](const std::string& client, const v1::TaskKey& key,
             const absl::StatusOr<v1::SecureServerMessage>& answer) {
        heard_.push_back({client, key, answer});
      };
  runner::RunnerOptions runner_options;
  if (options_.job.secure_aggregation.enabled) {
    CHOIR_ASSIGN_OR_RETURN(
        secure_, SecureClients::Create(options_.job.seed, wall_clock_));
    runner_options.verifier = &secure_->verifier();
    runner_options.random = &session_ids_;
  }
  pool_ = std::make_unique<ClientPool>(
      ClientPoolOptions{options_.workers, options_.clients_per_pass,
                        options_.job, secure_.get()},
      base_, population_, store_.blobs(), wall_clock_);
  runner_options.keep_updates = options_.keep_updates;
  CHOIR_ASSIGN_OR_RETURN(
      runner_, runner::JobRunner::Start(options_.job, runner_options, store_,
                                        clock_, nullptr, std::move(hooks)));
  for (size_t i = 0; i < population_.size(); ++i) {
    back_.push_back(population_.name(i));
  }
  return SendEveryoneBack();
}

absl::Status SimulationLoop::Run(bool& interrupted) {
  interrupted = false;
  while (true) {
    QueueSent();
    if (runner_->finished()) return absl::OkStatus();
    if (ShouldStop()) {
      interrupted = true;
      pool_->Cancel();
      return absl::OkStatus();
    }
    CHOIR_RETURN_IF_ERROR(Feed());
    const auto next = done_.find(next_delivery_);
    if (!heard_.empty()) {
      Heard heard = std::move(heard_.front());
      heard_.pop_front();
      CHOIR_RETURN_IF_ERROR(Hear(std::move(heard)));
    } else if (next != done_.end()) {
      Done done = std::move(next->second);
      done_.erase(next);
      ++next_delivery_;
      CHOIR_RETURN_IF_ERROR(Deliver(std::move(done)));
    } else if (pool_->in_flight() > 0) {
      VirtualResult result = pool_->WaitForResult();
      CHOIR_RETURN_IF_ERROR(result.status);
      Done& done = done_[result.sequence];
      done.key = result.report.key();
      done.result = std::move(result);
    } else if (!parties_.empty() && phase_open_) {
      // Only those who have dropped out are waited for.
      CHOIR_RETURN_IF_ERROR(AdvanceTime());
    } else if (!parties_.empty()) {
      LeaveAll();
    } else if (!back_.empty()) {
      CHOIR_RETURN_IF_ERROR(SendEveryoneBack());
    } else {
      CHOIR_RETURN_IF_ERROR(AdvanceTime());
    }
  }
}

bool SimulationLoop::ShouldStop() const {
  return run_.stop_requested && run_.stop_requested() &&
         !(phase_open_ && training_);
}

void SimulationLoop::QueueSent() {
  std::stable_sort(sent_.begin(), sent_.end(),
                   [](const Sent& a, const Sent& b) {
                     return a.arrival_order < b.arrival_order;
                   });
  for (Sent& sent : sent_) {
    const auto active = active_.find(sent.client);
    if (active != active_.end() &&
        codec::SameTask(active->second, sent.plan.key())) {
      continue;  // said again; the client is at it
    }
    active_[sent.client] = sent.plan.key();
    queue_.push_back(std::move(sent));
  }
  sent_.clear();
}

SimulationLoop::Fate SimulationLoop::FateOf(const Sent& task) const {
  const v1::TaskKey& key = task.plan.key();
  const bool training = key.kind() == v1::TASK_KIND_TRAIN;
  if (!phase_open_ || training != training_ || key.round() != round_ ||
      key.attempt() != attempt_) {
    return Fate::kNotNeeded;
  }
  return DropPhase(task.client, task.plan) == 0 ? Fate::kDroppedOut
                                                : Fate::kReport;
}

absl::Status SimulationLoop::Feed() {
  while (!queue_.empty() && pool_->in_flight() < pool_->capacity()) {
    Sent sent = std::move(queue_.front());
    queue_.pop_front();
    const uint64_t sequence = next_sequence_++;
    const Fate fate = FateOf(sent);
    if (fate != Fate::kReport) {
      Done& done = done_[sequence];
      done.fate = fate;
      done.key = sent.plan.key();
      done.result.client = sent.client;
      // Delivered before more is fed, so that a round that this loses is not
      // trained on in vain.
      if (sequence == next_delivery_) return absl::OkStatus();
      continue;
    }
    VirtualTask task;
    task.sequence = sequence;
    task.client = sent.client;
    CHOIR_ASSIGN_OR_RETURN(task.client_index, population_.Find(sent.client));
    CHOIR_ASSIGN_OR_RETURN(task.adapter_bytes,
                           AdapterBytes(sent.plan.adapter()));
    task.silent_from = DropPhase(sent.client, sent.plan);
    task.plan = std::move(sent.plan);
    pool_->Add(std::move(task));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const std::string>> SimulationLoop::AdapterBytes(
    const v1::BlobRef& adapter) {
  if (adapter_bytes_ == nullptr || adapter_digest_ != adapter.digest()) {
    CHOIR_ASSIGN_OR_RETURN(std::string bytes,
                           store_.blobs().Read(adapter.digest()));
    adapter_bytes_ = std::make_shared<const std::string>(std::move(bytes));
    adapter_digest_ = adapter.digest();
  }
  return adapter_bytes_;
}

absl::Status SimulationLoop::Deliver(Done done) {
  if (done.result.session.has_value()) return JoinSecureRound(std::move(done));
  const std::string& client = done.result.client;
  active_.erase(client);
  back_.push_back(client);
  if (done.fate == Fate::kNotNeeded) return absl::OkStatus();
  engine::Event event;
  v1::ReportRequest& report = done.result.report;
  if (done.fate == Fate::kDroppedOut) {
    event = engine::TaskFailed{client, done.key, "dropped out", false};
  } else if (report.has_train()) {
    event = engine::UpdateReceived{client, done.key,
                                   std::move(*report.mutable_train())};
  } else if (report.has_evaluation()) {
    event = engine::EvaluationReceived{client, done.key,
                                       std::move(*report.mutable_evaluation())};
  } else {
    base::LogWarning("virtual client ", client, " gave up its task in round ",
                     done.key.round(), ": ", report.failure().reason());
    event =
        engine::TaskFailed{client, done.key, report.failure().reason(), false};
  }
  CHOIR_ASSIGN_OR_RETURN(const v1::ReportResponse response,
                         runner_->Post(std::move(event)));
  if (response.verdict() == v1::ReportResponse::REFUSED) {
    base::LogWarning("report of virtual client ", client, " in round ",
                     done.key.round(), " was refused: ", response.reason());
  }
  ++phase_done_;
  if (run_.on_client) {
    run_.on_client(phase_done_, phase_tasks_,
                   done.key.kind() == v1::TASK_KIND_EVALUATE);
  }
  return absl::OkStatus();
}

absl::Status SimulationLoop::Arrive(const std::string& client) {
  return runner_->Post(engine::ClientArrived{client}).status();
}

absl::Status SimulationLoop::SendEveryoneBack() {
  std::vector<std::string> back = std::move(back_);
  back_.clear();
  const std::set<std::string> reporters = reporters_;
  const auto first_reporter = std::stable_partition(
      back.begin(), back.end(), [&reporters](const std::string& client) {
        return reporters.count(client) == 0;
      });
  std::sort(back.begin(), first_reporter);
  std::sort(first_reporter, back.end());
  for (const std::string& client : back) {
    CHOIR_RETURN_IF_ERROR(Arrive(client));
  }
  return absl::OkStatus();
}

absl::Status SimulationLoop::AdvanceTime() {
  const absl::optional<absl::Time> wakeup = runner_->next_wakeup();
  const uint64_t records_before = records_;
  if (!wakeup.has_value() || idle_wakeups_ > kMaxIdleWakeups) {
    return absl::InternalError(
        absl::StrCat("the simulation is stuck, waiting for ",
                     runner_->progress().waiting_for));
  }
  clock_.SetTime(std::max(clock_.Now(), *wakeup));
  CHOIR_RETURN_IF_ERROR(runner_->Poll());
  idle_wakeups_ = records_ == records_before ? idle_wakeups_ + 1 : 0;
  return absl::OkStatus();
}

}  // namespace choir::sim
