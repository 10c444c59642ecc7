// Text into training examples.
#ifndef CHOIR_MODEL_OBJECTIVE_ENCODE_H_
#define CHOIR_MODEL_OBJECTIVE_ENCODE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/objective/example.h"
#include "model/tokenizer/chat_template.h"
#include "model/tokenizer/tokenizer.h"

namespace choir::model {

// Causal language modelling: every token is predicted. The text is cut into
// windows of at most `max_length` ids, each beginning with BOS if the
// tokenizer has one; EOS, if there is one, follows the end of the text.
// Windows too short to predict anything are left out; max_length must be at
// least 2.
std::vector<Example> EncodeText(const Tokenizer& tokenizer,
                                absl::string_view text, int max_length);

// Supervised fine-tuning: BOS, prompt, response, EOS; loss_begin is the first
// token of the response. A space is put between the two unless there is white
// space already. An example longer than `max_length` loses the beginning of its
// prompt (at most half the length stays for it), then the end of its response.
Example EncodePromptResponse(const Tokenizer& tokenizer,
                             absl::string_view prompt,
                             absl::string_view response, int max_length);

// Supervised fine-tuning on a conversation: what the assistant says is learnt,
// the end of its turns included. One that is longer than `max_length` loses its
// end; if nothing the assistant says would be left, turns at the beginning (but
// not the system prompt), and if a single turn is still too long, ids at the
// beginning, of which at most half the length stays.
// Errors: those of ChatTemplate::Encode.
absl::StatusOr<Example> EncodeConversation(
    const Tokenizer& tokenizer, const ChatTemplate& chat,
    absl::Span<const ChatMessage> messages, int max_length);

// Causal language modelling on a conversation: every token is predicted; cut
// into windows of `max_length` ids.
absl::StatusOr<std::vector<Example>> EncodeConversationText(
    const Tokenizer& tokenizer, const ChatTemplate& chat,
    absl::Span<const ChatMessage> messages, int max_length);

// Direct preference optimisation: prompt and chosen answer in `ids`, the same
// prompt and the rejected answer in `rejected`. Both keep the same part of the
// prompt, as much as the longer answer leaves room for.
Example EncodePreference(const Tokenizer& tokenizer, absl::string_view prompt,
                         absl::string_view chosen, absl::string_view rejected,
                         int max_length);

// The same for two conversations that share their first `num_shared` messages,
// the prompt: what follows it counts, up to the end of the last answer. A
// prompt that is too long loses ids at its beginning.
// Errors: those of ChatTemplate::Encode.
absl::StatusOr<Example> EncodeChatPreference(
    const Tokenizer& tokenizer, const ChatTemplate& chat,
    absl::Span<const ChatMessage> chosen,
    absl::Span<const ChatMessage> rejected, size_t num_shared, int max_length);

// Classification: BOS and the text, cut to `max_length` ids. No ids if the text
// has none.
Example EncodeLabelled(const Tokenizer& tokenizer, absl::string_view text,
                       int32_t label, int max_length);

}  // namespace choir::model

#endif  // CHOIR_MODEL_OBJECTIVE_ENCODE_H_
