// Which attention heads a LoFiT adapter has chosen.
#ifndef CHOIR_MODEL_ADAPTER_LOFIT_H_
#define CHOIR_MODEL_ADAPTER_LOFIT_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/checkpoint/model_config.h"
#include "proto/codec/layout.h"
#include "proto/config/job_options.h"

namespace choir::model {

struct LofitState {
  // No scaling is learnt yet: the next training learns them. Otherwise they
  // only say which heads are chosen, and offsets are trained.
  bool choosing = true;
  // [layers * heads], all false while choosing.
  std::vector<bool> chosen;
};

// `layout` and `values` are AdapterLayout()'s. The LofitHeads() heads with the
// largest L2 norms of their scalings are chosen, the first ones if some are
// equal: all who hold the same values choose the same heads.
// Cost: linear in the values.
LofitState LofitStateOf(const ModelConfig& config,
                        const config::AdapterOptions& options,
                        const codec::Layout& layout,
                        absl::Span<const float> values);

// What training a LoFiT adapter needs besides gradients; does nothing for other
// kinds. Threads: one at a time.
class LofitTraining {
 public:
  // `layout` is AdapterLayout()'s.
  LofitTraining(const config::AdapterOptions& options,
                const codec::Layout& layout);
  // Adds the gradient of lofit_l1 * |scalings|_1 while heads are chosen.
  void AddPenalty(const LofitState& state, absl::Span<const float> values,
                  absl::Span<float> gradient) const;
  // Sets back what this training does not train (but weight decay reaches):
  // the offsets while heads are chosen, then the scalings.
  void KeepUntrained(const LofitState& state, absl::Span<const float> start,
                     absl::Span<float> values) const;

 private:
  struct Range {
    int64_t begin = 0, size = 0;
  };
  const double l1_;
  std::vector<Range> scales_, offsets_;  // empty unless kLofit
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_ADAPTER_LOFIT_H_
