#include "model/transformer/rotary.h"

#include <algorithm>
#include <cmath>

namespace choir::model {

std::vector<double> RotaryFrequencies(const ModelConfig& config) {
  const int64_t half = config.head_dim / 2;
  if (config.positions == Positions::kLearned) return {};
  std::vector<double> frequencies(half);
  const RopeScaling& scaling = config.rope_scaling;
  for (int64_t i = 0; i < half; ++i) {
    // Rounded as in the code that trained the models, which shows thousands
    // of tokens on: an angle is a position times this.
    const float exponent =
        static_cast<float>(2 * i) / static_cast<float>(config.head_dim);
    const auto power = static_cast<float>(
        std::pow(static_cast<float>(config.rope_theta), double{exponent}));
    double f = 1.0f / power;
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
    frequencies[i] = static_cast<float>(f);
  }
  return frequencies;
}

RotaryTable::RotaryTable(const ModelConfig& config, at::Device device)
    : frequencies_(RotaryFrequencies(config)),
      most_(config.max_positions),
      device_(device) {}

RotaryAngles RotaryTable::Get(int64_t positions) const {
  if (frequencies_.empty()) return {};
  base::MutexLock lock(&mutex_);
  const int64_t have = angles_.cosine.defined() ? angles_.cosine.size(0) : 0;
  if (have >= positions) return angles_;
  const int64_t rows =
      std::max(positions, std::min(most_, std::max<int64_t>(512, 2 * have)));
  const int64_t half = static_cast<int64_t>(frequencies_.size());
  const at::Tensor cosine = at::empty({rows, half}, at::kFloat);
  const at::Tensor sine = at::empty({rows, half}, at::kFloat);
  float* c = cosine.data_ptr<float>();
  float* s = sine.data_ptr<float>();
  for (int64_t p = 0; p < rows; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      const auto angle =
          static_cast<float>(static_cast<double>(p) * frequencies_[i]);
      c[p * half + i] = static_cast<float>(std::cos(double{angle}));
      s[p * half + i] = static_cast<float>(std::sin(double{angle}));
    }
  }
  angles_ = {cosine.to(device_), sine.to(device_)};
  return angles_;
}

}  // namespace choir::model
