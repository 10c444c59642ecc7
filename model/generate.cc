#include "model/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "model/torch/guard.h"

namespace choir::model {
namespace {

absl::Status Check(const ModelConfig& config, absl::Span<const int32_t> prompt,
                   const GenerateOptions& options) {
  if (prompt.empty()) {
    return absl::InvalidArgumentError("the prompt has no tokens");
  }
  if (static_cast<int64_t>(prompt.size()) > config.max_positions) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has ", prompt.size(),
                     " tokens; the model's limit is ", config.max_positions));
  }
  for (const int32_t id : prompt) {
    if (id < 0 || id >= config.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is outside the vocabulary of ",
                       config.vocab_size));
    }
  }
  if (options.max_tokens < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("max-tokens is ", options.max_tokens, "; at least 0"));
  }
  if (!(options.temperature >= 0.0) || !std::isfinite(options.temperature)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "temperature is ", options.temperature, "; at least 0 and finite"));
  }
  if (!(options.top_p > 0.0 && options.top_p <= 1.0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("top-p is ", options.top_p, "; above 0, at most 1"));
  }
  return absl::OkStatus();
}

int32_t Draw(absl::Span<const float> logits, const GenerateOptions& options,
             base::SimRandom& random) {
  const auto top = std::max_element(logits.begin(), logits.end());
  if (options.temperature == 0.0) {
    return static_cast<int32_t>(top - logits.begin());
  }
  std::vector<double> weights(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    weights[i] =
        std::exp((static_cast<double>(logits[i]) - *top) / options.temperature);
  }
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return weights[a] > weights[b];
  });
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double kept = 0.0;
  size_t count = 0;
  while (count < order.size() && (count == 0 || kept < options.top_p * total)) {
    kept += weights[order[count++]];
  }
  double point = random.Uniform() * kept;
  for (size_t i = 0; i < count; ++i) {
    point -= weights[order[i]];
    if (point < 0.0) return order[i];
  }
  return order[0];
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> Generate(const Decoder& decoder,
                                              const LoraBank* lora,
                                              absl::Span<const int32_t> prompt,
                                              const GenerateOptions& options) {
  CHOIR_RETURN_IF_ERROR(Check(decoder.config(), prompt, options));
  return TorchGuard(
      "generation", [&]() -> absl::StatusOr<std::vector<int32_t>> {
        const int64_t capacity = std::min<int64_t>(
            decoder.config().max_positions,
            static_cast<int64_t>(prompt.size()) + options.max_tokens);
        KvCache cache = decoder.NewCache(capacity);
        ForwardOptions forward;
        forward.lora = lora;
        base::SimRandom random(options.seed);
        std::vector<int32_t> ids(prompt.begin(), prompt.end());
        absl::Span<const int32_t> next = prompt;
        for (int i = 0; i < options.max_tokens; ++i) {
          if (cache.length + static_cast<int64_t>(next.size()) > capacity) {
            break;
          }
          const at::Tensor logits = decoder.Decode(next, forward, cache);
          const absl::Span<const float> row(logits.data_ptr<float>(),
                                            logits.numel());
          for (const float value : row) {
            if (!std::isfinite(value)) {
              return absl::AbortedError("the model's outputs are not finite");
            }
          }
          ids.push_back(Draw(row, options, random));
          next = absl::MakeConstSpan(ids).last(1);
          const bool go_on = !options.on_token || options.on_token(ids.back());
          if (!go_on) break;
          if (std::count(options.stop_ids.begin(), options.stop_ids.end(),
                         ids.back()) > 0) {
            break;
          }
        }
        return ids;
      });
}

}  // namespace choir::model
