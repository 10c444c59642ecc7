// Runs an experiment: the round engine, driven by virtual clients instead of a
// network, in virtual time.
//
// The result does not depend on the number of workers, on the order in which
// they finish, or on interruptions; with the same client names, data, seed and
// settings it is, bit for bit, what agents over a network arrive at.
#ifndef CHOIR_SIM_EXPERIMENT_SIMULATION_H_
#define CHOIR_SIM_EXPERIMENT_SIMULATION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "base/files.h"
#include "coordinator/engine/engine.h"
#include "sim/experiment/experiment_options.h"
#include "sim/experiment/metrics.h"

namespace choir::sim {

struct RunOptions {
  // Folder of everything the run writes.
  std::string out_dir;
  // Go on with the run in out_dir; otherwise out_dir must not hold one.
  bool resume = false;
  // Changes the order in which clients' reports arrive, and with
  // over-selection who is in time, but nothing else.
  uint64_t arrival_seed = 0;
  // Optional, for tests, in the place of dropout_rate: when a client drops out
  // of a training task, if at all: 0 before it reports anything; of a secure
  // round, 1 instead of its shares, 2 instead of its masked vector, 3 instead
  // of unmasking, 4 instead of confirming.
  std::function<absl::optional<int>(uint32_t round, uint32_t attempt,
                                    const std::string& client)>
      drop_phase;
  // Optional: true once the run is to end after the current round.
  std::function<bool()> stop_requested;
  // Optional, for progress displays. Called on the calling thread.
  std::function<void(const RoundMetrics&)> on_round;
  std::function<void(int done, int total, bool evaluation)> on_client;
  // The base model if it is already loaded; null loads job.base_model.
  std::shared_ptr<const model::BaseModel> base;
};

struct RunResult {
  engine::Progress progress;
  bool interrupted = false;
  bool resumed = false;
  size_t num_clients = 0;
  uint64_t train_examples = 0;
  uint64_t heldout_examples = 0;
  uint64_t clients_trained = 0;
  uint64_t clients_lost = 0;
  double training_seconds = 0.0;  // over all rounds
  // Of classification: share of right labels; of sparsity: of FLOPs saved. Else
  // NaN.
  double heldout_accuracy_before = std::numeric_limits<double>::quiet_NaN();
  double heldout_accuracy = std::numeric_limits<double>::quiet_NaN();
  double flops_saved = std::numeric_limits<double>::quiet_NaN();
  double wall_seconds = 0.0;  // of this call
  double peak_rss_mib = 0.0;  // of this process
  std::string device;
  std::string store_dir;
  // Empty until a first version exists.
  std::string adapter_dir;
};

// Runs until the job is finished or `stop_requested`. Writes resolved.toml,
// metrics.jsonl, store/ and adapter/ (PEFT format) below out_dir.
//
// Errors: ALREADY_EXISTS if out_dir holds a run and `resume` is not set,
//   NOT_FOUND if it holds none and `resume` is set, FAILED_PRECONDITION if
//   that run had other settings or another process uses its store;
//   INVALID_ARGUMENT for settings, data or base model; what the store reports.
absl::StatusOr<RunResult> RunExperiment(const ExperimentOptions& options,
                                        const RunOptions& run);

// Most memory this process ever had resident, in MiB.
double PeakRssMib();

// Limits this process's allocator to few arenas, so that memory does not creep
// up over many rounds; model::ConfigureCompute() sets its thresholds. Call
// once, before other threads.
void ConfigureAllocator(int workers);

}  // namespace choir::sim

#endif  // CHOIR_SIM_EXPERIMENT_SIMULATION_H_
