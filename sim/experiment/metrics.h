// One line of figures per round, taken from the journal's records.
#ifndef CHOIR_SIM_EXPERIMENT_METRICS_H_
#define CHOIR_SIM_EXPERIMENT_METRICS_H_

#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "choir/v1/journal.pb.h"

namespace choir::sim {

struct RoundMetrics {
  uint32_t round = 0;
  double train_loss = std::numeric_limits<double>::quiet_NaN();
  // After this round; NaN if it was not evaluated.
  double heldout_loss = std::numeric_limits<double>::quiet_NaN();
  // Of classification, likewise: share of right labels.
  double heldout_accuracy = std::numeric_limits<double>::quiet_NaN();
  // With training.sparsity: share of the FLOPs that the round saved.
  double flops_saved = std::numeric_limits<double>::quiet_NaN();
  uint32_t selected = 0;
  uint32_t survivors = 0;
  uint32_t attempts = 1;
  uint64_t bytes = 0;    // up and down
  double seconds = 0.0;  // training and aggregation, not evaluation
  double clients_per_second = 0.0;
};

// Its name in a run's folder.
inline constexpr char kMetricsName[] = "metrics.jsonl";

// {"round":1,"train_loss":4.2,...}, without a line end; NaN becomes null.
std::string ToJsonLine(const RoundMetrics& metrics);
// Reads metrics.jsonl back. DATA_LOSS for a broken line.
absl::StatusOr<std::vector<RoundMetrics>> ReadMetrics(const std::string& path);

// Turns records into lines of a file, each written as soon as its round and
// the evaluation after it are over. A resumed run replays the journal first,
// which writes the earlier lines anew. Memory does not grow with rounds.
// Threads: one thread at a time.
class MetricsLog {
 public:
  // Replaces the file at `path`.
  static absl::StatusOr<std::unique_ptr<MetricsLog>> Create(
      const std::string& path,
      std::function<void(const RoundMetrics&)> on_round);
  ~MetricsLog();

  // `time` is when the record was made, in wall time.
  void Add(const v1::JournalRecord& record, absl::Time time);
  // The records so far are history: time that passed since is not a round's.
  void Resume(absl::Time now);
  // Writes what is left. RESOURCE_EXHAUSTED or UNKNOWN if any line could not
  // be written.
  absl::Status Finish();

  // Of classification, else NaN: before the first round, and the latest.
  double heldout_accuracy_before() const { return heldout_accuracy_before_; }
  double heldout_accuracy() const { return heldout_accuracy_; }
  // Share of the FLOPs saved over all rounds so far; NaN without sparsity.
  double flops_saved() const { return all_flops_.saved(); }
  // Over all rounds so far.
  uint64_t clients_trained() const { return clients_trained_; }
  double training_seconds() const { return training_seconds_; }
  uint64_t clients_lost() const { return clients_lost_; }

 private:
  // Of matrix products: with every channel, and done.
  struct Flops {
    double dense = 0.0, done = 0.0;
    double saved() const;
  };

  MetricsLog(std::FILE* file, std::string path,
             std::function<void(const RoundMetrics&)> on_round)
      : file_(file), path_(std::move(path)), on_round_(std::move(on_round)) {}
  void Flush();

  std::FILE* file_;
  std::string path_;
  std::function<void(const RoundMetrics&)> on_round_;
  bool failed_ = false;
  bool waiting_ = false;  // current_ is committed, not yet written
  RoundMetrics current_;
  absl::Time begin_;
  uint64_t clients_trained_ = 0;
  uint64_t clients_lost_ = 0;
  double training_seconds_ = 0.0;
  Flops round_flops_, all_flops_;
  bool classifies_ = false;  // the evaluation's reports count right labels
  uint64_t correct_ = 0;
  double heldout_accuracy_before_ = std::numeric_limits<double>::quiet_NaN();
  double heldout_accuracy_ = std::numeric_limits<double>::quiet_NaN();
};

}  // namespace choir::sim

#endif  // CHOIR_SIM_EXPERIMENT_METRICS_H_
