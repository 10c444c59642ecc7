// One pass with many LoRA adapters: a map from rows (tokens) to adapters.
//
// The base's products, most of the work, are done for all rows together; each
// adapter's thin ones for its own rows. So several clients that share a base
// are trained in one forward and backward pass.
#ifndef CHOIR_MODEL_TRANSFORMER_LORA_RUNS_H_
#define CHOIR_MODEL_TRANSFORMER_LORA_RUNS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/torch/compat.h"
#include "model/transformer/linear.h"

namespace choir::model {

// Rows [begin, end) use adapter number `adapter`.
struct AdapterRun {
  int64_t begin = 0, end = 0;
  size_t adapter = 0;
};

// The map from rows to adapters as runs of rows that follow each other.
std::vector<AdapterRun> RunsOf(absl::Span<const int32_t> adapter_of_row);

// The bank and the map. Adapters are plain LoRA of one layout; each of its
// runs is dropped out as if it were a pass of its own.
struct AdapterRows {
  std::vector<const LoraBank*> adapters;
  std::vector<uint64_t> dropout_seeds;  // one for each adapter
  // adapter_of_row[t] is token t's.
  std::vector<int32_t> adapter_of_row;
};

// What one linear layer needs: `adapters[i]` belongs to adapter i.
struct RunUse {
  absl::Span<const AdapterRun> runs;
  std::vector<const LinearAdapter*> adapters;
  std::vector<uint64_t> seeds;  // of the dropout masks, one for each adapter
  double scale = 0.0;
  double dropout = 0.0;
};

// y + scale (dropout(x) A_r^T) B_r^T, row by row with that row's adapter.
// y [rows, out] is the base layer's output for x [rows, in].
at::Tensor AddLoraRuns(Kernels kernels, const at::Tensor& x,
                       const at::Tensor& y, const RunUse& use);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_LORA_RUNS_H_
