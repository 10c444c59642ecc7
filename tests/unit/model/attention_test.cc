// Every way to compute attention against softmax over a dense masked matrix.
#include "model/transformer/attention.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/sim_random.h"
#include "gtest/gtest.h"
#include "model/kernels/blas.h"
#include "model/transformer/attention_blockwise.h"
#include "tests/unit/model/normal_tensor.h"

namespace choir::model {
namespace {

at::Tensor Random(at::IntArrayRef sizes, uint64_t seed) {
  base::SimRandom random(seed);
  return tests::NormalTensor(random, sizes);
}

double Difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

struct Result {
  at::Tensor out, grad_q, grad_k, grad_v;
};

using Attend = std::function<at::Tensor(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)>;

Result RunWithGradients(const AttentionSizes& sizes, int64_t tokens,
                        const Attend& attend) {
  const at::Tensor q =
      Random({tokens, sizes.heads * sizes.head_dim}, 1).set_requires_grad(true);
  const at::Tensor k = Random({tokens, sizes.kv_heads * sizes.head_dim}, 2)
                           .set_requires_grad(true);
  const at::Tensor v = Random({tokens, sizes.kv_heads * sizes.head_dim}, 3)
                           .set_requires_grad(true);
  const at::Tensor out = attend(q, k, v);
  torch::autograd::backward({(out * Random(out.sizes(), 4)).sum()}, {});
  return {out.detach(), q.grad(), k.grad(), v.grad()};
}

void ExpectClose(const Result& a, const Result& b, double tolerance,
                 const std::string& what) {
  EXPECT_LT(Difference(a.out, b.out), tolerance) << what;
  EXPECT_LT(Difference(a.grad_q, b.grad_q), tolerance) << what;
  EXPECT_LT(Difference(a.grad_k, b.grad_k), tolerance) << what;
  EXPECT_LT(Difference(a.grad_v, b.grad_v), tolerance) << what;
}

// Attention in float64 with everything that `visible` says is hidden masked
// out: no blocks, no tricks.
Result Dense(const AttentionSizes& sizes, const SequenceStarts& starts,
             const std::function<bool(int64_t i, int64_t j)>& visible) {
  return RunWithGradients(
      sizes, starts.back(),
      [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
        std::vector<at::Tensor> parts;
        for (size_t s = 0; s + 1 < starts.size(); ++s) {
          const int64_t n = starts[s + 1] - starts[s];
          at::Tensor hidden = at::ones({n, n}, at::kBool);
          for (int64_t i = 0; i < n; ++i) {
            for (int64_t j = 0; j <= i; ++j) {
              if (visible(i, j)) hidden[i][j] = false;
            }
          }
          const auto split = [&](const at::Tensor& x, int64_t heads) {
            return x.narrow(0, starts[s], n)
                .to(at::kDouble)
                .view({n, heads, sizes.head_dim})
                .transpose(0, 1)
                .repeat_interleave(sizes.heads / heads, 0);
          };
          const at::Tensor scores =
              at::matmul(split(q, sizes.heads),
                         split(k, sizes.kv_heads).transpose(1, 2))
                  .div(std::sqrt(static_cast<double>(sizes.head_dim)))
                  .masked_fill(hidden, -INFINITY);
          parts.push_back(
              at::matmul(at::softmax(scores, -1), split(v, sizes.kv_heads))
                  .transpose(0, 1)
                  .reshape({n, sizes.heads * sizes.head_dim}));
        }
        return at::cat(parts, 0).to(at::kFloat);
      });
}

Result Choir(Kernels kernels, const AttentionSizes& sizes,
             const SequenceStarts& starts, const AttentionMethod& method) {
  return RunWithGradients(
      sizes, starts.back(),
      [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
        return RotaryAttention(kernels, q, k, v, {}, {}, starts, sizes, method);
      });
}

AttentionMethod Method(AttentionKind kind, int64_t chunk = 512) {
  AttentionMethod method;
  method.kind = kind;
  method.chunk = chunk;
  return method;
}

std::string Name(Kernels kernels, AttentionKind kind) {
  return std::string(kernels == Kernels::kFused ? "fused" : "reference") +
         " kind " + std::to_string(static_cast<int>(kind));
}

TEST(AttentionTest, EveryKindEqualsDenseOverSequencesOfAnyLength) {
  const AttentionSizes sizes{4, 2, 6, 0};
  const SequenceStarts starts = {0, 3, 4, 150, 214};
  const Result dense =
      Dense(sizes, starts, [](int64_t, int64_t) { return true; });
  for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
    for (const AttentionKind kind :
         {AttentionKind::kAuto, AttentionKind::kExact,
          AttentionKind::kBlockwise}) {
      ExpectClose(Choir(kernels, sizes, starts, Method(kind, 48)), dense, 1e-5,
                  Name(kernels, kind));
    }
  }
}

TEST(AttentionTest, WindowHidesWhatLiesBeforeIt) {
  const SequenceStarts starts = {0, 3, 150, 214};
  for (const int64_t window : {1, 5, 64, 100, 149, 1000}) {
    const AttentionSizes sizes{4, 2, 6, window};
    const Result dense = Dense(
        sizes, starts, [&](int64_t i, int64_t j) { return j > i - window; });
    for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
      for (const AttentionKind kind :
           {AttentionKind::kExact, AttentionKind::kBlockwise}) {
        ExpectClose(Choir(kernels, sizes, starts, Method(kind, 40)), dense,
                    1e-5,
                    Name(kernels, kind) + " window " + std::to_string(window));
      }
    }
  }
}

TEST(AttentionTest, BlockwiseEqualsExactOnALongSequence) {
  const AttentionSizes sizes{2, 1, 8, 0};
  const SequenceStarts starts = {0, 1500};
  const Result exact =
      Choir(Kernels::kReference, sizes, starts, Method(AttentionKind::kExact));
  for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
    for (const int64_t chunk : {64, 512}) {
      ExpectClose(Choir(kernels, sizes, starts,
                        Method(AttentionKind::kBlockwise, chunk)),
                  exact, 1e-5, "chunk " + std::to_string(chunk));
    }
  }
}

TEST(AttentionTest, BlockSparseEqualsADenseMask) {
  const AttentionSizes full{4, 2, 6, 0};
  const AttentionSizes windowed{4, 2, 6, 70};
  const SequenceStarts starts = {0, 7, 230, 300};
  const BlockPattern patterns[] = {
      {16, 2, 1, 4}, {16, 1, 0, 0}, {24, 1, 2, 0}, {100, 1, 0, 2}};
  for (const BlockPattern& p : patterns) {
    for (const AttentionSizes& sizes : {full, windowed}) {
      const Result dense = Dense(sizes, starts, [&](int64_t i, int64_t j) {
        if (sizes.window > 0 && j <= i - sizes.window) return false;
        const int64_t a = i / p.block;
        const int64_t b = j / p.block;
        return b < p.global_blocks || a - b < p.local_blocks ||
               (p.stride > 0 && (b + 1) % p.stride == 0);
      });
      for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
        AttentionMethod method = Method(AttentionKind::kBlockSparse, 40);
        method.pattern = p;
        ExpectClose(
            Choir(kernels, sizes, starts, method), dense, 1e-5,
            Name(kernels, method.kind) + " block " + std::to_string(p.block));
      }
    }
  }
}

TEST(AttentionTest, BlockSparseLooksAtFewerTilesThanExact) {
  const BlockPattern pattern;
  TiledAttentionPlan sparse;
  sparse.pattern = &pattern;
  int64_t keys = 0;
  for (const KeyTile& tile : VisibleTiles(sparse, 0, 16320, 64)) {
    keys += tile.end - tile.begin;
  }
  // 4 local, 1 global and every eighth of the other 251 blocks.
  EXPECT_EQ(keys, (4 + 1 + 31) * 64);
}

TEST(AttentionTest, ScoresFarApartStayFinite) {
  const AttentionSizes sizes{1, 1, 4, 0};
  const int64_t n = 200;
  const at::Tensor q = Random({n, 4}, 1) * 300.0;
  const at::Tensor k = Random({n, 4}, 2) * 300.0;
  const at::Tensor v = Random({n, 4}, 3);
  const at::Tensor exact =
      RotaryAttention(Kernels::kReference, q, k, v, {}, {}, {0, n}, sizes,
                      Method(AttentionKind::kExact));
  for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
    const at::Tensor tiled =
        RotaryAttention(kernels, q, k, v, {}, {}, {0, n}, sizes,
                        Method(AttentionKind::kBlockwise, 32));
    EXPECT_LT(Difference(tiled, exact), 1e-4);
  }
}

TEST(AttentionTest, CachedDecodingEqualsOnePassForEveryKind) {
  const int64_t n = 150;
  for (const int64_t window : {0, 20}) {
    const AttentionSizes sizes{4, 2, 6, window};
    const at::Tensor q = Random({n, 24}, 1);
    const at::Tensor k = Random({n, 12}, 2);
    const at::Tensor v = Random({n, 12}, 3);
    const at::Tensor angles = Random({n, 3}, 5);
    const at::Tensor cosine = angles.cos();
    const at::Tensor sine = angles.sin();
    for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
      for (const AttentionKind kind :
           {AttentionKind::kAuto, AttentionKind::kBlockSparse}) {
        AttentionMethod method = Method(kind);
        method.pattern = {16, 2, 1, 4};
        const at::Tensor whole = RotaryAttention(kernels, q, k, v, cosine, sine,
                                                 {0, n}, sizes, method);
        KvSlot slot{at::zeros({n, 12}), at::zeros({n, 12}), 0};
        for (const int64_t step : {70, 1, 1, 30, 48}) {
          const at::Tensor part = CachedRotaryAttention(
              kernels, q.narrow(0, slot.length, step),
              k.narrow(0, slot.length, step), v.narrow(0, slot.length, step),
              cosine, sine, slot, sizes, method);
          EXPECT_LT(Difference(part, whole.narrow(0, slot.length, step)), 1e-5)
              << Name(kernels, kind) << " at " << slot.length;
          slot.length += step;
        }
      }
    }
  }
}

TEST(AttentionTest, AutoIsExactUnlessScoresOfALongSequenceWouldBeKept) {
  const at::Tensor q = at::zeros({1, 4});
  const AttentionMethod method;
  EXPECT_EQ(ChooseAttention(method, Kernels::kFused, q, 100000, 0),
            AttentionKind::kExact);
  EXPECT_EQ(ChooseAttention(method, Kernels::kReference, q, 100, 0),
            AttentionKind::kExact);
  EXPECT_EQ(ChooseAttention(method, Kernels::kReference, q, 100000, 0),
            AttentionKind::kBlockwise);
  EXPECT_EQ(ChooseAttention(Method(AttentionKind::kBlockSparse),
                            Kernels::kFused, q, 10, 0),
            AttentionKind::kBlockSparse);
}

// In a process of its own: prints the KiB that one forward and backward pass
// adds to the resident memory.
int PrintPeakKib(Kernels kernels, AttentionKind kind, int64_t tokens) {
  const auto pass = [&](int64_t length) {
    Choir(kernels, {2, 1, 16, 0}, {0, length}, Method(kind));
  };
  const auto status = [](const char* name) {
    std::FILE* file = std::fopen("/proc/self/status", "r");
    char line[256];
    double value = 0.0;
    while (std::fgets(line, sizeof line, file) != nullptr) {
      if (std::strncmp(line, name, std::strlen(name)) == 0) {
        value = std::atof(line + std::strlen(name));
      }
    }
    std::fclose(file);
    return value;
  };
  pass(16);  // what LibTorch needs once
  if (std::FILE* file = std::fopen("/proc/self/clear_refs", "w")) {
    std::fputs("5", file);
    std::fclose(file);
  }
  const double before = status("VmRSS:");
  pass(tokens);
  std::printf("%f\n", status("VmHWM:") - before);
  return 0;
}

// This program again, as main() knows it. A fork would do with LibTorch 1.13;
// later ones do not compute gradients in one.
double PeakKib(Kernels kernels, AttentionKind kind, int64_t tokens) {
  const std::string command = absl::StrCat(
      std::filesystem::read_symlink("/proc/self/exe").string(), " --peak-kib ",
      static_cast<int>(kernels), " ", static_cast<int>(kind), " ", tokens);
  std::FILE* child = popen(command.c_str(), "r");
  double kib = -1.0;
  EXPECT_EQ(std::fscanf(child, "%lf", &kib), 1);
  EXPECT_EQ(pclose(child), 0);
  return kib;
}

TEST(AttentionTest, BlockwisePeakMemoryGrowsLinearlyWithTheSequence) {
  for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
    std::vector<double> kib;
    for (const int64_t tokens : {1024, 2048, 4096, 8192, 16384}) {
      kib.push_back(PeakKib(kernels, AttentionKind::kBlockwise, tokens));
      std::printf("%s, %6lld tokens: %9.0f KiB\n",
                  kernels == Kernels::kFused ? "fused    " : "reference",
                  static_cast<long long>(tokens), kib.back());
    }
    // Twice the tokens, at most twice the memory, plus what a chunk takes.
    EXPECT_LT(kib[4], 2.0 * kib[3] + 4096.0);
    EXPECT_LT(kib[3], 2.0 * kib[2] + 4096.0);
    // Tokens take 16 times the memory; scores would take 256 times.
    EXPECT_LT(kib[4] - kib[0], 40.0 * 1024.0);
  }
  // The measure can tell: exact attention that keeps its scores.
  const double exact =
      PeakKib(Kernels::kReference, AttentionKind::kExact, 4096);
  EXPECT_GT(exact, 128.0 * 1024.0);
}

}  // namespace
}  // namespace choir::model

int main(int argc, char** argv) {
  choir::model::SetBlasThreads(1);
  at::set_num_threads(1);
  if (argc == 5 && std::strcmp(argv[1], "--peak-kib") == 0) {
    return choir::model::PrintPeakKib(
        static_cast<choir::model::Kernels>(std::atoi(argv[2])),
        static_cast<choir::model::AttentionKind>(std::atoi(argv[3])),
        std::atoll(argv[4]));
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
