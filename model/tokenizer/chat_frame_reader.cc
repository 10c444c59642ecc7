// Reading the frames of a chat template off what it makes of trials.
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "model/tokenizer/chat_frames.h"
#include "model/tokenizer/jinja.h"
#include "nlohmann/json.hpp"

namespace choir::model {
namespace {

using nlohmann::json;
using Conversation = std::vector<ChatMessage>;

constexpr char kNoThoughts[] = "<think>\n\n</think>\n\n";

std::string Sentinel(size_t index) { return absl::StrCat("Q~", index, "~Z"); }

// "SUA" is a system prompt, a question and an answer; '#' in `content` stands
// for the sentinel of the message, `said` is for what assistants say.
Conversation Trial(absl::string_view roles, absl::string_view content,
                   absl::string_view said) {
  Conversation out;
  for (char role : roles) {
    const absl::string_view shape = role == 'A' ? said : content;
    const size_t at = shape.find('#');
    out.push_back({role == 'S'   ? "system"
                   : role == 'U' ? "user"
                                 : "assistant",
                   absl::StrCat(shape.substr(0, at), Sentinel(out.size()),
                                shape.substr(at + 1))});
  }
  return out;
}

absl::Status NotUnderstood(absl::string_view what) {
  return absl::FailedPreconditionError(
      absl::StrCat("the model's chat template ", what));
}

// `text` from a little before `begin` on.
std::string Quoted(absl::string_view text, size_t begin = 0) {
  begin = begin > 40 ? begin - 40 : 0;
  return json(absl::StrCat(begin > 0 ? ".." : "", text.substr(begin, 120)))
      .dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

class ChatFrameReader {
 public:
  ChatFrameReader(JinjaProgram program, const ChatTokens& tokens)
      : program_(std::move(program)), tokens_(tokens) {}

  absl::StatusOr<ChatFrames> Read(absl::Span<const std::string> end_marks,
                                  bool may_think) {
    absl::Status first;
    for (const bool thinks : {true, false}) {
      if (thinks && !may_think) continue;
      frames_ = ChatFrames();
      frames_.thinks_ = thinks;
      CHOIR_RETURN_IF_ERROR(Fill());
      CHOIR_RETURN_IF_ERROR(FindEnd(end_marks));
      first = Compare();
      if (first.ok()) break;
    }
    CHOIR_RETURN_IF_ERROR(first);
    const std::string unreached = program_.Unreached();
    if (!unreached.empty()) {
      return NotUnderstood(
          absl::StrCat("writes ", unreached, ", which is not understood"));
    }
    return std::move(frames_);
  }

 private:
  using Place = ChatFrames::Place;
  using SystemPlace = ChatFrames::SystemPlace;
  using Trim = ChatFrames::Trim;

  // Errors: INVALID_ARGUMENT if the template refuses the conversation, others
  // if it is not understood.
  absl::StatusOr<std::string> Run(const Conversation& trial, bool generates) {
    json variables = {{"messages", json::array()},
                      {"add_generation_prompt", generates}};
    for (const ChatMessage& message : trial) {
      variables["messages"].push_back(
          {{"role", message.role}, {"content", message.content}});
    }
    if (tokens_.bos) variables["bos_token"] = *tokens_.bos;
    if (tokens_.eos) variables["eos_token"] = *tokens_.eos;
    absl::StatusOr<std::string> text = program_.Render(variables);
    if (text.ok() || absl::IsInvalidArgument(text.status())) return text;
    return NotUnderstood(text.status().message());
  }

  // The text before, between and after the sentinels of `roles`, as transitions
  // where none is known yet. False: the template refuses.
  absl::StatusOr<bool> Learn(absl::string_view roles, bool generates) {
    const auto text = Run(Trial(roles, "#", "#"), generates);
    if (absl::IsInvalidArgument(text.status())) {
      if (roles[0] == 'S' && frames_.system_refusal_.empty()) {
        frames_.system_refusal_ = std::string(text.status().message());
      }
      return false;
    }
    CHOIR_RETURN_IF_ERROR(text.status());
    absl::string_view rest = *text;
    Place from = ChatFrames::kBegin;
    for (size_t i = 0; i < roles.size(); ++i) {
      const Place to = roles[i] == 'S'   ? ChatFrames::kSystem
                       : roles[i] == 'U' ? ChatFrames::kUser
                                         : ChatFrames::kAssistant;
      const size_t at = rest.find(Sentinel(i));
      if (at == absl::string_view::npos) {
        return NotUnderstood(
            absl::StrCat("leaves out a message of ", Quoted(*text)));
      }
      absl::string_view frame = rest.substr(0, at);
      if (frames_.thinks_) absl::ConsumeSuffix(&frame, kNoThoughts);
      Set(from, to, frame);
      rest.remove_prefix(at + Sentinel(i).size());
      from = to;
    }
    Set(from, generates ? ChatFrames::kGenerate : ChatFrames::kEnd, rest);
    return true;
  }

  void Set(Place from, Place to, absl::string_view frame) {
    auto& place = frames_.between_[from][to];
    if (!place) place = std::string(frame);
  }

  absl::Status Fill() {
    CHOIR_ASSIGN_OR_RETURN(const bool runs, Learn("UAUA", false));
    if (!runs) {
      return NotUnderstood(
          absl::StrCat("refuses a plain conversation: ",
                       Run(Trial("UAUA", "#", "#"), false).status().message()));
    }
    for (const char* roles : {"U", "UA", "UU", "A", "UAA", "AU"}) {
      CHOIR_RETURN_IF_ERROR(Learn(roles, false).status());
    }
    CHOIR_RETURN_IF_ERROR(PlaceSystem());
    CHOIR_RETURN_IF_ERROR(LearnGeneration());
    return ReadTrims();
  }

  absl::Status PlaceSystem() {
    const auto text = Run(Trial("SUAUA", "#", "#"), false);
    if (absl::IsInvalidArgument(text.status())) {
      frames_.system_place_ = SystemPlace::kRefused;
      frames_.system_refusal_ = std::string(text.status().message());
      return absl::OkStatus();
    }
    CHOIR_RETURN_IF_ERROR(text.status());
    const size_t system = text->find(Sentinel(0));
    if (system != std::string::npos && system < text->find(Sentinel(1))) {
      for (const char* roles : {"SUAUA", "SU", "SA"}) {
        CHOIR_RETURN_IF_ERROR(Learn(roles, false).status());
      }
      return absl::OkStatus();
    }
    const auto asks = Run(Trial("SU", "#", "#"), false);
    if (!asks.ok()) return NotUnderstood("refuses a system prompt and a user");
    const size_t begin = asks->find(Sentinel(0));
    const size_t end = asks->find(Sentinel(1));
    if (begin == std::string::npos) {
      frames_.system_place_ = SystemPlace::kNowhere;
      return absl::OkStatus();
    }
    frames_.system_place_ = system == std::string::npos
                                ? SystemPlace::kLastIfUser
                                : SystemPlace::kLastUser;
    const size_t after = begin + Sentinel(0).size();
    if (end != std::string::npos && end >= after) {
      frames_.after_system_ = asks->substr(after, end - after);
    }
    return absl::OkStatus();
  }

  // A template that knows no generation prompt gets the one that its answers
  // have before them.
  absl::Status LearnGeneration() {
    const Conversation trial = Trial("U", "#", "#");
    CHOIR_ASSIGN_OR_RETURN(const std::string with, Run(trial, true));
    CHOIR_ASSIGN_OR_RETURN(const std::string without, Run(trial, false));
    generates_ = with != without;
    auto& between = frames_.between_;
    if (generates_) {
      CHOIR_RETURN_IF_ERROR(Learn("U", true).status());
      return Learn("UA", true).status();
    }
    for (const Place from : {ChatFrames::kUser, ChatFrames::kAssistant}) {
      auto& frame = between[from][ChatFrames::kGenerate];
      frame = between[from][ChatFrames::kAssistant];
      if (!frame) frame = between[from][ChatFrames::kEnd];
      while (frame && absl::EndsWith(*frame, " ")) frame->pop_back();
      const auto& end = between[from][ChatFrames::kEnd];
      if (frame && end && !absl::StartsWith(*frame, *end)) frame = end;
    }
    return absl::OkStatus();
  }

  // What became of the white space around the message `index`.
  absl::StatusOr<Trim> TrimOf(absl::string_view roles, size_t index) {
    const auto text = Run(Trial(roles, "\n #\n ", "\n #\n "), false);
    if (absl::IsInvalidArgument(text.status())) return Trim::kNone;
    CHOIR_RETURN_IF_ERROR(text.status());
    const bool left =
        !absl::StrContains(*text, absl::StrCat("\n ", Sentinel(index)));
    const bool right =
        !absl::StrContains(*text, absl::StrCat(Sentinel(index), "\n "));
    return left && right ? Trim::kBoth
           : left        ? Trim::kLeft
           : right       ? Trim::kRight
                         : Trim::kNone;
  }

  absl::Status ReadTrims() {
    CHOIR_ASSIGN_OR_RETURN(frames_.trim_user_, TrimOf("UA", 0));
    CHOIR_ASSIGN_OR_RETURN(frames_.trim_assistant_, TrimOf("UA", 1));
    if (frames_.system_place_ == SystemPlace::kRefused ||
        frames_.system_place_ == SystemPlace::kNowhere) {
      return absl::OkStatus();
    }
    CHOIR_ASSIGN_OR_RETURN(frames_.trim_system_, TrimOf("SU", 0));
    CHOIR_ASSIGN_OR_RETURN(frames_.trim_user_after_system_, TrimOf("SU", 1));
    return absl::OkStatus();
  }

  absl::Status FindEnd(absl::Span<const std::string> end_marks) {
    if (end_marks.empty()) return absl::OkStatus();
    for (const std::string& mark : end_marks) {
      bool ends = !mark.empty();
      for (const auto& frame : frames_.between_[ChatFrames::kAssistant]) {
        if (!frame || !ends) continue;
        const size_t at = frame->find(mark);
        ends = at != std::string::npos &&
               PythonStrip(absl::string_view(*frame).substr(0, at), true, true)
                   .empty();
      }
      if (!ends) continue;
      frames_.end_mark_ = mark;
      return absl::OkStatus();
    }
    return NotUnderstood(
        absl::StrCat("does not end what the assistant says with ", end_marks[0],
                     end_marks.size() > 1 ? " or the tokenizer's EOS" : ""));
  }

  // Frames that explain what the template makes of ordinary conversations, but
  // not of one that begins with an answer or has two of one role in a row, lose
  // the transition, so that such conversations are refused.
  bool Forget(absl::string_view roles) {
    auto& between = frames_.between_;
    const bool has_system = roles[0] == 'S';
    const Place begin = has_system ? ChatFrames::kSystem : ChatFrames::kBegin;
    absl::optional<std::string>* frame = nullptr;
    if (roles[has_system ? 1 : 0] == 'A') {
      frame = &between[begin][ChatFrames::kAssistant];
      forgotten_.push_back(has_system ? "SA" : "^A");
    } else if (absl::StrContains(roles, "UU")) {
      frame = &between[ChatFrames::kUser][ChatFrames::kUser];
      forgotten_.push_back("UU");
    } else if (absl::StrContains(roles, "AA")) {
      frame = &between[ChatFrames::kAssistant][ChatFrames::kAssistant];
      forgotten_.push_back("AA");
    }
    if (frame == nullptr || !*frame) return false;
    frame->reset();
    return true;
  }

  bool IsForgotten(absl::string_view roles) const {
    const std::string whole = absl::StrCat("^", roles);
    for (const std::string& part : forgotten_) {
      if (absl::StrContains(whole, part)) return true;
    }
    return false;
  }

  absl::Status Compare() {
    forgotten_.clear();
    for (const char* roles :
         {"U",   "UA",   "UAU",   "UAUA",     "UAUAUAUA",  "SU",
          "SUA", "SUAU", "SUAUA", "SUAUAUAU", "SUAUAUAUA", "A",
          "AU",  "AUA",  "SA",    "SAU",      "SAUA",      "UU",
          "UUA", "SUU",  "SUUA",  "UAA",      "UAAU",      "SUAA"}) {
      for (const auto& [content, said] :
           {std::pair{"#", "#"}, std::pair{"\n #\n ", " \n#\n "},
            std::pair{"#\nx", "<think>\nt\n</think>\n\n#"},
            std::pair{"x #", "\nt</think>#"}}) {
        if (IsForgotten(roles)) continue;
        const Conversation trial = Trial(roles, content, said);
        absl::Status same = CompareOne(trial, false);
        if (same.ok() && generates_) same = CompareOne(trial, true);
        if (!same.ok() && !Forget(roles)) return same;
      }
    }
    return absl::OkStatus();
  }

  absl::Status CompareOne(const Conversation& trial, bool generates) {
    const auto theirs = Run(trial, generates);
    if (!theirs.ok() && !absl::IsInvalidArgument(theirs.status())) {
      return theirs.status();
    }
    std::string text;
    const auto ours = frames_.Render(trial, generates);
    if (ours.ok()) {
      for (const ChatPiece& piece : *ours) text += piece.text;
    }
    if (ours.ok() == theirs.ok() && (!ours.ok() || text == *theirs)) {
      return absl::OkStatus();
    }
    size_t differs = 0;
    while (theirs.ok() && differs < text.size() && differs < theirs->size() &&
           text[differs] == (*theirs)[differs]) {
      ++differs;
    }
    std::string roles;
    for (const ChatMessage& message : trial) {
      absl::StrAppend(&roles, roles.empty() ? "" : ", ", message.role);
    }
    return NotUnderstood(absl::StrCat(
        "writes a conversation (", roles, ") in a way that is not understood: ",
        theirs.ok() ? Quoted(*theirs, differs)
                    : std::string(theirs.status().message()),
        " instead of ",
        ours.ok() ? Quoted(text, differs)
                  : std::string(ours.status().message())));
  }

  JinjaProgram program_;
  const ChatTokens& tokens_;
  ChatFrames frames_;
  bool generates_ = false;
  std::vector<std::string> forgotten_;  // parts of roles, "^" the beginning
};

absl::StatusOr<ChatFrames> ChatFrames::Read(
    absl::string_view jinja, const ChatTokens& tokens,
    absl::Span<const std::string> end_marks) {
  absl::StatusOr<JinjaProgram> program = JinjaProgram::Parse(jinja);
  if (!program.ok()) return NotUnderstood(program.status().message());
  return ChatFrameReader(*std::move(program), tokens)
      .Read(end_marks, absl::StrContains(jinja, "</think>"));
}

}  // namespace choir::model
