#include "tests/property/engine/fake_world.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/sha256.h"

namespace choir::engine {
namespace {

v1::BlobRef FakeBlob(const std::string& contents) {
  v1::BlobRef blob;
  blob.set_digest(base::Sha256Hex(contents));
  blob.set_size(contents.size());
  return blob;
}

}  // namespace

config::JobOptions TestJob(int rounds, int cohort_size) {
  config::JobOptions options;
  options.name = "job";
  options.seed = 7;
  options.adapter.target_modules = {"q_proj"};
  options.rounds.count = rounds;
  options.rounds.cohort_size = cohort_size;
  options.rounds.min_survivors = cohort_size;
  options.rounds.min_available = cohort_size;
  options.rounds.deadline = absl::Seconds(600);
  return options;
}

JobFacts TestFacts(const config::JobOptions& options) {
  JobFacts facts;
  facts.set_job(options.name);
  facts.set_layout_digest(base::Sha256Hex("layout"));
  *facts.mutable_adapter() = FakeBlob("adapter 0");
  return facts;
}

std::vector<std::string> ClientNames(int count) {
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) names.push_back(absl::StrCat("c", 100 + i));
  return names;
}

v1::TrainReport TrainFor(const v1::TaskPlan& plan, const std::string& client) {
  v1::TrainReport report;
  *report.mutable_update() = FakeBlob(
      absl::StrCat(plan.seed(), " ", plan.adapter().digest(), " ", client));
  report.set_num_examples(1 + plan.seed() % 10);
  report.set_tokens(100 + plan.seed() % 17);
  report.set_mean_loss(1.0 + static_cast<double>(plan.seed() % 8) / 8.0);
  report.set_bytes_downloaded(5);
  return report;
}

v1::EvaluationReport EvaluateFor(const v1::TaskPlan& plan,
                                 const std::string& client) {
  v1::EvaluationReport report;
  report.set_tokens(10);
  report.set_loss_sum(20.0 - plan.key().round());
  report.set_num_examples(client.size());
  return report;
}

v1::RoundCommitted SumOf(const Aggregate& action) {
  std::string story =
      absl::StrCat(action.adapter.digest(), action.server_state.digest());
  uint64_t weight = 0;
  for (const WeightedUpdate& update : action.updates) {
    absl::StrAppend(&story, " ", update.client, update.update.digest(), "*",
                    update.weight);
    weight += update.weight;
  }
  v1::RoundCommitted committed;
  committed.set_round(action.round);
  committed.set_attempt(action.attempt);
  committed.set_total_weight(weight);
  *committed.mutable_adapter() = FakeBlob(story);
  *committed.mutable_aggregate() = FakeBlob("sum " + story);
  *committed.mutable_server_state() = FakeBlob("state " + story);
  return committed;
}

v1::RoundCommitted SumOf(const AggregateSecure& action) {
  std::string story =
      absl::StrCat(action.adapter.digest(), action.server_state.digest());
  for (const std::string& client : action.survivors) {
    absl::StrAppend(&story, " ", client);
  }
  v1::RoundCommitted committed;
  committed.set_round(action.round);
  committed.set_attempt(action.attempt);
  committed.set_total_weight(action.survivors.size());
  *committed.mutable_adapter() = FakeBlob(story);
  *committed.mutable_aggregate() = FakeBlob("sum " + story);
  *committed.mutable_server_state() = FakeBlob("state " + story);
  return committed;
}

FakeWorld::FakeWorld(config::JobOptions options,
                     std::vector<v1::JournalRecord> journal)
    : options_(std::move(options)), journal_(std::move(journal)) {
  Crash(journal_.size());
}

void FakeWorld::Crash(size_t keep) {
  CHOIR_CHECK(keep <= journal_.size());
  journal_.resize(keep);
  tasks_.clear();
  aggregation_.reset();
  secure_sum_.reset();
  close_.reset();
  members_.clear();
  answered_.clear();
  told_.clear();
  timer_.reset();
  engine_ = std::make_unique<Engine>(
      options_, TestFacts(options_),
      [this](const v1::TaskPlan& plan, uint32_t max_clients) {
        v1::SecureSession session;
        session.set_session_id(base::Sha256Hex(
            absl::StrCat("session ", ++sessions_, journal_.size())));
        session.set_job(plan.key().job());
        session.set_round(plan.key().round());
        session.set_attempt(plan.key().attempt());
        session.set_max_clients(max_clients);
        session.mutable_assumptions()->set_corrupt_fraction(
            options_.secure_aggregation.corrupt_fraction);
        return session;
      });
  for (const v1::JournalRecord& record : journal_) {
    CHOIR_CHECK(engine_->Replay(record).ok());
  }
  Carry(engine_->Resume(now_));
}

void FakeWorld::Carry(Outcome outcome) {
  journal_.insert(journal_.end(), outcome.records.begin(),
                  outcome.records.end());
  for (Action& action : outcome.actions) {
    if (auto* send = std::get_if<SendTask>(&action)) {
      tasks_[send->client] = std::move(send->plan);
      ++tasks_sent_;
    } else if (const auto* timer = std::get_if<SetTimer>(&action)) {
      timer_ = *timer;
    } else if (std::holds_alternative<CancelTimer>(action)) {
      timer_.reset();
    } else if (const auto* sum = std::get_if<Aggregate>(&action)) {
      aggregation_ = *sum;
    } else if (const auto* discard = std::get_if<DiscardUpdates>(&action)) {
      for (const v1::BlobRef& update : discard->updates) {
        discarded_.push_back(update.digest());
      }
    } else {
      CarrySecure(action);
    }
  }
  CloseSessions();
  if (!manual_aggregation) RunAggregation();
}

void FakeWorld::CarrySecure(const Action& action) {
  if (const auto* close = std::get_if<CloseSecurePhase>(&action)) {
    close_ = *close;
  } else if (const auto* open = std::get_if<OpenSecurePhase>(&action)) {
    told_.clear();
    for (const auto& [client, group] : members_) {
      if (open->phase != kSum) told_[client] = open->phase;
    }
    answered_.clear();
    secure_key_ = open->key;
  } else if (const auto* sum = std::get_if<AggregateSecure>(&action)) {
    secure_sum_ = *sum;
  } else if (const auto* abort = std::get_if<AbortSecure>(&action)) {
    aborted_.push_back(abort->reason);
    members_.clear();
    answered_.clear();
    told_.clear();
    secure_sum_.reset();
  }
}

void FakeWorld::CloseSessions() {
  if (!close_.has_value()) return;
  const CloseSecurePhase close = *std::move(close_);
  close_.reset();
  SecurePhaseAdvanced advanced{close.key, close.phase, {}};
  if (close.phase == kAdvertiseKeys && close.members.count(unfit) > 0) {
    Post(SecureUnfit{close.key, {{unfit, "expired"}}});
    return;
  }
  if (close.phase == kAdvertiseKeys) {
    members_ = close.members;
  } else {
    for (auto it = members_.begin(); it != members_.end();) {
      it = answered_.count(it->first) > 0 ? std::next(it) : members_.erase(it);
    }
  }
  std::map<uint32_t, uint32_t> sizes;
  for (const auto& [client, group] : members_) ++sizes[group];
  for (const auto& [group, size] : sizes) {
    v1::SecurePhaseClosed::Group one;
    one.set_group(group);
    one.set_clients(size);
    one.set_degree(size - 1);
    const bool unlucky = close.phase == lose_group_in && group == lose_group;
    if (unlucky || size < session_minimum) {
      one.set_lost("too few are left");
      if (!blame.empty()) one.add_blamed(blame);
      for (auto it = members_.begin(); it != members_.end();) {
        it = it->second == group ? members_.erase(it) : std::next(it);
      }
    }
    advanced.groups.push_back(one);
  }
  Post(advanced);
}

bool FakeWorld::DoSecure(const std::string& client) {
  SecureAnswered answer;
  answer.client = client;
  const auto task = tasks_.find(client);
  if (task != tasks_.end() && task->second.has_secure_session()) {
    answer.key = task->second.key();
    answer.phase = std::string(kAdvertiseKeys);
    tasks_.erase(task);
  } else {
    const auto told = told_.find(client);
    if (told == told_.end()) return false;
    answer.key = secure_key_;
    answer.phase = told->second;
    told_.erase(told);
  }
  if (!engine_->WantsSecure(client, answer.key) ||
      engine_->secure_phase(answer.key) != answer.phase) {
    return true;  // too late: the driver answers ABORTED
  }
  answer.bytes = 100;
  answer.digest = base::Sha256Hex(answer.phase + client);
  answer.bytes_downloaded = 5;
  answered_.insert(client);
  last_report_[client] = answer;
  Post(answer);
  return true;
}

void FakeWorld::RunAggregation() {
  if (secure_sum_.has_value()) {
    const AggregateSecure action = *std::move(secure_sum_);
    secure_sum_.reset();
    if (fail_aggregations) {
      Post(AggregateFailed{action.round, action.attempt, "no luck"});
    } else {
      Post(AggregateDone{SumOf(action)});
    }
    return;
  }
  if (!aggregation_.has_value()) return;
  const Aggregate action = *std::move(aggregation_);
  aggregation_.reset();
  if (fail_aggregations) {
    Post(AggregateFailed{action.round, action.attempt, "no luck"});
  } else {
    Post(AggregateDone{SumOf(action)});
  }
}

v1::ReportResponse FakeWorld::Post(const Event& event) {
  Outcome outcome = engine_->Handle(event, now_);
  const v1::ReportResponse response = outcome.response;
  Carry(std::move(outcome));
  return response;
}

void FakeWorld::ArriveAll(const std::vector<std::string>& clients) {
  for (const std::string& client : clients) Arrive(client);
}

bool FakeWorld::DoTask(const std::string& client) {
  const auto it = tasks_.find(client);
  if (it == tasks_.end() || it->second.has_secure_session()) {
    return DoSecure(client);
  }
  const v1::TaskPlan plan = it->second;
  tasks_.erase(it);
  Event report;
  if (plan.key().kind() == v1::TASK_KIND_TRAIN) {
    report = UpdateReceived{client, plan.key(), TrainFor(plan, client)};
  } else {
    report = EvaluationReceived{client, plan.key(), EvaluateFor(plan, client)};
  }
  last_report_[client] = report;
  Post(report);
  return true;
}

v1::ReportResponse FakeWorld::RepeatReport(const std::string& client) {
  const auto it = last_report_.find(client);
  if (it == last_report_.end()) return {};
  return Post(Event(it->second));
}

bool FakeWorld::FireTimer() {
  if (!timer_.has_value()) return false;
  const SetTimer timer = *timer_;
  timer_.reset();
  now_ = std::max(now_, timer.at);
  Post(TimerFired{timer.timer});
  return true;
}

bool FakeWorld::RunToEnd(const std::vector<std::string>& clients) {
  for (int turn = 0; turn < 10000 && !finished(); ++turn) {
    RunAggregation();
    bool worked = false;
    for (const std::string& client : clients) {
      worked |= DoTask(client);
      // Whoever is in a session asks for work when it is over.
      if (answered_.count(client) == 0 && told_.count(client) == 0) {
        Arrive(client);
      }
    }
    if (!worked && tasks_.empty() && !finished()) FireTimer();
  }
  return finished();
}

void FakeWorld::RandomStep(const std::vector<std::string>& clients,
                           base::SimRandom& random) {
  const std::string& client = clients[random.Below(clients.size())];
  const uint64_t what = random.Below(100);
  if (what < 35) {
    Arrive(client);
  } else if (what < 75) {
    DoTask(client);
  } else if (what < 82) {
    RepeatReport(client);
  } else if (what < 86) {
    Post(ClientLeft{client});
  } else if (what < 88 && tasks_.count(client) > 0) {
    const v1::TaskKey key = tasks_[client].key();
    tasks_.erase(client);
    Post(TaskFailed{client, key, "battery is empty", random.Below(2) == 0});
  } else if (what < 88 && told_.count(client) > 0) {
    told_.erase(client);
    Post(SecureRefused{client,
                       secure_key_,
                       "refuses",
                       {clients[random.Below(clients.size())]}});
  } else if (what < 90) {
    tasks_.erase(client);  // vanishes
    told_.erase(client);
  } else if (what < 93) {
    FireTimer();
  } else if (what < 97) {
    RunAggregation();
  } else {
    // The disk lost nothing, or what had not been synced.
    Crash(journal_.size());
  }
}

std::string StoryFault(const std::vector<v1::JournalRecord>& journal) {
  std::string adapter;
  uint32_t committed_rounds = 0;
  std::set<std::string> cohort;
  std::map<std::string, uint64_t> weights;
  for (const v1::JournalRecord& record : journal) {
    if (record.has_round_started()) {
      const auto& names = record.round_started().cohort();
      cohort = {names.begin(), names.end()};
      weights.clear();
    } else if (record.has_update_accepted()) {
      const v1::UpdateAccepted& accepted = record.update_accepted();
      if (cohort.count(accepted.client()) == 0) return "stranger accepted";
      if (!weights.emplace(accepted.client(), accepted.weight()).second) {
        return absl::StrCat(accepted.client(), " counted twice");
      }
    } else if (record.has_secure_phase_closed()) {
      const v1::SecurePhaseClosed& closed = record.secure_phase_closed();
      for (const auto& client : closed.clients()) {
        if (cohort.count(client.client()) == 0) return "stranger in a phase";
        if (closed.phase() == kMaskedInput) weights[client.client()] = 1;
      }
      for (const auto& group : closed.groups()) {
        if (group.lost().empty()) continue;
        for (const auto& client : closed.clients()) {
          if (client.group() == group.group()) weights.erase(client.client());
        }
      }
    } else if (record.has_round_committed()) {
      const v1::RoundCommitted& committed = record.round_committed();
      if (committed.round() != committed_rounds + 1) {
        return absl::StrCat("round ", committed.round(), " after ",
                            committed_rounds);
      }
      committed_rounds = committed.round();
      if (!adapter.empty() && committed.adapter_before().digest() != adapter) {
        return "adapter does not follow";
      }
      adapter = committed.adapter().digest();
      uint64_t total = 0;
      for (const auto& [client, weight] : weights) total += weight;
      if (total != committed.total_weight()) return "wrong total weight";
      if (committed.survivors_size() != static_cast<int>(weights.size())) {
        return "wrong survivors";
      }
      weights.clear();
      cohort.clear();
    } else if (record.has_round_lost()) {
      weights.clear();
      cohort.clear();
    }
  }
  return "";
}

std::vector<std::string> CommittedAdapters(
    const std::vector<v1::JournalRecord>& journal) {
  std::vector<std::string> adapters;
  for (const v1::JournalRecord& record : journal) {
    if (record.has_round_committed()) {
      adapters.push_back(record.round_committed().adapter().digest());
    }
  }
  return adapters;
}

}  // namespace choir::engine
