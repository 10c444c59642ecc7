#include "model/transformer/llama.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "model/adapter/lora_layout.h"

namespace choir::model {
namespace {

std::string BlockName(int64_t layer, absl::string_view part) {
  return absl::StrCat("model.layers.", layer, ".", part, ".weight");
}

uint64_t GroupSeed(uint64_t seed, size_t block, int group) {
  // One stream of dropout bits per group of linear layers.
  return (seed + block * 4 + static_cast<uint64_t>(group) + 1) *
         0x9e3779b97f4a7c15ull;
}

}  // namespace

std::vector<double> RotaryFrequencies(const ModelConfig& config) {
  const int64_t half = config.head_dim / 2;
  const RopeScaling& scaling = config.rope_scaling;
  std::vector<double> frequencies(half);
  for (int64_t i = 0; i < half; ++i) {
    double f = std::pow(config.rope_theta,
                        -2.0 * static_cast<double>(i) / config.head_dim);
    if (scaling.kind == RopeScalingKind::kLinear) {
      f /= scaling.factor;
    } else if (scaling.kind == RopeScalingKind::kLlama3) {
      const double original = scaling.original_max_positions;
      const double wavelength = 2.0 * M_PI / f;
      if (wavelength > original / scaling.low_freq_factor) {
        f /= scaling.factor;
      } else if (wavelength > original / scaling.high_freq_factor) {
        const double smooth =
            (original / wavelength - scaling.low_freq_factor) /
            (scaling.high_freq_factor - scaling.low_freq_factor);
        f = (1.0 - smooth) * f / scaling.factor + smooth * f;
      }
    }
    frequencies[i] = f;
  }
  return frequencies;
}

absl::StatusOr<LlamaWeights> CollectWeights(const ModelConfig& config,
                                            const FindTensor& find) {
  std::map<std::string, at::Tensor> tensors;
  for (const codec::TensorSpec& spec : LlamaTensors(config)) {
    CHOIR_ASSIGN_OR_RETURN(tensors[spec.name], find(spec));
  }
  LlamaWeights weights;
  weights.embedding = tensors["model.embed_tokens.weight"];
  weights.norm = tensors["model.norm.weight"];
  weights.head = config.tie_word_embeddings ? weights.embedding
                                            : tensors["lm_head.weight"];
  weights.blocks.resize(config.num_layers);
  for (int64_t i = 0; i < config.num_layers; ++i) {
    weights.blocks[i].input_norm = tensors[BlockName(i, "input_layernorm")];
    weights.blocks[i].post_norm =
        tensors[BlockName(i, "post_attention_layernorm")];
  }
  const std::vector<LinearSpec> linears = LinearLayers(config);
  for (size_t i = 0; i < linears.size(); ++i) {
    LinearParts& parts = weights.blocks[i / kNumSlots].linear[i % kNumSlots];
    parts.weight = tensors[absl::StrCat(linears[i].module, ".weight")];
    if (linears[i].bias) {
      parts.bias = tensors[absl::StrCat(linears[i].module, ".bias")];
    }
  }
  return weights;
}

LoraBank BindLora(const ModelConfig& config, const codec::Layout& layout,
                  const at::Tensor& flat, double scale) {
  std::map<std::string, size_t> index;
  for (size_t i = 0; i < layout.tensors().size(); ++i) {
    index[layout.tensors()[i].name] = i;
  }
  const auto view = [&](const std::string& name) {
    const auto it = index.find(name);
    if (it == index.end()) return at::Tensor();
    const codec::TensorSpec& spec = layout.tensors()[it->second];
    return flat.narrow(0, layout.offset(it->second), spec.num_elements())
        .view(spec.shape)
        .detach();
  };
  LoraBank bank;
  bank.scale = scale;
  bank.blocks.resize(config.num_layers);
  const std::vector<LinearSpec> linears = LinearLayers(config);
  for (size_t i = 0; i < linears.size(); ++i) {
    LoraBank::Pair& pair = bank.blocks[i / kNumSlots][i % kNumSlots];
    pair.a = view(LoraAName(linears[i].module));
    pair.b = view(LoraBName(linears[i].module));
  }
  return bank;
}

Llama::Llama(const ModelConfig& config, LlamaWeights weights)
    : config_(config),
      weights_(std::move(weights)),
      sizes_{config.num_heads, config.num_kv_heads, config.head_dim} {
  const std::vector<double> frequencies = RotaryFrequencies(config);
  const int64_t half = static_cast<int64_t>(frequencies.size());
  at::Tensor cosine = at::empty({config.max_positions, half}, at::kFloat);
  at::Tensor sine = at::empty({config.max_positions, half}, at::kFloat);
  float* c = cosine.data_ptr<float>();
  float* s = sine.data_ptr<float>();
  for (int64_t p = 0; p < config.max_positions; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      c[p * half + i] = static_cast<float>(std::cos(p * frequencies[i]));
      s[p * half + i] = static_cast<float>(std::sin(p * frequencies[i]));
    }
  }
  cosine_ = cosine.to(device());
  sine_ = sine.to(device());
}

at::Tensor Llama::Blocks(const at::Tensor& ids, const at::Tensor& rows,
                         const ForwardOptions& options,
                         const Attend& attend) const {
  const Kernels kernels = options.kernels;
  const LoraBank* lora = options.lora;
  LoraUse use;
  if (lora != nullptr) use.scale = lora->scale;
  use.dropout = options.dropout;
  const double epsilon = config_.rms_norm_eps;
  at::Tensor x = at::embedding(weights_.embedding, ids);
  at::Tensor delta;
  for (size_t b = 0; b < weights_.blocks.size(); ++b) {
    const BlockWeights& block = weights_.blocks[b];
    const auto linear = [&](const at::Tensor& input,
                            std::initializer_list<LinearSlot> slots,
                            int group) {
      std::vector<LinearParts> parts;
      for (const LinearSlot slot : slots) {
        parts.push_back(block.linear[slot]);
        if (lora == nullptr) continue;
        parts.back().lora_a = lora->blocks[b][slot].a;
        parts.back().lora_b = lora->blocks[b][slot].b;
      }
      use.seed = GroupSeed(options.dropout_seed, b, group);
      return LinearGroup(kernels, input, parts, use);
    };
    at::Tensor normed;
    std::tie(x, normed) =
        AddRmsNorm(kernels, x, delta, block.input_norm, epsilon);
    const std::vector<at::Tensor> qkv = linear(normed, {kQ, kK, kV}, 0);
    at::Tensor mixed = attend(b, qkv[0], qkv[1], qkv[2]);
    if (rows.defined() && b + 1 == weights_.blocks.size()) {
      // After the last attention only the predicting tokens matter.
      mixed = mixed.index_select(0, rows);
      x = x.index_select(0, rows);
    }
    delta = linear(mixed, {kO}, 1)[0];
    std::tie(x, normed) =
        AddRmsNorm(kernels, x, delta, block.post_norm, epsilon);
    const std::vector<at::Tensor> gate_up = linear(normed, {kGate, kUp}, 2);
    delta = linear(SwiGlu(kernels, gate_up[0], gate_up[1]), {kDown}, 3)[0];
  }
  return AddRmsNorm(kernels, x, delta, weights_.norm, epsilon).second;
}

at::Tensor Llama::Hidden(const PackedBatch& batch,
                         const ForwardOptions& options) const {
  return Blocks(batch.ids, batch.rows, options,
                [&](size_t, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v) {
                  return RotaryAttention(options.kernels, q, k, v, cosine_,
                                         sine_, batch.starts, sizes_);
                });
}

at::Tensor Llama::Loss(const PackedBatch& batch, const ForwardOptions& options,
                       double weight) const {
  return LinearCrossEntropy(options.kernels, Hidden(batch, options),
                            weights_.head, batch.targets, weight);
}

at::Tensor Llama::Logits(const PackedBatch& batch,
                         const ForwardOptions& options) const {
  return at::matmul(Hidden(batch, options), weights_.head.t()).to(at::kFloat);
}

KvCache Llama::NewCache(int64_t capacity) const {
  KvCache cache;
  for (size_t b = 0; b < weights_.blocks.size(); ++b) {
    const at::Tensor empty =
        at::zeros({capacity, sizes_.kv_heads * sizes_.head_dim},
                  weights_.embedding.options());
    cache.keys.push_back(empty);
    cache.values.push_back(empty.clone());
  }
  return cache;
}

at::Tensor Llama::CachedAttention(size_t block, const at::Tensor& q,
                                  const at::Tensor& k, const at::Tensor& v,
                                  Kernels kernels, KvCache& cache) const {
  return CachedRotaryAttention(
      kernels, q, k, v, cosine_, sine_,
      {cache.keys[block], cache.values[block], cache.length}, sizes_);
}

at::Tensor Llama::Decode(absl::Span<const int32_t> ids,
                         const ForwardOptions& options, KvCache& cache) const {
  at::NoGradGuard no_grad;
  const int64_t tokens = static_cast<int64_t>(ids.size());
  CHOIR_CHECK(tokens > 0 && cache.length + tokens <= cache.keys[0].size(0) &&
              cache.length + tokens <= config_.max_positions);
  at::Tensor input = at::empty({tokens}, at::kLong);
  std::copy(ids.begin(), ids.end(), input.data_ptr<int64_t>());
  const at::Tensor last = at::full({1}, tokens - 1, at::kLong);
  const at::Tensor hidden =
      Blocks(input.to(device()), tokens > 1 ? last.to(device()) : at::Tensor(),
             options,
             [&](size_t block, const at::Tensor& q, const at::Tensor& k,
                 const at::Tensor& v) {
               return CachedAttention(block, q, k, v, options.kernels, cache);
             });
  cache.length += tokens;
  return at::matmul(hidden, weights_.head.t())
      .to(at::kCPU, at::kFloat)
      .reshape({config_.vocab_size});
}

}  // namespace choir::model
