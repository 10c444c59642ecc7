#include "model/main/eval_data.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "model/main/chat_messages.h"
#include "model/objective/encode.h"
#include "model/objective/packing.h"
#include "model/tokenizer/chat_template.h"
#include "nlohmann/json.hpp"

namespace choir::model {
namespace {

absl::Status OutsideVocabulary(absl::string_view source, int64_t id,
                               const ModelConfig& config) {
  return absl::InvalidArgumentError(
      absl::StrCat(source, ": token id ", id, " is outside the vocabulary of ",
                   config.vocab_size));
}

constexpr uint64_t kMaxFileBytes = 1u << 30;

absl::StatusOr<std::vector<std::vector<int32_t>>> ReadIds(
    const std::string& path, const ModelConfig& config) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text,
                         base::ReadFile(path, 256u << 20));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  const auto wrong = [&](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " ", what, "; expected [[id, ...], ...]"));
  };
  if (!json.is_array() || json.empty()) return wrong("is not a list of lists");
  std::vector<std::vector<int32_t>> rows;
  for (const auto& row : json) {
    if (!row.is_array() || row.empty()) return wrong("has an empty or odd row");
    rows.emplace_back();
    for (const auto& id : row) {
      if (!id.is_number_integer()) return wrong("has something not a number");
      const int64_t value = id.get<int64_t>();
      if (value < 0 || value >= config.vocab_size) {
        return OutsideVocabulary(path, value, config);
      }
      rows.back().push_back(static_cast<int32_t>(value));
    }
    if (static_cast<int64_t>(rows.back().size()) > config.max_positions) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": a row of ", rows.back().size(),
                       " ids; the model's limit is ", config.max_positions));
    }
  }
  return rows;
}

// The text of `key`; empty if there is none.
absl::StatusOr<std::string> TextOf(const nlohmann::json& line, const char* key,
                                   absl::string_view place) {
  const auto found = line.find(key);
  if (found == line.end()) return std::string();
  if (!found->is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat(place, ": \"", key, "\" is not text"));
  }
  return found->get<std::string>();
}

absl::StatusOr<std::string> DomainOf(const nlohmann::json& line,
                                     const std::string& field,
                                     absl::string_view place) {
  const auto found = line.find(field);
  if (found == line.end() || found->is_structured() || found->is_null()) {
    return absl::InvalidArgumentError(absl::StrCat(
        place, ": has no \"", field, "\", which --domain-field names"));
  }
  return found->is_string() ? found->get<std::string>() : found->dump();
}

absl::StatusOr<int32_t> LabelOf(const nlohmann::json& label,
                                const Labels& labels, absl::string_view place) {
  const std::string name =
      label.is_string() ? label.get<std::string>() : label.dump();
  const auto found = std::find(labels.names.begin(), labels.names.end(), name);
  if (found != labels.names.end()) {
    return static_cast<int32_t>(found - labels.names.begin());
  }
  if (label.is_number_integer() && label.get<int64_t>() >= 0 &&
      label.get<int64_t>() < labels.count) {
    return label.get<int32_t>();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      place, ": \"label\" is '", name.substr(0, 80), "'; ",
      labels.names.empty()
          ? absl::StrCat("name the labels with --labels, or give numbers from "
                         "0 to ",
                         labels.count - 1)
          : absl::StrCat("the labels are ",
                         absl::StrJoin(labels.names, ", "))));
}

// One text with its label.
absl::Status AddLabelled(const nlohmann::json& line, absl::string_view place,
                         const std::string& text, const LoadedModel& model,
                         const Labels& labels, EvalData& data) {
  CHOIR_ASSIGN_OR_RETURN(const int32_t label,
                         LabelOf(line["label"], labels, place));
  data.examples.push_back(
      EncodeLabelled(model.tokenizer(), text, label, model.max_positions()));
  if (!data.examples.back().ids.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(place, ": has no \"text\""));
}

// A conversation, of which the assistant's part is predicted.
absl::StatusOr<Example> EncodeChat(const nlohmann::json& line,
                                   absl::string_view place,
                                   const absl::StatusOr<ChatTemplate>& chat,
                                   const LoadedModel& model) {
  for (const char* key : {"text", "prompt", "response", "label"}) {
    if (line.contains(key)) {
      return absl::InvalidArgumentError(absl::StrCat(
          place, ": has \"", key,
          "\" as well as \"messages\"; give either the one or the other"));
    }
  }
  CHOIR_ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages,
                         ParseMessages(line["messages"], place));
  const auto at_place = [&](const absl::Status& status) {
    return absl::Status(status.code(),
                        absl::StrCat(place, ": ", status.message()));
  };
  if (!chat.ok()) return at_place(chat.status());
  absl::StatusOr<Example> made = EncodeConversation(
      model.tokenizer(), *chat, messages, model.max_positions());
  if (!made.ok()) return at_place(made.status());
  if (PredictedTokens(*made, model.max_positions()) == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        place, ": no message of the role \"assistant\" says anything"));
  }
  return made;
}

absl::Status AddLine(absl::string_view text, const std::string& place,
                     const EvalOptions& options, const LoadedModel& model,
                     const Labels& labels,
                     const absl::StatusOr<ChatTemplate>& chat, EvalData& data) {
  CHOIR_ASSIGN_OR_RETURN(
      const nlohmann::json line,
      base::ParseJsonObject(text, place, {.max_bytes = 4u << 20}));
  CHOIR_ASSIGN_OR_RETURN(const std::string whole, TextOf(line, "text", place));
  CHOIR_ASSIGN_OR_RETURN(const std::string prompt,
                         TextOf(line, "prompt", place));
  CHOIR_ASSIGN_OR_RETURN(const std::string response,
                         TextOf(line, "response", place));
  std::vector<Example> made;
  const bool labelled = labels.count > 0 && line.contains("label");
  if (data.examples.empty()) data.classify = labelled;
  if (labelled != data.classify) {
    return absl::InvalidArgumentError(absl::StrCat(
        place, ": has ", labelled ? "a" : "no",
        " \"label\", unlike the lines before; give one kind of lines"));
  }
  if (line.contains("messages")) {
    CHOIR_ASSIGN_OR_RETURN(Example example,
                           EncodeChat(line, place, chat, model));
    made.push_back(std::move(example));
  } else if (labelled) {
    EvalData one;
    CHOIR_RETURN_IF_ERROR(AddLabelled(line, place, whole, model, labels, one));
    made = std::move(one.examples);
  } else if (!whole.empty()) {
    made = EncodeText(model.tokenizer(), whole, model.max_positions());
  } else if (!response.empty()) {
    made.push_back(EncodePromptResponse(model.tokenizer(), prompt, response,
                                        model.max_positions()));
  } else {
    return absl::InvalidArgumentError(absl::StrCat(
        place,
        ": needs \"text\", or \"prompt\" and \"response\", or \"messages\""));
  }
  if (!options.domain_field.empty()) {
    CHOIR_ASSIGN_OR_RETURN(const std::string domain,
                           DomainOf(line, options.domain_field, place));
    data.domains.resize(data.domains.size() + made.size(), domain);
  }
  std::move(made.begin(), made.end(), std::back_inserter(data.examples));
  return absl::OkStatus();
}

absl::StatusOr<EvalData> ReadLines(const EvalOptions& options,
                                   const LoadedModel& model,
                                   const Labels& labels) {
  CHOIR_ASSIGN_OR_RETURN(const std::string bytes,
                         base::ReadFile(options.data, kMaxFileBytes));
  const absl::StatusOr<ChatTemplate> chat = ChatTemplate::For(
      model.tokenizer(),
      options.chat_format.empty() ? "model" : options.chat_format);
  EvalData data;
  int number = 0;
  for (const absl::string_view line : absl::StrSplit(bytes, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    CHOIR_RETURN_IF_ERROR(AddLine(line, absl::StrCat(options.data, ":", number),
                                  options, model, labels, chat, data));
  }
  return data;
}

}  // namespace

absl::StatusOr<EvalData> LoadEvalData(const EvalOptions& options,
                                      const LoadedModel& model,
                                      const Labels& labels) {
  EvalData data;
  if (!options.ids.empty()) {
    CHOIR_ASSIGN_OR_RETURN(auto rows,
                           ReadIds(options.ids, model.decoder().config()));
    for (auto& row : rows) data.examples.push_back({std::move(row), 1});
    return data;
  }
  if (!options.data.empty()) {
    CHOIR_ASSIGN_OR_RETURN(data, ReadLines(options, model, labels));
  } else {
    CHOIR_ASSIGN_OR_RETURN(const std::string text,
                           base::ReadFile(options.text, kMaxFileBytes));
    data.examples = EncodeText(model.tokenizer(), text, model.max_positions());
  }
  const std::string& source =
      options.data.empty() ? options.text : options.data;
  if (data.examples.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, " has no text to evaluate"));
  }
  const ModelConfig& config = model.decoder().config();
  for (const Example& example : data.examples) {
    for (const int32_t id : example.ids) {
      if (id >= config.vocab_size) {
        return OutsideVocabulary(source, id, config);
      }
    }
  }
  return data;
}

}  // namespace choir::model
