// What GPUs compute with, on the CPU: the operations with hand-written
// gradients over LibTorch's kernels, against LibTorch's own gradients; and the
// optimiser that stays where the model is, against that of the CPU.
#include <cmath>
#include <functional>

#include "base/sim_random.h"
#include "gtest/gtest.h"
#include "model/kernels/blas.h"
#include "model/torch/sgemm.h"
#include "model/training/device_optimizer.h"
#include "model/training/local_optimizer.h"
#include "model/transformer/ops_device.h"
#include "model/transformer/ops_reference.h"
#include "tests/unit/model/normal_tensor.h"

namespace choir::model {
namespace {

using Tensors = std::vector<at::Tensor>;
using Body = std::function<Tensors(const Tensors&)>;

class DeviceOpsTest : public ::testing::Test {
 protected:
  at::Tensor Random(at::IntArrayRef sizes, double scale = 1.0) {
    return tests::NormalTensor(random_, sizes, scale);
  }
  base::SimRandom random_{12};
};

double Apart(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor wide = b.to(at::kDouble);
  return ((a.to(at::kDouble) - wide).norm() / (wide.norm() + 1e-30))
      .item<double>();
}

// Outputs and the gradients of a fixed combination of them, of copies of
// `inputs` in `type`; the first `frozen` of which get no gradient.
Tensors Run(const Body& body, const Tensors& inputs, size_t frozen,
            at::ScalarType type) {
  Tensors leaves;
  for (size_t i = 0; i < inputs.size(); ++i) {
    at::Tensor leaf = inputs[i].detach().clone();
    if (type != at::kFloat) leaf = leaf.to(type);
    leaves.push_back(leaf.set_requires_grad(i >= frozen));
  }
  Tensors results = body(leaves);
  at::Tensor total = at::zeros({}, at::kDouble);
  for (const at::Tensor& output : results) {
    const at::Tensor weights = at::arange(output.numel(), at::kFloat)
                                   .mul(0.37)
                                   .sin()
                                   .view(output.sizes());
    total = total + (output.to(at::kFloat) * weights).sum().to(at::kDouble);
  }
  torch::autograd::backward({total}, {});
  for (size_t i = frozen; i < leaves.size(); ++i) {
    EXPECT_TRUE(leaves[i].grad().defined()) << "input " << i;
    results.push_back(leaves[i].grad());
  }
  for (size_t i = 0; i < frozen; ++i) {
    EXPECT_FALSE(leaves[i].grad().defined()) << "input " << i;
  }
  return results;
}

// In float32 both are equal up to rounding; in bfloat16 ours is no farther from
// the float32 result than twice the reference, and some roundings.
void ExpectEqual(const Body& ours, const Body& reference, const Tensors& inputs,
                 size_t frozen) {
  const Tensors exact = Run(reference, inputs, frozen, at::kFloat);
  const Tensors wide = Run(ours, inputs, frozen, at::kFloat);
  const Tensors half = Run(ours, inputs, frozen, at::kBFloat16);
  const Tensors usual = Run(reference, inputs, frozen, at::kBFloat16);
  ASSERT_EQ(exact.size(), wide.size());
  for (size_t i = 0; i < exact.size(); ++i) {
    EXPECT_LT(Apart(wide[i], exact[i]), 2e-6) << "result " << i;
    EXPECT_LT(Apart(half[i], exact[i]), 2 * Apart(usual[i], exact[i]) + 4e-3)
        << "result " << i;
  }
}

TEST_F(DeviceOpsTest, LinearGroup) {
  const auto parts = [](const Tensors& x) {
    return std::vector<LinearParts>{{x[0], x[1], x[4], x[5]},
                                    {x[2], at::Tensor(), x[6], x[7]},
                                    {x[0], at::Tensor(), {}, {}}};
  };
  ExpectEqual(
      [&](const Tensors& x) { return LinearGroupDevice(x[3], parts(x), 0.7); },
      [&](const Tensors& x) {
        return LinearGroupReference(x[3], parts(x), {0.7, 0.0, 0});
      },
      {Random({7, 12}), Random({7}), Random({9, 12}), Random({40, 12}),
       Random({3, 12}), Random({7, 3}), Random({2, 12}), Random({9, 2})},
      3);
}

TEST_F(DeviceOpsTest, AdaptersInFloat32OverABaseInBfloat16) {
  const at::Tensor x = Random({40, 12}).to(at::kBFloat16);
  const at::Tensor w = Random({7, 12}).to(at::kBFloat16);
  const at::Tensor a = Random({3, 12}).set_requires_grad(true);
  const at::Tensor b = Random({7, 3}).set_requires_grad(true);
  const at::Tensor y = LinearGroupDevice(x, {{w, {}, a, b}}, 2.0)[0];
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  torch::autograd::backward({y.to(at::kFloat).sum()}, {});
  EXPECT_EQ(a.grad().scalar_type(), at::kFloat);
  const at::Tensor ones = at::ones({40, 7});
  EXPECT_LT(
      Apart(b.grad(), at::mm(ones.t(), at::mm(x.to(at::kFloat), a.t())) * 2.0),
      1e-2);
  EXPECT_LT(
      Apart(a.grad(), at::mm(at::mm(ones, b).t() * 2.0, x.to(at::kFloat))),
      1e-2);
}

TEST_F(DeviceOpsTest, AFrozenAHasNoGradient) {
  const at::Tensor a = Random({3, 12});
  const at::Tensor b = Random({7, 3}).set_requires_grad(true);
  const at::Tensor y =
      LinearGroupDevice(Random({5, 12}), {{Random({7, 12}), {}, a, b}}, 2.0)[0];
  torch::autograd::backward({y.sum()}, {});
  EXPECT_FALSE(a.grad().defined());
  EXPECT_TRUE(b.grad().defined());
}

TEST_F(DeviceOpsTest, AddRmsNorm) {
  ExpectEqual(
      [](const Tensors& x) {
        const auto [sum, out] = AddRmsNormDevice(x[1], x[2], x[0], 1e-5);
        return Tensors{sum, out};
      },
      [](const Tensors& x) {
        const auto [sum, out] = AddRmsNormReference(x[1], x[2], x[0], 1e-5);
        return Tensors{sum, out};
      },
      {Random({20}), Random({9, 20}), Random({9, 20})}, 1);
  ExpectEqual(
      [](const Tensors& x) {
        return Tensors{AddRmsNormDevice(x[1], at::Tensor(), x[0], 1e-5).second};
      },
      [](const Tensors& x) {
        return Tensors{
            AddRmsNormReference(x[1], at::Tensor(), x[0], 1e-5).second};
      },
      {Random({20}), Random({9, 20})}, 1);
}

TEST_F(DeviceOpsTest, SwiGlu) {
  ExpectEqual(
      [](const Tensors& x) { return Tensors{SwiGluDevice(x[0], x[1])}; },
      [](const Tensors& x) { return Tensors{at::silu(x[0]) * x[1]}; },
      {Random({9, 31}, 5.0), Random({9, 31})}, 0);
}

TEST_F(DeviceOpsTest, CrossEntropyOverSlices) {
  const int64_t rows = 18;
  const int64_t vocabulary = int64_t{1} << 22;  // slices of 16 rows
  at::Tensor targets = at::empty({rows}, at::kInt);
  for (int64_t i = 0; i < rows; ++i) {
    targets.data_ptr<int32_t>()[i] =
        static_cast<int32_t>(random_.Below(vocabulary));
  }
  const at::Tensor head = Random({vocabulary, 2});
  const auto loss = [&](const auto& function, const at::Tensor& hidden) {
    const at::Tensor leaf = hidden.detach().clone().set_requires_grad(true);
    const at::Tensor value = function(leaf, head, targets, 0.02) * 3.0;
    torch::autograd::backward({value}, {});
    return std::make_pair(value.template item<double>(), leaf.grad());
  };
  const at::Tensor hidden = Random({rows, 2});
  const auto [ours, our_gradient] = loss(LinearCrossEntropyDevice, hidden);
  const auto [exact, gradient] = loss(LinearCrossEntropyReference, hidden);
  EXPECT_NEAR(ours, exact, 1e-4 * exact);
  EXPECT_LT(Apart(our_gradient, gradient), 1e-4);
  at::NoGradGuard no_grad;
  EXPECT_NEAR(
      LinearCrossEntropyDevice(hidden, head, targets, 0.06).item<double>(),
      exact, 1e-4 * exact);
}

TEST_F(DeviceOpsTest, CrossEntropyOfASureModelInBfloat16) {
  // Its gradient is far below what bfloat16 tells apart next to one.
  at::Tensor hidden = at::zeros({4, 8});
  at::Tensor targets = at::zeros({4}, at::kInt);
  for (int64_t i = 0; i < 4; ++i) {
    hidden[i][i] = 7.0;
    targets.data_ptr<int32_t>()[i] = static_cast<int32_t>(i);
  }
  const at::Tensor head = at::eye(8);
  const auto gradient = [&](at::ScalarType type) {
    const at::Tensor leaf =
        hidden.to(type).detach().clone().set_requires_grad(true);
    torch::autograd::backward(
        {LinearCrossEntropyDevice(leaf, head.to(type), targets, 1.0)}, {});
    return leaf.grad();
  };
  EXPECT_LT(Apart(gradient(at::kBFloat16), gradient(at::kFloat)), 1e-2);
}

TEST_F(DeviceOpsTest, AttentionOfRaggedAndEqualSequences) {
  const at::Tensor angles = Random({30, 3}, 3.0);
  const at::Tensor cosine = angles.cos();
  const at::Tensor sine = angles.sin();
  const AttentionSizes sizes{4, 2, 6};
  const std::vector<SequenceStarts> cases = {{0, 3, 4, 30, 41}, {0, 20, 40}};
  for (const SequenceStarts& starts : cases) {
    const SequencePlan plan = PlanSequences(starts, cosine, sine, at::kCPU);
    const auto body = [&](Kernels kernels) {
      return [&, kernels](const Tensors& x) {
        return Tensors{RotaryAttentionReference(x[0], x[1], x[2], plan, sizes,
                                                {}, kernels)};
      };
    };
    const int64_t n = starts.back();
    ExpectEqual(body(Kernels::kFused), body(Kernels::kReference),
                {Random({n, 24}), Random({n, 12}), Random({n, 12})}, 0);
  }
}

TEST_F(DeviceOpsTest, DropsTheSameOnEveryDevice) {
  for (const uint64_t seed : {uint64_t{1}, uint64_t{0xfedcba9876543210}}) {
    const at::Tensor expected = DropoutMask({70, 30}, 0.3, seed, at::kCPU);
    EXPECT_TRUE(at::equal(DropoutMaskByTensors({70, 30}, 0.3, seed, at::kCPU),
                          expected));
    EXPECT_NEAR(expected.mean().item<float>(), 1.0, 0.05);
  }
}

TEST_F(DeviceOpsTest, OptimizerEqualsThatOfTheCpu) {
  for (const auto kind :
       {config::OptimizerKind::kAdamW, config::OptimizerKind::kSgd}) {
    config::TrainingOptions options;
    options.optimizer = kind;
    options.weight_decay = 0.1;
    options.momentum = 0.9;
    options.learning_rate = 0.01;
    at::Tensor values = Random({100});
    LocalOptimizer local;
    const at::Tensor local_values = values.clone();
    local.Reset(100);
    DeviceOptimizer device;
    device.Reset(values);
    for (int step = 0; step < 5; ++step) {
      // Above the norm to clip at, and below.
      at::Tensor gradient = Random({100}, step % 2 == 0 ? 1.0 : 0.01);
      const at::Tensor same = gradient.clone();
      ASSERT_TRUE(local
                      .Step(options, {same.data_ptr<float>(), 100},
                            {local_values.data_ptr<float>(), 100})
                      .ok());
      ASSERT_TRUE(device.Step(options, gradient, values).ok());
    }
    for (int i = 0; i < 100; ++i) {
      EXPECT_NEAR(values.data_ptr<float>()[i],
                  local_values.data_ptr<float>()[i], 2e-6)
          << i;
    }
    at::Tensor bad = at::full({100}, NAN);
    EXPECT_EQ(device.Step(options, bad, values).code(),
              absl::StatusCode::kAborted);
  }
}

TEST_F(DeviceOpsTest, TheFallbackOfTheBlas) {
  for (const char ta : {'N', 'T'}) {
    for (const char tb : {'N', 'T'}) {
      for (const float beta : {0.0f, 0.5f}) {
        const int m = 5, n = 7, k = 4, ld = 9;
        const at::Tensor a = Random({9, 9});
        const at::Tensor b = Random({9, 9});
        const at::Tensor start = Random({9, 9});
        const float alpha = 1.5f;
        at::Tensor c = start.clone();
        TorchSgemm(&ta, &tb, &m, &n, &k, &alpha, a.data_ptr<float>(), &ld,
                   b.data_ptr<float>(), &ld, &beta, c.data_ptr<float>(), &ld);
        // Row-major: the transposed product of the operands exchanged.
        at::Tensor expected = start.clone();
        MatMul(tb == 'N' ? Op::kPlain : Op::kTransposed,
               ta == 'N' ? Op::kPlain : Op::kTransposed, n, m, k, alpha,
               b.data_ptr<float>(), ld, a.data_ptr<float>(), ld, beta,
               expected.data_ptr<float>(), ld);
        EXPECT_LT(Apart(c, expected), 1e-6) << ta << tb << beta;
      }
    }
  }
}

}  // namespace
}  // namespace choir::model
