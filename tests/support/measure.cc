#include "tests/support/measure.h"

#include <time.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/check.h"

namespace choir::tests {
namespace {

double Now(clockid_t clock) {
  timespec now = {};
  CHOIR_CHECK(clock_gettime(clock, &now) == 0);
  return static_cast<double>(now.tv_sec) + 1e-9 * now.tv_nsec;
}

double Seconds(clockid_t clock, const std::function<void()>& work) {
  const double start = Now(clock);
  work();
  return Now(clock) - start;
}

}  // namespace

double WallSeconds(const std::function<void()>& work) {
  return Seconds(CLOCK_MONOTONIC, work);
}
double ThreadSeconds(const std::function<void()>& work) {
  return Seconds(CLOCK_THREAD_CPUTIME_ID, work);
}
double ProcessSeconds(const std::function<void()>& work) {
  return Seconds(CLOCK_PROCESS_CPUTIME_ID, work);
}

double Median(std::vector<double> values) {
  CHOIR_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

uint64_t MemoryBytes(absl::string_view field, pid_t pid) {
  std::ifstream status(pid == 0 ? "/proc/self/status"
                                : absl::StrCat("/proc/", pid, "/status"));
  for (std::string line; std::getline(status, line);) {
    absl::string_view rest = line;
    if (!absl::ConsumePrefix(&rest, absl::StrCat(field, ":"))) continue;
    uint64_t kib = 0;
    CHOIR_CHECK(absl::SimpleAtoi(absl::StripSuffix(rest, " kB"), &kib));
    return kib * 1024;
  }
  return 0;
}

void ResetPeakMemory() { std::ofstream("/proc/self/clear_refs") << "5"; }

}  // namespace choir::tests
