// Conversations as the text that a chat model was trained on.
//
// Hugging Face folders carry a Jinja program for this, which is run as it is
// (chat_program.h). Its shape, recognised by the tokens that it writes, says
// what ends the turns of the assistant. A program of no known shape, or with a
// part that is not understood, is refused, never guessed at.
#ifndef CHOIR_MODEL_TOKENIZER_CHAT_TEMPLATE_H_
#define CHOIR_MODEL_TOKENIZER_CHAT_TEMPLATE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/tokenizer/chat_program.h"
#include "model/tokenizer/tokenizer.h"

namespace choir::model {

struct ChatIds {
  std::vector<int32_t> ids;
  // One for each id: is it written by the assistant, the end of its turn
  // included?
  std::vector<uint8_t> learnt;
};

// Threads: safe, nothing changes after For.
class ChatTemplate {
 public:
  // `format`: "model" takes the shape of tokenizer.chat_template(); "chatml",
  // "llama3", "llama2" and "mistral" are those shapes in their plainest form,
  // whatever the model says; "plain" is "User: ..", "Assistant: ..", for models
  // that never saw a conversation.
  // Errors: INVALID_ARGUMENT for another format; FAILED_PRECONDITION if the
  // tokenizer has no template or one of no known shape or one with a part that
  // is not understood, or lacks the EOS that the shape ends turns with.
  static absl::StatusOr<ChatTemplate> For(const Tokenizer& tokenizer,
                                          absl::string_view format);

  // As ChatProgram::Render.
  using Piece = ChatPiece;
  absl::StatusOr<std::vector<Piece>> Render(
      absl::Span<const ChatMessage> messages, bool add_generation_prompt) const;

  // Render, joined and encoded: BOS is there if the template writes it.
  absl::StatusOr<ChatIds> Encode(const Tokenizer& tokenizer,
                                 absl::Span<const ChatMessage> messages,
                                 bool add_generation_prompt) const;

 private:
  explicit ChatTemplate(ChatProgram program) : program_(std::move(program)) {}

  ChatProgram program_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_CHAT_TEMPLATE_H_
