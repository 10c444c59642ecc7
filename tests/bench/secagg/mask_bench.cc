// How fast masks are added to a vector, beside the bare cipher: both in turns,
// the median of their ratio. With --check the program fails below 0.70.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "base/check.h"
#include "privacy/secagg/masked_vector.h"
#include "tests/bench/secagg/raw_cipher.h"

namespace choir::bench {
namespace {

constexpr double kLeastRatio = 0.70;
constexpr size_t kPiece = 8192;

std::vector<double>& Ratios() {
  static auto& ratios = *new std::vector<double>();
  return ratios;
}

template <typename F>
double Seconds(const F& work) {
  const absl::Time start = absl::Now();
  work();
  return absl::ToDoubleSeconds(absl::Now() - start);
}

// Argument: elements; their modulus' bits.
void BM_AddMask(benchmark::State& state) {
  const uint64_t length = static_cast<uint64_t>(state.range(0));
  const int bits = static_cast<int>(state.range(1));
  const size_t bytes = length * (bits <= 32 ? 4 : 8);
  const int repeats = static_cast<int>((64u << 20) / bytes) + 1;
  secagg::MaskedVector vector(bits, length);
  std::vector<double> ratios;
  double ours = 0, raw = 0;
  for (auto _ : state) {
    ours = Seconds([&] {
      for (int i = 0; i < repeats; ++i) {
        CHOIR_CHECK(vector
                        .AddMask(std::string(32, static_cast<char>(i)),
                                 secagg::MaskedVector::Sign::kAdd)
                        .ok());
      }
    });
    raw = Seconds([&] {
      for (int i = 0; i < repeats; ++i) {
        benchmark::DoNotOptimize(RawAesCtr(bytes, kPiece));
      }
    });
    ratios.push_back(raw / ours);
  }
  std::sort(ratios.begin(), ratios.end());
  Ratios().push_back(ratios[ratios.size() / 2]);
  const double gigabytes = 1e-9 * static_cast<double>(bytes) * repeats;
  state.counters["GB_per_s"] = gigabytes / ours;
  state.counters["raw_GB_per_s"] = gigabytes / raw;
  state.counters["ratio"] = Ratios().back();
}
BENCHMARK(BM_AddMask)
    ->Args({100000, 32})
    ->Args({1000000, 32})
    ->Args({1000000, 20})
    ->Args({100000, 42})
    ->Iterations(9)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace choir::bench

int main(int argc, char** argv) {
  bool check = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--check") == 0) {
      check = true;
      std::copy(argv + i + 1, argv + argc, argv + i);
      --argc;
      break;
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  if (choir::bench::Ratios().empty()) return 0;
  const double least = *std::min_element(choir::bench::Ratios().begin(),
                                         choir::bench::Ratios().end());
  std::printf("masks added / bare AES-256-CTR: at least %.3f\n", least);
  return check && least < choir::bench::kLeastRatio ? 1 : 0;
}
