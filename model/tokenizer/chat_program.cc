#include "model/tokenizer/chat_program.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace choir::model {
namespace {

using nlohmann::json;

absl::Status NotUnderstood(absl::string_view what) {
  return absl::FailedPreconditionError(
      absl::StrCat("the model's chat template ", what));
}

absl::Status BadMessage(size_t index, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("message ", index + 1, " of the conversation ", what));
}

// `text` from a little before `begin` on.
std::string Quoted(absl::string_view text, size_t begin = 0) {
  begin = begin > 40 ? begin - 40 : 0;
  return json(absl::StrCat(begin > 0 ? ".." : "", text.substr(begin, 120)))
      .dump(-1, ' ', false, json::error_handler_t::replace);
}

bool IsBlank(absl::string_view text) {
  return PythonStrip(text, true, false).empty();
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

// No conversation has it.
std::string MarkFor(absl::Span<const ChatMessage> messages) {
  std::string mark = "Q~";
  while (std::any_of(messages.begin(), messages.end(), [&](const auto& m) {
    return absl::StrContains(m.content, mark);
  })) {
    mark += '~';
  }
  return mark;
}

// The frame before an answer, less the place for thoughts that some templates
// give an answer without any: it counts as the answer's.
void LeaveOutNoThoughts(std::string& frame) {
  absl::string_view rest = PythonStrip(frame, false, true);
  if (!absl::ConsumeSuffix(&rest, "</think>")) return;
  rest = PythonStrip(rest, false, true);
  if (absl::ConsumeSuffix(&rest, "<think>")) frame.resize(rest.size());
}

// Where each frame begins in `text`, which they have to fill but for what
// stands between two; empty: they do not. From the front or from the back.
std::vector<size_t> PlacesOf(absl::Span<const std::string> frames,
                             absl::string_view text, bool from_back) {
  const std::string& first = frames.front();
  const std::string& last = frames.back();
  if (frames.size() == 1) {
    return std::vector<size_t>(text == first ? 1 : 0, 0);
  }
  if (text.size() < first.size() + last.size() ||
      !absl::StartsWith(text, first) || !absl::EndsWith(text, last)) {
    return {};
  }
  std::vector<size_t> places(frames.size(), 0);
  places.back() = text.size() - last.size();
  size_t begin = first.size();
  size_t end = places.back();
  for (size_t n = 1; n + 1 < frames.size(); ++n) {
    const size_t i = from_back ? frames.size() - 1 - n : n;
    const absl::string_view between = text.substr(begin, end - begin);
    const size_t at =
        from_back ? between.rfind(frames[i]) : between.find(frames[i]);
    if (at == absl::string_view::npos) return {};
    places[i] = begin + at;
    (from_back ? end : begin) = places[i] + (from_back ? 0 : frames[i].size());
  }
  return places;
}

// What is not in the text where it was awaited.
absl::Status OtherFrames(absl::Span<const std::string> frames,
                         absl::string_view text) {
  std::string wanted;
  for (const std::string& frame : frames) {
    absl::StrAppend(&wanted, wanted.empty() ? "" : "..", frame);
  }
  const size_t differs = static_cast<size_t>(
      std::mismatch(text.begin(), text.end(), wanted.begin(), wanted.end())
          .first -
      text.begin());
  return NotUnderstood(absl::StrCat(
      "writes other things around the answers of this conversation than around "
      "others: ",
      Quoted(text, differs), " instead of ", Quoted(wanted, differs)));
}

void Add(absl::string_view text, bool learnt, std::vector<ChatPiece>& pieces) {
  if (text.empty()) return;
  if (!pieces.empty() && !pieces.back().learnt && !learnt) {
    absl::StrAppend(&pieces.back().text, text);
  } else {
    pieces.push_back({std::string(text), learnt});
  }
}

}  // namespace

absl::StatusOr<ChatProgram> ChatProgram::Read(
    absl::string_view jinja, ChatTokens tokens,
    std::vector<std::string> end_marks) {
  absl::StatusOr<JinjaProgram> program = JinjaProgram::Parse(jinja);
  if (!program.ok()) return NotUnderstood(program.status().message());
  ChatProgram out(*std::move(program), std::move(tokens), std::move(end_marks));
  const absl::Status plain = out.Render({{"user", "Why?"},
                                         {"assistant", "So."},
                                         {"user", "Who?"},
                                         {"assistant", "They."}},
                                        false)
                                 .status();
  if (!absl::IsInvalidArgument(plain)) {
    CHOIR_RETURN_IF_ERROR(plain);
    return out;
  }
  return NotUnderstood(
      absl::StrCat("refuses a plain conversation: ", plain.message()));
}

// Errors: INVALID_ARGUMENT with what the template raises, FAILED_PRECONDITION
// naming what is not known.
absl::StatusOr<std::string> ChatProgram::Run(
    absl::Span<const ChatMessage> messages, bool generates) const {
  // As transformers gives them, none of which conversations here have.
  json variables = {{"messages", json::array()},
                    {"add_generation_prompt", generates},
                    {"tools", nullptr},
                    {"documents", nullptr}};
  for (const ChatMessage& message : messages) {
    variables["messages"].push_back(
        {{"role", message.role}, {"content", message.content}});
  }
  if (tokens_.bos) variables["bos_token"] = *tokens_.bos;
  if (tokens_.eos) variables["eos_token"] = *tokens_.eos;
  absl::StatusOr<std::string> text = program_.Render(variables);
  if (text.ok() || absl::IsInvalidArgument(text.status())) return text;
  return NotUnderstood(text.status().message());
}

// The message without which the template would not have `raised` an error.
absl::Status ChatProgram::Refusal(absl::Span<const ChatMessage> messages,
                                  const absl::Status& raised) const {
  if (!absl::IsInvalidArgument(raised)) return raised;
  const std::string why = absl::StrCat("the model's chat template refuses (",
                                       raised.message().substr(0, 200), ")");
  const bool has_system = messages[0].role == "system";
  if (has_system && Run(messages.subspan(1), false).ok()) {
    return BadMessage(
        0, absl::StrCat("is a system prompt, which ", why,
                        "; put it into the first message of the user"));
  }
  size_t size = has_system ? 2 : 1;
  while (size < messages.size() && Run(messages.subspan(0, size), false).ok()) {
    ++size;
  }
  return BadMessage(size - 1,
                    absl::StrCat("has the role ", messages[size - 1].role,
                                 " at a place that ", why));
}

absl::StatusOr<ChatProgram::Frames> ChatProgram::FramesOf(
    absl::Span<const ChatMessage> messages, bool generates,
    bool marks_blank) const {
  const std::string mark = MarkFor(messages);
  std::vector<ChatMessage> marked(messages.begin(), messages.end());
  std::vector<size_t> answers;
  for (size_t i = 0; i < marked.size(); ++i) {
    if (marked[i].role != "assistant") continue;
    if (!marks_blank && IsBlank(marked[i].content)) continue;
    marked[i].content = absl::StrCat(mark, i, "!");
    answers.push_back(i);
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string text, Run(marked, generates));
  absl::string_view rest = text;
  Frames frames;
  for (const size_t i : answers) {
    const std::string& answer = marked[i].content;
    const size_t at = rest.find(answer);
    if (at == absl::string_view::npos) {
      return NotUnderstood(
          absl::StrCat("leaves out or changes what message ", i + 1,
                       " of the conversation says: ", Quoted(text)));
    }
    frames.emplace_back(rest.substr(0, at));
    LeaveOutNoThoughts(frames.back());
    rest.remove_prefix(at + answer.size());
  }
  frames.emplace_back(rest);
  for (const std::string& frame : frames) {
    if (!absl::StrContains(frame, mark)) continue;
    return NotUnderstood("writes what the assistant says more than once");
  }
  return frames;
}

// How much of the frame behind an answer is learnt.
absl::StatusOr<size_t> ChatProgram::SizeOfEnd(absl::string_view frame) const {
  for (const std::string& mark : end_marks_) {
    const size_t at = mark.empty() ? absl::string_view::npos : frame.find(mark);
    if (at == absl::string_view::npos || !IsBlank(frame.substr(0, at))) {
      continue;
    }
    return at + mark.size();
  }
  if (end_marks_.empty()) return 0;
  return NotUnderstood(
      absl::StrCat("does not end what the assistant says with ", end_marks_[0],
                   end_marks_.size() > 1 ? " or the tokenizer's EOS" : "",
                   ", but ", Quoted(frame)));
}

absl::StatusOr<std::vector<ChatPiece>> ChatProgram::Cut(
    absl::string_view text, absl::Span<const ChatMessage> messages,
    bool generates) const {
  Frames frames;
  std::vector<size_t> places;
  // Templates may leave out answers that say nothing, and what is around them.
  for (const bool marks_blank : {true, false}) {
    CHOIR_ASSIGN_OR_RETURN(frames, FramesOf(messages, generates, marks_blank));
    places = PlacesOf(frames, text, /*from_back=*/false);
    if (!places.empty()) break;
  }
  if (places.empty()) return OtherFrames(frames, text);
  if (places != PlacesOf(frames, text, /*from_back=*/true)) {
    return absl::InvalidArgumentError(
        "an answer of the conversation has what the chat template writes "
        "behind answers, so that there is no telling where it ends");
  }
  std::vector<ChatPiece> pieces;
  size_t learnt_end = 0;  // of the frame
  for (size_t i = 0; i < frames.size(); ++i) {
    absl::string_view frame = frames[i];
    frame.remove_prefix(learnt_end);
    const bool is_last = i + 1 == frames.size();
    // A token may join a space to the first word; so it is the answer's.
    while (!is_last && absl::ConsumeSuffix(&frame, " ")) {
    }
    Add(frame, false, pieces);
    if (is_last) break;
    const size_t begin = places[i] + learnt_end + frame.size();
    CHOIR_ASSIGN_OR_RETURN(learnt_end, SizeOfEnd(frames[i + 1]));
    Add(text.substr(begin, places[i + 1] + learnt_end - begin), true, pieces);
  }
  return pieces;
}

// What stands before the next answer, for templates that have no generation
// prompt.
std::string ChatProgram::OwnPrompt(
    absl::string_view text, absl::Span<const ChatMessage> messages) const {
  std::vector<ChatMessage> longer(messages.begin(), messages.end());
  const std::string mark = MarkFor(messages);
  longer.push_back({"assistant", mark});
  const absl::StatusOr<std::string> answered = Run(longer, false);
  if (!answered.ok() || !absl::StartsWith(*answered, text)) return "";
  absl::string_view prompt = absl::string_view(*answered).substr(text.size());
  const size_t at = prompt.find(mark);
  if (at == absl::string_view::npos) return "";
  prompt = prompt.substr(0, at);
  while (absl::ConsumeSuffix(&prompt, " ")) {
  }
  return std::string(prompt);
}

absl::StatusOr<std::vector<ChatPiece>> ChatProgram::Render(
    absl::Span<const ChatMessage> messages, bool add_generation_prompt) const {
  CHOIR_RETURN_IF_ERROR(CheckRoles(messages));
  const absl::StatusOr<std::string> text = Run(messages, add_generation_prompt);
  if (!text.ok()) return Refusal(messages, text.status());
  std::vector<ChatPiece> pieces;
  if (std::any_of(messages.begin(), messages.end(), [](const auto& message) {
        return message.role == "assistant";
      })) {
    CHOIR_ASSIGN_OR_RETURN(pieces, Cut(*text, messages, add_generation_prompt));
  } else {
    Add(*text, false, pieces);
  }
  if (!add_generation_prompt) return pieces;
  CHOIR_ASSIGN_OR_RETURN(const std::string plain, Run(messages, false));
  if (plain == *text) Add(OwnPrompt(plain, messages), false, pieces);
  return pieces;
}

}  // namespace choir::model
