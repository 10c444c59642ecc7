#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "base/status_macros.h"
#include "client/data/dataset.h"
#include "model/objective/encode.h"

namespace choir::client {
namespace {

// What is wrong with an example for the objective; empty: nothing.
absl::string_view Misfit(const RawExample& example,
                         const config::TrainingOptions& training) {
  const bool is_chat = !example.messages.empty();
  if (training.objective == config::Objective::kDpo) {
    if (!example.is_preference) {
      return "have no \"prompt\", \"chosen\" and \"rejected\"";
    }
  } else if (training.objective == config::Objective::kClassification) {
    if (example.is_pair || is_chat) return "have no \"text\" with a \"label\"";
    if (example.label.empty()) return "have no \"label\"";
    if (std::find(training.labels.begin(), training.labels.end(),
                  example.label) == training.labels.end()) {
      return "have a \"label\" that training.labels does not list";
    }
  }
  return "";
}

// For kDpo and kClassification; `chat` is there if conversations are.
absl::StatusOr<model::Example> EncodeOne(
    const model::Tokenizer& tokenizer,
    const absl::StatusOr<model::ChatTemplate>& chat, const RawExample& example,
    const config::TrainingOptions& training) {
  const int max_length = training.max_sequence_length;
  if (!example.messages.empty()) {
    if (!chat.ok()) return chat.status();
    return model::EncodeChatPreference(tokenizer, *chat, example.messages,
                                       example.rejected_messages,
                                       example.num_shared, max_length);
  }
  if (training.objective == config::Objective::kDpo) {
    return model::EncodePreference(tokenizer, example.prompt, example.response,
                                   example.rejected, max_length);
  }
  const auto label =
      std::find(training.labels.begin(), training.labels.end(), example.label);
  return model::EncodeLabelled(
      tokenizer, example.text,
      static_cast<int32_t>(label - training.labels.begin()), max_length);
}

bool PredictsSomething(const model::Example& example) {
  const size_t begin = std::max(example.loss_begin, 1);
  if (example.loss_mask.empty()) return begin < example.ids.size();
  return begin < example.ids.size() &&
         std::find(example.loss_mask.begin() + begin, example.loss_mask.end(),
                   1) != example.loss_mask.end();
}

// As EncodePromptResponse joins them.
std::string Joined(const RawExample& pair) {
  const bool spaced =
      pair.prompt.empty() || absl::ascii_isspace(pair.prompt.back()) ||
      pair.response.empty() || absl::ascii_isspace(pair.response.front());
  return absl::StrCat(pair.prompt, spaced ? "" : " ", pair.response);
}

using Encoded = absl::StatusOr<std::vector<model::Example>>;

Encoded EncodeChat(const model::Tokenizer& tokenizer,
                   const model::ChatTemplate& chat, const RawExample& example,
                   const config::TrainingOptions& training) {
  if (training.objective == config::Objective::kCausalLm) {
    return model::EncodeConversationText(tokenizer, chat, example.messages,
                                         training.max_sequence_length);
  }
  absl::StatusOr<model::Example> made = model::EncodeConversation(
      tokenizer, chat, example.messages, training.max_sequence_length);
  if (!made.ok()) return made.status();
  return std::vector<model::Example>{*std::move(made)};
}

// For kSupervised and kCausalLm; `chat` is there if conversations are.
Encoded EncodeNextTokens(const model::Tokenizer& tokenizer,
                         const absl::StatusOr<model::ChatTemplate>& chat,
                         const RawExample& example,
                         const config::TrainingOptions& training) {
  const int max_length = training.max_sequence_length;
  if (!example.messages.empty()) {
    if (!chat.ok()) return chat.status();
    return EncodeChat(tokenizer, *chat, example, training);
  }
  if (example.is_pair && training.objective == config::Objective::kSupervised) {
    return std::vector<model::Example>{model::EncodePromptResponse(
        tokenizer, example.prompt, example.response, max_length)};
  }
  return model::EncodeText(
      tokenizer, example.is_pair ? Joined(example) : example.text, max_length);
}

}  // namespace

absl::Status CheckConversations(const model::Tokenizer& tokenizer,
                                absl::Span<const RawExample> examples,
                                const config::TrainingOptions& training) {
  absl::optional<model::ChatTemplate> chat;
  for (size_t i = 0; i < examples.size(); ++i) {
    if (examples[i].messages.empty()) continue;
    if (!chat) {
      CHOIR_ASSIGN_OR_RETURN(
          chat, model::ChatTemplate::For(tokenizer, training.chat_format));
    }
    absl::Status fits = chat->Render(examples[i].messages, false).status();
    if (fits.ok() && examples[i].is_preference) {
      fits = chat->Render(examples[i].rejected_messages, false).status();
    }
    if (!fits.ok()) {
      return absl::Status(
          fits.code(), absl::StrCat("example ", i + 1, ": ", fits.message()));
    }
  }
  return absl::OkStatus();
}

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
  std::vector<model::Example> encoded;
  // Reading a template takes a while; most data have no use for one.
  absl::StatusOr<model::ChatTemplate> chat =
      absl::FailedPreconditionError("no conversations");
  if (std::any_of(examples.begin(), examples.end(),
                  [](const auto& one) { return !one.messages.empty(); })) {
    chat = model::ChatTemplate::For(tokenizer, training.chat_format);
  }
  if (training.objective == config::Objective::kDpo ||
      training.objective == config::Objective::kClassification) {
    for (const RawExample& example : examples) {
      if (!Misfit(example, training).empty()) continue;
      absl::StatusOr<model::Example> made =
          EncodeOne(tokenizer, chat, example, training);
      if (made.ok() && !made->ids.empty()) encoded.push_back(*std::move(made));
    }
    return encoded;
  }
  for (const RawExample& example : examples) {
    Encoded made = EncodeNextTokens(tokenizer, chat, example, training);
    if (!made.ok()) continue;
    std::copy_if(std::make_move_iterator(made->begin()),
                 std::make_move_iterator(made->end()),
                 std::back_inserter(encoded), PredictsSomething);
  }
  return encoded;
}

}  // namespace choir::client
