// Feed-forward layers with some of their channels (the elements between the
// input and the output layer) left out, and how active each channel is.
#ifndef CHOIR_MODEL_TRANSFORMER_MLP_CHANNELS_H_
#define CHOIR_MODEL_TRANSFORMER_MLP_CHANNELS_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/torch/compat.h"
#include "model/transformer/linear.h"

namespace choir::model {

// kept[b]: int64, ascending, where the model is: the channels of block b that
// are computed. Undefined: all of them.
struct MlpChannels {
  std::vector<at::Tensor> kept;
};

// sums[b] [channels]: magnitudes of the channels' activations, summed over the
// tokens of the passes that it was given to.
struct ChannelActivity {
  std::vector<at::Tensor> sums;
  void Add(size_t block, const at::Tensor& activations);
};

// A block's feed-forward layers, input layers first, with `kept` channels.
// Copies what is kept of the weights; gradients flow into the whole adapters.
// Adapters must be LoRA pairs or undefined.
struct KeptMlp {
  std::vector<Linear> layers;
  std::vector<LinearAdapter> adapters;  // as many, or none
};
KeptMlp KeepChannels(absl::Span<const Linear> layers,
                     absl::Span<const LinearAdapter> adapters,
                     const at::Tensor& kept);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRANSFORMER_MLP_CHANNELS_H_
