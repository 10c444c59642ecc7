#include "model/objective/encode.h"

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace choir::model {
namespace {

// Token ids of a prompt and of what answers it, with EOS.
struct Pair {
  std::vector<int32_t> prompt, answer;
};

Pair SplitPair(const Tokenizer& tokenizer, absl::string_view prompt,
               absl::string_view response) {
  const bool spaced = prompt.empty() || response.empty() ||
                      absl::ascii_isspace(prompt.back()) ||
                      absl::ascii_isspace(response.front());
  const std::vector<int32_t> alone = tokenizer.Encode(prompt, false);
  Pair pair;
  pair.prompt = tokenizer.Encode(
      absl::StrCat(prompt, spaced ? "" : " ", response), false);
  // Tokens may straddle the seam; what the prompt has alone is its own.
  const size_t shared =
      static_cast<size_t>(std::mismatch(alone.begin(), alone.end(),
                                        pair.prompt.begin(), pair.prompt.end())
                              .second -
                          pair.prompt.begin());
  pair.answer.assign(pair.prompt.begin() + shared, pair.prompt.end());
  if (tokenizer.eos_id()) pair.answer.push_back(*tokenizer.eos_id());
  pair.prompt.resize(shared);
  return pair;
}

// The prompt loses its beginning where an answer of `answer_size` ids leaves
// too little room (at most half the length stays for it); then the answer loses
// its end.
Example Join(const Tokenizer& tokenizer, const Pair& pair, size_t answer_size,
             int max_length) {
  const size_t bos = tokenizer.bos_id() ? 1 : 0;
  const size_t room = static_cast<size_t>(max_length) - bos;
  const size_t prompt_room =
      std::max(room > answer_size ? room - answer_size : 0, room / 2);
  const size_t kept = std::min(pair.prompt.size(), prompt_room);
  const size_t answered = std::min(pair.answer.size(), room - kept);
  Example example;
  if (bos != 0) example.ids.push_back(*tokenizer.bos_id());
  example.ids.insert(example.ids.end(), pair.prompt.end() - kept,
                     pair.prompt.end());
  example.loss_begin =
      std::max<int32_t>(1, static_cast<int32_t>(example.ids.size()));
  example.ids.insert(example.ids.end(), pair.answer.begin(),
                     pair.answer.begin() + answered);
  return example;
}

}  // namespace

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
  const Pair pair = SplitPair(tokenizer, prompt, response);
  return Join(tokenizer, pair, pair.answer.size(), max_length);
}

Example EncodePreference(const Tokenizer& tokenizer, absl::string_view prompt,
                         absl::string_view chosen, absl::string_view rejected,
                         int max_length) {
  CHOIR_CHECK(max_length >= 2);
  const Pair good = SplitPair(tokenizer, prompt, chosen);
  const Pair bad = SplitPair(tokenizer, prompt, rejected);
  const size_t longest = std::max(good.answer.size(), bad.answer.size());
  Example example = Join(tokenizer, good, longest, max_length);
  Example other = Join(tokenizer, bad, longest, max_length);
  example.rejected = std::move(other.ids);
  example.rejected_begin = other.loss_begin;
  return example;
}

Example EncodeLabelled(const Tokenizer& tokenizer, absl::string_view text,
                       int32_t label, int max_length) {
  Example example;
  example.label = label;
  example.ids = tokenizer.Encode(text, /*add_special=*/false);
  if (example.ids.empty()) return example;
  if (tokenizer.bos_id()) {
    example.ids.insert(example.ids.begin(), *tokenizer.bos_id());
  }
  if (example.ids.size() > static_cast<size_t>(max_length)) {
    example.ids.resize(static_cast<size_t>(max_length));
  }
  return example;
}

}  // namespace choir::model
