// Conversations as JSON has them.
#ifndef CHOIR_MODEL_MAIN_CHAT_MESSAGES_H_
#define CHOIR_MODEL_MAIN_CHAT_MESSAGES_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/tokenizer/chat_template.h"
#include "nlohmann/json.hpp"

namespace choir::model {

// The messages of [{"role": .., "content": ..}, ..]. A content is text, or a
// list of {"type": "text", "text": ..}, which are joined.
// Errors: INVALID_ARGUMENT naming `place`.
absl::StatusOr<std::vector<ChatMessage>> ParseMessages(
    const nlohmann::json& list, absl::string_view place);

}  // namespace choir::model

#endif  // CHOIR_MODEL_MAIN_CHAT_MESSAGES_H_
