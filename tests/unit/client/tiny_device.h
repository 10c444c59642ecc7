// A device with twelve short examples.
#ifndef CHOIR_TESTS_UNIT_CLIENT_TINY_DEVICE_H_
#define CHOIR_TESTS_UNIT_CLIENT_TINY_DEVICE_H_

#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/files.h"
#include "client/agent/client_options.h"
#include "tests/support/golden.h"

namespace choir::tests {

inline client::ClientOptions TinyDevice() {
  const std::string data = base::JoinPath(NewTempDir(), "data.jsonl");
  std::string lines;
  for (int i = 0; i < 12; ++i) {
    absl::StrAppend(&lines, R"({"text":"the apple is a fruit of the tree )", i,
                    "\"}\n");
  }
  CHOIR_CHECK(base::WriteFileAtomic(data, lines).ok());
  client::ClientOptions options;
  options.name = "device";
  options.device = model::DeviceKind::kCpu;
  options.data.path = data;
  options.holdout = 0.0;
  return options;
}

}  // namespace choir::tests

#endif  // CHOIR_TESTS_UNIT_CLIENT_TINY_DEVICE_H_
