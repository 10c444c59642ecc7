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

// What is wrong with an example for the objective; empty: nothing.
absl::string_view Misfit(const RawExample& example,
                         const config::TrainingOptions& training) {
  if (training.objective == config::Objective::kDpo) {
    if (!example.is_preference) {
      return "have no \"prompt\", \"chosen\" and \"rejected\"";
    }
  } else if (training.objective == config::Objective::kClassification) {
    if (example.is_pair) return "have no \"text\" with a \"label\"";
    if (example.label.empty()) return "have no \"label\"";
    if (std::find(training.labels.begin(), training.labels.end(),
                  example.label) == training.labels.end()) {
      return "have a \"label\" that training.labels does not list";
    }
  }
  return "";
}

model::Example EncodeOne(const model::Tokenizer& tokenizer,
                         const RawExample& example,
                         const config::TrainingOptions& training) {
  if (training.objective == config::Objective::kDpo) {
    return model::EncodePreference(tokenizer, example.prompt, example.response,
                                   example.rejected,
                                   training.max_sequence_length);
  }
  const auto label = std::find(training.labels.begin(), training.labels.end(),
                               example.label);
  return model::EncodeLabelled(
      tokenizer, example.text,
      static_cast<int32_t>(label - training.labels.begin()),
      training.max_sequence_length);
}

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

absl::Status CheckExamples(absl::Span<const RawExample> examples,
                           const config::TrainingOptions& training) {
  absl::string_view first;
  size_t misfits = 0;
  for (const RawExample& example : examples) {
    const absl::string_view misfit = Misfit(example, training);
    if (misfit.empty()) continue;
    if (first.empty()) first = misfit;
    misfits += misfit == first ? 1 : 0;
  }
  if (misfits == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "training.objective is \"", config::ObjectiveName(training.objective),
      "\", but ", misfits, " of ", examples.size(), " examples ", first,
      "; choose another objective or other data (data.where can leave examples "
      "out)"));
}

std::vector<model::Example> EncodeExamples(
    const model::Tokenizer& tokenizer, absl::Span<const RawExample> examples,
    const config::TrainingOptions& training) {
  if (training.objective == config::Objective::kSupervised ||
      training.objective == config::Objective::kCausalLm) {
    return EncodeExamples(tokenizer, examples, training.objective,
                          training.max_sequence_length);
  }
  std::vector<model::Example> encoded;
  for (const RawExample& example : examples) {
    if (!Misfit(example, training).empty()) continue;
    model::Example made = EncodeOne(tokenizer, example, training);
    if (!made.ids.empty()) encoded.push_back(std::move(made));
  }
  return encoded;
}

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
