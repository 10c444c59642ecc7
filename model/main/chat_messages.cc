#include "model/main/chat_messages.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"

namespace choir::model {
namespace {

using nlohmann::json;

absl::optional<std::string> ContentOf(const json& content) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return absl::nullopt;
  std::string text;
  for (const json& part : content) {
    if (!part.is_object() || part.value("type", json()) != "text" ||
        !part.value("text", json()).is_string()) {
      return absl::nullopt;
    }
    text += part["text"].get<std::string>();
  }
  return text;
}

}  // namespace

absl::StatusOr<std::vector<ChatMessage>> ParseMessages(
    const json& list, absl::string_view place) {
  std::vector<ChatMessage> messages;
  bool good = list.is_array() && !list.empty();
  for (size_t i = 0; good && i < list.size(); ++i) {
    const json& one = list[i];
    good = one.is_object() && one.value("role", json()).is_string() &&
           one.contains("content");
    if (!good) break;
    absl::optional<std::string> content = ContentOf(one["content"]);
    good = content.has_value();
    if (good) messages.push_back({one["role"], *std::move(content)});
  }
  if (!good) {
    return absl::InvalidArgumentError(
        absl::StrCat(place,
                     ": the messages are not [{\"role\": \"..\", "
                     "\"content\": \"..\"}, ..]"));
  }
  return messages;
}

}  // namespace choir::model
