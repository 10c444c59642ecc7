// The first line of the input is a text, the rest a tokenizer.json: whatever
// parses must encode and decode the text without harm.
#include "model/tokenizer/tokenizer.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t line = std::min(input.find('\n'), input.size());
  const absl::string_view text = input.substr(0, std::min<size_t>(line, 256));
  const absl::string_view json =
      line < input.size() ? input.substr(line + 1) : input;
  const auto tokenizer = choir::model::Tokenizer::Parse(json, "fuzz");
  if (!tokenizer.ok()) {
    CHOIR_CHECK(!tokenizer.status().message().empty());
    return 0;
  }
  const auto ids = (*tokenizer)->Encode(text, /*add_special=*/true);
  (void)(*tokenizer)->Decode(ids, /*skip_special=*/false);
  return 0;
}
