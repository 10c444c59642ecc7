// A checkpoint's chat template, run: what it makes of a conversation, and which
// part of that the assistant says.
//
// The text is what the Jinja program writes, always. Where the answers are in
// it is seen by running the program once more with a mark in the place of each:
// what stands between the marks then has to stand, in this order, between the
// answers, at one place only. A program for which that is not so, as it has
// other things to say around an answer for what the answer says, is refused for
// this conversation.
#ifndef CHOIR_MODEL_TOKENIZER_CHAT_PROGRAM_H_
#define CHOIR_MODEL_TOKENIZER_CHAT_PROGRAM_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "model/tokenizer/jinja.h"

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
class ChatProgram {
 public:
  // `end_marks`: the first of these that follows what assistants say, but for
  // white space, ends their turns and is learnt; empty: nothing but what they
  // say is.
  // Errors: FAILED_PRECONDITION saying what about the template is not
  // understood, already with a plain conversation.
  static absl::StatusOr<ChatProgram> Read(absl::string_view jinja,
                                          ChatTokens tokens,
                                          std::vector<std::string> end_marks);

  // The pieces joined are what the template makes of the conversation. A
  // template that knows no generation prompt gets the one that its answers have
  // before them.
  // Errors: INVALID_ARGUMENT naming the message that the template refuses, or
  // that is not known here; FAILED_PRECONDITION saying what the template does
  // with this conversation that is not understood.
  absl::StatusOr<std::vector<ChatPiece>> Render(
      absl::Span<const ChatMessage> messages, bool add_generation_prompt) const;

 private:
  // The text between answers, and before and behind them: one more than these.
  using Frames = std::vector<std::string>;

  ChatProgram(JinjaProgram program, ChatTokens tokens,
              std::vector<std::string> end_marks)
      : program_(std::move(program)),
        tokens_(std::move(tokens)),
        end_marks_(std::move(end_marks)) {}

  absl::StatusOr<std::string> Run(absl::Span<const ChatMessage> messages,
                                  bool generates) const;
  absl::Status Refusal(absl::Span<const ChatMessage> messages,
                       const absl::Status& raised) const;
  absl::StatusOr<Frames> FramesOf(absl::Span<const ChatMessage> messages,
                                  bool generates, bool marks_blank) const;
  absl::StatusOr<std::vector<ChatPiece>> Cut(
      absl::string_view text, absl::Span<const ChatMessage> messages,
      bool generates) const;
  absl::StatusOr<size_t> SizeOfEnd(absl::string_view frame) const;
  std::string OwnPrompt(absl::string_view text,
                        absl::Span<const ChatMessage> messages) const;

  JinjaProgram program_;
  ChatTokens tokens_;
  std::vector<std::string> end_marks_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_CHAT_PROGRAM_H_
