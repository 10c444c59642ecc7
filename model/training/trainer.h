// Local training and evaluation of one adapter over a frozen, shared base.
//
// This header names no LibTorch type, so that clients and the simulator can be
// read, and compiled, without it.
#ifndef CHOIR_MODEL_TRAINING_TRAINER_H_
#define CHOIR_MODEL_TRAINING_TRAINER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/base_model.h"
#include "model/objective/example.h"
#include "proto/codec/layout.h"
#include "proto/config/job_options.h"

namespace choir::model {

struct TrainResult {
  int steps = 0;
  // Examples drawn, counting repeats: what example weighting uses is the size
  // of the data set instead.
  uint64_t examples_seen = 0;
  // What the loss is a mean over: predicted tokens; with dpo pairs, with
  // classification examples.
  uint64_t tokens = 0;
  double mean_loss = 0.0;  // nats, over all steps
  // Of matrix products with the model's weights, with sparsity: what all
  // channels would have taken, and what was done. 0 without.
  double dense_flops = 0.0;
  double done_flops = 0.0;
  // Of a model with experts: how many choices of tokens each expert got in
  // training, [block with experts][expert]; 0 for experts that are not held.
  std::vector<std::vector<uint64_t>> expert_tokens;
};

struct EvalResult {
  double loss_sum = 0.0;  // nats
  uint64_t tokens = 0;    // predicted tokens, pairs or examples, as above
  uint64_t num_examples = 0;
  uint64_t correct = 0;  // of classification: examples with the right label
};

// One client's part in a pass that several share.
struct BankMember {
  absl::Span<float> parameters;  // start on entry, result on return
  absl::Span<const Example> examples;
  uint64_t seed = 0;
};

// Called after each step; returning a non-OK status stops the work, and that
// status is returned.
using ProgressFn = std::function<absl::Status(int step, int steps)>;

// Trains one adapter at a time. Keeps its work space between calls; nothing
// else: every call begins from the parameters it is given and a fresh local
// optimiser, and the result depends on the arguments alone (bit for bit on the
// CPU, for any number of trainers in the process).
// Threads: one thread at a time per object; the calling thread computes.
class Trainer {
 public:
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(
      std::shared_ptr<const BaseModel> base,
      const config::AdapterOptions& adapter);
  virtual ~Trainer() = default;

  // Layout of the adapter's parameters, PEFT names.
  virtual const codec::Layout& layout() const = 0;

  // Trains in place: `parameters` holds layout().num_elements() values, the
  // start on entry, the result on return (unchanged on error).
  // Of an adapter in bfloat16 the start is rounded (to nearest, ties to even),
  // the model sees rounded values in each step, the optimiser moves float32
  // ones, and the result is rounded; what LoFiT leaves untrained stays as
  // given.
  // Order of examples, dropout: from `seed` alone.
  // Errors: INVALID_ARGUMENT for no examples or ids outside the vocabulary;
  // ABORTED if the loss stops being finite.
  virtual absl::StatusOr<TrainResult> Train(
      absl::Span<float> parameters, absl::Span<const Example> examples,
      const config::TrainingOptions& options, uint64_t seed,
      const ProgressFn& progress) = 0;

  // Trains every member as Train() would, all in one forward and backward pass
  // where the settings allow it (LoRA or frozen A in float32, a dense model,
  // next-token objectives, no sparsity), else, after saying so once in the log,
  // one after another. Results equal those of Train() up to rounding (within
  // 1e-5 for well-behaved training), not bit for bit. `progress` counts the
  // longest member's steps. Errors: as Train(); every member's parameters are
  // then unchanged.
  virtual absl::StatusOr<std::vector<TrainResult>> TrainBank(
      absl::Span<const BankMember> members,
      const config::TrainingOptions& options, const ProgressFn& progress) = 0;

  // An adapter in bfloat16 is measured rounded.
  virtual absl::StatusOr<EvalResult> Evaluate(
      absl::Span<const float> parameters, absl::Span<const Example> examples,
      const config::TrainingOptions& options, const ProgressFn& progress) = 0;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRAINING_TRAINER_H_
