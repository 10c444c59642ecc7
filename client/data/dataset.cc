#include "client/data/dataset.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/files.h"
#include "base/json_text.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "client/data/line_reader.h"
#include "model/tokenizer/unicode.h"
#include "nlohmann/json.hpp"

namespace choir::client {
namespace {

using nlohmann::json;

bool IsBlank(absl::string_view text) {
  return absl::StripAsciiWhitespace(text).empty();
}

uint64_t BytesOf(const RawExample& example) {
  uint64_t bytes = sizeof(RawExample) + example.text.size() +
                   example.prompt.size() + example.response.size() +
                   example.rejected.size() + example.label.size();
  for (const auto* messages : {&example.messages, &example.rejected_messages}) {
    for (const model::ChatMessage& message : *messages) {
      bytes += sizeof(message) + message.role.size() + message.content.size();
    }
  }
  for (const auto& [name, value] : example.fields) {
    bytes += 64 + name.size() + value.size();
  }
  return bytes;
}

absl::Status TextMember(const json& object, const char* key,
                        const std::string& place, std::string* out) {
  const json& value = object.at(key);
  if (!value.is_string()) {
    return absl::InvalidArgumentError(absl::StrCat(
        place, ": \"", key, "\" is ", value.type_name(), ", not text"));
  }
  *out = value.get<std::string>();
  return absl::OkStatus();
}

void CollectFields(const json& object, RawExample& example) {
  for (const auto& [name, value] : object.items()) {
    if (name == "text" || name == "prompt" || name == "response" ||
        name == "chosen" || name == "rejected") {
      continue;
    }
    if (value.is_string()) {
      example.fields[name] = value.get<std::string>();
    } else if (value.is_number() || value.is_boolean()) {
      example.fields[name] = value.dump();
    }
  }
}

// Text, or a list of {"type": "text", "text": ..}.
absl::StatusOr<std::string> MessageContent(const json& content,
                                           const std::string& place) {
  if (content.is_string()) return content.get<std::string>();
  std::string text;
  bool good = content.is_array();
  for (size_t i = 0; good && i < content.size(); ++i) {
    const json& part = content[i];
    good = part.is_object() && part.value("type", json()) == "text" &&
           part.value("text", json()).is_string();
    if (good) text += part["text"].get<std::string>();
  }
  if (!good) {
    return absl::InvalidArgumentError(absl::StrCat(
        place,
        ": the \"content\" of a message is neither text nor a list of "
        "texts"));
  }
  return text;
}

// Appends the messages of a list.
absl::Status AppendMessages(const json& object, const char* key,
                            const std::string& place,
                            std::vector<model::ChatMessage>& messages) {
  const json& list = object.at(key);
  if (!list.is_array() || list.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        place, ": \"", key, "\" is not a list of {\"role\", \"content\"}"));
  }
  for (const json& message : list) {
    if (!message.is_object() || !message.contains("role") ||
        !message["role"].is_string() || !message.contains("content")) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, ": a message lacks \"role\" or \"content\""));
    }
    model::ChatMessage& out = messages.emplace_back();
    out.role = message["role"].get<std::string>();
    CHOIR_ASSIGN_OR_RETURN(out.content,
                           MessageContent(message["content"], place));
  }
  return absl::OkStatus();
}

// Two conversations that begin alike, of which one was liked more.
absl::StatusOr<RawExample> ParseChatPreference(const json& object,
                                               const std::string& place) {
  RawExample example;
  example.is_pair = true;
  example.is_preference = true;
  auto& liked = example.messages;
  auto& other = example.rejected_messages;
  if (object.contains("prompt")) {
    CHOIR_RETURN_IF_ERROR(AppendMessages(object, "prompt", place, liked));
    other = liked;
    example.num_shared = liked.size();
  }
  CHOIR_RETURN_IF_ERROR(AppendMessages(object, "chosen", place, liked));
  CHOIR_RETURN_IF_ERROR(AppendMessages(object, "rejected", place, other));
  if (!object.contains("prompt")) {
    size_t& shared = example.num_shared;
    while (shared < liked.size() && shared < other.size() &&
           liked[shared].role == other[shared].role &&
           liked[shared].content == other[shared].content) {
      ++shared;
    }
  }
  if (example.num_shared == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(place,
                     ": \"chosen\" and \"rejected\" begin with no message that "
                     "both have; give it, or a \"prompt\""));
  }
  for (const auto* messages : {&liked, &other}) {
    if (messages->size() == example.num_shared ||
        (*messages)[example.num_shared].role != "assistant" ||
        IsBlank((*messages)[example.num_shared].content)) {
      return absl::InvalidArgumentError(absl::StrCat(
          place,
          ": after what they share, \"chosen\" and \"rejected\" must "
          "each have something that the assistant says"));
    }
  }
  CollectFields(object, example);
  return example;
}

// A prompt with two answers, of which one was liked more.
absl::StatusOr<RawExample> ParsePreference(const json& object,
                                           const std::string& place) {
  const bool is_chat = object.value("chosen", json()).is_array() ||
                       object.value("rejected", json()).is_array();
  for (const char* key : {"prompt", "chosen", "rejected"}) {
    if (is_chat && key[0] == 'p') continue;
    if (!object.contains(key)) {
      return absl::InvalidArgumentError(
          absl::StrCat(place,
                       ": a preference needs \"prompt\", \"chosen\" and "
                       "\"rejected\"; \"",
                       key, "\" is missing"));
    }
  }
  for (const char* key : {"text", "response"}) {
    if (object.contains(key)) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, ": has \"", key,
                       "\" as well as \"chosen\" and "
                       "\"rejected\"; give either the one or the other"));
    }
  }
  if (is_chat) return ParseChatPreference(object, place);
  RawExample example;
  example.is_pair = true;
  example.is_preference = true;
  CHOIR_RETURN_IF_ERROR(TextMember(object, "prompt", place, &example.prompt));
  CHOIR_RETURN_IF_ERROR(TextMember(object, "chosen", place, &example.response));
  CHOIR_RETURN_IF_ERROR(
      TextMember(object, "rejected", place, &example.rejected));
  for (const char* key : {"chosen", "rejected"}) {
    if (IsBlank(key[0] == 'c' ? example.response : example.rejected)) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, ": \"", key, "\" is empty"));
    }
  }
  CollectFields(object, example);
  return example;
}

absl::StatusOr<RawExample> ParseConversation(const json& object,
                                             const std::string& place) {
  for (const char* key : {"text", "prompt", "response", "chosen", "rejected"}) {
    if (object.contains(key)) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, ": has \"", key,
                       "\" as well as \"messages\"; "
                       "give either the one or the other"));
    }
  }
  RawExample example;
  CHOIR_RETURN_IF_ERROR(
      AppendMessages(object, "messages", place, example.messages));
  const bool learns = std::any_of(
      example.messages.begin(), example.messages.end(),
      [](const model::ChatMessage& message) {
        return message.role == "assistant" && !IsBlank(message.content);
      });
  if (!learns) {
    return absl::InvalidArgumentError(absl::StrCat(
        place, ": no message of the role \"assistant\" says anything"));
  }
  CollectFields(object, example);
  return example;
}

absl::StatusOr<RawExample> ParseLine(const std::string& line,
                                     const std::string& place) {
  CHOIR_ASSIGN_OR_RETURN(
      const json object,
      base::ParseJsonObject(line, place, {.max_bytes = kMaxLineBytes}));
  if (object.contains("messages")) return ParseConversation(object, place);
  if (object.contains("chosen") || object.contains("rejected")) {
    return ParsePreference(object, place);
  }
  const bool has_text = object.contains("text");
  const bool has_prompt = object.contains("prompt");
  const bool has_response = object.contains("response");
  RawExample example;
  if (has_text && (has_prompt || has_response)) {
    return absl::InvalidArgumentError(absl::StrCat(
        place,
        ": has \"text\" as well as \"prompt\" or \"response\"; give "
        "either the one or the other"));
  }
  if (has_text) {
    CHOIR_RETURN_IF_ERROR(TextMember(object, "text", place, &example.text));
    if (IsBlank(example.text)) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, ": \"text\" is empty"));
    }
  } else if (has_prompt && has_response) {
    example.is_pair = true;
    CHOIR_RETURN_IF_ERROR(TextMember(object, "prompt", place, &example.prompt));
    CHOIR_RETURN_IF_ERROR(
        TextMember(object, "response", place, &example.response));
    if (IsBlank(example.response)) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, ": \"response\" is empty"));
    }
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat(place,
                     ": needs \"text\", or \"prompt\" and \"response\", "
                     "or \"messages\"",
                     has_prompt     ? "; \"response\" is missing"
                     : has_response ? "; \"prompt\" is missing"
                                    : ""));
  }
  CollectFields(object, example);
  const auto label = example.fields.find("label");
  if (label != example.fields.end()) example.label = label->second;
  return example;
}

// Gathers what passes the filter, within the limits.
class Collector {
 public:
  explicit Collector(const DataOptions& options) : options_(options) {}

  absl::Status Add(RawExample example, const std::string& place) {
    ++seen_;
    for (const auto& [name, value] : example.fields) names_.insert(name);
    for (const auto& [name, wanted] : options_.where) {
      const auto found = example.fields.find(name);
      if (found == example.fields.end() || found->second != wanted) {
        return absl::OkStatus();
      }
    }
    bytes_ += BytesOf(example);
    if (bytes_ > kMaxDatasetBytes) {
      return absl::ResourceExhaustedError(absl::StrCat(
          place, ": the examples so far take more than ", kMaxDatasetBytes,
          " bytes of memory; narrow data.where or set data.max_examples"));
    }
    examples_.push_back(std::move(example));
    return absl::OkStatus();
  }

  bool full() const {
    return options_.max_examples > 0 &&
           examples_.size() >= options_.max_examples;
  }

  absl::StatusOr<std::vector<RawExample>> Finish() {
    if (!examples_.empty()) return std::move(examples_);
    if (seen_ == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(options_.path, ": no examples in it"));
    }
    std::vector<std::string> wanted;
    for (const auto& [name, value] : options_.where) {
      if (names_.count(name) == 0) {
        return absl::InvalidArgumentError(absl::StrCat(
            options_.path, ": no example has the field \"", name,
            "\" of data.where; there are: ",
            names_.empty() ? "none" : absl::StrJoin(names_, ", ")));
      }
      wanted.push_back(absl::StrCat(name, " = \"", value, "\""));
    }
    return absl::InvalidArgumentError(
        absl::StrCat(options_.path, ": none of ", seen_, " examples has ",
                     absl::StrJoin(wanted, " and "), " (data.where)"));
  }

 private:
  const DataOptions& options_;
  std::vector<RawExample> examples_;
  std::set<std::string> names_;
  uint64_t seen_ = 0;
  uint64_t bytes_ = 0;
};

absl::Status LoadJsonLines(const std::string& path, Collector& collector) {
  CHOIR_ASSIGN_OR_RETURN(LineReader reader,
                         LineReader::Open(path, kMaxLineBytes));
  std::string line;
  while (!collector.full()) {
    CHOIR_ASSIGN_OR_RETURN(const bool more, reader.Next(&line));
    if (!more) break;
    if (IsBlank(line)) continue;
    CHOIR_ASSIGN_OR_RETURN(RawExample example, ParseLine(line, reader.place()));
    CHOIR_RETURN_IF_ERROR(collector.Add(std::move(example), reader.place()));
  }
  return absl::OkStatus();
}

absl::Status LoadTextFolder(const std::string& folder, Collector& collector) {
  CHOIR_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         base::ListDirectory(folder));
  for (const std::string& name : names) {
    if (collector.full()) break;
    if (!absl::EndsWith(name, ".txt")) continue;
    const std::string path = base::JoinPath(folder, name);
    CHOIR_ASSIGN_OR_RETURN(const std::string bytes,
                           base::ReadFile(path, kMaxTextFileBytes));
    absl::string_view text = bytes;
    absl::ConsumePrefix(&text, "\xEF\xBB\xBF");
    if (!model::IsValidUtf8(text)) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, " is not UTF-8 text; convert it (iconv) or take it away"));
    }
    RawExample example;
    example.text = absl::StrReplaceAll(text, {{"\r\n", "\n"}});
    if (IsBlank(example.text)) continue;
    example.fields["file"] = name;
    CHOIR_RETURN_IF_ERROR(collector.Add(std::move(example), path));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<RawExample>> LoadDataset(
    const DataOptions& options) {
  struct stat info = {};
  if (stat(options.path.c_str(), &info) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat("read ", options.path));
  }
  Collector collector(options);
  if (S_ISDIR(info.st_mode)) {
    CHOIR_RETURN_IF_ERROR(LoadTextFolder(options.path, collector));
  } else if (absl::EndsWith(options.path, ".jsonl") && S_ISREG(info.st_mode)) {
    CHOIR_RETURN_IF_ERROR(LoadJsonLines(options.path, collector));
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat(options.path,
                     ": data must be a .jsonl file or a folder of .txt "
                     "files"));
  }
  return collector.Finish();
}

namespace {

std::vector<model::ChatMessage> AllMessages(const RawExample& example) {
  std::vector<model::ChatMessage> all = example.messages;
  all.insert(all.end(), example.rejected_messages.begin(),
             example.rejected_messages.end());
  return all;
}

}  // namespace

DatasetSplit SplitHoldout(std::vector<RawExample> examples, double fraction) {
  DatasetSplit split;
  for (RawExample& example : examples) {
    // The lengths keep "ab"+"c" and "a"+"bc" apart.
    std::string text = absl::StrCat(
        example.text.size(), ":", example.text, "|", example.prompt.size(), ":",
        example.prompt, "|", example.response.size(), ":", example.response,
        example.is_preference ? "|" : "", example.rejected);
    for (const model::ChatMessage& message : AllMessages(example)) {
      absl::StrAppend(&text, "|", message.role.size(), ":", message.role, ":",
                      message.content.size(), ":", message.content);
    }
    const base::Sha256Digest digest = base::Sha256Of(text);
    uint64_t bits = 0;
    for (int i = 0; i < 8; ++i) bits = bits << 8 | digest[i];
    const double position =
        static_cast<double>(bits >> 11) * (1.0 / 9007199254740992.0);
    (position < fraction ? split.heldout : split.train)
        .push_back(std::move(example));
  }
  return split;
}

}  // namespace choir::client
