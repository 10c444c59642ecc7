#include "model/objective/sparsity.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/sim_random.h"

namespace choir::model {
namespace {

constexpr int64_t kChannelStep = 16;

// Feed-forward layers are the last of a block: gate, up, down or up, down.
absl::Span<const Linear> MlpLayers(const Decoder& decoder, size_t block) {
  const size_t count = decoder.config().gated_mlp ? 3 : 2;
  return absl::MakeConstSpan(decoder.weights().blocks[block].linear)
      .last(count);
}

// Multiplications and additions of one token's way through the weights of the
// blocks, of these those of the feed-forward layers, and through the head.
// Attention's scores are left out.
struct Work {
  double blocks = 0.0;
  double mlp = 0.0;
  double head = 0.0;
};

Work WorkPerToken(const Decoder& decoder) {
  Work work;
  for (size_t b = 0; b < decoder.weights().blocks.size(); ++b) {
    for (const Linear& linear : decoder.weights().blocks[b].linear) {
      work.blocks += 2.0 * linear.spec.in_features * linear.spec.out_features;
    }
    for (const Linear& linear : MlpLayers(decoder, b)) {
      work.mlp += 2.0 * linear.spec.in_features * linear.spec.out_features;
    }
  }
  work.head = 2.0 * static_cast<double>(decoder.weights().head.numel());
  return work;
}

}  // namespace

double LadderRate(const config::SparsityOptions& options, int step, int steps) {
  const int64_t stage = std::min<int64_t>(
      options.stages - 1,
      static_cast<int64_t>(options.stages) * step / std::max(1, steps));
  return options.max_rate *
         (1.0 - static_cast<double>(stage) / (options.stages - 1));
}

int64_t KeptChannels(int64_t channels, double rate) {
  const double wanted = static_cast<double>(channels) * (1.0 - rate);
  const int64_t kept =
      (static_cast<int64_t>(std::ceil(wanted - 1e-9)) + kChannelStep - 1) /
      kChannelStep * kChannelStep;
  return std::min(channels, std::max(kept, kChannelStep));
}

std::vector<int64_t> DrawChannels(absl::Span<const float> importance,
                                  int64_t count, uint64_t seed) {
  base::SimRandom random(seed);
  std::vector<std::pair<double, int64_t>> keys(importance.size());
  for (size_t i = 0; i < importance.size(); ++i) {
    const double weight = std::max(1e-30, static_cast<double>(importance[i]));
    // The smallest of exponential waiting times.
    keys[i] = {-std::log(1.0 - random.Uniform()) / weight,
               static_cast<int64_t>(i)};
  }
  std::nth_element(keys.begin(), keys.begin() + (count - 1), keys.end());
  std::vector<int64_t> drawn(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) drawn[i] = keys[i].second;
  std::sort(drawn.begin(), drawn.end());
  return drawn;
}

bool IsPacked(const Decoder& decoder) {
  for (const BlockWeights& block : decoder.weights().blocks) {
    for (const Linear& linear : block.linear) {
      if (linear.packed != nullptr) return true;
    }
  }
  return false;
}

SparsityPlan::SparsityPlan(const Decoder& decoder,
                           const config::TrainingOptions& training, int steps,
                           uint64_t seed)
    : decoder_(decoder),
      options_(training.sparsity),
      objective_(training.objective),
      checkpointing_(training.activation_checkpointing),
      steps_(steps),
      seed_(seed) {
  at::NoGradGuard no_grad;
  for (size_t b = 0; b < decoder.weights().blocks.size(); ++b) {
    const at::Tensor weight = MlpLayers(decoder, b).back().weight;
    const at::Tensor norms =
        weight.to(at::kFloat).square().sum({0}).sqrt().cpu().contiguous();
    const float* p = norms.data_ptr<float>();
    column_norms_.emplace_back(p, p + norms.numel());
  }
  importance_ = column_norms_;
}

bool SparsityPlan::MustMeasure(int step) const {
  return step % options_.measure_every == 0 &&
         LadderRate(options_, step, steps_) > 0.0;
}

void SparsityPlan::Measured() {
  for (size_t b = 0; b < activity_.sums.size(); ++b) {
    if (!activity_.sums[b].defined()) continue;
    const at::Tensor sums = activity_.sums[b].cpu().contiguous();
    for (size_t i = 0; i < importance_[b].size(); ++i) {
      importance_[b][i] = sums.data_ptr<float>()[i] * column_norms_[b][i];
    }
  }
  activity_.sums.clear();
}

const MlpChannels* SparsityPlan::Channels(int step) {
  const double rate = LadderRate(options_, step, steps_);
  if (rate <= 0.0) return nullptr;
  channels_.kept.resize(importance_.size());
  for (size_t b = 0; b < importance_.size(); ++b) {
    const auto channels = static_cast<int64_t>(importance_[b].size());
    const std::vector<int64_t> drawn = DrawChannels(
        importance_[b], KeptChannels(channels, rate),
        base::DeriveSeed(seed_,
                         {"sparsity", absl::StrCat(step), absl::StrCat(b)}));
    at::Tensor kept =
        at::empty({static_cast<int64_t>(drawn.size())}, at::kLong);
    std::copy(drawn.begin(), drawn.end(), kept.data_ptr<int64_t>());
    channels_.kept[b] = kept.to(decoder_.device());
  }
  return &channels_;
}

void SparsityPlan::Count(int step, int64_t tokens) {
  Work work = WorkPerToken(decoder_);
  // A classifier's own head is next to nothing.
  if (objective_ == config::Objective::kClassification) work.head = 0.0;
  const double n = static_cast<double>(tokens);
  // Forward, and the gradient of every layer's input, which costs as much; with
  // checkpointing blocks go forward once more.
  const double passes = checkpointing_ ? 3.0 : 2.0;
  double dense = passes * work.blocks + 2.0 * work.head;
  // The base without its adapter, forward, with every channel.
  if (objective_ == config::Objective::kDpo) dense += work.blocks + work.head;
  const double rate = LadderRate(options_, step, steps_);
  const auto channels = static_cast<int64_t>(importance_[0].size());
  const double skipped =
      rate > 0.0 ? 1.0 - static_cast<double>(KeptChannels(channels, rate)) /
                             static_cast<double>(channels)
                 : 0.0;
  const double measuring = MustMeasure(step) ? work.blocks : 0.0;
  report_.dense_flops += n * dense;
  report_.done_flops += n * (dense - passes * work.mlp * skipped + measuring);
}

}  // namespace choir::model
