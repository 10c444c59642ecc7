#include "model/tokenizer/chat_frames.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "model/tokenizer/jinja.h"

namespace choir::model {
namespace {

absl::Status BadMessage(size_t index, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("message ", index + 1, " of the conversation ", what));
}

void StripNewlines(absl::string_view* text, bool left, bool right) {
  while (left && absl::ConsumePrefix(text, "\n")) {
  }
  while (right && absl::ConsumeSuffix(text, "\n")) {
  }
}

absl::Status CheckRoles(absl::Span<const ChatMessage> messages) {
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role == "system" && i > 0) {
      return BadMessage(i, "is a system prompt; it must be first");
    }
    if (role != "system" && role != "user" && role != "assistant") {
      return BadMessage(i, absl::StrCat("has the role '", role.substr(0, 40),
                                        "'; known: system, user, assistant"));
    }
  }
  if (messages.empty() ||
      (messages.size() == 1 && messages[0].role == "system")) {
    return absl::InvalidArgumentError("the conversation has no messages");
  }
  return absl::OkStatus();
}

}  // namespace

ChatFrames::Place ChatFrames::PlaceOf(absl::string_view role) {
  return role == "system" ? kSystem : role == "user" ? kUser : kAssistant;
}

std::string ChatFrames::Trimmed(absl::string_view text, Trim trim) {
  return std::string(PythonStrip(text,
                                 trim == Trim::kBoth || trim == Trim::kLeft,
                                 trim == Trim::kBoth || trim == Trim::kRight));
}

// Qwen3 keeps the thoughts of answers after the last question alone, and gives
// the very last answer a place for them even if it has none.
std::string ChatFrames::Said(absl::Span<const ChatMessage> messages,
                             size_t index, size_t last_user) const {
  const std::string& content = messages[index].content;
  if (!thinks_) return Trimmed(content, trim_assistant_);
  absl::string_view answer = content;
  std::string thoughts;
  const size_t end = content.rfind("</think>");
  if (end != std::string::npos) {
    absl::string_view before =
        absl::string_view(content).substr(0, content.find("</think>"));
    StripNewlines(&before, false, true);
    const size_t begin = before.rfind("<think>");
    if (begin != absl::string_view::npos) before = before.substr(begin + 7);
    StripNewlines(&before, true, false);
    thoughts = std::string(before);
    answer = answer.substr(end + 8);
    StripNewlines(&answer, true, false);
  }
  const bool last = index + 1 == messages.size();
  if (index <= last_user || (!last && thoughts.empty())) {
    return std::string(answer);
  }
  absl::string_view trimmed = thoughts;
  StripNewlines(&trimmed, true, true);
  StripNewlines(&answer, true, false);
  return absl::StrCat("<think>\n", trimmed, "\n</think>\n\n", answer);
}

std::vector<ChatFrames::Slot> ChatFrames::Slots(
    absl::Span<const ChatMessage> messages) const {
  size_t last_user = messages.size() - 1;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& content = messages[i].content;
    if (messages[i].role == "user" &&
        !(absl::StartsWith(content, "<tool_response>") &&
          absl::EndsWith(content, "</tool_response>"))) {
      last_user = i;
    }
  }
  const bool has_system = messages[0].role == "system";
  const std::string system =
      has_system ? Trimmed(messages[0].content, trim_system_) : "";
  size_t system_at = messages.size();
  const bool ends_with_user = messages.back().role == "user";
  if (has_system &&
      (system_place_ == SystemPlace::kLastUser ||
       (system_place_ == SystemPlace::kLastIfUser && ends_with_user))) {
    for (size_t i = 0; i < messages.size(); ++i) {
      if (messages[i].role == "user") system_at = i;
    }
  }
  std::vector<Slot> slots;
  for (size_t i = 0; i < messages.size(); ++i) {
    const Place place = PlaceOf(messages[i].role);
    if (place == kSystem) {
      if (system_place_ == SystemPlace::kHead) slots.push_back({place, system});
    } else if (place == kAssistant) {
      slots.push_back({place, Said(messages, i, last_user)});
    } else {
      const bool follows =
          i == system_at || (!slots.empty() && slots.back().place == kSystem);
      std::string text = Trimmed(
          messages[i].content, follows ? trim_user_after_system_ : trim_user_);
      if (i == system_at) text = absl::StrCat(system, after_system_, text);
      slots.push_back({place, std::move(text)});
    }
  }
  return slots;
}

// A transition that the template refuses, in words.
absl::Status ChatFrames::Refusal(absl::Span<const ChatMessage> messages) const {
  const bool has_system = messages[0].role == "system";
  if (has_system &&
      (system_place_ == SystemPlace::kRefused ||
       (system_place_ == SystemPlace::kHead && !between_[kBegin][kSystem]))) {
    return BadMessage(
        0, absl::StrCat("is a system prompt, which the model's chat template "
                        "refuses (",
                        system_refusal_,
                        "); put it into the first message of the user"));
  }
  const bool keeps_system = system_place_ == SystemPlace::kHead;
  Place from = kBegin;
  for (size_t i = has_system && !keeps_system ? 1 : 0; i < messages.size();
       ++i) {
    const Place to = PlaceOf(messages[i].role);
    if (!between_[from][to]) {
      return BadMessage(
          i, absl::StrCat(
                 "has the role ", messages[i].role,
                 from == kBegin || from == kSystem
                     ? " and is the first"
                     : absl::StrCat(" after the role ", messages[i - 1].role),
                 ", but the chat format lets user and assistant take "
                 "turns, the user first"));
    }
    from = to;
  }
  if (!between_[from][kEnd]) {
    return BadMessage(messages.size() - 1,
                      absl::StrCat("has the role ", messages.back().role,
                                   ", which the model's chat template refuses "
                                   "for the last one"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ChatPiece>> ChatFrames::Render(
    absl::Span<const ChatMessage> messages, bool add_generation_prompt) const {
  CHOIR_RETURN_IF_ERROR(CheckRoles(messages));
  CHOIR_RETURN_IF_ERROR(Refusal(messages));
  std::vector<Slot> slots = Slots(messages);
  slots.push_back({add_generation_prompt ? kGenerate : kEnd, ""});
  std::vector<ChatPiece> pieces;
  Place from = kBegin;
  for (Slot& slot : slots) {
    if (!between_[from][slot.place]) {
      return absl::InvalidArgumentError(
          "the model's chat template refuses a generation prompt after this "
          "conversation");
    }
    absl::string_view frame = *between_[from][slot.place];
    if (from == kAssistant) {
      const size_t mark = end_mark_.empty() ? 0 : frame.find(end_mark_);
      const size_t learnt = mark + end_mark_.size();
      absl::StrAppend(&pieces.back().text, frame.substr(0, learnt));
      frame.remove_prefix(learnt);
    }
    std::string said;
    if (slot.place == kAssistant) {
      // A token may join a space to the first word; so it is the answer's.
      while (absl::ConsumeSuffix(&frame, " ")) said += ' ';
    }
    pieces.push_back({std::string(frame), false});
    said += slot.text;
    pieces.push_back({std::move(said), slot.place == kAssistant});
    from = slot.place;
  }
  // Neighbours that are learnt alike are one.
  std::vector<ChatPiece> joined;
  for (ChatPiece& piece : pieces) {
    if (piece.text.empty()) continue;
    if (!joined.empty() && joined.back().learnt == piece.learnt &&
        !piece.learnt) {
      joined.back().text += piece.text;
    } else {
      joined.push_back(std::move(piece));
    }
  }
  return joined;
}

}  // namespace choir::model
