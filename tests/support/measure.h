// Time and memory, for benchmarks and for tests of bounds.
#ifndef CHOIR_TESTS_SUPPORT_MEASURE_H_
#define CHOIR_TESTS_SUPPORT_MEASURE_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/strings/string_view.h"

namespace choir::tests {

// What `work` takes: on the wall, and of processor time, which does not count
// what others do on the machine, of this thread or of all of this process.
double WallSeconds(const std::function<void()>& work);
double ThreadSeconds(const std::function<void()>& work);
double ProcessSeconds(const std::function<void()>& work);

// The middle one; of an even number the larger of the two. Not of none.
double Median(std::vector<double> values);

// "VmRSS" (resident now) or "VmHWM" (most ever resident) of a process, by
// default this one; 0 if it is gone.
uint64_t MemoryBytes(absl::string_view field, pid_t pid = 0);
// "VmHWM" of this process begins anew.
void ResetPeakMemory();

}  // namespace choir::tests

#endif  // CHOIR_TESTS_SUPPORT_MEASURE_H_
