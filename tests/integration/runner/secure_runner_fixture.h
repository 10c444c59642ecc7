// What the tests of secure rounds through the runner have in common.
#ifndef CHOIR_TESTS_INTEGRATION_RUNNER_SECURE_RUNNER_FIXTURE_H_
#define CHOIR_TESTS_INTEGRATION_RUNNER_SECURE_RUNNER_FIXTURE_H_

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "coordinator/runner/update_sum.h"
#include "gtest/gtest.h"
#include "tests/integration/runner/secure_fleet.h"

namespace choir::runner {

inline std::vector<std::string> Names(int count) {
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) names.push_back(absl::StrCat("c", 100 + i));
  return names;
}

class SecureRunnerTest : public ::testing::Test {
 protected:
  SecureRunnerTest() {
    WriteBaseModel(base_);
    store_ = *store::Store::Open(base::JoinPath(folder_.path(), "store"),
                                 base::Durability::kProcessCrash, clock_);
  }

  config::JobOptions Job(int rounds, int clients, int min_survivors) const {
    config::JobOptions job = FleetJob(base_, rounds, clients);
    job.rounds.min_survivors = min_survivors;
    job.evaluation.every = 0;
    job.aggregation.max_examples_per_client = 1000;
    job.secure_aggregation.enabled = true;
    job.secure_aggregation.min_clients = 3;
    job.secure_aggregation.dropout_fraction = 0.3;
    return job;
  }

  std::unique_ptr<SecureFleet> Fleet(const config::JobOptions& job,
                                     base::ThreadPool* pool = nullptr) {
    auto fleet = std::make_unique<SecureFleet>(Names(job.rounds.cohort_size),
                                               *store_, clock_, ++fleets_);
    const absl::Status started = fleet->Start(job, {}, pool);
    EXPECT_TRUE(started.ok()) << started;
    return fleet;
  }

  static std::vector<v1::RoundCommitted> Committed(const SecureFleet& fleet) {
    std::vector<v1::RoundCommitted> rounds;
    for (const v1::JournalRecord& record : fleet.records()) {
      if (record.has_round_committed()) {
        rounds.push_back(record.round_committed());
      }
    }
    return rounds;
  }

  static std::vector<std::string> SurvivorsOf(const v1::RoundCommitted& round) {
    return {round.survivors().begin(), round.survivors().end()};
  }

  std::string Aggregate(const v1::RoundCommitted& round) {
    return *store_->blobs().Read(round.aggregate().digest());
  }

  // The sums in the open of those who handed in a masked vector in this
  // attempt, group by group.
  static std::vector<aggregate::IntegerSum> PlainGroups(
      const SecureFleet& fleet, uint32_t attempt) {
    std::map<uint32_t, std::vector<std::string>> members;
    for (const v1::JournalRecord& record : fleet.records()) {
      const v1::SecurePhaseClosed& closed = record.secure_phase_closed();
      if (closed.phase() != engine::kMaskedInput ||
          closed.key().attempt() != attempt) {
        continue;
      }
      for (const auto& client : closed.clients()) {
        members[client.group()].push_back(client.client());
      }
    }
    std::vector<aggregate::IntegerSum> groups;
    for (const auto& [group, names] : members) {
      groups.push_back(fleet.PlainSum(1, names));
    }
    return groups;
  }

  static int PhasesClosed(const SecureFleet& fleet) {
    return static_cast<int>(
        std::count_if(fleet.records().begin(), fleet.records().end(),
                      [](const v1::JournalRecord& record) {
                        return record.has_secure_phase_closed();
                      }));
  }

  int MaskedBlobs() const {
    int count = 0;
    const std::vector<std::string> blobs = *store_->blobs().List();
    for (const std::string& digest : blobs) {
      count += IsMaskedBlob(store_->blobs(), digest);
    }
    return count;
  }

  TempFolder folder_;
  base::ManualClock clock_{absl::UnixEpoch()};
  std::string base_ = base::JoinPath(folder_.path(), "base");
  std::unique_ptr<store::Store> store_;
  uint64_t fleets_ = 0;
};

}  // namespace choir::runner

#endif  // CHOIR_TESTS_INTEGRATION_RUNNER_SECURE_RUNNER_FIXTURE_H_
