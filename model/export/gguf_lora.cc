#include "model/export/gguf_lora.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "model/adapter/lora_layout.h"
#include "model/export/gguf.h"

namespace choir::model {
namespace {

using config::AdapterKind;

constexpr char kConfigKey[] = "choir.adapter_config";

// llama.cpp's name of a layer's weight. Those of one layer's experts are one
// tensor.
std::string GgufName(const LinearSpec& layer) {
  const char* part = "";
  switch (layer.role) {
    case LinearRole::kQuery:
      part = "attn_q";
      break;
    case LinearRole::kKey:
      part = "attn_k";
      break;
    case LinearRole::kValue:
      part = "attn_v";
      break;
    case LinearRole::kQkv:
      part = "attn_qkv";
      break;
    case LinearRole::kOutput:
      part = "attn_output";
      break;
    case LinearRole::kGate:
      part = "ffn_gate";
      break;
    case LinearRole::kUp:
      part = "ffn_up";
      break;
    case LinearRole::kDown:
      part = "ffn_down";
      break;
  }
  return absl::StrCat("blk.", layer.layer, ".", part,
                      layer.expert >= 0 ? "_exps" : "", ".weight");
}

// Heads whose rows llama.cpp interleaves; 0: none. Hugging Face rotates the two
// halves of a head, llama.cpp's Llama neighbouring rows.
int64_t InterleavedHeads(const ModelConfig& config, LinearRole role) {
  if (config.family != Family::kLlama && config.family != Family::kMistral &&
      config.family != Family::kMixtral) {
    return 0;
  }
  if (role == LinearRole::kQuery) return config.num_heads;
  if (role == LinearRole::kKey) return config.num_kv_heads;
  return 0;
}

// Row i of the result is row `order[i]` of B.
std::vector<int64_t> RowOrder(int64_t rows, int64_t heads) {
  std::vector<int64_t> order(rows);
  const int64_t head_rows = heads > 0 ? rows / heads : 0;
  const int64_t half = head_rows / 2;
  for (int64_t i = 0; i < rows; ++i) {
    if (heads == 0) {
      order[i] = i;
      continue;
    }
    const int64_t within = i % head_rows;
    order[i] = i - within + (within % 2) * half + within / 2;
  }
  return order;
}

// One GGUF tensor pair: a layer, or the experts of one in their order.
struct Group {
  std::string name;
  std::vector<LinearSpec> layers;
};

std::vector<Group> GroupLayers(const std::vector<LinearSpec>& layers) {
  std::vector<Group> groups;
  std::map<std::string, size_t> index;
  for (const LinearSpec& layer : layers) {
    const std::string name = GgufName(layer);
    const auto [at, fresh] = index.emplace(name, groups.size());
    if (fresh) groups.push_back({name, {}});
    groups[at->second].layers.push_back(layer);
  }
  return groups;
}

absl::Status CheckExperts(const ModelConfig& config, const Group& group) {
  if (group.layers[0].expert < 0 ||
      static_cast<int64_t>(group.layers.size()) == config.moe.num_experts) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "GGUF has one tensor for all ", config.moe.num_experts,
      " experts of a layer, but the adapter is on ", group.layers.size(),
      " of layer ", group.layers[0].layer, "'s; merge it instead"));
}

// Where the tensors of a layout lie, by name.
std::map<std::string, size_t> IndexOf(const codec::Layout& layout) {
  std::map<std::string, size_t> index;
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    index[layout.tensors()[i].name] = i;
  }
  return index;
}

class Encoder {
 public:
  Encoder(const ModelConfig& config, const PeftAdapter& adapter, DType dtype)
      : config_(config),
        adapter_(adapter),
        dtype_(dtype),
        index_(IndexOf(adapter.layout)) {}

  absl::StatusOr<std::string> Encode() {
    CHOIR_ASSIGN_OR_RETURN(const std::vector<LinearSpec> layers,
                           AdaptedLayers(config_, adapter_.options));
    const std::vector<Group> groups = GroupLayers(layers);
    bytes_.reserve(2 * groups.size());
    for (const Group& group : groups) {
      CHOIR_RETURN_IF_ERROR(CheckExperts(config_, group));
      CHOIR_RETURN_IF_ERROR(CheckRanks(group));
      CHOIR_RETURN_IF_ERROR(Add(group));
    }
    return EncodeGguf(Metadata(), tensors_);
  }

 private:
  absl::Span<const float> Values(const std::string& name) const {
    const auto found = index_.find(name);
    CHOIR_CHECK(found != index_.end());
    return absl::MakeSpan(adapter_.values)
        .subspan(adapter_.layout.offset(found->second),
                 adapter_.layout.tensors()[found->second].num_elements());
  }
  absl::Status CheckRanks(const Group& group) const {
    for (const LinearSpec& layer : group.layers) {
      const std::string& first = group.layers[0].module;
      if (adapter_.options.rank_of(layer.module) ==
          adapter_.options.rank_of(first)) {
        continue;
      }
      return absl::InvalidArgumentError(absl::StrCat(
          layer.module, " and ", first,
          " have different ranks, but llama.cpp keeps the experts of a layer "
          "in one tensor; merge the adapter into its base instead"));
    }
    return absl::OkStatus();
  }
  // llama.cpp divides one alpha by each tensor's rank.
  double Alpha() const {
    return adapter_.options.scale() * adapter_.options.rank;
  }
  // What B must be multiplied by so that this gives the layer's own scale.
  double Correction(const std::string& module) const {
    const config::AdapterOptions& options = adapter_.options;
    if (options.uniform()) return 1.0;
    const double exact =
        options.scale_of(module) * options.rank_of(module) / Alpha();
    return std::fabs(exact - 1.0) < 1e-12 ? 1.0 : exact;
  }
  // The options that the file's tensors follow.
  config::AdapterOptions Stored() const {
    config::AdapterOptions options = adapter_.options;
    bool changed = false;
    for (const auto& [name, place] : index_) {
      absl::string_view module = name;
      changed |= absl::ConsumePrefix(&module, LoraPrefix()) &&
                 absl::ConsumeSuffix(&module, ".lora_B.weight") &&
                 Correction(std::string(module)) != 1.0;
    }
    if (!changed) return options;
    options.alpha = Alpha();
    options.rank_stabilized = false;
    options.layer_alphas.clear();
    return options;
  }
  absl::Status Push(std::string name, std::vector<int64_t> shape,
                    absl::Span<const float> values) {
    CHOIR_RETURN_IF_ERROR(CheckFits(name, values, dtype_));
    bytes_.push_back(FloatsToBytes(values, dtype_));
    TensorView view;
    view.name = std::move(name);
    view.dtype = dtype_;
    view.shape = std::move(shape);
    view.bytes = bytes_.back();
    tensors_.push_back(std::move(view));
    return absl::OkStatus();
  }
  absl::Status Add(const Group& group) {
    const LinearSpec& first = group.layers[0];
    const int64_t rank = adapter_.options.rank_of(first.module);
    std::vector<float> a, b;
    for (const LinearSpec& layer : group.layers) {
      const auto from_a = Values(LoraAName(layer.module));
      const auto from_b = Values(LoraBName(layer.module));
      a.insert(a.end(), from_a.begin(), from_a.end());
      for (const int64_t row : RowOrder(
               layer.out_features, InterleavedHeads(config_, layer.role))) {
        const auto values = from_b.subspan(row * rank, rank);
        b.insert(b.end(), values.begin(), values.end());
      }
      const auto correction = static_cast<float>(Correction(layer.module));
      if (correction == 1.0f) continue;
      std::for_each(b.end() - layer.out_features * rank, b.end(),
                    [&](float& value) { value *= correction; });
    }
    std::vector<int64_t> shape_a = {rank, first.in_features};
    std::vector<int64_t> shape_b = {first.out_features, rank};
    if (first.expert >= 0) {
      const int64_t experts = static_cast<int64_t>(group.layers.size());
      shape_a.insert(shape_a.begin(), experts);
      shape_b.insert(shape_b.begin(), experts);
    }
    CHOIR_RETURN_IF_ERROR(
        Push(absl::StrCat(group.name, ".lora_a"), shape_a, a));
    return Push(absl::StrCat(group.name, ".lora_b"), shape_b, b);
  }
  std::vector<std::pair<std::string, GgufValue>> Metadata() const {
    return {
        {"general.architecture", std::string(GgufArchitecture(config_.family))},
        {"general.type", std::string("adapter")},
        {"adapter.type", std::string("lora")},
        {"adapter.lora.alpha", static_cast<float>(Alpha())},
        {"general.quantization_version", uint32_t{2}},
        {kConfigKey, AdapterConfigJson(Stored(), adapter_.base_model)},
    };
  }

  const ModelConfig& config_;
  const PeftAdapter& adapter_;
  const DType dtype_;
  const std::map<std::string, size_t> index_;
  std::vector<std::string> bytes_;  // reserved: the views borrow them
  std::vector<TensorView> tensors_;
};

class Decoder {
 public:
  Decoder(const ModelConfig& config, const GgufFile& file)
      : config_(config), file_(file) {
    for (const TensorView& tensor : file.tensors) {
      tensors_[tensor.name] = &tensor;
    }
  }

  absl::StatusOr<PeftAdapter> Decode() {
    CHOIR_RETURN_IF_ERROR(CheckKeys());
    const std::vector<Group> groups = GroupLayers(LinearLayers(config_));
    CHOIR_RETURN_IF_ERROR(CheckNames(groups));
    PeftAdapter adapter;
    CHOIR_RETURN_IF_ERROR(ReadOptions(groups, adapter));
    absl::StatusOr<codec::Layout> layout =
        StoredLayout(config_, adapter.options);
    if (!layout.ok()) return Wrong(layout.status().message());
    adapter.layout = *std::move(layout);
    index_ = IndexOf(adapter.layout);
    adapter.values.resize(adapter.layout.num_elements());
    size_t read = 0;
    for (const Group& group : groups) {
      if (tensors_.count(group.name + ".lora_a") == 0) continue;
      CHOIR_RETURN_IF_ERROR(ReadGroup(group, adapter));
      read += 2 * group.layers.size();
    }
    if (read != adapter.layout.tensors().size()) {
      return Wrong(
          absl::StrCat("adapts some layers only of the modules ",
                       absl::StrJoin(adapter.options.target_modules, ", "),
                       ", which is not supported"));
    }
    return adapter;
  }

 private:
  absl::Status Wrong(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.source, ": ", what));
  }
  absl::Status CheckKeys() const;
  // Every tensor is one of the model's, and has its partner.
  absl::Status CheckNames(const std::vector<Group>& groups) const;
  absl::Status ReadOptions(const std::vector<Group>& groups,
                           PeftAdapter& adapter) const;
  absl::Status ReadGroup(const Group& group, PeftAdapter& adapter) const;
  absl::StatusOr<std::vector<float>> Values(const Group& group,
                                            const char* suffix,
                                            std::vector<int64_t> shape) const;

  const ModelConfig& config_;
  const GgufFile& file_;
  std::map<std::string, const TensorView*> tensors_;
  std::map<std::string, size_t> index_;
};

absl::Status Decoder::CheckKeys() const {
  const std::pair<const char*, absl::string_view> wanted[] = {
      {"general.type", "adapter"},
      {"adapter.type", "lora"},
      {"general.architecture", GgufArchitecture(config_.family)}};
  for (const auto& [key, value] : wanted) {
    CHOIR_ASSIGN_OR_RETURN(const std::string text, file_.Text(key));
    if (text != value) {
      return Wrong(absl::StrCat(key, " is '", text.substr(0, 60), "', not '",
                                value, "'"));
    }
  }
  return absl::OkStatus();
}

absl::Status Decoder::CheckNames(const std::vector<Group>& groups) const {
  std::set<std::string> known;
  for (const Group& group : groups) known.insert(group.name);
  for (const TensorView& tensor : file_.tensors) {
    absl::string_view base = tensor.name;
    const bool is_a = absl::ConsumeSuffix(&base, ".lora_a");
    if (!is_a && !absl::ConsumeSuffix(&base, ".lora_b")) {
      return Wrong(absl::StrCat("tensor '", tensor.name,
                                "' is neither a lora_a nor a lora_b"));
    }
    if (known.count(std::string(base)) == 0) {
      return Wrong(absl::StrCat("tensor '", tensor.name,
                                "' is of no linear layer of the model"));
    }
    const std::string partner =
        absl::StrCat(base, is_a ? ".lora_b" : ".lora_a");
    if (tensors_.count(partner) == 0) {
      return Wrong(absl::StrCat("tensor '", tensor.name, "' has no partner '",
                                partner, "'"));
    }
  }
  if (file_.tensors.empty()) return Wrong("has no tensors");
  return absl::OkStatus();
}

absl::Status Decoder::ReadOptions(const std::vector<Group>& groups,
                                  PeftAdapter& adapter) const {
  config::AdapterOptions& options = adapter.options;
  if (file_.Find(kConfigKey) != nullptr) {
    CHOIR_ASSIGN_OR_RETURN(const std::string text, file_.Text(kConfigKey));
    CHOIR_ASSIGN_OR_RETURN(
        AdapterConfigFile file,
        ParseAdapterConfig(text, absl::StrCat(file_.source, ": ", kConfigKey)));
    if (file.options.kind != AdapterKind::kLora) {
      return Wrong(absl::StrCat(kConfigKey, " is not of a LoRA adapter"));
    }
    options = std::move(file.options);
    const absl::Status applied = ApplyTargetRules(config_, file.rules, options);
    if (!applied.ok()) return Wrong(applied.message());
    adapter.base_model = std::move(file.base_model);
    return absl::OkStatus();
  }
  std::set<std::string> kinds, paths;
  options.rank = 0;
  for (const Group& group : groups) {
    const auto found = tensors_.find(group.name + ".lora_a");
    if (found == tensors_.end()) continue;
    const std::vector<int64_t>& shape = found->second->shape;
    if (shape.size() < 2) return Wrong("a lora_a has one dimension");
    const int64_t rank = shape[shape.size() - 2];
    if (rank < 1 || rank > (1 << 16)) return Wrong("has an impossible rank");
    // Layers may differ in rank; the first one's is the usual one.
    if (options.rank == 0) options.rank = static_cast<int>(rank);
    for (const LinearSpec& layer : group.layers) {
      kinds.insert(layer.kind);
      paths.insert(layer.module);
      if (rank != options.rank) {
        options.layer_ranks[layer.module] = static_cast<int>(rank);
      }
    }
  }
  // Names, or whole paths if some layers only of those names are adapted.
  size_t named = 0;
  for (const LinearSpec& layer : LinearLayers(config_)) {
    named += kinds.count(layer.kind);
  }
  const std::set<std::string>& targets = named == paths.size() ? kinds : paths;
  options.target_modules.assign(targets.begin(), targets.end());
  const GgufValue* alpha = file_.Find("adapter.lora.alpha");
  const float none = 0.0f;
  const float* value = alpha == nullptr ? &none : std::get_if<float>(alpha);
  if (value == nullptr || !std::isfinite(*value) || *value < 0) {
    return Wrong("adapter.lora.alpha is not a positive number");
  }
  options.alpha = *value;
  if (*value > 0) return absl::OkStatus();
  // llama.cpp: no alpha, no scaling, whatever a layer's rank.
  options.alpha = options.rank;
  options.layer_alphas.insert(options.layer_ranks.begin(),
                              options.layer_ranks.end());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> Decoder::Values(
    const Group& group, const char* suffix, std::vector<int64_t> shape) const {
  if (group.layers[0].expert >= 0) {
    shape.insert(shape.begin(), static_cast<int64_t>(group.layers.size()));
  }
  const TensorView& tensor = *tensors_.at(absl::StrCat(group.name, suffix));
  if (tensor.shape != shape) {
    return Wrong(absl::StrCat("tensor '", tensor.name, "' has shape [",
                              absl::StrJoin(tensor.shape, ", "), "], not [",
                              absl::StrJoin(shape, ", "), "]"));
  }
  CHOIR_ASSIGN_OR_RETURN(std::vector<float> values, ReadFloats(tensor));
  if (!std::all_of(values.begin(), values.end(),
                   [](float v) { return std::isfinite(v); })) {
    return Wrong(absl::StrCat("tensor '", tensor.name,
                              "' holds values that are not finite"));
  }
  return values;
}

absl::Status Decoder::ReadGroup(const Group& group,
                                PeftAdapter& adapter) const {
  const int64_t rank = adapter.options.rank_of(group.layers[0].module);
  const int64_t in = group.layers[0].in_features;
  const int64_t out = group.layers[0].out_features;
  CHOIR_ASSIGN_OR_RETURN(const std::vector<float> a,
                         Values(group, ".lora_a", {rank, in}));
  CHOIR_ASSIGN_OR_RETURN(const std::vector<float> b,
                         Values(group, ".lora_b", {out, rank}));
  for (size_t e = 0; e < group.layers.size(); ++e) {
    const LinearSpec& layer = group.layers[e];
    const auto to_a = index_.find(LoraAName(layer.module));
    const auto to_b = index_.find(LoraBName(layer.module));
    if (to_a == index_.end() || to_b == index_.end()) {
      return Wrong(absl::StrCat("tensor '", group.name, ".lora_a' is of ",
                                layer.module, ", which ", kConfigKey,
                                " does not name"));
    }
    std::copy_n(a.begin() + e * rank * in, rank * in,
                adapter.values.begin() + adapter.layout.offset(to_a->second));
    const std::vector<int64_t> order =
        RowOrder(out, InterleavedHeads(config_, layer.role));
    const auto begin =
        adapter.values.begin() + adapter.layout.offset(to_b->second);
    for (int64_t i = 0; i < out; ++i) {
      std::copy_n(b.begin() + (e * out + i) * rank, rank,
                  begin + order[i] * rank);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view GgufArchitecture(Family family) {
  switch (family) {
    case Family::kGpt2:
      return "gpt2";
    case Family::kLlama:
    case Family::kMistral:
    case Family::kMixtral:
      return "llama";
    case Family::kQwen2:
      return "qwen2";
    case Family::kQwen3:
      return "qwen3";
    case Family::kOlmoe:
      return "olmoe";
    case Family::kQwen3Moe:
      return "qwen3moe";
  }
  return "";
}

absl::StatusOr<std::string> EncodeGgufLora(const ModelConfig& config,
                                           const PeftAdapter& adapter,
                                           DType dtype) {
  if (adapter.options.kind != AdapterKind::kLora) {
    return absl::InvalidArgumentError(
        absl::StrCat("llama.cpp has LoRA adapters only, not ",
                     config::AdapterKindName(adapter.options.kind),
                     "; merge the adapter into its base instead"));
  }
  if (adapter.options.num_labels > 0) {
    return absl::InvalidArgumentError(
        "llama.cpp's adapters have no classification head");
  }
  if (dtype != DType::kF32 && dtype != DType::kF16 && dtype != DType::kBf16) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a GGUF adapter holds F32, F16 or BF16, not ", DTypeName(dtype)));
  }
  return Encoder(config, adapter, dtype).Encode();
}

absl::StatusOr<PeftAdapter> DecodeGgufLora(absl::string_view bytes,
                                           const ModelConfig& config,
                                           absl::string_view source) {
  CHOIR_ASSIGN_OR_RETURN(const GgufFile file, ParseGguf(bytes, source));
  return Decoder(config, file).Decode();
}

}  // namespace choir::model
