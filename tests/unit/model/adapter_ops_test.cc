// Each kind of adapter on one layer: values and gradients of both kernels
// against the definitions in float64.
#include "model/transformer/adapter_ops.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "model/transformer/lora_runs.h"

namespace choir::model {
namespace {

constexpr int64_t kIn = 12;
constexpr int64_t kOut = 9;
constexpr int64_t kRank = 3;
constexpr double kScale = 1.7;

enum class Kind { kLora, kDora, kIa3In, kIa3Out, kLofitChoosing, kLofitTuned };

at::Tensor Random(at::IntArrayRef sizes, int64_t seed) {
  at::manual_seed(seed);
  return at::randn(sizes, at::kFloat);
}

// Tensors that are trained, by the order in which the formula takes them.
std::vector<at::Tensor*> Trained(LinearAdapter& adapter) {
  std::vector<at::Tensor*> all;
  for (at::Tensor* tensor :
       {&adapter.lora_a, &adapter.lora_b, &adapter.magnitude, &adapter.ia3_in,
        &adapter.ia3_out, &adapter.lofit_scale, &adapter.lofit_offset}) {
    if (tensor->defined()) all.push_back(tensor);
  }
  return all;
}

LinearAdapter MakeAdapter(Kind kind) {
  LinearAdapter adapter;
  if (kind == Kind::kLora || kind == Kind::kDora) {
    adapter.lora_a = Random({kRank, kIn}, 1);
    adapter.lora_b = Random({kOut, kRank}, 2);
    if (kind == Kind::kDora) adapter.magnitude = Random({kOut}, 3).abs();
  } else if (kind == Kind::kIa3In) {
    adapter.ia3_in = Random({1, kIn}, 4);
  } else if (kind == Kind::kIa3Out) {
    adapter.ia3_out = Random({kOut, 1}, 4);
  } else {
    adapter.lofit_scale = Random({3, 4}, 5);
    adapter.lofit_offset = Random({3, 4}, 6);
    if (kind == Kind::kLofitTuned) {
      adapter.lofit_mask = at::zeros({kIn}, at::kFloat);
      adapter.lofit_mask.narrow(0, 4, 4).fill_(1.0);
    }
  }
  return adapter;
}

// The definition; `p` are float64 copies of Trained().
at::Tensor Formula(Kind kind, const at::Tensor& x, const at::Tensor& w,
                   const at::Tensor& bias, const at::Tensor& mask,
                   const std::vector<at::Tensor>& p) {
  switch (kind) {
    case Kind::kLora:
      return at::matmul(x, (w + at::matmul(p[1], p[0]) * kScale).t()) + bias;
    case Kind::kDora: {
      const at::Tensor v = w + at::matmul(p[1], p[0]) * kScale;
      const at::Tensor norm = at::sqrt(v.detach().square().sum(1));
      return at::matmul(x, v.t()) * (p[2] / norm) + bias;
    }
    case Kind::kIa3In:
      return at::matmul(x * p[0], w.t()) + bias;
    case Kind::kIa3Out:
      return (at::matmul(x, w.t()) + bias) * p[0].view({-1});
    case Kind::kLofitChoosing:
      return at::matmul(x * (p[0].view({-1}) + 1.0), w.t()) + bias +
             p[1].sum() * 0.0;
    case Kind::kLofitTuned:
      return at::matmul(x + p[1].view({-1}) * mask, w.t()) + bias +
             p[0].sum() * 0.0;
  }
  return x;
}

void ExpectNear(const at::Tensor& got, const at::Tensor& expected,
                const std::string& what) {
  ASSERT_EQ(got.sizes(), expected.sizes()) << what;
  const double error =
      (got.to(at::kDouble) - expected).abs().max().item<double>();
  const double size = expected.abs().max().item<double>() + 1.0;
  EXPECT_LT(error, 2e-5 * size) << what;
}

class AdapterOpsTest
    : public testing::TestWithParam<std::tuple<Kind, Kernels, int, bool>> {};

TEST_P(AdapterOpsTest, ValuesAndGradientsFollowTheDefinition) {
  const auto [kind, kernels, rows, prepared] = GetParam();
  Linear layer;
  layer.weight = Random({kOut, kIn}, 10);
  layer.bias = Random({kOut}, 11);
  at::Tensor x = Random({rows, kIn}, 12);
  const at::Tensor upstream = Random({rows, kOut}, 13);
  LinearAdapter adapter = MakeAdapter(kind);
  if (prepared && kind == Kind::kDora) {
    adapter.base_norms = layer.weight.to(at::kDouble).square().sum(1);
  }
  const at::Tensor wide_x = x.to(at::kDouble).requires_grad_(true);
  std::vector<at::Tensor> wide;
  for (at::Tensor* tensor : Trained(adapter)) {
    wide.push_back(tensor->to(at::kDouble).requires_grad_(true));
    tensor->requires_grad_(true);
  }
  x.requires_grad_(true);

  LoraUse use;
  use.scale = kScale;
  const LinearUse one{&layer, &adapter};
  const at::Tensor y = ApplyLinear(kernels, x, {&one, 1}, use)[0];
  const at::Tensor mask = adapter.lofit_mask.defined()
                              ? adapter.lofit_mask.to(at::kDouble)
                              : at::Tensor();
  const at::Tensor expected =
      Formula(kind, wide_x, layer.weight.to(at::kDouble),
              layer.bias.to(at::kDouble), mask, wide);
  ExpectNear(y, expected.detach(), "output");

  torch::autograd::backward({(y * upstream).sum()}, {});
  torch::autograd::backward({(expected * upstream.to(at::kDouble)).sum()}, {});
  ExpectNear(x.grad(), wide_x.grad(), "gradient of the input");
  const std::vector<at::Tensor*> trained = Trained(adapter);
  for (size_t i = 0; i < wide.size(); ++i) {
    if (!trained[i]->grad().defined()) {
      EXPECT_EQ(wide[i].grad().abs().max().item<double>(), 0.0) << i;
      continue;
    }
    ExpectNear(trained[i]->grad(), wide[i].grad(),
               "gradient of tensor " + std::to_string(i));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, AdapterOpsTest,
    testing::Combine(testing::Values(Kind::kLora, Kind::kDora, Kind::kIa3In,
                                     Kind::kIa3Out, Kind::kLofitChoosing,
                                     Kind::kLofitTuned),
                     testing::Values(Kernels::kFused, Kernels::kReference),
                     testing::Values(3, 40), testing::Bool()));

TEST(AdapterOpsTest, LayersOfOneInputMayHaveDifferentAdapters) {
  Linear layers[3];
  for (int i = 0; i < 3; ++i) layers[i].weight = Random({kOut, kIn}, 20 + i);
  const LinearAdapter lora = MakeAdapter(Kind::kLora);
  const LinearAdapter ia3 = MakeAdapter(Kind::kIa3Out);
  const at::Tensor x = Random({5, kIn}, 30);
  LoraUse use;
  use.scale = kScale;
  const LinearUse uses[] = {
      {&layers[0], &lora}, {&layers[1], &ia3}, {&layers[2], nullptr}};
  const std::vector<at::Tensor> y = ApplyLinear(Kernels::kFused, x, uses, use);
  for (int i = 0; i < 3; ++i) {
    const at::Tensor alone =
        ApplyLinear(Kernels::kReference, x, {&uses[i], 1}, use)[0];
    EXPECT_LT((y[i] - alone).abs().max().item<double>(), 1e-5) << i;
  }
}

TEST(AdapterOpsTest, ARowOfZerosStaysZeroUnderDora) {
  Linear layer;
  layer.weight = at::zeros({kOut, kIn}, at::kFloat);
  LinearAdapter adapter = MakeAdapter(Kind::kDora);
  adapter.lora_b.zero_();
  for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
    const at::Tensor factors = DoraFactors(kernels, layer, adapter, 1.0);
    EXPECT_EQ(factors.abs().max().item<double>(), 0.0);
  }
}

class LoraRunsTest
    : public testing::TestWithParam<std::tuple<Kernels, double>> {};

TEST_P(LoraRunsTest, EachRowGetsItsOwnAdapter) {
  const auto [kernels, dropout] = GetParam();
  // Adapter 1 has two runs; each is dropped out as a pass of its own.
  const std::vector<int32_t> map = {2, 2, 2, 1, 1, 0, 0, 0, 0, 1};
  const std::vector<AdapterRun> runs = RunsOf(map);
  ASSERT_EQ(runs.size(), 4u);
  std::vector<LinearAdapter> bank(3);
  RunUse use;
  use.runs = runs;
  use.scale = kScale;
  use.dropout = dropout;
  for (int i = 0; i < 3; ++i) {
    bank[i].lora_a = Random({kRank, kIn}, 40 + i).requires_grad_(true);
    bank[i].lora_b = Random({kOut, kRank}, 50 + i).requires_grad_(true);
    use.adapters.push_back(&bank[i]);
    use.seeds.push_back(100 + i);
  }
  Linear layer;
  layer.weight = Random({kOut, kIn}, 60);
  const at::Tensor x = Random({10, kIn}, 61).requires_grad_(true);
  const at::Tensor upstream = Random({10, kOut}, 62);
  const LinearUse plain{&layer, nullptr};
  const at::Tensor base = ApplyLinear(kernels, x, {&plain, 1}, LoraUse())[0];
  const at::Tensor y = AddLoraRuns(kernels, x, base, use);
  torch::autograd::backward({(y * upstream).sum()}, {});

  // One run after the other through the ordinary layer.
  const at::Tensor alone_x = x.detach().clone().requires_grad_(true);
  std::vector<LinearAdapter> alone(3);
  for (int i = 0; i < 3; ++i) {
    alone[i].lora_a = bank[i].lora_a.detach().clone().requires_grad_(true);
    alone[i].lora_b = bank[i].lora_b.detach().clone().requires_grad_(true);
  }
  std::vector<at::Tensor> parts;
  for (const AdapterRun& run : runs) {
    LoraUse one;
    one.scale = kScale;
    one.dropout = dropout;
    one.seed = use.seeds[run.adapter];
    const LinearUse adapted{&layer, &alone[run.adapter]};
    parts.push_back(ApplyLinear(
        Kernels::kReference, alone_x.narrow(0, run.begin, run.end - run.begin),
        {&adapted, 1}, one)[0]);
  }
  const at::Tensor expected = at::cat(parts, 0);
  torch::autograd::backward({(expected * upstream).sum()}, {});
  const auto near = [](const at::Tensor& a, const at::Tensor& b) {
    return (a - b).abs().max().item<double>() < 2e-5;
  };
  EXPECT_TRUE(near(y, expected));
  EXPECT_TRUE(near(x.grad(), alone_x.grad()));
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(near(bank[i].lora_a.grad(), alone[i].lora_a.grad())) << i;
    EXPECT_TRUE(near(bank[i].lora_b.grad(), alone[i].lora_b.grad())) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(All, LoraRunsTest,
                         testing::Combine(testing::Values(Kernels::kFused,
                                                          Kernels::kReference),
                                          testing::Values(0.0, 0.3)));

}  // namespace
}  // namespace choir::model
