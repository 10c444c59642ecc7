// A store's jobs and rounds as people ask for them.
#ifndef CHOIR_COORDINATOR_AUDIT_HISTORY_H_
#define CHOIR_COORDINATOR_AUDIT_HISTORY_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "choir/v1/journal.pb.h"
#include "coordinator/store/journal.h"

namespace choir::audit {

// A client's part in a round or an evaluation.
struct Part {
  std::string client;
  // "accepted", "refused", "lost" or "waiting"; in a secure round that was not
  // committed also "masked": its vector came.
  std::string outcome;
  std::string reason;  // of a refusal or a loss
  uint64_t weight = 0;
  absl::optional<v1::TrainReport> train;
};

// One attempt at a round.
struct Attempt {
  std::string job;
  uint32_t round = 0;
  uint32_t attempt = 0;
  std::string state;   // "running", "committed" or "lost"
  std::string reason;  // why it was lost
  absl::Time started;
  absl::Time ended;  // of the last record about it while it runs
  uint32_t available = 0;
  uint32_t selected = 0;
  // The cohort in order of names, then strangers who were refused.
  std::vector<Part> parts;
  std::vector<std::string> survivors;
  uint64_t bytes_up = 0;
  uint64_t bytes_down = 0;
  double mean_train_loss = 0.0;
  absl::optional<v1::RoundCommitted> committed;
  // Of a secure round: its session, and what the coordinator saw in each
  // phase, in order.
  absl::optional<v1::SecureSession> session;
  std::vector<v1::SecurePhaseClosed> phases;
  // Whom enough others have named for a key that they could not use.
  std::vector<v1::ClientBlamed> blamed;
  double seconds() const;
  // Share of the FLOPs that training.sparsity saved in the accepted updates;
  // null without sparsity and in secure rounds.
  absl::optional<double> flops_saved() const;
  int CountParts(absl::string_view outcome) const;
};

struct Evaluation {
  uint32_t version = 0;
  uint32_t attempt = 0;
  uint32_t asked = 0;
  bool finished = false;
  uint32_t clients = 0;
  double loss_sum = 0.0;
  uint64_t tokens = 0;
  uint64_t bytes_down = 0;
  // Of classification: held-out examples with the right label, of `tokens`.
  absl::optional<uint64_t> correct;
  double accuracy() const;
};

struct JobHistory {
  std::string name;
  std::string state;  // "queued", "running", "done", "failed" or "stopped"
  std::string reason;
  absl::optional<v1::JobSubmitted> submitted;
  absl::optional<v1::JobStarted> started;
  std::vector<Attempt> attempts;  // in order
  std::vector<Evaluation> evaluations;
  // The latest finished evaluation's mean loss per token, by version.
  std::map<uint32_t, double> heldout_loss;
  // The same of classification's share of right labels.
  std::map<uint32_t, double> heldout_accuracy;
  // Downloads for the attempt's training and for the evaluation after it; of
  // round 1 also for the one before it.
  uint64_t BytesDown(const Attempt& attempt) const;
  // The last attempt of each round, in order; attempts before are lost ones.
  std::vector<const Attempt*> rounds() const;
};

// A call that was turned away.
struct Refusal {
  uint64_t sequence = 0;
  absl::Time time;
  v1::PeerRefused refused;
};

struct History {
  std::vector<JobHistory> jobs;  // in order of their first record
  std::vector<Refusal> refusals;
  std::map<std::string, uint64_t> records_by_kind;
  uint64_t events = 0;

  // The job of that name, or all if it is empty. NOT_FOUND for an unknown job.
  absl::StatusOr<std::vector<const JobHistory*>> Select(
      const std::string& job) const;
};

// Reads the whole journal of the store in folder `root`. Takes the records at
// their word: proving them is verify's part. DATA_LOSS for one that cannot be
// decoded.
absl::StatusOr<History> ReadHistory(const std::string& root);

}  // namespace choir::audit

#endif  // CHOIR_COORDINATOR_AUDIT_HISTORY_H_
