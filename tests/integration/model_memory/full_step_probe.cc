// One step of full fine-tuning with AdamW, in the shape of a model folder's
// config.json, and the peak of resident memory in MiB:
//   model_full_step_probe FOLDER BATCH TOKENS
#include <cstdlib>
#include <iostream>
#include <vector>

#include "base/check.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "model/checkpoint/families.h"
#include "model/compute.h"
#include "model/kernels/optimizer.h"
#include "model/objective/packing.h"
#include "model/planner.h"
#include "model/transformer/decoder.h"

namespace choir::model {
namespace {

PackedBatch RandomBatch(int batch, int tokens, int64_t vocabulary) {
  base::SimRandom random(1);
  std::vector<Example> examples(batch);
  std::vector<const Example*> pointers;
  for (Example& example : examples) {
    for (int t = 0; t < tokens; ++t) {
      example.ids.push_back(static_cast<int32_t>(random.Below(vocabulary)));
    }
    pointers.push_back(&example);
  }
  return PackExamples(pointers, tokens, at::kCPU);
}

int Main(const std::string& folder, int batch_size, int tokens) {
  ConfigureCompute(1);
  const auto config = LoadModelConfig(base::JoinPath(folder, "config.json"));
  CHOIR_CHECK(config.ok());
  const auto layout = codec::Layout::Create(ModelTensors(*config)).value();
  const int64_t n = layout.num_elements();
  at::Tensor values = at::empty({n}, at::kFloat).normal_(0.0, 0.02);
  at::Tensor gradient = at::zeros({n}, at::kFloat);
  std::vector<float> m(n), v(n);
  const auto find =
      [&](const codec::TensorSpec& spec) -> absl::StatusOr<at::Tensor> {
    for (size_t i = 0; i < layout.tensors().size(); ++i) {
      if (layout.tensors()[i].name != spec.name) continue;
      const auto view = [&](const at::Tensor& flat) {
        return flat.narrow(0, layout.offset(i), spec.num_elements())
            .view(spec.shape)
            .detach();
      };
      at::Tensor leaf = view(values).set_requires_grad(true);
      leaf.mutable_grad() = view(gradient);
      return leaf;
    }
    return absl::NotFoundError(spec.name);
  };
  auto weights = CollectWeights(*config, find);
  CHOIR_CHECK(weights.ok());
  const Decoder decoder(*config, *std::move(weights));
  const PackedBatch batch = RandomBatch(batch_size, tokens, config->vocab_size);
  for (int step = 1; step <= 2; ++step) {
    gradient.zero_();
    torch::autograd::backward(
        {decoder.Loss(batch, {}, 1.0 / batch.predictions)}, {});
    AdamWStep({}, step, absl::MakeConstSpan(gradient.data_ptr<float>(), n),
              absl::MakeSpan(m), absl::MakeSpan(v),
              absl::MakeSpan(values.data_ptr<float>(), n));
  }
  std::cout << (PeakResidentBytes() >> 20) << "\n";
  return 0;
}

}  // namespace
}  // namespace choir::model

int main(int argc, char** argv) {
  CHOIR_CHECK(argc == 4);
  return choir::model::Main(argv[1], std::atoi(argv[2]), std::atoi(argv[3]));
}
