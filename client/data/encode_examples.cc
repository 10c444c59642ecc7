#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/data/dataset.h"
#include "model/objective/encode.h"

namespace choir::client {
namespace {

bool PredictsSomething(const model::Example& example) {
  return std::max(example.loss_begin, 1) <
         static_cast<int64_t>(example.ids.size());
}

// As EncodePromptResponse joins them.
std::string Joined(const RawExample& pair) {
  const bool spaced =
      pair.prompt.empty() || absl::ascii_isspace(pair.prompt.back()) ||
      pair.response.empty() || absl::ascii_isspace(pair.response.front());
  return absl::StrCat(pair.prompt, spaced ? "" : " ", pair.response);
}

}  // namespace

std::vector<model::Example> EncodeExamples(
    const model::Tokenizer& tokenizer, absl::Span<const RawExample> examples,
    config::Objective objective, int max_sequence_length) {
  std::vector<model::Example> encoded;
  for (const RawExample& example : examples) {
    std::vector<model::Example> made;
    if (example.is_pair && objective == config::Objective::kSupervised) {
      made.push_back(model::EncodePromptResponse(
          tokenizer, example.prompt, example.response, max_sequence_length));
    } else {
      made = model::EncodeText(tokenizer,
                               example.is_pair ? Joined(example) : example.text,
                               max_sequence_length);
    }
    std::copy_if(std::make_move_iterator(made.begin()),
                 std::make_move_iterator(made.end()),
                 std::back_inserter(encoded), PredictsSomething);
  }
  return encoded;
}

}  // namespace choir::client
