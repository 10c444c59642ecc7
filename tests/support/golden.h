// Reference data made by independent implementations.
#ifndef CHOIR_TESTS_SUPPORT_GOLDEN_H_
#define CHOIR_TESTS_SUPPORT_GOLDEN_H_

#include <string>
#include <vector>

namespace choir::tests {

// The folder of golden data: $CHOIR_GOLDEN_DIR, else ../shared/golden beside
// the repository; empty if neither exists.
std::string GoldenDir();

// The folders in GoldenDir()/`kind` that have an expected.json, sorted: test
// parameters.
std::vector<std::string> GoldenFolders(const std::string& kind);

// The repository ($CHOIR_SOURCE_DIR) and the built programs ($CHOIR_BIN_DIR).
std::string SourceDir();
std::string BinDir();

// A new empty folder, unique to this test process and call; removed at exit.
std::string NewTempDir();

}  // namespace choir::tests

// Skips the running test, saying so, when golden data is not there.
#define CHOIR_SKIP_WITHOUT_GOLDEN(name)                                     \
  if (::choir::tests::GoldenDir().empty())                                  \
  GTEST_SKIP() << "golden data not found; set CHOIR_GOLDEN_DIR to run this" \
               << " test against " << (name)

#endif  // CHOIR_TESTS_SUPPORT_GOLDEN_H_
