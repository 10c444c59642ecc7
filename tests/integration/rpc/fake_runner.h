// A job that is whatever the test wants: no engine, no model.
#ifndef CHOIR_TESTS_INTEGRATION_RPC_FAKE_RUNNER_H_
#define CHOIR_TESTS_INTEGRATION_RPC_FAKE_RUNNER_H_

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "coordinator/runner/job_runner.h"
#include "coordinator/store/store.h"

namespace choir::rpc {

// What the fake runners of one test share with it. The test touches it on the
// loop's thread, or before the server runs.
struct FakeJobs {
  // Given to a client as soon as it arrives (and again if it comes back).
  std::map<std::string, v1::TaskPlan> plans;
  std::vector<std::string> arrived;
  std::vector<std::string> left;
  std::vector<std::string> lost;  // whose tasks failed
  std::vector<v1::TaskKey> updates;
  std::vector<std::string> started;
  std::map<std::string, absl::Status> cannot_start;  // by job
  v1::ReportResponse response;
  // What PostSecure() is asked, and what it says.
  std::vector<v1::SecureExchangeRequest> secure;
  std::function<absl::StatusOr<absl::optional<v1::SecureServerMessage>>()>
      say_secure;
  // When to poll; how many messages had been said when that was done; when
  // the last of what was posted arrived.
  absl::optional<absl::Time> wakeup;
  absl::optional<size_t> polled_after;
  absl::Time arrived_at;
  runner::RunnerHooks hooks;
};

class FakeRunner final : public runner::JobRunner {
 public:
  FakeRunner(const config::JobOptions& options, runner::RunnerHooks hooks,
             store::Store& store, FakeJobs& jobs)
      : store_(store), jobs_(jobs) {
    jobs_.hooks = std::move(hooks);
    jobs_.started.push_back(options.name);
    v1::JournalRecord record;
    record.mutable_job_started()->set_job(options.name);
    facts_.set_job(options.name);
    Record(record);
  }

  absl::StatusOr<v1::ReportResponse> Post(engine::Event event) override {
    if (auto* arrived = std::get_if<engine::ClientArrived>(&event)) {
      jobs_.arrived.push_back(arrived->client);
      auto plan = jobs_.plans.find(arrived->client);
      if (plan != jobs_.plans.end()) {
        jobs_.hooks.send_task(plan->first, plan->second);
      }
    } else if (auto* left = std::get_if<engine::ClientLeft>(&event)) {
      jobs_.left.push_back(left->client);
    } else if (auto* failed = std::get_if<engine::TaskFailed>(&event)) {
      jobs_.lost.push_back(failed->client);
    } else if (auto* update = std::get_if<engine::UpdateReceived>(&event)) {
      jobs_.updates.push_back(update->key);
    } else if (std::holds_alternative<engine::StopRequested>(event)) {
      v1::JournalRecord record;
      record.mutable_job_finished()->set_job(facts_.job());
      record.mutable_job_finished()->set_state(v1::JobFinished::STOPPED);
      Record(record);
      finished_ = true;
    }
    return jobs_.response;
  }
  absl::StatusOr<absl::optional<v1::SecureServerMessage>> PostSecure(
      const std::string&, const v1::SecureExchangeRequest& request) override {
    jobs_.secure.push_back(request);
    if (jobs_.say_secure) return jobs_.say_secure();
    return absl::optional<v1::SecureServerMessage>();
  }
  void ArrivedAt(absl::Time at) override { jobs_.arrived_at = at; }
  absl::optional<absl::Time> next_wakeup() const override {
    return jobs_.wakeup;
  }
  absl::Status Poll() override {
    jobs_.wakeup.reset();
    jobs_.polled_after = jobs_.secure.size();
    return absl::OkStatus();
  }
  engine::Progress progress() const override {
    engine::Progress progress;
    progress.waiting_for = "the test";
    return progress;
  }
  const engine::JobFacts& facts() const override { return facts_; }
  bool finished() const override { return finished_; }

 private:
  void Record(const v1::JournalRecord& record) {
    CHOIR_CHECK(store_.journal().Append({record}).ok());
    jobs_.hooks.on_record(record);
  }

  store::Store& store_;
  FakeJobs& jobs_;
  engine::JobFacts facts_;
  bool finished_ = false;
};

}  // namespace choir::rpc

#endif  // CHOIR_TESTS_INTEGRATION_RPC_FAKE_RUNNER_H_
