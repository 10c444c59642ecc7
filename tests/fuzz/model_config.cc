// Any bytes as config.json: a shape that prints and parses to itself, or an
// error with words.
#include "model/checkpoint/model_config.h"

#include <cstddef>
#include <cstdint>

#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = choir::model::ParseModelConfig(text, "fuzz");
  if (!config.ok()) {
    CHOIR_CHECK(!config.status().message().empty());
    return 0;
  }
  const std::string json = choir::model::ModelConfigJson(*config);
  const auto again = choir::model::ParseModelConfig(json, "again");
  CHOIR_CHECK(again.ok());
  CHOIR_CHECK(choir::model::ModelConfigJson(*again) == json);
  return 0;
}
