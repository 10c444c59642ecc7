#include "tests/support/golden.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <vector>

#include "base/check.h"
#include "base/files.h"

namespace choir::tests {
namespace {

std::string FromEnvironment(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

// Removes the folders when the process ends.
struct TempDirs {
  std::vector<std::string> paths;
  ~TempDirs() {
    for (const std::string& path : paths) {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  }
};

}  // namespace

std::string GoldenDir() {
  const std::string path = FromEnvironment(
      "CHOIR_GOLDEN_DIR", base::JoinPath(SourceDir(), "../shared/golden"));
  return base::FileExists(path) ? path : "";
}

std::vector<std::string> GoldenFolders(const std::string& kind) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(
           base::JoinPath(GoldenDir(), kind), ignored)) {
    if (std::filesystem::exists(entry.path() / "expected.json", ignored)) {
      names.push_back(entry.path().filename());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string SourceDir() { return FromEnvironment("CHOIR_SOURCE_DIR", "."); }
std::string BinDir() {
  return FromEnvironment("CHOIR_BIN_DIR", "build/release/bin");
}

std::string NewTempDir() {
  static TempDirs* const dirs = [] {
    static TempDirs instance;
    return &instance;
  }();
  std::string pattern =
      FromEnvironment("TMPDIR", "/tmp") + "/choir-test-XXXXXX";
  CHOIR_CHECK(mkdtemp(pattern.data()) != nullptr);
  dirs->paths.push_back(pattern);
  return pattern;
}

}  // namespace choir::tests
