#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "model/objective/encode.h"

namespace choir::model {
namespace {

// Where the first id that is learnt stands; the length if there is none. The
// very first is never predicted.
size_t FirstLearnt(const ChatIds& chat) {
  for (size_t i = 1; i < chat.ids.size(); ++i) {
    if (chat.learnt[i] != 0) return i;
  }
  return chat.ids.size();
}

// Without the first turns, up to the answer to them. False if there is but one.
bool DropFirstTurns(std::vector<ChatMessage>& messages) {
  const auto begin = messages.begin() + (messages[0].role == "system" ? 1 : 0);
  const auto is_assistant = [](const ChatMessage& message) {
    return message.role == "assistant";
  };
  const auto answer = std::find_if(begin, messages.end(), is_assistant);
  if (answer == messages.end() ||
      std::none_of(answer + 1, messages.end(), is_assistant)) {
    return false;
  }
  messages.erase(begin, answer + 1);
  return true;
}

struct Answered {
  ChatIds chat;      // up to the end of the last answer
  size_t begin = 0;  // of what follows the prompt
};

// `prompt`: the ids of the shared messages with a generation prompt.
absl::StatusOr<Answered> EncodeAnswered(const Tokenizer& tokenizer,
                                        const ChatTemplate& chat,
                                        absl::Span<const ChatMessage> messages,
                                        const std::vector<int32_t>& prompt) {
  Answered out;
  CHOIR_ASSIGN_OR_RETURN(out.chat, chat.Encode(tokenizer, messages, false));
  auto& [ids, learnt] = out.chat;
  while (!ids.empty() && learnt.back() == 0) {
    ids.pop_back();
    learnt.pop_back();
  }
  out.begin = static_cast<size_t>(
      std::mismatch(ids.begin(), ids.end(), prompt.begin(), prompt.end())
          .first -
      ids.begin());
  while (out.begin < ids.size() && learnt[out.begin] == 0) ++out.begin;
  return out;
}

// As much of the prompt as `answer_size` ids leave room for, at least half the
// length, and as much of the answer as fits behind.
std::vector<int32_t> Shortened(const Answered& whole, size_t answer_size,
                               size_t length, int32_t* begin) {
  const std::vector<int32_t>& ids = whole.chat.ids;
  const size_t kept = std::min(
      whole.begin,
      std::max(length > answer_size ? length - answer_size : 0, length / 2));
  const size_t answered = std::min(ids.size() - whole.begin, length - kept);
  *begin = std::max<int32_t>(1, static_cast<int32_t>(kept));
  return {ids.begin() + (whole.begin - kept),
          ids.begin() + (whole.begin + answered)};
}

}  // namespace

absl::StatusOr<Example> EncodeConversation(
    const Tokenizer& tokenizer, const ChatTemplate& chat,
    absl::Span<const ChatMessage> messages, int max_length) {
  CHOIR_CHECK(max_length >= 2);
  std::vector<ChatMessage> kept(messages.begin(), messages.end());
  CHOIR_ASSIGN_OR_RETURN(ChatIds encoded, chat.Encode(tokenizer, kept, false));
  const auto length = static_cast<size_t>(max_length);
  while (FirstLearnt(encoded) >= length && encoded.ids.size() > length &&
         DropFirstTurns(kept)) {
    CHOIR_ASSIGN_OR_RETURN(encoded, chat.Encode(tokenizer, kept, false));
  }
  const size_t first = FirstLearnt(encoded);
  if (first >= length && first < encoded.ids.size()) {
    const auto cut = static_cast<int64_t>(first - length / 2);
    encoded.ids.erase(encoded.ids.begin(), encoded.ids.begin() + cut);
    encoded.learnt.erase(encoded.learnt.begin(), encoded.learnt.begin() + cut);
  }
  size_t end = std::min(encoded.ids.size(), length);
  while (end > 0 && encoded.learnt[end - 1] == 0) --end;
  encoded.ids.resize(end);
  encoded.learnt.resize(end);
  Example example;
  example.ids = std::move(encoded.ids);
  example.loss_mask = std::move(encoded.learnt);
  return example;
}

absl::StatusOr<std::vector<Example>> EncodeConversationText(
    const Tokenizer& tokenizer, const ChatTemplate& chat,
    absl::Span<const ChatMessage> messages, int max_length) {
  CHOIR_CHECK(max_length >= 2);
  CHOIR_ASSIGN_OR_RETURN(const ChatIds encoded,
                         chat.Encode(tokenizer, messages, false));
  std::vector<Example> examples;
  for (size_t begin = 0; begin + 1 < encoded.ids.size();
       begin += static_cast<size_t>(max_length)) {
    const size_t end =
        std::min(encoded.ids.size(), begin + static_cast<size_t>(max_length));
    Example example;
    example.ids.assign(encoded.ids.begin() + begin, encoded.ids.begin() + end);
    if (example.ids.size() >= 2) examples.push_back(std::move(example));
  }
  return examples;
}

absl::StatusOr<Example> EncodeChatPreference(
    const Tokenizer& tokenizer, const ChatTemplate& chat,
    absl::Span<const ChatMessage> chosen,
    absl::Span<const ChatMessage> rejected, size_t num_shared, int max_length) {
  CHOIR_CHECK(max_length >= 2 && num_shared <= chosen.size());
  CHOIR_ASSIGN_OR_RETURN(
      const ChatIds prompt,
      chat.Encode(tokenizer, chosen.subspan(0, num_shared), true));
  CHOIR_ASSIGN_OR_RETURN(const Answered good,
                         EncodeAnswered(tokenizer, chat, chosen, prompt.ids));
  CHOIR_ASSIGN_OR_RETURN(const Answered bad,
                         EncodeAnswered(tokenizer, chat, rejected, prompt.ids));
  const size_t longest = std::max(good.chat.ids.size() - good.begin,
                                  bad.chat.ids.size() - bad.begin);
  const auto length = static_cast<size_t>(max_length);
  Example example;
  example.ids = Shortened(good, longest, length, &example.loss_begin);
  example.rejected = Shortened(bad, longest, length, &example.rejected_begin);
  return example;
}

}  // namespace choir::model
