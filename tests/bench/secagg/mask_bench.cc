// How fast masks are added to a vector, beside the bare cipher: both in turns,
// the median of their ratio. With --check the program fails below 0.70.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "base/check.h"
#include "privacy/secagg/masked_vector.h"
#include "tests/bench/secagg/raw_cipher.h"
#include "tests/support/measure.h"

namespace choir::bench {
namespace {

constexpr double kLeastRatio = 0.70;
constexpr size_t kPiece = 8192;

std::vector<double>& Ratios() {
  static auto& ratios = *new std::vector<double>();
  return ratios;
}

void Note(size_t bytes, int repeats, double ours, double raw,
          std::vector<double> ratios, benchmark::State& state) {
  Ratios().push_back(tests::Median(ratios));
  const double gigabytes = 1e-9 * static_cast<double>(bytes) * repeats;
  state.counters["GB_per_s"] = gigabytes / ours;
  state.counters["raw_GB_per_s"] = gigabytes / raw;
  state.counters["ratio"] = Ratios().back();
}

// Arguments: elements; their modulus' bits.
void BM_AddMask(benchmark::State& state) {
  const uint64_t length = static_cast<uint64_t>(state.range(0));
  const int bits = static_cast<int>(state.range(1));
  const size_t bytes = length * (bits <= 32 ? 4 : 8);
  const int repeats = static_cast<int>((64u << 20) / bytes) + 1;
  secagg::MaskedVector vector(bits, length);
  std::vector<double> ratios;
  double ours = 0, raw = 0;
  for (auto _ : state) {
    ours = tests::ThreadSeconds([&] {
      for (int i = 0; i < repeats; ++i) {
        CHOIR_CHECK(vector
                        .AddMask(std::string(32, static_cast<char>(i)),
                                 secagg::MaskedVector::Sign::kAdd)
                        .ok());
      }
    });
    raw = tests::ThreadSeconds([&] {
      for (int i = 0; i < repeats; ++i) {
        benchmark::DoNotOptimize(RawAesCtr(bytes, kPiece));
      }
    });
    ratios.push_back(raw / ours);
  }
  Note(bytes, repeats, ours, raw, ratios, state);
}
BENCHMARK(BM_AddMask)
    ->Args({100000, 32})
    ->Args({1000000, 32})
    ->Args({1000000, 20})
    ->Args({100000, 42})
    ->Iterations(9)
    ->Unit(benchmark::kMillisecond);

// As clients mask and the coordinator unmasks: many at a time.
void BM_AddMasks(benchmark::State& state) {
  const uint64_t length = static_cast<uint64_t>(state.range(0));
  const int bits = static_cast<int>(state.range(1));
  const size_t bytes = length * (bits <= 32 ? 4 : 8);
  const int repeats = static_cast<int>((64u << 20) / bytes) + 1;
  secagg::MaskedVector vector(bits, length);
  std::vector<std::string> keys;
  for (int i = 0; i < repeats; ++i) {
    keys.push_back(std::string(32, static_cast<char>(i)));
  }
  std::vector<secagg::MaskedVector::Mask> masks;
  for (const std::string& key : keys) {
    masks.push_back({key, masks.size() % 2 == 0
                              ? secagg::MaskedVector::Sign::kAdd
                              : secagg::MaskedVector::Sign::kSubtract});
  }
  std::vector<double> ratios;
  double ours = 0, raw = 0;
  for (auto _ : state) {
    ours =
        tests::ThreadSeconds([&] { CHOIR_CHECK(vector.AddMasks(masks).ok()); });
    raw = tests::ThreadSeconds([&] {
      for (int i = 0; i < repeats; ++i) {
        benchmark::DoNotOptimize(RawAesCtr(bytes, kPiece));
      }
    });
    ratios.push_back(raw / ours);
  }
  Note(bytes, repeats, ours, raw, ratios, state);
}
BENCHMARK(BM_AddMasks)
    ->Args({100000, 32})
    ->Args({1000000, 32})
    ->Args({1000000, 42})
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
