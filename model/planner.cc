#include "model/planner.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/targets.h"
#include "model/checkpoint/families.h"
#include "model/passes.h"

namespace choir::model {
namespace {

constexpr double kMib = 1048576.0;
// A process that has loaded LibTorch and multiplied two matrices.
constexpr double kProcessBytes = 196 * kMib;
constexpr int kShortest = 32;  // tokens that an example is never cut below

// Floats per token that one block keeps for its gradient, and the most that
// its backward pass holds besides.
struct BlockFloats {
  double kept = 0.0;
  double transient = 0.0;
};

BlockFloats FloatsOf(const ModelConfig& c, int64_t layer) {
  const double h = static_cast<double>(c.hidden_size);
  const double queries = static_cast<double>(c.num_heads * c.head_dim);
  const double keys = static_cast<double>(c.num_kv_heads * c.head_dim);
  BlockFloats floats;
  // Both sums of the residual stream; rotated queries and keys, values, the
  // attention's output. What is made again for the gradient is not kept:
  // normed inputs and activations of the MLP.
  floats.kept =
      2 * h + 2 * queries + 2 * keys + static_cast<double>(c.num_heads) + 2;
  if (c.qk_norm != QkNorm::kNone) floats.kept += queries + keys;
  if (c.fused_qkv) floats.kept += queries + 2 * keys;
  double mlp = (c.gated_mlp ? 2 : 1) * static_cast<double>(c.intermediate_size);
  if (c.IsMoe(layer)) {
    const double k = static_cast<double>(c.moe.experts_per_token);
    mlp = k * (3 * static_cast<double>(c.moe.intermediate_size) + 3 * h) +
          4 * static_cast<double>(c.moe.num_experts) + h;
  }
  floats.kept += mlp;
  floats.transient = 6 * h + std::max(mlp, 2 * queries + 4 * keys);
  return floats;
}

double LinearBytes(const ModelConfig& config, WeightFormat precision) {
  double bytes = 0.0;
  for (const LinearSpec& linear : LinearLayers(config)) {
    const int64_t outliers = precision == WeightFormat::kInt8
                                 ? std::max<int64_t>(1, linear.in_features / 64)
                                 : 0;
    bytes += static_cast<double>(WeightBytes(precision, linear.out_features,
                                             linear.in_features, outliers));
  }
  return bytes;
}

double WeightsBytes(const ModelConfig& config, WeightFormat precision) {
  double linear = 0.0;
  double largest = 0.0;
  for (const LinearSpec& spec : LinearLayers(config)) {
    const double n = static_cast<double>(spec.out_features) *
                     static_cast<double>(spec.in_features);
    linear += n;
    largest = std::max(largest, n);
  }
  const double tables = static_cast<double>(config.vocab_size) *
                        static_cast<double>(config.hidden_size) *
                        (config.tie_word_embeddings ? 1 : 2);
  const double rest =
      static_cast<double>(config.num_parameters()) - linear - tables;
  const bool dense = precision == WeightFormat::kFloat32;
  double bytes = LinearBytes(config, precision) + 4 * std::max(rest, 0.0) +
                 (dense ? 4 : 2) * tables;
  // While loading, pages of the file and a layer's absmax values.
  bytes += dense ? 0.0 : 4 * kMib + largest / 16;
  return bytes;
}

double LargestLinear(const ModelConfig& config) {
  double largest = 0.0;
  for (const LinearSpec& spec : LinearLayers(config)) {
    largest = std::max(largest, static_cast<double>(spec.out_features) *
                                    static_cast<double>(spec.in_features));
  }
  return largest;
}

double LossBytes(const ModelConfig& config, WeightFormat precision,
                 double tokens) {
  const double vocabulary = static_cast<double>(config.vocab_size);
  // As LinearCrossEntropy slices them.
  const double most =
      precision == WeightFormat::kFloat32 ? std::min(tokens, 256.0) : tokens;
  const double rows =
      std::min(std::max(most, 16.0), std::max(16.0, (1 << 22) / vocabulary));
  return 4 * (rows * vocabulary +
              3 * tokens * static_cast<double>(config.hidden_size));
}

int64_t AdapterParameters(const ModelConfig& config,
                          const config::AdapterOptions& adapter) {
  const absl::StatusOr<codec::Layout> layout = AdapterLayout(config, adapter);
  return layout.ok() ? layout->num_elements() : 0;
}

// Sizes of a pass: what was wanted, then its divisors, largest first, so that
// passes add up to the same step.
std::vector<int> PassSizes(int batch) {
  std::vector<int> sizes;
  for (int n = batch; n >= 1; --n) {
    if (batch % n == 0) sizes.push_back(n);
  }
  return sizes;
}

// `from`, then halves of it, down to `least`.
std::vector<int> Halves(int from, int least) {
  std::vector<int> values = {from};
  while (values.back() / 2 >= least) values.push_back(values.back() / 2);
  return values;
}

std::string Describe(const MemoryPlan& plan) {
  return absl::StrCat(
      "precision ", WeightFormatName(plan.precision), ", rank ",
      plan.adapter.rank, ", ", plan.training.max_sequence_length,
      " tokens, passes of ", plan.training.batch_size,
      plan.training.activation_checkpointing ? ", activations computed twice"
                                             : "",
      plan.experts.empty()
          ? ""
          : absl::StrCat(", ", plan.experts.size(), " experts of a block"));
}

// The first `count` experts.
std::vector<int64_t> FirstExperts(int64_t count) {
  std::vector<int64_t> experts(count);
  std::iota(experts.begin(), experts.end(), int64_t{0});
  return experts;
}

void ListChanges(const PlanRequest& request, int64_t max_positions,
                 WeightFormat best, MemoryPlan& plan) {
  const auto changed = [&](absl::string_view what, auto before, auto after) {
    plan.changes.push_back(
        absl::StrCat(what, " ", after, " instead of ", before));
  };
  const config::TrainingOptions& wanted = request.training;
  if (plan.training.batch_size != wanted.batch_size) {
    plan.changes.push_back(absl::StrCat(
        "passes of ", plan.training.batch_size, " examples instead of ",
        wanted.batch_size, ", ", plan.training.gradient_accumulation,
        " of them in a step"));
  }
  if (plan.training.activation_checkpointing &&
      !wanted.activation_checkpointing) {
    plan.changes.push_back("activations are computed twice");
  }
  if (plan.precision != best) {
    changed("precision", WeightFormatName(best),
            WeightFormatName(plan.precision));
  }
  if (plan.adapter.rank != request.adapter.rank) {
    changed("rank", request.adapter.rank, plan.adapter.rank);
  }
  const int length = plan.training.max_sequence_length;
  if (length < wanted.max_sequence_length) {
    changed("max_sequence_length", wanted.max_sequence_length,
            length == max_positions
                ? absl::StrCat(length, " (the model's context)")
                : absl::StrCat(length));
  }
}

class Planner {
 public:
  Planner(ModelConfig config, const PlanRequest& request)
      : config_(std::move(config)), request_(request) {
    precisions_ = request.precisions;
    if (precisions_.empty()) {
      precisions_ = {WeightFormat::kFloat32, WeightFormat::kBf16,
                     WeightFormat::kInt8, WeightFormat::kNf4};
    }
  }

  absl::StatusOr<MemoryPlan> Run() {
    if (Search() || (DropExperts() && Search())) return found_;
    return absl::ResourceExhaustedError(absl::StrCat(
        "training does not fit into ", request_.budget_mib,
        " MiB; the smallest budget that would do is ",
        smallest_.estimate.total_mib(), " MiB (", Describe(smallest_), ")"));
  }

 private:
  // Whether anything fits with the experts that are held.
  bool Search() {
    int longest = request_.training.max_sequence_length;
    longest =
        static_cast<int>(std::min<int64_t>(longest, config_.max_positions));
    if (request_.longest_example > 0) {
      longest = static_cast<int>(
          std::min<int64_t>(longest, request_.longest_example));
    }
    longest = std::max(longest, 2);
    const bool shrink = request_.may_shrink_adapter;
    const std::vector<int> lengths =
        Halves(longest, shrink ? std::min(longest, kShortest) : longest);
    const std::vector<int> ranks =
        Halves(request_.adapter.rank, shrink ? 1 : request_.adapter.rank);
    for (const int length : lengths) {
      for (const int rank : ranks) {
        for (const WeightFormat precision : precisions_) {
          if (Try(length, longest, rank, precision)) return true;
        }
      }
    }
    return false;
  }

  bool Fits(const MemoryEstimate& estimate) const {
    return estimate.total() <= static_cast<double>(request_.budget_mib) * kMib;
  }

  // What the smallest plan takes with the first `count` experts.
  MemoryEstimate SmallestWith(int64_t count) const {
    ModelConfig config = config_;
    config.moe.held = FirstExperts(count);
    MemoryEstimate estimate = EstimateMemory(
        config, smallest_.adapter, smallest_counted_, smallest_.precision);
    estimate.data = request_.data_bytes;
    return estimate;
  }

  // The last resort, after a search without success: holds as many experts as
  // fit with the settings that take the least. False if there are none to spare
  // or it is not enough.
  bool DropExperts() {
    const MoeConfig& moe = config_.moe;
    if (!request_.experts.empty() || moe.experts_per_token >= moe.num_experts) {
      return false;
    }
    int64_t fits = moe.experts_per_token;
    ModelConfig fewest = config_;
    if (!HoldExpertsToTrain(FirstExperts(fits), request_.adapter, fewest)
             .ok()) {
      return false;
    }
    const MemoryEstimate least = SmallestWith(fits);
    if (!Fits(least)) {
      smallest_.experts = FirstExperts(fits);
      smallest_.estimate = least;
      return false;
    }
    int64_t too_many = moe.num_experts;
    while (fits + 1 < too_many) {
      const int64_t middle = (fits + too_many) / 2;
      (Fits(SmallestWith(middle)) ? fits : too_many) = middle;
    }
    config_.moe.held = FirstExperts(fits);
    return true;
  }

  // Whether some size of a pass, with or without checkpointing, fits.
  bool Try(int length, int longest, int rank, WeightFormat precision) {
    MemoryPlan plan;
    plan.precision = precision;
    plan.experts = config_.moe.held;
    plan.adapter = request_.adapter;
    if (rank != plan.adapter.rank) {
      // The product B A keeps its weight.
      plan.adapter.alpha *= static_cast<double>(rank) / plan.adapter.rank;
      plan.adapter.rank = rank;
    }
    plan.training = request_.training;
    if (length < longest) {
      plan.training.max_sequence_length = length;
    } else if (request_.may_shrink_adapter) {
      // Nothing is ever trained beyond the model's context.
      plan.training.max_sequence_length = static_cast<int>(
          std::min<int64_t>(plan.training.max_sequence_length,
                            std::max<int64_t>(2, config_.max_positions)));
    }
    const int per_step =
        plan.training.batch_size * plan.training.gradient_accumulation;
    for (const bool again : {false, true}) {
      if (!again && request_.training.activation_checkpointing) continue;
      plan.training.activation_checkpointing = again;
      for (const int pass : PassSizes(request_.training.batch_size)) {
        plan.training.batch_size = pass;
        plan.training.gradient_accumulation = per_step / pass;
        config::TrainingOptions counted = plan.training;
        counted.max_sequence_length = length;
        plan.estimate =
            EstimateMemory(config_, plan.adapter, counted, precision);
        plan.estimate.data = request_.data_bytes;
        const double total = plan.estimate.total();
        if (smallest_.estimate.total() == 0.0 ||
            total < smallest_.estimate.total()) {
          smallest_ = plan;
          smallest_counted_ = counted;
        }
        if (!Fits(plan.estimate)) continue;
        ListChanges(request_, config_.max_positions, precisions_[0], plan);
        if (request_.experts.empty() && !plan.experts.empty()) {
          plan.changes.push_back(absl::StrCat(
              "the first ", plan.experts.size(), " experts of each block's ",
              config_.moe.num_experts, ", tokens routed among them alone"));
        }
        found_ = std::move(plan);
        return true;
      }
    }
    return false;
  }

  ModelConfig config_;
  const PlanRequest& request_;
  std::vector<WeightFormat> precisions_;
  MemoryPlan found_, smallest_;
  config::TrainingOptions smallest_counted_;  // with the length that it was for
};

}  // namespace

int64_t MemoryEstimate::total_mib() const {
  return static_cast<int64_t>(std::ceil(total() / kMib));
}

MemoryEstimate EstimateMemory(const ModelConfig& config,
                              const config::AdapterOptions& adapter,
                              const config::TrainingOptions& training,
                              WeightFormat precision) {
  const double length = static_cast<double>(
      std::min<int64_t>(training.max_sequence_length, config.max_positions));
  // A preference is two examples.
  const double example =
      length * (training.objective == config::Objective::kDpo ? 2.0 : 1.0);
  const double most = std::floor(
      static_cast<double>(MostTokensAtOnce(config, adapter, training.router)) /
      example);
  const double tokens =
      example *
      std::min(static_cast<double>(training.batch_size), std::max(most, 1.0));
  double kept = 0.0;
  BlockFloats largest;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const BlockFloats block = FloatsOf(config, layer);
    kept += block.kept;
    largest.kept = std::max(largest.kept, block.kept);
    largest.transient = std::max(largest.transient, block.transient);
  }
  if (training.activation_checkpointing) {
    kept = 2.0 * static_cast<double>(config.hidden_size * config.num_layers) +
           largest.kept;
  }
  MemoryEstimate estimate;
  estimate.process = kProcessBytes;
  estimate.weights = WeightsBytes(config, precision);
  // Values, gradients, two moments, the caller's values and a copy.
  estimate.adapter =
      6.0 * 4.0 * static_cast<double>(AdapterParameters(config, adapter));
  estimate.activations = 4.0 * tokens * kept;
  const double merged =
      precision == WeightFormat::kFloat32
          ? 4.0 * LargestLinear(config)
          : 4.0 * (1 << 18) +
                64.0 * static_cast<double>(std::max(config.hidden_size,
                                                    config.intermediate_size));
  estimate.workspace = std::max(4.0 * tokens * largest.transient + merged,
                                LossBytes(config, precision, tokens));
  return estimate;
}

absl::StatusOr<MemoryPlan> PlanMemory(const ModelConfig& config,
                                      const PlanRequest& request) {
  if (request.budget_mib < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the budget is ", request.budget_mib, " MiB; it must be at least 1"));
  }
  CHOIR_RETURN_IF_ERROR(AdapterLayout(config, request.adapter).status());
  ModelConfig held = config;
  if (!request.experts.empty()) {
    CHOIR_RETURN_IF_ERROR(
        HoldExpertsToTrain(request.experts, request.adapter, held));
  }
  return Planner(std::move(held), request).Run();
}

uint64_t PeakResidentBytes() {
  std::FILE* file = std::fopen("/proc/self/status", "r");
  if (file == nullptr) return 0;
  char line[256];
  unsigned long long kib = 0;
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    if (std::sscanf(line, "VmHWM: %llu kB", &kib) == 1) break;
  }
  std::fclose(file);
  return static_cast<uint64_t>(kib) << 10;
}

}  // namespace choir::model
