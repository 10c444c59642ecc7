#include "model/tokenizer/chat_template.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"

namespace choir::model {
namespace {

constexpr char kFormats[] = "model, chatml, llama3, llama2, mistral, plain";

// As Python's strip(): white space of ASCII is all that matters here.
std::string Trimmed(absl::string_view text) {
  return std::string(absl::StripAsciiWhitespace(text));
}

// What a string of Jinja stands for.
std::string Unescaped(absl::string_view literal) {
  return absl::StrReplaceAll(literal, {{"\\n", "\n"},
                                       {"\\t", "\t"},
                                       {"\\'", "'"},
                                       {"\\\"", "\""},
                                       {"\\\\", "\\"}});
}

// The strings in quotes of an expression or a statement, in order.
void AddLiterals(absl::string_view code, std::vector<std::string>& literals) {
  for (size_t i = 0; i < code.size(); ++i) {
    const char quote = code[i];
    if (quote != '\'' && quote != '"') continue;
    size_t end = i + 1;
    while (end < code.size() && code[end] != quote) {
      end += code[end] == '\\' ? 2 : 1;
    }
    if (end >= code.size()) break;
    literals.push_back(Unescaped(code.substr(i + 1, end - i - 1)));
    i = end;
  }
}

// What a program can write of itself, in order: the strings in {{..}} and
// {%..%}, and what stands outside them.
std::vector<std::string> Literals(absl::string_view jinja) {
  std::vector<std::string> literals;
  while (!jinja.empty()) {
    const size_t begin = std::min(jinja.find("{{"), jinja.find("{%"));
    if (begin != 0) literals.emplace_back(jinja.substr(0, begin));
    if (begin == absl::string_view::npos) break;
    const absl::string_view close = jinja[begin + 1] == '{' ? "}}" : "%}";
    const size_t end = jinja.find(close, begin + 2);
    if (end == absl::string_view::npos) break;
    AddLiterals(jinja.substr(begin + 2, end - begin - 2), literals);
    jinja = jinja.substr(end + 2);
  }
  return literals;
}

bool TrimsContent(absl::string_view jinja) {
  std::string packed = absl::StrReplaceAll(jinja, {{" ", ""}});
  for (const char* trim : {"['content']|trim", "[\"content\"]|trim",
                           "content|trim", "content.strip()"}) {
    if (absl::StrContains(packed, trim)) return true;
  }
  return false;
}

// The inside of the last {{ .. }} that writes a content and `text`.
absl::string_view ExpressionWith(absl::string_view jinja,
                                 absl::string_view text) {
  absl::string_view found;
  for (size_t begin = jinja.find("{{"); begin != absl::string_view::npos;
       begin = jinja.find("{{", begin + 2)) {
    const size_t end = jinja.find("}}", begin);
    if (end == absl::string_view::npos) break;
    const absl::string_view inside = jinja.substr(begin + 2, end - begin - 2);
    if (absl::StrContains(inside, "content") &&
        absl::StrContains(inside, text)) {
      found = inside;
    }
  }
  return found;
}

// "26 Jul 2024" of date_string = "26 Jul 2024".
std::string DateIn(absl::string_view jinja) {
  for (const std::string& literal : Literals(jinja)) {
    const std::vector<std::string> words = absl::StrSplit(literal, ' ');
    if (words.size() == 3 && words[1].size() == 3 && words[2].size() == 4 &&
        absl::ascii_isdigit(words[0][0]) && absl::ascii_isdigit(words[2][0])) {
      return literal;
    }
  }
  return "26 Jul 2024";
}

absl::Status BadMessage(size_t index, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("message ", index + 1, " of the conversation ", what));
}

}  // namespace

void ChatTemplate::ReadChatMl(absl::string_view jinja) {
  shape_ = Shape::kChatMl;
  thinks_ = absl::StrContains(jinja, "reasoning_content");
  trims_ = TrimsContent(jinja) && !thinks_;
  // A system prompt that is written out is the one for those who give none.
  const std::string start_of_system = "<|im_start|>system\n";
  for (const std::string& literal : Literals(jinja)) {
    const size_t begin = literal.find(start_of_system);
    if (begin == std::string::npos) continue;
    const size_t text = begin + start_of_system.size();
    const size_t end = literal.find("<|im_end|>", text);
    if (end == std::string::npos || end == text) continue;
    default_system_ = literal.substr(text, end - text);
    break;
  }
}

void ChatTemplate::ReadLlama3(absl::string_view jinja) {
  shape_ = Shape::kLlama3;
  trims_ = TrimsContent(jinja);
  if (absl::StrContains(jinja, "Cutting Knowledge Date")) {
    system_preamble_ = absl::StrCat(
        "Cutting Knowledge Date: December 2023\nToday Date: ", DateIn(jinja),
        "\n\n");
  }
}

absl::Status ChatTemplate::ReadMistral(absl::string_view jinja) {
  shape_ = Shape::kMistral;
  for (const std::string& literal : Literals(jinja)) {
    // "[INST]" alone may be compared with; the one that is written stands
    // before a content.
    if (absl::EndsWith(absl::StripTrailingAsciiWhitespace(literal), "[INST]")) {
      open_ = literal;
    } else if (absl::StartsWith(absl::StripLeadingAsciiWhitespace(literal),
                                "[/INST]")) {
      close_ = literal;
    }
  }
  const absl::string_view question = ExpressionWith(jinja, "[INST]");
  trims_question_ = TrimsContent(question);
  bos_each_turn_ = absl::StrContains(question, "bos_token");
  const absl::string_view answer = ExpressionWith(jinja, "eos_token");
  if (answer.empty()) {
    return absl::FailedPreconditionError(
        "the model's chat template writes [INST] but no answer with eos_token");
  }
  trims_ = TrimsContent(answer);
  const size_t content = answer.find("content");
  const size_t eos = answer.find("eos_token");
  const auto written = [](absl::string_view part) {
    std::vector<std::string> literals;
    AddLiterals(part, literals);
    return absl::StrJoin(literals, "");
  };
  size_t key = content;
  while (key > 0 && (answer[key - 1] == '\'' || answer[key - 1] == '"')) --key;
  before_answer_ = written(answer.substr(0, key));
  after_eos_ = written(answer.substr(eos));
  size_t after_key = content + 7;
  if (after_key < answer.size() && key < content) ++after_key;
  if (eos < after_key) {
    return absl::FailedPreconditionError(
        "the model's chat template writes eos_token before an answer");
  }
  before_eos_ = written(answer.substr(after_key, eos - after_key));
  const size_t last = jinja.find("loop.last");
  system_last_ = last != absl::string_view::npos &&
                 absl::StrContains(jinja.substr(last, 80), "system");
  return absl::OkStatus();
}

absl::StatusOr<ChatTemplate> ChatTemplate::For(const Tokenizer& tokenizer,
                                               absl::string_view format) {
  const std::string& jinja = tokenizer.chat_template();
  const auto writes = [&jinja](absl::string_view text) {
    return absl::StrContains(jinja, text);
  };
  ChatTemplate out;
  const bool by_model = format == "model";
  bool writes_bos = !by_model;
  if (by_model) {
    writes_bos = writes("bos_token");
    if (jinja.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the model has no chat template; choose one by training.chat_format "
          "or --chat-format (",
          kFormats, ")"));
    }
    if (writes("<|start_header_id|>")) {
      out.ReadLlama3(jinja);
    } else if (writes("<|im_start|>")) {
      out.ReadChatMl(jinja);
    } else if (writes("[INST]") && writes("<<SYS>>")) {
      out.shape_ = Shape::kLlama2;
    } else if (writes("[INST]") && !writes("[SYSTEM_PROMPT]")) {
      CHOIR_RETURN_IF_ERROR(out.ReadMistral(jinja));
    } else {
      return absl::FailedPreconditionError(absl::StrCat(
          "the model's chat template has no known shape (ChatML, Llama 3, "
          "Llama 2, Mistral); choose one by training.chat_format or "
          "--chat-format (",
          kFormats, ")"));
    }
  } else if (format == "chatml") {
    out.shape_ = Shape::kChatMl;
    writes_bos = false;
  } else if (format == "llama3") {
    out.shape_ = Shape::kLlama3;
    out.trims_ = true;
  } else if (format == "llama2") {
    out.shape_ = Shape::kLlama2;
  } else if (format == "mistral") {
    out.shape_ = Shape::kMistral;
  } else if (format != "plain") {
    return absl::InvalidArgumentError(absl::StrCat(
        "chat format '", format, "' is unknown; known: ", kFormats));
  }
  if (writes_bos && tokenizer.bos_id()) {
    out.bos_ = std::string(tokenizer.IdToToken(*tokenizer.bos_id()));
  }
  if (tokenizer.eos_id()) {
    out.eos_ = std::string(tokenizer.IdToToken(*tokenizer.eos_id()));
  } else if (out.shape_ == Shape::kLlama2 || out.shape_ == Shape::kMistral) {
    return absl::FailedPreconditionError(
        "the chat format ends turns with EOS, but the tokenizer has none");
  }
  return out;
}

absl::Status ChatTemplate::Check(absl::Span<const ChatMessage> messages) const {
  const bool alternates = shape_ == Shape::kLlama2 || shape_ == Shape::kMistral;
  bool users_turn = true;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role == "system") {
      if (i > 0) return BadMessage(i, "is a system prompt; it must be first");
      continue;
    }
    if (role != "user" && role != "assistant") {
      return BadMessage(i, absl::StrCat("has the role '", role.substr(0, 40),
                                        "'; known: system, user, assistant"));
    }
    if (alternates && (role == "user") != users_turn) {
      return BadMessage(i, absl::StrCat("has the role ", role,
                                        ", but the chat "
                                        "format lets user and assistant take "
                                        "turns"));
    }
    users_turn = role == "assistant";
  }
  if (messages.empty() ||
      (messages.size() == 1 && messages[0].role == "system")) {
    return absl::InvalidArgumentError("the conversation has no messages");
  }
  return absl::OkStatus();
}

// Qwen3 keeps the thoughts of answers after the last question alone, and gives
// the very last answer a place for them even if it has none.
std::string ChatTemplate::AssistantContent(
    absl::Span<const ChatMessage> messages, size_t index,
    size_t last_user) const {
  const std::string& content = messages[index].content;
  if (trims_) return Trimmed(content);
  if (!thinks_) return content;
  absl::string_view answer = content;
  std::string thoughts;
  const size_t end = content.rfind("</think>");
  if (end != std::string::npos) {
    absl::string_view before =
        absl::string_view(content).substr(0, content.find("</think>"));
    const size_t begin = before.rfind("<think>");
    if (begin != absl::string_view::npos) before = before.substr(begin + 7);
    while (absl::ConsumePrefix(&before, "\n")) {
    }
    while (absl::ConsumeSuffix(&before, "\n")) {
    }
    thoughts = std::string(before);
    answer = answer.substr(end + 8);
    while (absl::ConsumePrefix(&answer, "\n")) {
    }
  }
  const bool last = index + 1 == messages.size();
  if (index <= last_user || (!last && thoughts.empty())) {
    return std::string(answer);
  }
  return absl::StrCat("<think>\n", thoughts, "\n</think>\n\n", answer);
}

// ChatML, Llama 3 and plain: each message has a head, a content and an end.
std::vector<ChatTemplate::Piece> ChatTemplate::RenderHeaders(
    absl::Span<const ChatMessage> messages, bool add_generation_prompt) const {
  const auto head = [&](const std::string& role) -> std::string {
    if (shape_ == Shape::kChatMl) {
      return absl::StrCat("<|im_start|>", role, "\n");
    }
    if (shape_ == Shape::kLlama3) {
      return absl::StrCat("<|start_header_id|>", role, "<|end_header_id|>\n\n");
    }
    std::string name = role;
    name[0] = absl::ascii_toupper(name[0]);
    return absl::StrCat(name, ":");
  };
  const absl::string_view end = shape_ == Shape::kChatMl   ? "<|im_end|>"
                                : shape_ == Shape::kLlama3 ? "<|eot_id|>"
                                                           : "";
  const absl::string_view after_end = shape_ == Shape::kChatMl  ? "\n"
                                      : shape_ == Shape::kPlain ? "\n\n"
                                                                : "";
  std::vector<Piece> pieces = {{bos_, false}};
  const bool has_system = messages[0].role == "system";
  if (!has_system && !default_system_.empty()) {
    pieces.push_back(
        {absl::StrCat(head("system"), default_system_, end, after_end), false});
  }
  if (!has_system && !system_preamble_.empty()) {
    pieces.push_back(
        {absl::StrCat(head("system"), system_preamble_, end), false});
  }
  size_t last_user = messages.size() - 1;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "user") last_user = i;
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    const bool learnt = message.role == "assistant";
    std::string content = learnt   ? AssistantContent(messages, i, last_user)
                          : trims_ ? Trimmed(message.content)
                                   : message.content;
    if (message.role == "system") content.insert(0, system_preamble_);
    // A token may join the space to the first word; so it is the answer's.
    if (shape_ == Shape::kPlain) content.insert(0, " ");
    pieces.push_back({head(message.role), false});
    absl::StrAppend(&content, end);
    if (learnt && shape_ == Shape::kPlain) absl::StrAppend(&content, eos_);
    pieces.push_back({std::move(content), learnt});
    pieces.push_back({std::string(after_end), false});
  }
  if (add_generation_prompt) pieces.push_back({head("assistant"), false});
  return pieces;
}

// Llama 2 and Mistral: what is asked stands between [INST] and [/INST].
std::vector<ChatTemplate::Piece> ChatTemplate::RenderInstructions(
    absl::Span<const ChatMessage> messages) const {
  const bool llama2 = shape_ == Shape::kLlama2;
  std::string system;
  size_t system_at = messages.size();
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "system") system = messages[i].content;
    if (messages[i].role != "user") continue;
    const bool first = system_at == messages.size();
    if (first || (system_last_ && !llama2)) system_at = i;
  }
  std::vector<Piece> pieces;
  if (!llama2 && !bos_each_turn_) pieces.push_back({bos_, false});
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.role == "user") {
      std::string content = message.content;
      if (i == system_at && messages[0].role == "system") {
        content = llama2 ? absl::StrCat("<<SYS>>\n", system, "\n<</SYS>>\n\n",
                                        content)
                         : absl::StrCat(system, "\n\n", content);
      }
      pieces.push_back(
          {llama2 ? absl::StrCat(bos_, "[INST] ", Trimmed(content), " [/INST]")
                  : absl::StrCat(bos_each_turn_ ? bos_ : "", open_,
                                 trims_question_ ? Trimmed(content) : content,
                                 close_),
           false});
    } else if (message.role == "assistant") {
      if (llama2) {
        pieces.push_back(
            {absl::StrCat(" ", Trimmed(message.content), " ", eos_), true});
        continue;
      }
      pieces.push_back(
          {absl::StrCat(before_answer_,
                        trims_ ? Trimmed(message.content) : message.content,
                        before_eos_, eos_),
           true});
      pieces.push_back({after_eos_, false});
    }
  }
  return pieces;
}

absl::StatusOr<std::vector<ChatTemplate::Piece>> ChatTemplate::Render(
    absl::Span<const ChatMessage> messages, bool add_generation_prompt) const {
  CHOIR_RETURN_IF_ERROR(Check(messages));
  std::vector<Piece> pieces =
      shape_ == Shape::kLlama2 || shape_ == Shape::kMistral
          ? RenderInstructions(messages)
          : RenderHeaders(messages, add_generation_prompt);
  pieces.erase(
      std::remove_if(pieces.begin(), pieces.end(),
                     [](const Piece& piece) { return piece.text.empty(); }),
      pieces.end());
  return pieces;
}

absl::StatusOr<ChatIds> ChatTemplate::Encode(
    const Tokenizer& tokenizer, absl::Span<const ChatMessage> messages,
    bool add_generation_prompt) const {
  CHOIR_ASSIGN_OR_RETURN(const std::vector<Piece> pieces,
                         Render(messages, add_generation_prompt));
  std::string text;
  for (const Piece& piece : pieces) text += piece.text;
  ChatIds out;
  out.ids = tokenizer.Encode(text, /*add_special=*/false);
  out.learnt.assign(out.ids.size(), 0);
  // A piece begins with the first id that what stands before it does not
  // already have when it stands alone.
  const auto ids_before = [&](size_t end) {
    if (end == text.size()) return out.ids.size();
    const std::vector<int32_t> alone =
        tokenizer.Encode(absl::string_view(text).substr(0, end), false);
    return static_cast<size_t>(std::mismatch(out.ids.begin(), out.ids.end(),
                                             alone.begin(), alone.end())
                                   .first -
                               out.ids.begin());
  };
  size_t done = 0;
  for (const Piece& piece : pieces) {
    const size_t end = done + piece.text.size();
    if (piece.learnt) {
      std::fill(out.learnt.begin() + ids_before(done),
                out.learnt.begin() + ids_before(end), 1);
    }
    done = end;
  }
  return out;
}

}  // namespace choir::model
