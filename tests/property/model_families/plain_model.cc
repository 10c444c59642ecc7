#include "tests/property/model_families/plain_model.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/safetensors.h"
#include "model/transformer/rotary.h"
#include "tests/support/golden.h"

namespace choir::tests {
namespace {

using model::Family;
using model::ModelConfig;

class Plain {
 public:
  Plain(const ModelConfig& config, const PlainTensors& tensors)
      : c_(config), tensors_(tensors) {}

  at::Tensor Logits(const std::vector<int32_t>& ids,
                    std::vector<at::Tensor>* router_logits) const {
    const bool gpt2 = c_.family == Family::kGpt2;
    const at::Tensor index =
        at::empty({static_cast<int64_t>(ids.size())}, at::kLong);
    std::copy(ids.begin(), ids.end(), index.data_ptr<int64_t>());
    at::Tensor x =
        T(gpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight")
            .index_select(0, index);
    if (gpt2) x = x + T("transformer.wpe.weight").narrow(0, 0, x.size(0));
    for (int64_t i = 0; i < c_.num_layers; ++i) {
      const std::string block =
          absl::StrCat(gpt2 ? "transformer.h." : "model.layers.", i, ".");
      if (gpt2) {
        x = x + Gpt2Attention(i, block, LayerNorm(x, block + "ln_1"));
        const at::Tensor up =
            Conv(LayerNorm(x, block + "ln_2"), block + "mlp.c_fc");
        const at::Tensor gelu =
            0.5 * up *
            (1.0 +
             at::tanh(std::sqrt(2.0 / M_PI) * (up + 0.044715 * up * up * up)));
        x = x + Conv(gelu, block + "mlp.c_proj");
        continue;
      }
      x = x + Attention(i, block, Rms(x, block + "input_layernorm"));
      const at::Tensor normed = Rms(x, block + "post_attention_layernorm");
      x = x + (c_.IsMoe(i)
                   ? Moe(block, normed, router_logits)
                   : Gated(normed, block + "mlp.gate_proj",
                           block + "mlp.up_proj", block + "mlp.down_proj"));
    }
    x = gpt2 ? LayerNorm(x, "transformer.ln_f") : Rms(x, "model.norm");
    const std::string head =
        c_.tie_word_embeddings
            ? (gpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight")
            : "lm_head.weight";
    return at::matmul(x, T(head).t());
  }

 private:
  const at::Tensor& T(const std::string& name) const {
    return tensors_.at(name);
  }
  bool Has(const std::string& name) const { return tensors_.count(name) > 0; }

  at::Tensor Linear(const at::Tensor& x, const std::string& module) const {
    const at::Tensor y = at::matmul(x, T(module + ".weight").t());
    return Has(module + ".bias") ? y + T(module + ".bias") : y;
  }
  at::Tensor Conv(const at::Tensor& x, const std::string& module) const {
    return at::matmul(x, T(module + ".weight")) + T(module + ".bias");
  }
  at::Tensor Rms(const at::Tensor& x, const std::string& name) const {
    return x * at::rsqrt((x * x).mean({-1}, true) + c_.norm_eps) *
           T(name + ".weight");
  }
  at::Tensor LayerNorm(const at::Tensor& x, const std::string& name) const {
    const at::Tensor centred = x - x.mean({-1}, true);
    return centred *
               at::rsqrt((centred * centred).mean({-1}, true) + c_.norm_eps) *
               T(name + ".weight") +
           T(name + ".bias");
  }
  at::Tensor Gated(const at::Tensor& x, const std::string& gate,
                   const std::string& up, const std::string& down) const {
    const at::Tensor g = Linear(x, gate);
    return Linear(g * at::sigmoid(g) * Linear(x, up), down);
  }

  // q: [heads, tokens, head_dim]; k and v of as many heads.
  at::Tensor Scores(const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v, int64_t window) const {
    const int64_t n = q.size(1);
    at::Tensor mask = at::zeros({n, n}, at::kDouble);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const bool visible = j <= i && (window == 0 || i - j < window);
        if (!visible) mask[i][j] = -1e30;
      }
    }
    const at::Tensor p = at::softmax(
        at::matmul(q, k.transpose(1, 2)) / std::sqrt(double(q.size(2))) + mask,
        -1);
    return at::matmul(p, v).transpose(0, 1).reshape({n, -1});
  }

  at::Tensor Heads(const at::Tensor& x, int64_t heads) const {
    return x.view({x.size(0), heads, c_.head_dim}).transpose(0, 1);
  }

  // x * cos + rotate_half(x) * sin.
  at::Tensor Rotate(const at::Tensor& x) const {
    const std::vector<double> frequencies = model::RotaryFrequencies(c_);
    const int64_t half = static_cast<int64_t>(frequencies.size());
    at::Tensor angles = at::empty({x.size(1), 2 * half}, at::kDouble);
    for (int64_t p = 0; p < x.size(1); ++p) {
      for (int64_t i = 0; i < 2 * half; ++i) {
        angles[p][i] = p * frequencies[i % half];
      }
    }
    const at::Tensor rotated =
        at::cat({-x.narrow(2, half, half), x.narrow(2, 0, half)}, 2);
    return x * angles.cos() + rotated * angles.sin();
  }

  at::Tensor Gpt2Attention(int64_t layer, const std::string& block,
                           const at::Tensor& x) const {
    std::vector<at::Tensor> qkv =
        Conv(x, block + "attn.c_attn").split(c_.hidden_size, 1);
    if (!c_.scale_attention) {
      qkv[0] = qkv[0] * std::sqrt(double(c_.head_dim));
    }
    if (c_.scale_by_layer) qkv[0] = qkv[0] / double(layer + 1);
    return Conv(Scores(Heads(qkv[0], c_.num_heads), Heads(qkv[1], c_.num_heads),
                       Heads(qkv[2], c_.num_heads), 0),
                block + "attn.c_proj");
  }

  at::Tensor Attention(int64_t layer, const std::string& block,
                       const at::Tensor& x) const {
    at::Tensor q = Linear(x, block + "self_attn.q_proj");
    at::Tensor k = Linear(x, block + "self_attn.k_proj");
    at::Tensor v = Linear(x, block + "self_attn.v_proj");
    if (c_.family == Family::kOlmoe) {
      q = Rms(q, block + "self_attn.q_norm");
      k = Rms(k, block + "self_attn.k_norm");
    }
    if (c_.clip_qkv > 0) {
      q = q.clamp(-c_.clip_qkv, c_.clip_qkv);
      k = k.clamp(-c_.clip_qkv, c_.clip_qkv);
      v = v.clamp(-c_.clip_qkv, c_.clip_qkv);
    }
    q = Heads(q, c_.num_heads);
    k = Heads(k, c_.num_kv_heads);
    v = Heads(v, c_.num_kv_heads);
    if (c_.family == Family::kQwen3 || c_.family == Family::kQwen3Moe) {
      q = Rms(q, block + "self_attn.q_norm");
      k = Rms(k, block + "self_attn.k_norm");
    }
    const int64_t group = c_.num_heads / c_.num_kv_heads;
    return Linear(Scores(Rotate(q), Rotate(k).repeat_interleave(group, 0),
                         v.repeat_interleave(group, 0), c_.WindowOf(layer)),
                  block + "self_attn.o_proj");
  }

  at::Tensor Moe(const std::string& block, const at::Tensor& x,
                 std::vector<at::Tensor>* router_logits) const {
    const bool mixtral = c_.family == Family::kMixtral;
    const std::string folder = block + (mixtral ? "block_sparse_moe." : "mlp.");
    std::vector<int64_t> held = c_.moe.HeldExperts();
    const at::Tensor all = at::matmul(x, T(folder + "gate.weight").t());
    std::vector<at::Tensor> columns;
    for (const int64_t e : held) columns.push_back(all.narrow(1, e, 1));
    const at::Tensor logits = at::cat(columns, 1);
    if (router_logits != nullptr) router_logits->push_back(logits);
    const at::Tensor probability = at::softmax(logits, -1);
    const int64_t k = std::min<int64_t>(c_.moe.experts_per_token, held.size());
    std::vector<at::Tensor> rows;
    for (int64_t t = 0; t < x.size(0); ++t) {
      auto [weights, chosen] = probability[t].topk(k);
      if (c_.moe.renormalise) weights = weights / weights.sum();
      at::Tensor y = at::zeros_like(x[t]);
      for (int64_t j = 0; j < k; ++j) {
        const std::string expert = absl::StrCat(
            folder, "experts.", held[chosen[j].item<int64_t>()], ".");
        const char* names[3] = {"gate_proj", "up_proj", "down_proj"};
        const char* short_names[3] = {"w1", "w3", "w2"};
        const char** use = mixtral ? short_names : names;
        y = y + weights[j] * Gated(x[t].unsqueeze(0), expert + use[0],
                                   expert + use[1], expert + use[2])[0];
      }
      rows.push_back(y);
    }
    return at::stack(rows);
  }

  const ModelConfig& c_;
  const PlainTensors& tensors_;
};

}  // namespace

PlainTensors RandomTensors(const ModelConfig& config, uint64_t seed,
                           double scale) {
  PlainTensors tensors;
  for (const codec::TensorSpec& spec : model::ModelTensors(config)) {
    base::SimRandom random(base::DeriveSeed(seed, {spec.name}));
    const bool norm = spec.name.find("norm.weight") != std::string::npos ||
                      spec.name.find("ln_") != std::string::npos;
    at::Tensor tensor = at::empty(spec.shape, at::kDouble);
    for (int64_t i = 0; i < tensor.numel(); ++i) {
      const double value = random.Normal() * scale;
      // As a checkpoint stores it.
      tensor.data_ptr<double>()[i] = static_cast<float>(
          norm && spec.name.find("bias") == std::string::npos ? 1.0 + value
                                                              : value);
    }
    tensors[spec.name] = tensor;
  }
  return tensors;
}

at::Tensor PlainLogits(const ModelConfig& config, const PlainTensors& tensors,
                       const std::vector<int32_t>& ids,
                       std::vector<at::Tensor>* router_logits) {
  return Plain(config, tensors).Logits(ids, router_logits);
}

std::string WritePlainModel(const ModelConfig& config,
                            const PlainTensors& tensors) {
  std::vector<std::string> bytes;
  std::vector<model::TensorView> views;
  bytes.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor floats = tensor.to(at::kFloat).contiguous();
    bytes.push_back(model::FloatsToBytes(
        absl::MakeConstSpan(floats.data_ptr<float>(), floats.numel()),
        model::DType::kF32));
    model::TensorView view;
    view.name = name;
    view.shape = tensor.sizes().vec();
    view.bytes = bytes.back();
    views.push_back(std::move(view));
  }
  const std::string folder = NewTempDir();
  CHOIR_CHECK(base::WriteFileAtomic(base::JoinPath(folder, "config.json"),
                                    model::ModelConfigJson(config))
                  .ok());
  CHOIR_CHECK(base::WriteFileAtomic(base::JoinPath(folder, "model.safetensors"),
                                    model::EncodeSafetensors(views))
                  .ok());
  return folder;
}

std::vector<ModelConfig> FamilyConfigs() {
  ModelConfig base;
  base.vocab_size = 31;
  base.hidden_size = 24;
  base.intermediate_size = 20;
  base.num_layers = 3;
  base.num_heads = 4;
  base.num_kv_heads = 2;
  base.head_dim = 6;
  base.max_positions = 64;
  std::vector<ModelConfig> configs;
  const auto add = [&](Family family) -> ModelConfig& {
    configs.push_back(base);
    configs.back().family = family;
    return configs.back();
  };
  ModelConfig* c = &add(Family::kGpt2);
  c->num_kv_heads = c->num_heads;
  c->norm = model::NormKind::kLayer;
  c->norm_eps = 1e-5;
  c->positions = model::Positions::kLearned;
  c->qkv_bias = c->output_bias = c->mlp_bias = c->fused_qkv = true;
  c->gated_mlp = false;
  c->activation = model::Activation::kGeluTanh;
  c->tie_word_embeddings = true;
  c = &add(Family::kLlama);
  c->rope_scaling.kind = model::RopeScalingKind::kLinear;
  c->rope_scaling.factor = 3.0;
  c->qkv_bias = c->output_bias = c->mlp_bias = true;
  add(Family::kMistral).sliding_window = 5;
  c = &add(Family::kQwen2);
  c->qkv_bias = true;
  c->sliding_window = 4;
  c->sliding_layers = {false, true, true};
  c = &add(Family::kQwen3);
  c->qk_norm = model::QkNorm::kPerHead;
  c->head_dim = 10;
  c->tie_word_embeddings = true;
  c = &add(Family::kMixtral);
  c->sliding_window = 6;
  c->moe.num_experts = 5;
  c->moe.experts_per_token = 2;
  c->moe.intermediate_size = c->intermediate_size;
  c = &add(Family::kOlmoe);
  c->qk_norm = model::QkNorm::kWhole;
  c->clip_qkv = 0.8;
  c->moe.num_experts = 6;
  c->moe.experts_per_token = 3;
  c->moe.intermediate_size = c->intermediate_size;
  c->moe.renormalise = false;
  c = &add(Family::kQwen3Moe);
  c->qk_norm = model::QkNorm::kPerHead;
  c->head_dim = 8;
  c->moe.num_experts = 4;
  c->moe.experts_per_token = 2;
  c->moe.intermediate_size = 14;
  c->dense_layers = {false, true, false};
  // GPT-2 with its other scalings of scores.
  configs.push_back(configs.front());
  configs.back().scale_attention = false;
  configs.back().scale_by_layer = true;
  return configs;
}

}  // namespace choir::tests
