// A job's configuration with every default filled in and every value checked.
// Classes take these plain structs, never config protos.
#ifndef CHOIR_PROTO_CONFIG_JOB_OPTIONS_H_
#define CHOIR_PROTO_CONFIG_JOB_OPTIONS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "choir/v1/config.pb.h"

namespace choir::config {

// What model/adapter/adapter_layout.h says each one computes.
enum class AdapterKind { kLora, kDora, kFrozenA, kIa3, kLofit };
// "lora", "dora", "frozen_a", "ia3", "lofit".
absl::string_view AdapterKindName(AdapterKind kind);

// What the values of an adapter in training are rounded to.
enum class AdapterPrecision { kFp32, kBf16 };
// "fp32", "bf16".
absl::string_view AdapterPrecisionName(AdapterPrecision precision);

// As a target module: every linear layer, as PEFT calls it.
inline constexpr char kAllLinear[] = "all-linear";

struct AdapterOptions {
  AdapterKind kind = AdapterKind::kLora;
  // The next four: of LoRA, DoRA and frozen A (no dropout with DoRA).
  int rank = 8;
  double alpha = 16.0;
  double dropout = 0.0;
  bool rank_stabilized = false;
  // Last parts of the names of the adapted linear layers, sorted. None, or
  // "all-linear" alone: model/adapter/targets.h names them once the model is
  // known. Empty with LoFiT, which adapts the attention heads' outputs.
  std::vector<std::string> target_modules;
  uint64_t frozen_seed = 0;  // of A with kFrozenA
  // With kIa3: those of target_modules that scale their input; sorted.
  std::vector<std::string> feedforward_modules;
  int lofit_heads = 0;  // 0: 3 in 100
  double lofit_l1 = 5e-4;
  // Outputs of the classification head that is part of the adapter; 0: none.
  int num_labels = 0;
  AdapterPrecision precision = AdapterPrecision::kFp32;
  // Of single layers, by their whole path, where they are not `rank` and
  // `alpha`: adapters that were read from elsewhere may have them, jobs have
  // none.
  std::map<std::string, int> layer_ranks;
  std::map<std::string, double> layer_alphas;
  // True for the kinds that have factors A and B.
  bool has_lora() const {
    return kind == AdapterKind::kLora || kind == AdapterKind::kDora ||
           kind == AdapterKind::kFrozenA;
  }
  // What the product B*A is multiplied by: alpha/rank or alpha/sqrt(rank).
  double scale() const;
  // The same of one layer.
  int rank_of(const std::string& module) const;
  double scale_of(const std::string& module) const;
  // Whether every layer has the same rank and scale.
  bool uniform() const { return layer_ranks.empty() && layer_alphas.empty(); }
  bool all_linear() const {
    return target_modules.size() == 1 && target_modules[0] == kAllLinear;
  }
};

enum class Objective { kSupervised, kCausalLm, kDpo, kClassification };
// "sft", "causal_lm", "dpo", "classification".
absl::string_view ObjectiveName(Objective objective);

// What model/transformer/attention.h says each one computes.
enum class AttentionChoice { kAuto, kExact, kBlockwise, kBlockSparse };
// "auto", "exact", "blockwise", "block_sparse".
absl::string_view AttentionName(AttentionChoice attention);

struct BlockSparseOptions {
  int block = 64;
  int local_blocks = 4;
  int global_blocks = 1;
  int stride = 8;  // 0: none
};

struct DpoOptions {
  double beta = 0.1;
  double label_smoothing = 0.0;
};

// Of sparsity-accelerated training; max_rate 0: off.
struct SparsityOptions {
  double max_rate = 0.0;
  int stages = 4;
  int measure_every = 16;
};

// Of models with experts.
struct RouterOptions {
  // Weights of the load-balancing loss (negative: as the model's config.json
  // says) and of the z-loss.
  double aux_loss = -1.0;
  double z_loss = 0.0;
  double bias_rate = 0.0;  // of balancing without a loss, per step; 0: off
};

enum class OptimizerKind { kAdamW, kSgd };

struct TrainingOptions {
  Objective objective = Objective::kSupervised;
  OptimizerKind optimizer = OptimizerKind::kAdamW;
  double learning_rate = 1e-3;
  double weight_decay = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double momentum = 0.0;
  int batch_size = 8;
  int gradient_accumulation = 1;
  // Exactly one of the two is positive.
  int local_steps = 0;
  int local_epochs = 1;
  double max_grad_norm = 1.0;  // L2; 0: off
  int max_sequence_length = 256;
  AttentionChoice attention = AttentionChoice::kAuto;
  BlockSparseOptions block_sparse;
  DpoOptions dpo;
  std::vector<std::string> labels;    // of kClassification, in their order
  std::string chat_format = "model";  // of conversations
  SparsityOptions sparsity;
  bool activation_checkpointing = false;
  RouterOptions router;
};

enum class Selection { kUniform, kPoisson };

struct RoundsOptions {
  int count = 1;
  Selection selection = Selection::kUniform;
  int cohort_size = 1;         // uniform
  double sampling_rate = 0.0;  // poisson
  double over_selection = 1.0;
  int min_survivors = 1;
  int min_available = 1;
  absl::Duration deadline = absl::Seconds(600);
  int max_lost_in_a_row = 10;
  // Clients to ask in a uniform round: ceil(cohort_size * over_selection).
  int num_to_select() const;
};

enum class Weighting { kExamples, kUniform };

struct AggregationOptions {
  Weighting weighting = Weighting::kExamples;
  uint64_t max_examples_per_client = 1000000;
  double clip_norm_l2 = 0.0;  // 0: off
  int fixed_point_bits = 24;
  double server_learning_rate = 1.0;
  double server_momentum = 0.0;
  // Largest magnitude that fits the grid: 2^(31 - fixed_point_bits).
  double max_magnitude() const;
};

struct EvaluationOptions {
  int every = 1;        // 0: never, the default of secure jobs
  int cohort_size = 0;  // 0: every available client
};

enum class SecureAdversary { kCurious, kSemiMalicious };
enum class SecureRounding { kNearest, kStochastic };
enum class GroupRule { kMean, kMedian, kTrimmedMean };
// "mean", "median", "trimmed_mean".
absl::string_view GroupRuleName(GroupRule rule);

// privacy/secagg says what the fields lead to.
struct SecureAggregationOptions {
  bool enabled = false;
  SecureAdversary adversary = SecureAdversary::kSemiMalicious;
  double corrupt_fraction = 0.1;
  double dropout_fraction = 0.1;
  int min_clients = 8;
  int value_bits = 32;
  SecureRounding rounding = SecureRounding::kNearest;
  bool rotate = false;
  int group_size = 0;  // 0: one sum of all
  GroupRule group_rule = GroupRule::kMean;
  absl::Duration phase_deadline = absl::Seconds(60);
  // Fewer groups than this have no rule: 1, median 3, trimmed mean 4.
  int min_groups() const;
  // Fewer clients than this cannot finish a round.
  int min_survivors() const { return min_groups() * min_clients; }
};

struct JobOptions {
  std::string name;
  uint64_t seed = 1;
  std::string base_model;  // folder
  AdapterOptions adapter;
  TrainingOptions training;
  RoundsOptions rounds;
  AggregationOptions aggregation;
  EvaluationOptions evaluation;
  SecureAggregationOptions secure_aggregation;
};

// INVALID_ARGUMENT names the field by its path ("rounds.cohort_size"), its
// value and the limit.
absl::StatusOr<JobOptions> ResolveJob(const v1::JobConfig& config);
// What the coordinator sees of single clients in a secure job; empty if
// nothing that is worth a warning, and of other jobs.
std::string OpenEvaluationWarning(const JobOptions& options);
absl::StatusOr<AdapterOptions> ResolveAdapter(const v1::AdapterConfig& config);
absl::StatusOr<TrainingOptions> ResolveTraining(
    const v1::TrainingConfig& config);
absl::StatusOr<AggregationOptions> ResolveAggregation(
    const v1::AggregationConfig& config);
// Of the fields alone; ResolveJob() also holds them against cohort and grid.
absl::StatusOr<SecureAggregationOptions> ResolveSecureAggregation(
    const v1::SecureAggregationConfig& config);
// The part of ResolveJob() that does: refuses what cannot work, naming the
// alternative; fills what depends on it (rounds.min_survivors under poisson).
absl::Status FitSecureAggregation(const v1::JobConfig& config,
                                  JobOptions& options);

// The inverse, with every field set: what --check prints and the journal keeps.
v1::JobConfig ToProto(const JobOptions& options);
v1::AdapterConfig ToProto(const AdapterOptions& options);
v1::TrainingConfig ToProto(const TrainingOptions& options);
v1::RoundsConfig ToProto(const RoundsOptions& options);
v1::AggregationConfig ToProto(const AggregationOptions& options);
v1::SecureAggregationConfig ToProto(const SecureAggregationOptions& options);

// True for letters, digits, '-', '_' and '.', 1 to 64 of them, not beginning
// with '.': names of jobs and clients, which also become file names.
bool IsValidName(absl::string_view name);

}  // namespace choir::config

#endif  // CHOIR_PROTO_CONFIG_JOB_OPTIONS_H_
