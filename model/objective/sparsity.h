// Sparsity-accelerated training: steps that leave out channels of the
// feed-forward layers.
//
// Source: Ma et al., "Sparsity-Accelerated Training for Large Language Models"
//         (ACL Findings 2024), for the idea and the ladder. Schedule, measure
//         and draw are Choir's own: the share left out falls in equal stages
//         from max_rate to 0; a channel's importance is the mean magnitude of
//         its activation times the L2 norm of its column of the output layer;
//         channels are kept at random, without replacement, in proportion to
//         their importance.
#ifndef CHOIR_MODEL_OBJECTIVE_SPARSITY_H_
#define CHOIR_MODEL_OBJECTIVE_SPARSITY_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/transformer/decoder.h"
#include "proto/config/job_options.h"

namespace choir::model {

// Share of the channels that step `step` of `steps` (from 0) leaves out.
double LadderRate(const config::SparsityOptions& options, int step, int steps);

// Channels kept of `channels` at `rate`: a multiple of 16, 16 at least.
int64_t KeptChannels(int64_t channels, double rate);

// `count` indices, ascending, drawn without replacement with chances in
// proportion to `importance` (Efraimidis and Spirakis, 2006).
std::vector<int64_t> DrawChannels(absl::Span<const float> importance,
                                  int64_t count, uint64_t seed);

// Whether a linear layer of a block is packed, so that no channel of it can be
// left out (model/training/training_fit.h).
bool IsPacked(const Decoder& decoder);

// Of the products with the model's weights, dpo's reference pass included.
struct SparsityReport {
  double dense_flops = 0.0;  // of the same steps with every channel
  double done_flops = 0.0;   // with what measuring took
};

// Plans the steps of one training. Threads: one at a time.
class SparsityPlan {
 public:
  SparsityPlan(const Decoder& decoder, const config::TrainingOptions& training,
               int steps, uint64_t seed);

  // True if step `step` must first measure: HiddenStates() (losses.h), without
  // gradients, with ForwardOptions::activity set to `activity()`.
  bool MustMeasure(int step) const;
  ChannelActivity* activity() { return &activity_; }
  // After that pass.
  void Measured();

  // The channels of step `step`; null: all of them.
  const MlpChannels* Channels(int step);

  // Counts a step of `tokens` tokens, and the measuring before it.
  void Count(int step, int64_t tokens);
  const SparsityReport& report() const { return report_; }

 private:
  const Decoder& decoder_;
  const config::SparsityOptions options_;
  const config::Objective objective_;
  const bool checkpointing_;
  const int steps_;
  const uint64_t seed_;
  std::vector<std::vector<float>> column_norms_, importance_;
  ChannelActivity activity_;
  MlpChannels channels_;
  SparsityReport report_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_OBJECTIVE_SPARSITY_H_
