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
  timer_.reset();
  engine_ = std::make_unique<Engine>(options_, TestFacts(options_));
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
    }
  }
  if (!manual_aggregation) RunAggregation();
}

void FakeWorld::RunAggregation() {
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
  if (it == tasks_.end()) return false;
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
      Arrive(client);
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
  } else if (what < 90) {
    tasks_.erase(client);  // vanishes
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
