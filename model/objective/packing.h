// Examples side by side in one batch.
#ifndef CHOIR_MODEL_OBJECTIVE_PACKING_H_
#define CHOIR_MODEL_OBJECTIVE_PACKING_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/objective/example.h"
#include "model/transformer/decoder.h"

namespace choir::model {

// Predicted tokens of `example` once it is cut to `max_length` ids.
int64_t PredictedTokens(const Example& example, int max_length);

// Packs examples, each cut to `max_length` ids. An example's last id is only
// ever predicted, and examples that predict nothing are left out: no token is
// computed in vain. The batch may be empty (predictions 0). `keep_last` keeps
// the last ids all the same, for losses over every token of the input.
PackedBatch PackExamples(absl::Span<const Example* const> examples,
                         int max_length, at::Device device,
                         bool keep_last = false);

// All of `ids` as one sequence; rows undefined.
PackedBatch PackWhole(absl::Span<const int32_t> ids, at::Device device);

}  // namespace choir::model

#endif  // CHOIR_MODEL_OBJECTIVE_PACKING_H_
