#include "privacy/secagg/grid.h"

#include <cmath>

namespace choir::secagg {
namespace {

// x * 2^bits, exactly: a power of two moves the exponent only.
double Scaled(double x, int bits) {
  return x * static_cast<double>(int64_t{1} << bits);
}

}  // namespace

int64_t Quantize(double x, int bits) {
  const double scaled = Scaled(x, bits);
  // Conversion to an integer cuts off in every rounding mode, and the rest is
  // exact.
  const int64_t whole = static_cast<int64_t>(scaled);
  const double rest = scaled - static_cast<double>(whole);
  const double size = std::fabs(rest);
  const int64_t up = static_cast<int64_t>(size > 0.5) |
                     (static_cast<int64_t>(size == 0.5) & (whole & 1));
  return whole + (rest < 0.0 ? -up : up);
}

int64_t QuantizeStochastically(double x, int bits, double uniform) {
  const double scaled = Scaled(x, bits);
  const int64_t whole = static_cast<int64_t>(scaled);
  const double rest = scaled - static_cast<double>(whole);
  const int64_t up = static_cast<int64_t>(uniform < std::fabs(rest));
  return whole + (rest < 0.0 ? -up : up);
}

}  // namespace choir::secagg
