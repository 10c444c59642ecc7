#include "model/checkpoint/families.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

namespace choir::model {
namespace {

bool IsGpt2(const ModelConfig& config) {
  return config.family == Family::kGpt2;
}

std::string BlockPrefix(const ModelConfig& config, int64_t layer) {
  return IsGpt2(config) ? absl::StrCat("transformer.h.", layer, ".")
                        : absl::StrCat("model.layers.", layer, ".");
}

// "block_sparse_moe." or "mlp.".
const char* MoeFolder(const ModelConfig& config) {
  return config.family == Family::kMixtral ? "block_sparse_moe." : "mlp.";
}

class LinearList {
 public:
  LinearList(const ModelConfig& config, int64_t layer,
             std::vector<LinearSpec>& out)
      : prefix_(BlockPrefix(config, layer)),
        layer_(layer),
        transposed_(IsGpt2(config)),
        out_(out) {}

  void Add(absl::string_view path, LinearRole role, int64_t in, int64_t out,
           bool bias, int64_t expert = -1) {
    LinearSpec spec;
    spec.module = absl::StrCat(prefix_, path);
    spec.kind = std::string(path.substr(path.rfind('.') + 1));
    spec.layer = layer_;
    spec.role = role;
    spec.expert = expert;
    spec.in_features = in;
    spec.out_features = out;
    spec.bias = bias;
    spec.transposed = transposed_;
    out_.push_back(std::move(spec));
  }

 private:
  const std::string prefix_;
  const int64_t layer_;
  const bool transposed_;
  std::vector<LinearSpec>& out_;
};

void AddAttention(const ModelConfig& config, LinearList& list) {
  const int64_t hidden = config.hidden_size;
  const int64_t queries = config.num_heads * config.head_dim;
  const int64_t keys = config.num_kv_heads * config.head_dim;
  if (config.fused_qkv) {
    list.Add("attn.c_attn", LinearRole::kQkv, hidden, queries + 2 * keys,
             config.qkv_bias);
    list.Add("attn.c_proj", LinearRole::kOutput, queries, hidden,
             config.output_bias);
    return;
  }
  list.Add("self_attn.q_proj", LinearRole::kQuery, hidden, queries,
           config.qkv_bias);
  list.Add("self_attn.k_proj", LinearRole::kKey, hidden, keys, config.qkv_bias);
  list.Add("self_attn.v_proj", LinearRole::kValue, hidden, keys,
           config.qkv_bias);
  list.Add("self_attn.o_proj", LinearRole::kOutput, queries, hidden,
           config.output_bias);
}

void AddMlp(const ModelConfig& config, LinearList& list) {
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const bool bias = config.mlp_bias;
  if (!config.gated_mlp) {
    list.Add("mlp.c_fc", LinearRole::kUp, hidden, inner, bias);
    list.Add("mlp.c_proj", LinearRole::kDown, inner, hidden, bias);
    return;
  }
  list.Add("mlp.gate_proj", LinearRole::kGate, hidden, inner, bias);
  list.Add("mlp.up_proj", LinearRole::kUp, hidden, inner, bias);
  list.Add("mlp.down_proj", LinearRole::kDown, inner, hidden, bias);
}

void AddExperts(const ModelConfig& config, LinearList& list) {
  const bool mixtral = config.family == Family::kMixtral;
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.moe.intermediate_size;
  for (const int64_t e : config.moe.HeldExperts()) {
    const std::string folder =
        absl::StrCat(MoeFolder(config), "experts.", e, ".");
    list.Add(absl::StrCat(folder, mixtral ? "w1" : "gate_proj"),
             LinearRole::kGate, hidden, inner, false, e);
    list.Add(absl::StrCat(folder, mixtral ? "w3" : "up_proj"), LinearRole::kUp,
             hidden, inner, false, e);
    list.Add(absl::StrCat(folder, mixtral ? "w2" : "down_proj"),
             LinearRole::kDown, inner, hidden, false, e);
  }
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// What Hugging Face writes, or wrote, beside the weights.
bool IsHarmless(const ModelConfig& config, absl::string_view name) {
  for (const char* buffer : {"inv_freq", "cos_cached", "sin_cached"}) {
    if (absl::EndsWith(name, absl::StrCat("rotary_emb.", buffer))) return true;
  }
  if (config.tie_word_embeddings && name == "lm_head.weight") return true;
  return IsGpt2(config) && (absl::EndsWith(name, ".attn.bias") ||
                            absl::EndsWith(name, ".attn.masked_bias"));
}

}  // namespace

std::vector<LinearSpec> LinearLayers(const ModelConfig& config) {
  std::vector<LinearSpec> layers;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    LinearList list(config, layer, layers);
    AddAttention(config, list);
    if (config.IsMoe(layer)) {
      AddExperts(config, list);
    } else {
      AddMlp(config, list);
    }
  }
  return layers;
}

std::vector<std::string> LinearKinds(const ModelConfig& config) {
  std::set<std::string> kinds;
  for (const LinearSpec& linear : LinearLayers(config)) {
    kinds.insert(linear.kind);
  }
  return {kinds.begin(), kinds.end()};
}

bool TargetMatches(absl::string_view target, absl::string_view module) {
  if (target.empty() || !absl::EndsWith(module, target)) return false;
  return module.size() == target.size() ||
         module[module.size() - target.size() - 1] == '.';
}

TensorNames ModelTensorNames(const ModelConfig& config) {
  TensorNames names;
  if (IsGpt2(config)) {
    names.embedding = "transformer.wte.weight";
    names.positions = "transformer.wpe.weight";
    names.norm = "transformer.ln_f.weight";
    names.norm_bias = "transformer.ln_f.bias";
  } else {
    names.embedding = "model.embed_tokens.weight";
    names.norm = "model.norm.weight";
  }
  if (!config.tie_word_embeddings) names.head = "lm_head.weight";
  if (config.num_labels > 0) names.score = "score.weight";
  return names;
}

BlockTensorNames BlockNames(const ModelConfig& config, int64_t layer) {
  const std::string prefix = BlockPrefix(config, layer);
  BlockTensorNames names;
  if (IsGpt2(config)) {
    names.input_norm = absl::StrCat(prefix, "ln_1.weight");
    names.input_norm_bias = absl::StrCat(prefix, "ln_1.bias");
    names.post_norm = absl::StrCat(prefix, "ln_2.weight");
    names.post_norm_bias = absl::StrCat(prefix, "ln_2.bias");
    return names;
  }
  names.input_norm = absl::StrCat(prefix, "input_layernorm.weight");
  names.post_norm = absl::StrCat(prefix, "post_attention_layernorm.weight");
  if (config.qk_norm != QkNorm::kNone) {
    names.q_norm = absl::StrCat(prefix, "self_attn.q_norm.weight");
    names.k_norm = absl::StrCat(prefix, "self_attn.k_norm.weight");
  }
  if (config.IsMoe(layer)) {
    names.router = absl::StrCat(prefix, MoeFolder(config), "gate.weight");
  }
  return names;
}

std::vector<codec::TensorSpec> ModelTensors(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  std::vector<codec::TensorSpec> specs;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    if (!name.empty()) specs.push_back({name, std::move(shape)});
  };
  const TensorNames names = ModelTensorNames(config);
  add(names.embedding, {config.vocab_size, hidden});
  add(names.positions, {config.max_positions, hidden});
  add(names.norm, {hidden});
  add(names.norm_bias, {hidden});
  add(names.head, {config.vocab_size, hidden});
  add(names.score, {config.num_labels, hidden});
  const bool whole = config.qk_norm == QkNorm::kWhole;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const BlockTensorNames block = BlockNames(config, i);
    add(block.input_norm, {hidden});
    add(block.input_norm_bias, {hidden});
    add(block.post_norm, {hidden});
    add(block.post_norm_bias, {hidden});
    add(block.q_norm, {config.head_dim * (whole ? config.num_heads : 1)});
    add(block.k_norm, {config.head_dim * (whole ? config.num_kv_heads : 1)});
    add(block.router, {config.moe.num_experts, hidden});
  }
  for (const LinearSpec& linear : LinearLayers(config)) {
    std::vector<int64_t> shape = {linear.out_features, linear.in_features};
    if (linear.transposed) std::swap(shape[0], shape[1]);
    add(absl::StrCat(linear.module, ".weight"), std::move(shape));
    if (linear.bias) {
      add(absl::StrCat(linear.module, ".bias"), {linear.out_features});
    }
  }
  std::sort(specs.begin(), specs.end(),
            [](const codec::TensorSpec& a, const codec::TensorSpec& b) {
              return a.name < b.name;
            });
  return specs;
}

absl::string_view NamePrefix(const ModelConfig& config) {
  return IsGpt2(config) ? "transformer." : "model.";
}

absl::Status CheckTensorTable(const ModelConfig& config,
                              absl::Span<const StoredTensor> stored,
                              absl::string_view source) {
  const std::string prefix(NamePrefix(config));
  const bool headless =
      !stored.empty() &&
      std::none_of(stored.begin(), stored.end(), [&](const StoredTensor& t) {
        return absl::StartsWith(t.name, prefix);
      });
  std::map<std::string, const StoredTensor*> have;
  for (const StoredTensor& tensor : stored) {
    const bool head = absl::StartsWith(tensor.name, "lm_head.");
    have[headless && !head ? absl::StrCat(prefix, tensor.name) : tensor.name] =
        &tensor;
  }
  std::vector<std::string> missing, misshaped, extra;
  for (const codec::TensorSpec& spec : ModelTensors(config)) {
    const auto found = have.find(spec.name);
    if (found == have.end()) {
      missing.push_back(
          absl::StrCat("'", spec.name, "' ", ShapeText(spec.shape)));
      continue;
    }
    if (found->second->shape != spec.shape) {
      misshaped.push_back(absl::StrCat("'", spec.name, "' has shape ",
                                       ShapeText(found->second->shape),
                                       ", not ", ShapeText(spec.shape)));
    }
    have.erase(found);
  }
  // Experts that exist, but are not held, stay on disk.
  std::set<std::string> elsewhere;
  if (!config.moe.held.empty()) {
    ModelConfig whole = config;
    whole.moe.held.clear();
    for (const codec::TensorSpec& spec : ModelTensors(whole)) {
      elsewhere.insert(spec.name);
    }
  }
  for (const auto& [name, tensor] : have) {
    if (!IsHarmless(config, name) && elsewhere.count(name) == 0) {
      extra.push_back(absl::StrCat("'", tensor->name, "'"));
    }
  }
  std::vector<std::string> problems;
  if (!missing.empty()) {
    problems.push_back(absl::StrCat("missing: ", absl::StrJoin(missing, ", ")));
  }
  if (!extra.empty()) {
    problems.push_back(
        absl::StrCat("unexpected: ", absl::StrJoin(extra, ", ")));
  }
  if (!misshaped.empty()) {
    problems.push_back(
        absl::StrCat("misshaped: ", absl::StrJoin(misshaped, ", ")));
  }
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      source, ": the tensors are not those that config.json describes (",
      FamilyName(config.family), "); ", absl::StrJoin(problems, "; ")));
}

int64_t ModelConfig::num_parameters() const {
  int64_t count = 0;
  for (const codec::TensorSpec& spec : ModelTensors(*this)) {
    count += spec.num_elements();
  }
  return count;
}

int64_t ModelConfig::num_active_parameters() const {
  int64_t count = num_parameters();
  if (moe.num_experts == 0) return count;
  const int64_t held = static_cast<int64_t>(moe.HeldExperts().size());
  const int64_t idle = std::max<int64_t>(0, held - moe.experts_per_token);
  const int64_t expert = 3 * hidden_size * moe.intermediate_size;
  for (int64_t i = 0; i < num_layers; ++i) {
    if (IsMoe(i)) count -= idle * expert;
  }
  return count;
}

}  // namespace choir::model
