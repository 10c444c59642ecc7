// Which records may follow which, and what their numbers must add up to.
//
// Written from the journal's description alone, not from the round engine, so
// that a mistake there does not excuse itself here.
#ifndef CHOIR_COORDINATOR_AUDIT_GRAMMAR_H_
#define CHOIR_COORDINATOR_AUDIT_GRAMMAR_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "choir/v1/journal.pb.h"
#include "coordinator/audit/findings.h"
#include "coordinator/store/journal.h"
#include "proto/config/job_options.h"

namespace choir::audit {

// A round's step from one model version to the next, to be recomputed.
struct Step {
  uint64_t event = 0;
  v1::RoundCommitted committed;
  config::AggregationOptions options;
  struct Update {
    std::string client;
    v1::BlobRef blob;
    uint64_t weight = 0;
  };
  std::vector<Update> updates;  // of the survivors, sorted by client
  // Of a secure round, whose updates nobody has: how many clients are in the
  // sum of each group, in order, and how the groups were combined.
  bool secure = false;
  std::vector<uint64_t> group_survivors;
  config::GroupRule group_rule = config::GroupRule::kMean;
};

// Threads: one thread at a time. Memory: O(jobs + clients + rounds * cohort).
class Grammar {
 public:
  // Takes the next entry; what is wrong with it is added to `findings`.
  void Next(const store::JournalEntry& entry, std::vector<Finding>& findings);

  const std::vector<BlobUse>& blob_uses() const { return uses_; }
  const std::vector<Step>& steps() const { return steps_; }
  uint64_t rounds_committed() const { return rounds_committed_; }

 private:
  struct Accepted {
    v1::TrainReport report;
    uint64_t weight = 0;
  };
  // A secure attempt in progress (grammar_secure.cc).
  struct Secure {
    v1::SecureSession session;
    std::string phase;             // that is open; "sum" after the last
    std::set<std::string> inside;  // who has to be accounted for
    std::map<std::string, uint32_t> group_of;
    std::set<uint32_t> groups;                   // that are not lost
    std::map<uint32_t, uint64_t> min_survivors;  // of a group's sum
    std::set<std::string> survivors;
    uint64_t bytes_up = 0;
  };
  // Of the last secure attempt whose keys were advertised, also when it is
  // lost: who was in a session with whom, and who has named whom.
  struct Blame {
    uint32_t attempt = 0;
    std::map<std::string, uint32_t> group_of;
    std::map<uint32_t, size_t> needed;  // by group
    std::map<std::string, std::set<std::string>> accusers;
    std::set<std::string> blamed;
  };
  struct Job {
    absl::optional<config::JobOptions> options;
    bool started = false;
    bool finished = false;
    uint32_t version = 0;
    v1::BlobRef adapter;
    v1::BlobRef server_state;
    // The round in progress: its number is version + 1.
    bool round_open = false;
    uint32_t attempt = 0;
    std::set<std::string> cohort;
    std::set<std::string> lost;
    std::map<std::string, Accepted> accepted;
    absl::optional<Secure> secure;
    absl::optional<Blame> blame;
    bool evaluating = false;
    uint32_t evaluated_version = 0;
    uint32_t evaluation_attempt = 0;
    std::set<std::string> evaluation_cohort;
    std::map<std::string, v1::EvaluationReport> evaluations;
  };

  void Wrong(absl::string_view what);
  void Use(const v1::BlobRef& blob, absl::string_view what,
           bool may_be_absent = false);
  // The job, if it may have records of rounds now; null after Wrong().
  Job* RunningJob(const std::string& name);
  bool CheckCohort(const google::protobuf::RepeatedPtrField<std::string>& names,
                   absl::string_view what);

  void On(const v1::TokenCreated& record);
  void On(const v1::ClientEnrolled& record);
  void On(const v1::JobSubmitted& record);
  void On(const v1::JobStarted& record);
  void On(const v1::JobFinished& record);
  void On(const v1::RoundStarted& record);
  void On(const v1::UpdateAccepted& record);
  void On(const v1::UpdateRefused& record);
  void On(const v1::ClientLost& record);
  void On(const v1::RoundCommitted& record);
  void On(const v1::RoundLost& record);
  void On(const v1::EvaluationStarted& record);
  void On(const v1::EvaluationAccepted& record);
  void On(const v1::EvaluationFinished& record);

  // grammar_secure.cc
  void On(const v1::SecurePhaseClosed& record);
  void On(const v1::ClientBlamed& record);
  void BeginBlame(Job& job, const v1::SecurePhaseClosed& record);
  // The peers that a record of `client` leaving names.
  void CheckAccused(
      Job& job, const v1::TaskKey& key, const std::string& client,
      const google::protobuf::RepeatedPtrField<std::string>& accused);
  void BeginSecure(Job& job, const v1::RoundStarted& record);
  void CheckAccounted(const Secure& secure,
                      const v1::SecurePhaseClosed& record);
  void CheckGroups(const Job& job, Secure& secure,
                   const v1::SecurePhaseClosed& record);
  void CheckFormation(const Job& job, const v1::SecurePhaseClosed& record);
  void CloseGroups(Secure& secure, const v1::SecurePhaseClosed& record);
  void CheckSecureSurvivors(const Job& job, const v1::RoundCommitted& record,
                            Step& step);
  void CheckSurvivors(const Job& job, const v1::RoundCommitted& record,
                      Step& step);
  void CheckVersions(const Job& job, const v1::RoundCommitted& record);

  std::map<std::string, Job> jobs_;
  std::set<std::string> session_ids_;
  // Token digest to the client that spent it; empty while unspent.
  std::map<std::string, std::string> tokens_;
  std::vector<BlobUse> uses_;
  std::vector<Step> steps_;
  uint64_t rounds_committed_ = 0;
  // Of the entry being taken.
  uint64_t event_ = 0;
  std::vector<Finding>* findings_ = nullptr;
};

}  // namespace choir::audit

#endif  // CHOIR_COORDINATOR_AUDIT_GRAMMAR_H_
