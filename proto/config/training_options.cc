#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "proto/config/field_checks.h"
#include "proto/config/job_options.h"

namespace choir::config {
namespace {

constexpr double kHuge = 1e12;

constexpr Objective kObjectives[] = {Objective::kSupervised,
                                     Objective::kCausalLm, Objective::kDpo,
                                     Objective::kClassification};
constexpr AttentionChoice kAttentions[] = {
    AttentionChoice::kAuto, AttentionChoice::kExact,
    AttentionChoice::kBlockwise, AttentionChoice::kBlockSparse};

std::string Quoted(absl::string_view text) {
  return absl::StrCat("\"", text.substr(0, 80), "\"");
}

absl::StatusOr<Objective> ObjectiveOf(const v1::TrainingConfig& config) {
  if (!config.has_objective()) return Objective::kSupervised;
  for (const Objective objective : kObjectives) {
    if (ObjectiveName(objective) == config.objective()) return objective;
  }
  return Refuse("training.objective", Quoted(config.objective()),
                "one of \"sft\", \"causal_lm\", \"dpo\", \"classification\"");
}

constexpr absl::string_view kChatFormats[] = {"model",  "chatml",  "llama3",
                                              "llama2", "mistral", "plain"};

absl::StatusOr<std::string> ChatFormatOf(const v1::TrainingConfig& config) {
  if (!config.has_chat_format()) return std::string("model");
  for (const absl::string_view format : kChatFormats) {
    if (format == config.chat_format()) return config.chat_format();
  }
  return Refuse("training.chat_format", Quoted(config.chat_format()),
                "one of \"model\", \"chatml\", \"llama3\", \"llama2\", "
                "\"mistral\", \"plain\"");
}

// A table that only one choice reads.
absl::Status RefuseUnless(bool used, bool set, absl::string_view field,
                          absl::string_view choice) {
  if (used || !set) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("'job.training.", field, "' is set, but only ", choice,
                   " uses it; remove the one or set the other"));
}

absl::Status ResolveSteps(const v1::TrainingConfig& config,
                          TrainingOptions& options) {
  if (config.has_local_steps() && config.has_local_epochs()) {
    return absl::InvalidArgumentError(
        "'job.training.local_steps' and 'job.training.local_epochs' are both "
        "set; set one of them");
  }
  CHOIR_ASSIGN_OR_RETURN(options.local_steps,
                         Count(config.has_local_steps(), config.local_steps(),
                               0, "training.local_steps", 1, 1000000000));
  CHOIR_ASSIGN_OR_RETURN(options.local_epochs,
                         Count(config.has_local_epochs(), config.local_epochs(),
                               config.has_local_steps() ? 0 : 1,
                               "training.local_epochs", 1, 1000000));
  return absl::OkStatus();
}

absl::Status ResolveOptimizer(const v1::TrainingConfig& config,
                              TrainingOptions& options) {
  const std::string name =
      config.has_optimizer() ? config.optimizer() : "adamw";
  if (name == "adamw") {
    options.optimizer = OptimizerKind::kAdamW;
  } else if (name == "sgd") {
    options.optimizer = OptimizerKind::kSgd;
  } else {
    return Refuse("training.optimizer", absl::StrCat("\"", name, "\""),
                  "\"adamw\" or \"sgd\"");
  }
  const bool adamw = options.optimizer == OptimizerKind::kAdamW;
  CHOIR_ASSIGN_OR_RETURN(
      options.learning_rate,
      Real(config.has_learning_rate(), config.learning_rate(),
           adamw ? 1e-3 : 0.1, "training.learning_rate", 0, Bound::kOpen, 1e3,
           Bound::kClosed));
  CHOIR_ASSIGN_OR_RETURN(
      options.weight_decay,
      Real(config.has_weight_decay(), config.weight_decay(), 0,
           "training.weight_decay", 0, Bound::kClosed, 10, Bound::kClosed));
  CHOIR_ASSIGN_OR_RETURN(options.beta1, Real(config.has_beta1(), config.beta1(),
                                             0.9, "training.beta1", 0,
                                             Bound::kClosed, 1, Bound::kOpen));
  CHOIR_ASSIGN_OR_RETURN(options.beta2, Real(config.has_beta2(), config.beta2(),
                                             0.999, "training.beta2", 0,
                                             Bound::kClosed, 1, Bound::kOpen));
  CHOIR_ASSIGN_OR_RETURN(
      options.epsilon,
      Real(config.has_epsilon(), config.epsilon(), 1e-8, "training.epsilon", 0,
           Bound::kOpen, 1, Bound::kClosed));
  CHOIR_ASSIGN_OR_RETURN(
      options.momentum,
      Real(config.has_momentum(), config.momentum(), 0, "training.momentum", 0,
           Bound::kClosed, 1, Bound::kOpen));
  return absl::OkStatus();
}

absl::Status ResolveAttention(const v1::TrainingConfig& config,
                              TrainingOptions& options) {
  if (config.has_attention()) {
    bool known = false;
    for (const AttentionChoice attention : kAttentions) {
      if (AttentionName(attention) != config.attention()) continue;
      options.attention = attention;
      known = true;
    }
    if (!known) {
      return Refuse(
          "training.attention", Quoted(config.attention()),
          "one of \"auto\", \"exact\", \"blockwise\", \"block_sparse\"");
    }
  }
  CHOIR_RETURN_IF_ERROR(
      RefuseUnless(options.attention == AttentionChoice::kBlockSparse,
                   config.has_block_sparse(), "block_sparse",
                   "attention = \"block_sparse\""));
  const v1::BlockSparseConfig& sparse = config.block_sparse();
  BlockSparseOptions& out = options.block_sparse;
  CHOIR_ASSIGN_OR_RETURN(out.block,
                         Count(sparse.has_block(), sparse.block(), out.block,
                               "training.block_sparse.block", 16, 4096));
  CHOIR_ASSIGN_OR_RETURN(
      out.local_blocks,
      Count(sparse.has_local_blocks(), sparse.local_blocks(), out.local_blocks,
            "training.block_sparse.local_blocks", 1, 100000));
  CHOIR_ASSIGN_OR_RETURN(
      out.global_blocks,
      Count(sparse.has_global_blocks(), sparse.global_blocks(),
            out.global_blocks, "training.block_sparse.global_blocks", 0,
            100000));
  CHOIR_ASSIGN_OR_RETURN(out.stride,
                         Count(sparse.has_stride(), sparse.stride(), out.stride,
                               "training.block_sparse.stride", 0, 100000));
  return absl::OkStatus();
}

absl::Status ResolveDpo(const v1::TrainingConfig& config,
                        TrainingOptions& options) {
  CHOIR_RETURN_IF_ERROR(RefuseUnless(options.objective == Objective::kDpo,
                                     config.has_dpo(), "dpo",
                                     "objective = \"dpo\""));
  const v1::DpoConfig& dpo = config.dpo();
  CHOIR_ASSIGN_OR_RETURN(
      options.dpo.beta,
      Real(dpo.has_beta(), dpo.beta(), options.dpo.beta, "training.dpo.beta", 0,
           Bound::kOpen, 100, Bound::kClosed));
  CHOIR_ASSIGN_OR_RETURN(options.dpo.label_smoothing,
                         Real(dpo.has_label_smoothing(), dpo.label_smoothing(),
                              0, "training.dpo.label_smoothing", 0,
                              Bound::kClosed, 0.5, Bound::kOpen));
  return absl::OkStatus();
}

absl::Status ResolveLabels(const v1::TrainingConfig& config,
                           TrainingOptions& options) {
  const bool classify = options.objective == Objective::kClassification;
  CHOIR_RETURN_IF_ERROR(RefuseUnless(classify, config.labels_size() > 0,
                                     "labels",
                                     "objective = \"classification\""));
  if (!classify) return absl::OkStatus();
  if (config.labels_size() < 2 || config.labels_size() > kMaxLabels) {
    return Refuse("training.labels",
                  absl::StrCat("a list of ", config.labels_size()),
                  absl::StrCat("a list of 2 to ", kMaxLabels, " labels"));
  }
  std::set<std::string> seen;
  for (const std::string& label : config.labels()) {
    if (label.empty()) {
      return absl::InvalidArgumentError(
          "'job.training.labels' has an empty label; remove it");
    }
    if (!seen.insert(label).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          "'job.training.labels' names ", Quoted(label), " twice"));
    }
    options.labels.push_back(label);
  }
  return absl::OkStatus();
}

absl::Status ResolveSparsity(const v1::TrainingConfig& config,
                             TrainingOptions& options) {
  const v1::SparsityConfig& sparsity = config.sparsity();
  SparsityOptions& out = options.sparsity;
  CHOIR_ASSIGN_OR_RETURN(
      out.max_rate, Real(sparsity.has_max_rate(), sparsity.max_rate(), 0,
                         "training.sparsity.max_rate", 0, Bound::kClosed, 0.9,
                         Bound::kClosed));
  CHOIR_ASSIGN_OR_RETURN(
      out.stages, Count(sparsity.has_stages(), sparsity.stages(), out.stages,
                        "training.sparsity.stages", 2, 1000));
  CHOIR_ASSIGN_OR_RETURN(
      out.measure_every,
      Count(sparsity.has_measure_every(), sparsity.measure_every(),
            out.measure_every, "training.sparsity.measure_every", 1,
            1000000000));
  return absl::OkStatus();
}

absl::Status ResolveRouter(const v1::TrainingConfig& config,
                           TrainingOptions& options) {
  const v1::RouterConfig& router = config.router();
  if (router.has_aux_loss()) {
    CHOIR_ASSIGN_OR_RETURN(
        options.router.aux_loss,
        Real(true, router.aux_loss(), 0, "training.router.aux_loss", 0,
             Bound::kClosed, 1e3, Bound::kClosed));
  }
  CHOIR_ASSIGN_OR_RETURN(
      options.router.z_loss,
      Real(router.has_z_loss(), router.z_loss(), 0, "training.router.z_loss", 0,
           Bound::kClosed, 1e3, Bound::kClosed));
  CHOIR_ASSIGN_OR_RETURN(
      options.router.bias_rate,
      Real(router.has_bias_rate(), router.bias_rate(), 0,
           "training.router.bias_rate", 0, Bound::kClosed, 1, Bound::kClosed));
  return absl::OkStatus();
}

}  // namespace

absl::string_view ObjectiveName(Objective objective) {
  switch (objective) {
    case Objective::kSupervised:
      return "sft";
    case Objective::kCausalLm:
      return "causal_lm";
    case Objective::kDpo:
      return "dpo";
    case Objective::kClassification:
      return "classification";
  }
  return "";
}

absl::string_view AttentionName(AttentionChoice attention) {
  switch (attention) {
    case AttentionChoice::kAuto:
      return "auto";
    case AttentionChoice::kExact:
      return "exact";
    case AttentionChoice::kBlockwise:
      return "blockwise";
    case AttentionChoice::kBlockSparse:
      return "block_sparse";
  }
  return "";
}

absl::StatusOr<TrainingOptions> ResolveTraining(
    const v1::TrainingConfig& config) {
  TrainingOptions options;
  CHOIR_ASSIGN_OR_RETURN(options.objective, ObjectiveOf(config));
  CHOIR_RETURN_IF_ERROR(ResolveOptimizer(config, options));
  CHOIR_ASSIGN_OR_RETURN(options.batch_size,
                         Count(config.has_batch_size(), config.batch_size(), 8,
                               "training.batch_size", 1, 1000000));
  CHOIR_ASSIGN_OR_RETURN(
      options.gradient_accumulation,
      Count(config.has_gradient_accumulation(), config.gradient_accumulation(),
            1, "training.gradient_accumulation", 1, 1000000));
  CHOIR_RETURN_IF_ERROR(ResolveSteps(config, options));
  CHOIR_ASSIGN_OR_RETURN(
      options.max_grad_norm,
      Real(config.has_max_grad_norm(), config.max_grad_norm(), 1,
           "training.max_grad_norm", 0, Bound::kClosed, kHuge, Bound::kClosed));
  CHOIR_ASSIGN_OR_RETURN(
      options.max_sequence_length,
      Count(config.has_max_sequence_length(), config.max_sequence_length(), 256,
            "training.max_sequence_length", 2, 10000000));
  CHOIR_ASSIGN_OR_RETURN(options.chat_format, ChatFormatOf(config));
  options.activation_checkpointing = config.activation_checkpointing();
  CHOIR_RETURN_IF_ERROR(ResolveAttention(config, options));
  CHOIR_RETURN_IF_ERROR(ResolveDpo(config, options));
  CHOIR_RETURN_IF_ERROR(ResolveLabels(config, options));
  CHOIR_RETURN_IF_ERROR(ResolveSparsity(config, options));
  CHOIR_RETURN_IF_ERROR(ResolveRouter(config, options));
  return options;
}

v1::TrainingConfig ToProto(const TrainingOptions& options) {
  v1::TrainingConfig config;
  config.set_objective(std::string(ObjectiveName(options.objective)));
  config.set_optimizer(options.optimizer == OptimizerKind::kAdamW ? "adamw"
                                                                  : "sgd");
  config.set_learning_rate(options.learning_rate);
  config.set_weight_decay(options.weight_decay);
  config.set_beta1(options.beta1);
  config.set_beta2(options.beta2);
  config.set_epsilon(options.epsilon);
  config.set_momentum(options.momentum);
  config.set_batch_size(static_cast<uint32_t>(options.batch_size));
  config.set_gradient_accumulation(
      static_cast<uint32_t>(options.gradient_accumulation));
  if (options.local_steps > 0) {
    config.set_local_steps(static_cast<uint32_t>(options.local_steps));
  } else {
    config.set_local_epochs(static_cast<uint32_t>(options.local_epochs));
  }
  config.set_max_grad_norm(options.max_grad_norm);
  config.set_max_sequence_length(
      static_cast<uint32_t>(options.max_sequence_length));
  config.set_chat_format(options.chat_format);
  config.set_activation_checkpointing(options.activation_checkpointing);
  config.set_attention(std::string(AttentionName(options.attention)));
  if (options.attention == AttentionChoice::kBlockSparse) {
    v1::BlockSparseConfig& sparse = *config.mutable_block_sparse();
    sparse.set_block(static_cast<uint32_t>(options.block_sparse.block));
    sparse.set_local_blocks(
        static_cast<uint32_t>(options.block_sparse.local_blocks));
    sparse.set_global_blocks(
        static_cast<uint32_t>(options.block_sparse.global_blocks));
    sparse.set_stride(static_cast<uint32_t>(options.block_sparse.stride));
  }
  if (options.objective == Objective::kDpo) {
    config.mutable_dpo()->set_beta(options.dpo.beta);
    config.mutable_dpo()->set_label_smoothing(options.dpo.label_smoothing);
  }
  for (const std::string& label : options.labels) config.add_labels(label);
  if (options.sparsity.max_rate > 0) {
    v1::SparsityConfig& sparsity = *config.mutable_sparsity();
    sparsity.set_max_rate(options.sparsity.max_rate);
    sparsity.set_stages(static_cast<uint32_t>(options.sparsity.stages));
    sparsity.set_measure_every(
        static_cast<uint32_t>(options.sparsity.measure_every));
  }
  const RouterOptions& router = options.router;
  if (router.aux_loss >= 0) {
    config.mutable_router()->set_aux_loss(router.aux_loss);
  }
  if (router.z_loss > 0) config.mutable_router()->set_z_loss(router.z_loss);
  if (router.bias_rate > 0) {
    config.mutable_router()->set_bias_rate(router.bias_rate);
  }
  return config;
}

}  // namespace choir::config
