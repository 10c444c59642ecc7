// What a chat template writes around the messages of a conversation, read off
// what it makes of trial conversations (model/tokenizer/jinja.h), and checked
// against what it makes of others.
#ifndef CHOIR_MODEL_TOKENIZER_CHAT_FRAMES_H_
#define CHOIR_MODEL_TOKENIZER_CHAT_FRAMES_H_

#include <array>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace choir::model {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

struct ChatPiece {
  std::string text;
  bool learnt;
};

// What a template is run with. Left out: undefined in it.
struct ChatTokens {
  absl::optional<std::string> bos;
  absl::optional<std::string> eos;
};

// Threads: safe, nothing changes after Read.
class ChatFrames {
 public:
  // `end_marks`: the first of these that follows what assistants say, but for
  // white space, ends their turns and is learnt; empty: nothing but what they
  // say is.
  // Errors: FAILED_PRECONDITION saying what about the template is not
  // understood: a part of Jinja, a string that no trial conversation reaches,
  // a conversation that it writes in another way than the frames do.
  static absl::StatusOr<ChatFrames> Read(
      absl::string_view jinja, const ChatTokens& tokens,
      absl::Span<const std::string> end_marks);

  // The pieces joined are what the template makes of the conversation.
  // Errors: INVALID_ARGUMENT naming the message that the template refuses.
  absl::StatusOr<std::vector<ChatPiece>> Render(
      absl::Span<const ChatMessage> messages, bool add_generation_prompt) const;

 private:
  friend class ChatFrameReader;
  // What a transition leads from and to; kGenerate: the end, with the
  // generation prompt.
  enum Place { kBegin, kSystem, kUser, kAssistant, kEnd, kGenerate };
  enum class SystemPlace { kNowhere, kHead, kLastUser, kLastIfUser, kRefused };
  enum class Trim { kNone, kBoth, kLeft, kRight };

  struct Slot {
    Place place;
    std::string text;  // trimmed, with thoughts as the template leaves them
  };

  ChatFrames() = default;
  static Place PlaceOf(absl::string_view role);
  static std::string Trimmed(absl::string_view text, Trim trim);
  std::string Said(absl::Span<const ChatMessage> messages, size_t index,
                   size_t last_user) const;
  std::vector<Slot> Slots(absl::Span<const ChatMessage> messages) const;
  absl::Status Refusal(absl::Span<const ChatMessage> messages) const;

  // between_[from][to]: the text there; none: the template refuses it.
  std::array<std::array<absl::optional<std::string>, 6>, 4> between_;
  SystemPlace system_place_ = SystemPlace::kHead;
  std::string after_system_;    // kLastUser, kLastIfUser: before the question
  std::string system_refusal_;  // what the template says of system prompts
  Trim trim_system_ = Trim::kNone;
  Trim trim_user_ = Trim::kNone;
  Trim trim_user_after_system_ = Trim::kNone;
  Trim trim_assistant_ = Trim::kNone;
  bool thinks_ = false;  // Qwen3: the last answer begins with its thoughts
  std::string end_mark_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_CHAT_FRAMES_H_
