#include "model/objective/encode.h"

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace choir::model {

std::vector<Example> EncodeText(const Tokenizer& tokenizer,
                                absl::string_view text, int max_length) {
  CHOIR_CHECK(max_length >= 2);
  std::vector<int32_t> ids = tokenizer.Encode(text, /*add_special=*/false);
  if (ids.empty()) return {};
  if (tokenizer.eos_id()) ids.push_back(*tokenizer.eos_id());
  std::vector<Example> examples;
  const size_t bos = tokenizer.bos_id() ? 1 : 0;
  for (size_t begin = 0; begin < ids.size();) {
    const size_t n = std::min(ids.size() - begin, max_length - bos);
    Example example;
    if (bos != 0) example.ids.push_back(*tokenizer.bos_id());
    example.ids.insert(example.ids.end(), ids.begin() + begin,
                       ids.begin() + begin + n);
    begin += n;
    if (example.ids.size() >= 2) examples.push_back(std::move(example));
  }
  return examples;
}

Example EncodePromptResponse(const Tokenizer& tokenizer,
                             absl::string_view prompt,
                             absl::string_view response, int max_length) {
  CHOIR_CHECK(max_length >= 2);
  const bool spaced = prompt.empty() || response.empty() ||
                      absl::ascii_isspace(prompt.back()) ||
                      absl::ascii_isspace(response.front());
  const std::vector<int32_t> alone = tokenizer.Encode(prompt, false);
  std::vector<int32_t> ids = tokenizer.Encode(
      absl::StrCat(prompt, spaced ? "" : " ", response), false);
  // Tokens may straddle the seam; what the prompt has alone is its own.
  const size_t shared = static_cast<size_t>(
      std::mismatch(alone.begin(), alone.end(), ids.begin(), ids.end()).second -
      ids.begin());
  std::vector<int32_t> answer(ids.begin() + shared, ids.end());
  if (tokenizer.eos_id()) answer.push_back(*tokenizer.eos_id());
  ids.resize(shared);

  const size_t bos = tokenizer.bos_id() ? 1 : 0;
  const size_t room = static_cast<size_t>(max_length) - bos;
  const size_t prompt_room =
      std::max(room > answer.size() ? room - answer.size() : 0, room / 2);
  if (ids.size() > prompt_room) {
    ids.erase(ids.begin(), ids.end() - static_cast<int64_t>(prompt_room));
  }
  if (answer.size() > room - ids.size()) answer.resize(room - ids.size());

  Example example;
  if (bos != 0) example.ids.push_back(*tokenizer.bos_id());
  example.ids.insert(example.ids.end(), ids.begin(), ids.end());
  example.loss_begin =
      std::max<int32_t>(1, static_cast<int32_t>(example.ids.size()));
  example.ids.insert(example.ids.end(), answer.begin(), answer.end());
  return example;
}

}  // namespace choir::model
