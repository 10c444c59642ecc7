#include "privacy/secagg/contribution.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "privacy/secagg/grid.h"

namespace choir::secagg {
namespace {

// The mean loss travels in [0, 2^8), in steps of 2^-16.
constexpr int kLossBits = 24;
constexpr int kLossFraction = 16;
// (weight * rounding error)^2, the mean over the elements, in steps^2 and
// fractions of it: those of a client of weight 1 count among clients of
// max_weight. Clipping may miss an element by 2^31 steps and more.
constexpr int kErrorFraction = 32;
constexpr int kMissBits = 62;
// Whatever the grid, smaller values are no sign of a training that diverged.
constexpr double kSaneValue = 128.0;

int ErrorBits(const ContributionSpec& spec) {
  int weight_bits = 1;
  while (weight_bits < 64 && (spec.max_weight >> weight_bits) != 0) {
    ++weight_bits;
  }
  return kErrorFraction + kMissBits + 2 * weight_bits;
}

uint64_t Padded(const ContributionSpec& spec) {
  if (!spec.rotate) return spec.num_parameters;
  uint64_t size = 1;
  while (size < spec.num_parameters) size *= 2;
  return size;
}

// Numbers longer than an element are cut into digits of value_bits - 1 bits,
// lowest first.
int DigitBits(const ContributionSpec& spec) { return spec.value_bits - 1; }
uint64_t NumDigits(const ContributionSpec& spec, int bits) {
  return static_cast<uint64_t>((bits + DigitBits(spec) - 1) / DigitBits(spec));
}

// max |grid(x)|, which is also the largest digit.
uint64_t LargestValue(const ContributionSpec& spec) {
  return (uint64_t{1} << (spec.value_bits - 1)) - 1;
}

absl::Status CheckSpec(const ContributionSpec& spec) {
  if (spec.value_bits < 4 || spec.value_bits > 32 ||
      spec.fixed_point_bits < 0 || spec.fixed_point_bits > 32 ||
      spec.max_weight == 0 || spec.max_clients == 0 ||
      spec.num_parameters > (uint64_t{1} << 48)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a contribution with value_bits ", spec.value_bits,
                     " (4 to 32), fixed_point_bits ", spec.fixed_point_bits,
                     " (0 to 32), max_weight ", spec.max_weight,
                     " and max_clients ", spec.max_clients, " (1 or more)"));
  }
  return absl::OkStatus();
}

// Hadamard, scaled to keep lengths: its own inverse.
void Transform(std::vector<double>& values) {
  const size_t n = values.size();
  for (size_t half = 1; half < n; half *= 2) {
    for (size_t block = 0; block < n; block += 2 * half) {
      for (size_t i = block; i < block + half; ++i) {
        const double a = values[i];
        const double b = values[i + half];
        values[i] = a + b;
        values[i + half] = a - b;
      }
    }
  }
  const double scale = 1.0 / std::sqrt(static_cast<double>(n));
  for (double& value : values) value *= scale;
}

void FlipSigns(uint64_t seed, std::vector<double>& values) {
  base::SimRandom random(base::DeriveSeed(seed, {"secagg", "rotation"}));
  uint64_t bits = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (i % 64 == 0) bits = random.NextUint64();
    if ((bits >> (i % 64)) & 1) values[i] = -values[i];
  }
}

// The largest value of the grid.
double Range(const ContributionSpec& spec) {
  return std::ldexp(static_cast<double>(LargestValue(spec)),
                    -spec.fixed_point_bits);
}

absl::Status CheckValues(const ContributionSpec& spec,
                         absl::Span<const float> values) {
  const double limit = std::max(kSaneValue, Range(spec));
  for (const float value : values) {
    if (!(std::fabs(value) < limit)) {
      return absl::InvalidArgumentError(
          "this client's update is not finite, or beyond all bounds; its "
          "training may have diverged");
    }
  }
  return absl::OkStatus();
}

// The values to be rounded.
std::vector<double> Prepared(const ContributionSpec& spec,
                             absl::Span<const float> values) {
  std::vector<double> out(values.begin(), values.end());
  out.resize(Padded(spec));
  if (spec.rotate) {
    FlipSigns(spec.public_seed, out);
    Transform(out);
  }
  return out;
}

// Fills the parameters and returns the squared rounding error, in steps^2.
double FillParameters(const ContributionSpec& spec,
                      const Contribution& contribution, uint64_t weight,
                      MaskedVector& out) {
  const std::vector<double> values = Prepared(spec, contribution.values);
  const double range = Range(spec);
  base::SimRandom random(contribution.rounding_seed);
  double error = 0.0;
  for (uint64_t i = 0; i < values.size(); ++i) {
    const double value = std::clamp(values[i], -range, range);
    const int64_t q = spec.rounding == Rounding::kNearest
                          ? Quantize(value, spec.fixed_point_bits)
                          : QuantizeStochastically(value, spec.fixed_point_bits,
                                                   random.Uniform());
    const double miss =
        std::ldexp(values[i], spec.fixed_point_bits) - static_cast<double>(q);
    error += miss * miss;
    out.Set(i, static_cast<uint64_t>(q * static_cast<int64_t>(weight)));
  }
  return error;
}

// `value`, a whole number of at most `bits` bits (larger ones count as all
// ones), in digits from `at` on, each times `weight`.
void SetDigits(const ContributionSpec& spec, double value, int bits,
               uint64_t weight, uint64_t* at, MaskedVector& out) {
  const double base = std::ldexp(1.0, DigitBits(spec));
  // The largest double below.
  value = std::min(value, std::nextafter(std::ldexp(1.0, bits), 0.0));
  for (uint64_t i = 0; i < NumDigits(spec, bits); ++i) {
    out.Set((*at)++, static_cast<uint64_t>(std::fmod(value, base)) * weight);
    value = std::floor(value / base);
  }
}

// The sum of such digits; DATA_LOSS if one is beyond `limit`.
absl::StatusOr<double> SumOfDigits(const ContributionSpec& spec,
                                   const MaskedVector& sum, int bits,
                                   double limit, uint64_t* at) {
  double total = 0.0;
  for (uint64_t i = 0; i < NumDigits(spec, bits); ++i) {
    const double digit = static_cast<double>(sum.Signed((*at)++));
    if (digit < 0 || digit > limit) {
      return absl::DataLossError(
          "the sum's bookkeeping is beyond what its clients could have sent: "
          "masks did not cancel, or a client cheated");
    }
    total += std::ldexp(digit, static_cast<int>(i) * DigitBits(spec));
  }
  return total;
}

// The parameters' sums, turned back. They may be beyond value_bits, but are
// kept within what a sum of plain updates can hold.
std::vector<int64_t> Unrotated(const ContributionSpec& spec,
                               const std::vector<int64_t>& sums,
                               uint64_t weight) {
  const double largest =
      std::ldexp(static_cast<double>(std::min(weight, uint64_t{1} << 31)), 31);
  std::vector<double> values(sums.begin(), sums.end());
  Transform(values);
  FlipSigns(spec.public_seed, values);
  std::vector<int64_t> out(spec.num_parameters);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = std::llrint(std::clamp(values[i], -largest, largest));
  }
  return out;
}

}  // namespace

uint64_t ContributionLength(const ContributionSpec& spec) {
  return Padded(spec) + 1 + NumDigits(spec, kLossBits) +
         NumDigits(spec, ErrorBits(spec));
}

absl::StatusOr<int> ModulusBits(const ContributionSpec& spec) {
  CHOIR_RETURN_IF_ERROR(CheckSpec(spec));
  // The largest sum is max_clients * max_weight * LargestValue().
  unsigned __int128 most = spec.max_clients;
  most *= spec.max_weight;
  const bool overflow = most > (static_cast<unsigned __int128>(1) << 64);
  most *= LargestValue(spec);
  // One bit more, for the sign.
  int bits = 1;
  while (bits <= kMaxModulusBits && (most >> (bits - 1)) != 0) ++bits;
  if (overflow || bits > kMaxModulusBits) {
    return absl::InvalidArgumentError(absl::StrCat(
        "sums of ", spec.max_clients, " clients with weights up to ",
        spec.max_weight, " and value_bits ", spec.value_bits,
        " need a modulus of more than 64 bits; lower value_bits, the largest "
        "weight, or the cohort's size"));
  }
  return std::max(bits, kMinModulusBits);
}

absl::StatusOr<MaskedVector> EncodeContribution(
    const ContributionSpec& spec, const Contribution& contribution) {
  CHOIR_ASSIGN_OR_RETURN(const int bits, ModulusBits(spec));
  if (contribution.values.size() != spec.num_parameters) {
    return absl::InvalidArgumentError(
        absl::StrCat("an update of ", contribution.values.size(),
                     " elements; it has ", spec.num_parameters));
  }
  if (contribution.weight == 0) {
    return absl::InvalidArgumentError("this client has no examples");
  }
  CHOIR_RETURN_IF_ERROR(CheckValues(spec, contribution.values));
  const uint64_t weight = std::min(contribution.weight, spec.max_weight);
  MaskedVector out(bits, ContributionLength(spec));
  const double error = FillParameters(spec, contribution, weight, out);
  uint64_t at = Padded(spec);
  out.Set(at++, weight);
  // NaN becomes zero: a strange loss must not spoil a round.
  const double loss = contribution.mean_loss > 0 ? contribution.mean_loss : 0.0;
  SetDigits(spec, std::floor(std::ldexp(loss, kLossFraction) + 0.5), kLossBits,
            weight, &at, out);
  const double mean = error / std::max<double>(1.0, Padded(spec));
  const double times_weight = static_cast<double>(weight) * weight * mean;
  // Upwards: no error becomes none.
  SetDigits(spec, std::ceil(std::ldexp(times_weight, kErrorFraction)),
            ErrorBits(spec), 1, &at, out);
  return out;
}

absl::StatusOr<DecodedSum> DecodeSum(const ContributionSpec& spec,
                                     const MaskedVector& sum,
                                     uint64_t num_clients) {
  CHOIR_ASSIGN_OR_RETURN(const int bits, ModulusBits(spec));
  if (sum.modulus_bits() != bits || sum.length() != ContributionLength(spec)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a sum of ", sum.length(), " elements of ", sum.modulus_bits(),
        " bits; it has ", ContributionLength(spec), " of ", bits));
  }
  if (num_clients == 0 || num_clients > spec.max_clients) {
    return absl::InvalidArgumentError(absl::StrCat("a sum over ", num_clients,
                                                   " clients; it has 1 to ",
                                                   spec.max_clients));
  }
  DecodedSum out;
  uint64_t at = Padded(spec);
  const int64_t weight = sum.Signed(at++);
  if (weight < 0 || static_cast<uint64_t>(weight) < num_clients ||
      static_cast<unsigned __int128>(weight) >
          static_cast<unsigned __int128>(num_clients) * spec.max_weight) {
    return absl::DataLossError(
        absl::StrCat("the sum's total weight cannot be that of ", num_clients,
                     " clients: masks did not cancel, or a client cheated"));
  }
  out.total_weight = static_cast<uint64_t>(weight);
  const double largest = static_cast<double>(LargestValue(spec));
  CHOIR_ASSIGN_OR_RETURN(const double loss, SumOfDigits(spec, sum, kLossBits,
                                                        largest * weight, &at));
  out.mean_loss = std::ldexp(loss, -kLossFraction) / weight;
  CHOIR_ASSIGN_OR_RETURN(
      const double error,
      SumOfDigits(spec, sum, ErrorBits(spec), largest * num_clients, &at));
  const double steps =
      std::ldexp(error, -kErrorFraction) * std::max<double>(1.0, Padded(spec));
  out.rounding_error_l2 =
      std::ldexp(std::sqrt(steps) / weight, -spec.fixed_point_bits);
  out.sums.resize(Padded(spec));
  const unsigned __int128 bound =
      static_cast<unsigned __int128>(weight) * LargestValue(spec);
  for (uint64_t i = 0; i < out.sums.size(); ++i) {
    out.sums[i] = sum.Signed(i);
    const int64_t size = out.sums[i];
    if (static_cast<unsigned __int128>(size < 0 ? -static_cast<__int128>(size)
                                                : size) > bound) {
      return absl::DataLossError(
          absl::StrCat("element ", i,
                       " of the sum is beyond what its clients could have "
                       "sent: masks did not cancel, or a client cheated"));
    }
  }
  if (spec.rotate) {
    out.sums = Unrotated(spec, out.sums, out.total_weight);
  }
  return out;
}

}  // namespace choir::secagg
