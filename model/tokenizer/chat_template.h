// Conversations as the text that a chat model was trained on.
//
// Hugging Face folders carry a Jinja program for this. Choir does not run it:
// programs of the common shapes are recognised by the tokens they write, and
// their variations (spaces, default system prompt, trimming) are read off. A
// program of another shape is refused, never guessed at.
#ifndef CHOIR_MODEL_TOKENIZER_CHAT_TEMPLATE_H_
#define CHOIR_MODEL_TOKENIZER_CHAT_TEMPLATE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/tokenizer/tokenizer.h"

namespace choir::model {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

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
  // tokenizer has no template or one of no known shape, or lacks the EOS that
  // the shape ends turns with.
  static absl::StatusOr<ChatTemplate> For(const Tokenizer& tokenizer,
                                          absl::string_view format);

  // Errors: INVALID_ARGUMENT naming the message that does not fit: another
  // role, a system prompt that is not the first message, or, for Llama 2 and
  // Mistral, users and assistants that do not take turns.
  struct Piece {
    std::string text;
    bool learnt;
  };
  absl::StatusOr<std::vector<Piece>> Render(
      absl::Span<const ChatMessage> messages, bool add_generation_prompt) const;

  // Render, joined and encoded: BOS is there if the template writes it.
  absl::StatusOr<ChatIds> Encode(const Tokenizer& tokenizer,
                                 absl::Span<const ChatMessage> messages,
                                 bool add_generation_prompt) const;

 private:
  enum class Shape { kChatMl, kLlama3, kLlama2, kMistral, kPlain };
  ChatTemplate() = default;

  void ReadChatMl(absl::string_view jinja);
  void ReadLlama3(absl::string_view jinja);
  absl::Status ReadMistral(absl::string_view jinja);
  absl::Status Check(absl::Span<const ChatMessage> messages) const;
  std::vector<Piece> RenderHeaders(absl::Span<const ChatMessage> messages,
                                   bool add_generation_prompt) const;
  std::vector<Piece> RenderInstructions(
      absl::Span<const ChatMessage> messages) const;
  std::string AssistantContent(absl::Span<const ChatMessage> messages,
                               size_t index, size_t last_user) const;

  Shape shape_ = Shape::kPlain;
  std::string bos_;  // before the text; empty: none
  std::string eos_;  // after a turn of Llama 2, Mistral and plain
  bool trims_ = false;
  std::string default_system_;   // ChatML: without a system message
  std::string system_preamble_;  // Llama 3: before every system prompt
  bool thinks_ = false;  // Qwen3: the last answer begins with its thoughts
  // Mistral.
  std::string open_ = "[INST] ";
  std::string close_ = "[/INST]";
  std::string before_answer_ = " ";
  std::string before_eos_;
  std::string after_eos_;
  bool trims_question_ = false;
  bool bos_each_turn_ = false;
  bool system_last_ = true;  // goes with the last user's message, or the first
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_CHAT_TEMPLATE_H_
