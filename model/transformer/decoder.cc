#include "model/transformer/decoder.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "model/kernels/cpu_kernels.h"
#include "model/transformer/checkpointing.h"
#include "model/transformer/remake.h"

namespace choir::model {
namespace {

// One stream of dropout bits per group of linear layers; an expert's groups
// are apart from the four of a block.
uint64_t GroupSeed(uint64_t seed, size_t block, int group, int64_t expert) {
  uint64_t index = block * 4 + static_cast<uint64_t>(group) + 1;
  if (expert >= 0) index += static_cast<uint64_t>(expert + 1) << 32;
  return (seed + index) * 0x9e3779b97f4a7c15ull;
}

at::Tensor Activate(Activation activation, const at::Tensor& x) {
  switch (activation) {
    case Activation::kSilu:
      return at::silu(x);
    case Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case Activation::kGelu:
      return at::gelu(x);
    case Activation::kRelu:
      return at::relu(x);
  }
  return x;
}

// Normalises each group of weight.size(0) columns.
at::Tensor NormGroups(Kernels kernels, const at::Tensor& x,
                      const at::Tensor& weight, double epsilon) {
  return AddRmsNorm(kernels, x.view({-1, weight.size(0)}), at::Tensor(), weight,
                    epsilon)
      .second.view(x.sizes());
}

// Position of each token in its sequence.
at::Tensor PositionsOf(const SequenceStarts& starts, at::Device device) {
  const at::Tensor positions = at::empty({starts.back()}, at::kLong);
  int64_t* p = positions.data_ptr<int64_t>();
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    for (int64_t t = starts[i]; t < starts[i + 1]; ++t) p[t] = t - starts[i];
  }
  return positions.to(device);
}

bool IsLean(const ForwardOptions& options, const at::Tensor& x) {
  return options.lean && UseFused(options.kernels, x);
}

int64_t Longest(const SequenceStarts& starts) {
  int64_t longest = 1;
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    longest = std::max(longest, starts[i + 1] - starts[i]);
  }
  return longest;
}

}  // namespace

Decoder::Decoder(const ModelConfig& config, DecoderWeights weights)
    : config_(config),
      weights_(std::move(weights)),
      rotary_(config_, weights_.embedding.device()) {}

AttentionSizes Decoder::SizesOf(size_t block) const {
  AttentionSizes sizes;
  sizes.heads = config_.num_heads;
  sizes.kv_heads = config_.num_kv_heads;
  sizes.head_dim = config_.head_dim;
  sizes.window = config_.WindowOf(static_cast<int64_t>(block));
  return sizes;
}

std::vector<at::Tensor> Decoder::Apply(size_t b, size_t first, size_t count,
                                       const at::Tensor& x, int group,
                                       const Pass& pass) const {
  const ForwardOptions& options = pass.options;
  const std::vector<Linear>& linear = weights_.blocks[b].linear;
  std::vector<LinearUse> layers(count);
  for (size_t i = 0; i < count; ++i) {
    layers[i].layer = &linear[first + i];
    if (options.lora == nullptr) continue;
    layers[i].adapter = &options.lora->blocks[b][first + i];
  }
  return ApplyUses(b, layers, x, group, pass);
}

std::vector<at::Tensor> Decoder::ApplyUses(size_t b,
                                           absl::Span<const LinearUse> layers,
                                           const at::Tensor& x, int group,
                                           const Pass& pass) const {
  const ForwardOptions& options = pass.options;
  if (options.bank != nullptr) return ApplyRuns(b, layers, x, group, pass);
  LoraUse use;
  if (options.lora != nullptr) use.scale = options.lora->scale;
  use.dropout = options.dropout;
  use.seed =
      GroupSeed(options.dropout_seed, b, group, layers[0].layer->spec.expert);
  return ApplyLinear(options.kernels, x, layers, use);
}

std::vector<at::Tensor> Decoder::ApplyRuns(size_t b,
                                           absl::Span<const LinearUse> layers,
                                           const at::Tensor& x, int group,
                                           const Pass& pass) const {
  const ForwardOptions& options = pass.options;
  const AdapterRows& bank = *options.bank;
  RunUse use;
  use.runs =
      x.size(0) == pass.token_runs.back().end ? pass.token_runs : pass.row_runs;
  use.scale = bank.adapters[0]->scale;
  use.dropout = options.dropout;
  for (const uint64_t seed : bank.dropout_seeds) {
    use.seeds.push_back(
        GroupSeed(seed, b, group, layers[0].layer->spec.expert));
  }
  std::vector<at::Tensor> outputs =
      ApplyLinear(options.kernels, x, layers, LoraUse());
  for (size_t i = 0; i < layers.size(); ++i) {
    const size_t index =
        static_cast<size_t>(layers[i].layer - weights_.blocks[b].linear.data());
    use.adapters.clear();
    for (const LoraBank* adapter : bank.adapters) {
      use.adapters.push_back(&adapter->blocks[b][index]);
    }
    if (!use.adapters[0]->defined()) continue;
    outputs[i] = AddLoraRuns(options.kernels, x, outputs[i], use);
  }
  return outputs;
}

std::pair<at::Tensor, at::Tensor> Decoder::AddNorm(const Stream& in,
                                                   const NormWeights& norm,
                                                   Kernels kernels) const {
  if (config_.norm == NormKind::kRms) {
    return AddRmsNorm(kernels, in.x, in.delta, norm.weight, config_.norm_eps);
  }
  const at::Tensor sum = in.delta.defined() ? in.x + in.delta : in.x;
  return {sum, at::layer_norm(sum, norm.weight.sizes(), norm.weight, norm.bias,
                              config_.norm_eps)};
}

at::Tensor Decoder::ForgetNormed(const at::Tensor& normed,
                                 const at::Tensor& sum, const NormWeights& norm,
                                 const at::Tensor& output,
                                 const Pass& pass) const {
  if (!IsLean(pass.options, normed)) return output;
  return ForgetUntilBackward(
      normed,
      [this, sum = sum.detach(), &norm, kernels = pass.options.kernels] {
        return AddNorm({sum, at::Tensor()}, norm, kernels).second;
      },
      output);
}

at::Tensor Decoder::Attention(size_t b, const at::Tensor& sum,
                              const at::Tensor& normed,
                              const Pass& pass) const {
  const BlockWeights& block = weights_.blocks[b];
  std::vector<at::Tensor> qkv;
  if (config_.fused_qkv) {
    const int64_t queries = config_.num_heads * config_.head_dim;
    const int64_t keys = config_.num_kv_heads * config_.head_dim;
    qkv = at::split_with_sizes(Apply(b, 0, 1, normed, 0, pass)[0],
                               {queries, keys, keys}, 1);
    for (at::Tensor& part : qkv) part = part.contiguous();
  } else {
    qkv = Apply(b, 0, 3, normed, 0, pass);
  }
  const Kernels kernels = pass.options.kernels;
  if (block.q_norm.defined()) {
    qkv[0] = NormGroups(kernels, qkv[0], block.q_norm, config_.norm_eps);
    qkv[1] = NormGroups(kernels, qkv[1], block.k_norm, config_.norm_eps);
  }
  if (config_.clip_qkv > 0.0) {
    for (at::Tensor& part : qkv) {
      part = at::clamp(part, -config_.clip_qkv, config_.clip_qkv);
    }
  }
  const double factor = config_.ScoreFactor(static_cast<int64_t>(b));
  if (factor != 1.0) qkv[0] = qkv[0] * factor;
  return ForgetNormed(normed, sum, block.input_norm,
                      pass.attend(b, qkv[0], qkv[1], qkv[2]), pass);
}

at::Tensor Decoder::Mlp(size_t b, const at::Tensor& sum,
                        const at::Tensor& normed, const Pass& pass) const {
  const ForwardOptions& options = pass.options;
  const size_t first = config_.fused_qkv ? 2 : 4;
  const size_t inputs = config_.gated_mlp ? 2 : 1;
  absl::Span<const Linear> layers =
      absl::MakeConstSpan(weights_.blocks[b].linear).subspan(first);
  absl::Span<const LinearAdapter> adapters;
  if (options.lora != nullptr) {
    adapters = absl::MakeConstSpan(options.lora->blocks[b]).subspan(first);
  }
  KeptMlp kept;
  if (options.channels != nullptr && options.channels->kept[b].defined()) {
    kept = KeepChannels(layers, adapters, options.channels->kept[b]);
    layers = kept.layers;
    adapters = kept.adapters;
  }
  std::vector<LinearUse> uses(layers.size());
  for (size_t i = 0; i < uses.size(); ++i) {
    uses[i] = {&layers[i], adapters.empty() ? nullptr : &adapters[i]};
  }
  const absl::Span<const LinearUse> all = uses;
  const std::vector<at::Tensor> in =
      ApplyUses(b, all.first(inputs), normed, 2, pass);
  const auto activate = [this, kernels = options.kernels](
                            const at::Tensor& gate, const at::Tensor& up) {
    return config_.gated_mlp ? SwiGlu(kernels, gate, up)
                             : Activate(config_.activation, gate);
  };
  const at::Tensor activation =
      ForgetNormed(normed, sum, weights_.blocks[b].post_norm,
                   activate(in.front(), in.back()), pass);
  if (options.activity != nullptr) options.activity->Add(b, activation);
  const at::Tensor out = ApplyUses(b, all.last(1), activation, 3, pass)[0];
  if (!IsLean(options, activation)) return out;
  return ForgetUntilBackward(
      activation,
      [activate, gate = in.front().detach(), up = in.back().detach()] {
        return activate(gate, up);
      },
      out);
}

at::Tensor Decoder::Experts(size_t b, const at::Tensor& normed,
                            const Pass& pass) const {
  const ForwardOptions& options = pass.options;
  const BlockWeights& block = weights_.blocks[b];
  MoeParts parts;
  parts.router = block.router;
  parts.experts_per_token =
      std::min(config_.moe.experts_per_token, block.router.size(0));
  parts.renormalise = config_.moe.renormalise;
  if (options.router_bias != nullptr) {
    size_t index = 0;  // among the blocks with experts
    for (size_t i = 0; i < b; ++i) {
      index += weights_.blocks[i].router.defined() ? 1 : 0;
    }
    parts.bias = (*options.router_bias)[index];
  }
  RouterLog::Layer* layer = nullptr;
  if (options.router_log != nullptr) {
    layer = &options.router_log->layers.emplace_back();
    layer->block = static_cast<int64_t>(b);
  }
  const auto expert = [&](size_t i, const at::Tensor& x) {
    const size_t first = 4 + 3 * i;
    const std::vector<at::Tensor> gate_up = Apply(b, first, 2, x, 2, pass);
    return Apply(b, first + 2, 1,
                 SwiGlu(options.kernels, gate_up[0], gate_up[1]), 3, pass)[0];
  };
  const bool keep =
      options.router_log != nullptr && options.router_log->keep_logits;
  return MixExperts(options.kernels, normed, parts, expert, keep, layer);
}

Decoder::Stream Decoder::Block(size_t b, Stream in, const Pass& pass) const {
  const BlockWeights& block = weights_.blocks[b];
  const Kernels kernels = pass.options.kernels;
  at::Tensor normed;
  std::tie(in.x, normed) = AddNorm(in, block.input_norm, kernels);
  at::Tensor mixed = Attention(b, in.x, normed, pass);
  if (pass.rows.defined() && b + 1 == weights_.blocks.size()) {
    // After the last attention only the predicting tokens matter.
    mixed = mixed.index_select(0, pass.rows);
    in.x = in.x.index_select(0, pass.rows);
  }
  in.delta = Apply(b, config_.fused_qkv ? 1 : 3, 1, mixed, 1, pass)[0];
  std::tie(in.x, normed) = AddNorm(in, block.post_norm, kernels);
  in.delta = block.router.defined() ? Experts(b, normed, pass)
                                    : Mlp(b, in.x, normed, pass);
  return in;
}

Decoder::Stream Decoder::CheckpointedBlock(
    size_t b, Stream in, const std::shared_ptr<const Pass>& pass) const {
  // Tensors: x, then delta but before block 0; what the router did leaves
  // beside them, for its losses.
  const Segment segment = [this, b, pass](const std::vector<at::Tensor>& in) {
    Pass own = *pass;
    // The second time, what is counted has been counted.
    if (at::GradMode::is_enabled()) own.options.activity = nullptr;
    RouterLog log;
    if (own.options.router_log != nullptr) {
      log.keep_logits = own.options.router_log->keep_logits;
      own.options.router_log = &log;
    }
    Stream stream{in[0], in.size() > 1 ? in[1] : at::Tensor()};
    stream = Block(b, std::move(stream), own);
    std::vector<at::Tensor> out = {stream.x, stream.delta};
    if (!log.layers.empty()) {
      const std::vector<int64_t>& tokens = log.layers[0].tokens;
      out.push_back(
          at::empty({static_cast<int64_t>(tokens.size())}, at::kLong));
      std::copy(tokens.begin(), tokens.end(), out[2].data_ptr<int64_t>());
      if (log.layers[0].logits.defined()) out.push_back(log.layers[0].logits);
    }
    return out;
  };
  std::vector<at::Tensor> inputs = {in.x};
  if (in.delta.defined()) inputs.push_back(in.delta);
  const std::vector<at::Tensor> out = Checkpointed(segment, inputs);
  if (out.size() > 2) {
    RouterLog::Layer& layer = pass->options.router_log->layers.emplace_back();
    layer.block = static_cast<int64_t>(b);
    const int64_t* tokens = out[2].data_ptr<int64_t>();
    layer.tokens.assign(tokens, tokens + out[2].numel());
    if (out.size() > 3) layer.logits = out[3];
  }
  return {out[0], out[1]};
}

at::Tensor Decoder::Blocks(const at::Tensor& ids, const at::Tensor& positions,
                           const at::Tensor& rows,
                           const ForwardOptions& options,
                           const Attend& attend) const {
  Stream stream;
  stream.x = at::embedding(weights_.embedding, ids);
  // The embedding may be stored in less than the model computes in.
  stream.x = stream.x.to(weights_.norm.weight.scalar_type());
  if (weights_.positions.defined()) {
    stream.x = stream.x + at::embedding(weights_.positions, positions);
  }
  bool late = false;
  if (options.router_log != nullptr) {
    options.router_log->layers.clear();
    late = options.router_log->keep_logits;
  }
  const auto pass = std::make_shared<Pass>(
      Pass{options, attend, late ? at::Tensor() : rows, {}, {}});
  if (options.bank != nullptr) {
    const std::vector<int32_t>& of_token = options.bank->adapter_of_row;
    pass->token_runs = RunsOf(of_token);
    if (rows.defined()) {
      const at::Tensor host = rows.cpu();
      std::vector<int32_t> of_row(host.numel());
      for (size_t i = 0; i < of_row.size(); ++i) {
        of_row[i] = of_token[host.data_ptr<int64_t>()[i]];
      }
      pass->row_runs = RunsOf(of_row);
    }
  }
  const bool again = options.checkpointing && at::GradMode::is_enabled();
  for (size_t b = 0; b < weights_.blocks.size(); ++b) {
    stream = again ? CheckpointedBlock(b, std::move(stream), pass)
                   : Block(b, std::move(stream), *pass);
  }
  if (late && rows.defined()) {
    stream.x = stream.x.index_select(0, rows);
    stream.delta = stream.delta.index_select(0, rows);
  }
  return AddNorm(stream, weights_.norm, options.kernels).second;
}

at::Tensor Decoder::Hidden(const PackedBatch& batch,
                           const ForwardOptions& options) const {
  const RotaryAngles angles = rotary_.Get(Longest(batch.starts));
  at::Tensor positions;
  if (weights_.positions.defined()) {
    positions = PositionsOf(batch.starts, device());
  }
  // Once for all blocks: each copy to a device would wait for it.
  std::shared_ptr<const SequencePlan> plan;
  if (!device().is_cpu()) {
    plan = std::make_shared<const SequencePlan>(
        PlanSequences(batch.starts, angles.cosine, angles.sine, device()));
  }
  // By value: checkpointing calls it again after this function is left.
  return Blocks(
      batch.ids, positions, batch.rows, options,
      [this, angles, plan, starts = batch.starts, kernels = options.kernels,
       method = options.attention](size_t block, const at::Tensor& q,
                                   const at::Tensor& k, const at::Tensor& v) {
        return RotaryAttention(kernels, q, k, v, angles.cosine, angles.sine,
                               starts, SizesOf(block), method, plan.get());
      });
}

at::Tensor Decoder::Loss(const PackedBatch& batch,
                         const ForwardOptions& options, double weight) const {
  return LinearCrossEntropy(options.kernels, Hidden(batch, options),
                            weights_.head, batch.targets, weight);
}

at::Tensor Decoder::Logits(const PackedBatch& batch,
                           const ForwardOptions& options) const {
  return HeadLogits(Hidden(batch, options), weights_.head);
}

KvCache Decoder::NewCache(int64_t capacity) const {
  KvCache cache;
  for (size_t b = 0; b < weights_.blocks.size(); ++b) {
    const at::Tensor empty =
        at::zeros({capacity, config_.num_kv_heads * config_.head_dim},
                  weights_.norm.weight.options().requires_grad(false));
    cache.keys.push_back(empty);
    cache.values.push_back(empty.clone());
  }
  return cache;
}

at::Tensor Decoder::CachedAttention(size_t block, const at::Tensor& q,
                                    const at::Tensor& k, const at::Tensor& v,
                                    const ForwardOptions& options,
                                    KvCache& cache) const {
  const RotaryAngles angles = rotary_.Get(cache.length + q.size(0));
  return CachedRotaryAttention(
      options.kernels, q, k, v, angles.cosine, angles.sine,
      {cache.keys[block], cache.values[block], cache.length}, SizesOf(block),
      options.attention);
}

at::Tensor Decoder::Decode(absl::Span<const int32_t> ids,
                           const ForwardOptions& options,
                           KvCache& cache) const {
  at::NoGradGuard no_grad;
  const int64_t tokens = static_cast<int64_t>(ids.size());
  CHOIR_CHECK(tokens > 0 && cache.length + tokens <= cache.keys[0].size(0) &&
              cache.length + tokens <= config_.max_positions);
  at::Tensor input = at::empty({tokens}, at::kLong);
  std::copy(ids.begin(), ids.end(), input.data_ptr<int64_t>());
  const at::Tensor last = at::full({1}, tokens - 1, at::kLong);
  const at::Tensor positions =
      at::arange(cache.length, cache.length + tokens, at::kLong);
  const at::Tensor hidden =
      Blocks(input.to(device()), positions.to(device()),
             tokens > 1 ? last.to(device()) : at::Tensor(), options,
             [&](size_t block, const at::Tensor& q, const at::Tensor& k,
                 const at::Tensor& v) {
               return CachedAttention(block, q, k, v, options, cache);
             });
  cache.length += tokens;
  return HeadLogits(hidden, weights_.head)
      .to(at::kCPU)
      .reshape({config_.vocab_size});
}

}  // namespace choir::model
