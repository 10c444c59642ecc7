// The fixed-point grid on which updates are summed, in plain and in secret.
#ifndef CHOIR_PRIVACY_SECAGG_GRID_H_
#define CHOIR_PRIVACY_SECAGG_GRID_H_

#include <cstdint>

namespace choir::secagg {

// The grid point nearest to x * 2^bits, ties to even, whatever rounding mode
// the processor is in. `x` is finite and |x| * 2^bits < 2^63.
int64_t Quantize(double x, int bits);

// One of the two grid points around x * 2^bits, so that the expected value is
// x * 2^bits itself; `uniform` is random in [0, 1). Same limits.
int64_t QuantizeStochastically(double x, int bits, double uniform);

}  // namespace choir::secagg

#endif  // CHOIR_PRIVACY_SECAGG_GRID_H_
