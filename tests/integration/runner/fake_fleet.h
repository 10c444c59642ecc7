// Clients without a trainer, for driving a JobRunner: their updates follow from
// seed and adapter alone.
#ifndef CHOIR_TESTS_INTEGRATION_RUNNER_FAKE_FLEET_H_
#define CHOIR_TESTS_INTEGRATION_RUNNER_FAKE_FLEET_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/thread_pool.h"
#include "coordinator/runner/job_runner.h"
#include "coordinator/store/store.h"
#include "proto/codec/layout.h"

namespace choir::runner {

// A fresh folder below the system's temporary one, removed at the end.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Writes a base model that can be imported (nobody will run it): its adapters
// of the given rank on q_proj have 2 * rank * hidden_size parameters.
void WriteBaseModel(const std::string& folder, int hidden_size = 8);

// A valid job over the model in `folder`: every client in every round.
config::JobOptions FleetJob(const std::string& folder, int rounds, int clients);

// A store whose writes can be made to fail; all else is the real store's.
class FaultyStore final : public store::Store {
 public:
  explicit FaultyStore(std::unique_ptr<store::Store> real);
  ~FaultyStore() override;
  store::Journal& journal() override;
  store::BlobStore& blobs() override;
  const std::string& root() const override { return real_->root(); }
  absl::Status Close() override { return real_->Close(); }

  // Asked before each append (`after` false) and after it: an error is what
  // Append() returns; before, nothing is written.
  std::function<absl::Status(bool after)> append_fault;
  // Asked before each Put.
  std::function<absl::Status()> put_fault;
  int appends = 0;

 private:
  class FaultyJournal;
  class FaultyBlobs;
  std::unique_ptr<store::Store> real_;
  std::unique_ptr<FaultyJournal> journal_;
  std::unique_ptr<FaultyBlobs> blobs_;
};

class FakeFleet {
 public:
  // `store` outlives the fleet.
  FakeFleet(std::vector<std::string> clients, store::Store& store,
            base::ManualClock& clock)
      : clients_(std::move(clients)), store_(store), clock_(clock) {}

  absl::Status Start(const config::JobOptions& options,
                     const RunnerOptions& runner_options = {},
                     base::ThreadPool* pool = nullptr);
  // Everyone does its task, in turn, and asks for more, until the job is
  // finished or a call fails. DEADLINE_EXCEEDED if nothing happens any more.
  absl::Status Run();
  // One turn of Run().
  absl::Status Turn();
  // The event with which `client` answers its task; uploads its update.
  absl::StatusOr<engine::Event> DoTask(const std::string& client);

  JobRunner& runner() { return *runner_; }
  std::map<std::string, v1::TaskPlan>& tasks() { return tasks_; }
  const std::vector<v1::JournalRecord>& records() const { return records_; }

 private:
  std::vector<std::string> clients_;
  store::Store& store_;
  base::ManualClock& clock_;
  codec::Layout layout_;
  std::map<std::string, v1::TaskPlan> tasks_;
  std::vector<v1::JournalRecord> records_;
  std::unique_ptr<JobRunner> runner_;
};

}  // namespace choir::runner

#endif  // CHOIR_TESTS_INTEGRATION_RUNNER_FAKE_FLEET_H_
