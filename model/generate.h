// Text from a model, one token at a time.
#ifndef CHOIR_MODEL_GENERATE_H_
#define CHOIR_MODEL_GENERATE_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/transformer/decoder.h"

namespace choir::model {

struct GenerateOptions {
  int max_tokens = 64;
  // 0: always the likeliest token (the first among equals).
  double temperature = 0.0;
  // Draw from the likeliest tokens that together have this probability.
  double top_p = 1.0;
  uint64_t seed = 1;
  // Any of them ends the text; it is part of the result.
  std::vector<int32_t> stop_ids;
  // If set, called with each new token (also one of stop_ids); false ends the
  // text.
  std::function<bool(int32_t id)> on_token;
};

// The prompt's ids and the continuation. Stops early at the model's
// max_positions.
// Errors: INVALID_ARGUMENT for an empty or too long prompt, ids outside the
// vocabulary, a negative temperature or max_tokens, top_p outside (0, 1];
// ABORTED if the model's outputs are not finite.
absl::StatusOr<std::vector<int32_t>> Generate(const Decoder& decoder,
                                              const LoraBank* lora,
                                              absl::Span<const int32_t> prompt,
                                              const GenerateOptions& options);

}  // namespace choir::model

#endif  // CHOIR_MODEL_GENERATE_H_
