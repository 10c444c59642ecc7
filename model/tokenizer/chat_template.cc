#include "model/tokenizer/chat_template.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "base/status_macros.h"

namespace choir::model {
namespace {

constexpr char kFormats[] = "model, chatml, llama3, llama2, mistral, plain";

// The shapes in their plainest form.
constexpr char kChatMl[] = R"jinja(
{%- for m in messages %}
  {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
)jinja";

constexpr char kLlama3[] = R"jinja({{ bos_token }}
{%- for m in messages %}
  {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}
  {{- m.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
)jinja";

constexpr char kLlama2[] = R"jinja(
{%- set talk = messages[1:] if messages[0].role == 'system' else messages %}
{%- for m in talk %}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('users and assistants take turns') }}
  {%- endif %}
  {%- set content = m.content %}
  {%- if loop.first and messages[0].role == 'system' %}
    {%- set content = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' +
                      content %}
  {%- endif %}
  {%- if m.role == 'user' %}
    {{- bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
  {%- else %}
    {{- ' ' + content.strip() + ' ' + eos_token }}
  {%- endif %}
{%- endfor %}
)jinja";

// The system prompt goes with the last question.
constexpr char kMistral[] = R"jinja({{ bos_token }}
{%- set talk = messages[1:] if messages[0].role == 'system' else messages %}
{%- set users = talk | selectattr('role', 'equalto', 'user') | list %}
{%- set ns = namespace(users=0) %}
{%- for m in talk %}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('users and assistants take turns') }}
  {%- endif %}
  {%- if m.role == 'user' %}
    {%- set ns.users = ns.users + 1 %}
    {{- '[INST] ' }}
    {%- if messages[0].role == 'system' and ns.users == users | length %}
      {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- m.content + '[/INST]' }}
  {%- else %}
    {{- ' ' + m.content + eos_token }}
  {%- endif %}
{%- endfor %}
)jinja";

constexpr char kPlain[] = R"jinja({{ bos_token }}
{%- for m in messages %}
  {{- m.role | capitalize + ': ' + m.content }}
  {%- if m.role == 'assistant' %}{{ eos_token }}{% endif %}
  {{- '\n\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}
)jinja";

struct Shape {
  absl::string_view name;
  absl::string_view jinja;
  absl::string_view end_mark;  // empty: EOS alone
  bool needs_eos;
};

constexpr Shape kShapes[] = {
    {"chatml", kChatMl, "<|im_end|>", false},
    {"llama3", kLlama3, "<|eot_id|>", false},
    {"llama2", kLlama2, "", true},
    {"mistral", kMistral, "", true},
    {"plain", kPlain, "", false},
};

const Shape* ShapeNamed(absl::string_view name) {
  for (const Shape& shape : kShapes) {
    if (shape.name == name) return &shape;
  }
  return nullptr;
}

// The shape of a model's template, by the tokens that it writes; null: unknown.
const Shape* ShapeOf(absl::string_view jinja) {
  const auto writes = [jinja](absl::string_view text) {
    return absl::StrContains(jinja, text);
  };
  if (writes("<|start_header_id|>")) return ShapeNamed("llama3");
  if (writes("<|im_start|>")) return ShapeNamed("chatml");
  if (!writes("[INST]") || writes("[SYSTEM_PROMPT]")) return nullptr;
  return ShapeNamed(writes("<<SYS>>") ? "llama2" : "mistral");
}

absl::Status WithRemedy(const absl::Status& problem) {
  return absl::FailedPreconditionError(absl::StrCat(
      problem.message(),
      "; choose a shape by training.chat_format or --chat-format (", kFormats,
      ")"));
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::For(const Tokenizer& tokenizer,
                                               absl::string_view format) {
  const bool by_model = format == "model";
  const std::string& own = tokenizer.chat_template();
  if (by_model && own.empty()) {
    return WithRemedy(
        absl::FailedPreconditionError("the model has no chat template"));
  }
  const Shape* shape = by_model ? ShapeOf(own) : ShapeNamed(format);
  if (shape == nullptr && by_model) {
    return WithRemedy(absl::FailedPreconditionError(
        "the model's chat template has no known shape (ChatML, Llama 3, Llama "
        "2, Mistral)"));
  }
  if (shape == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "chat format '", format, "' is unknown; known: ", kFormats));
  }
  ChatTokens tokens;
  if (tokenizer.bos_id()) {
    tokens.bos = std::string(tokenizer.IdToToken(*tokenizer.bos_id()));
  }
  if (tokenizer.eos_id()) {
    tokens.eos = std::string(tokenizer.IdToToken(*tokenizer.eos_id()));
  } else if (shape->needs_eos) {
    return absl::FailedPreconditionError(
        "the chat format ends turns with EOS, but the tokenizer has none");
  }
  std::vector<std::string> end_marks;
  if (!shape->end_mark.empty()) end_marks.emplace_back(shape->end_mark);
  if (tokens.eos) end_marks.push_back(*tokens.eos);
  if (!by_model) {
    if (!tokens.bos) tokens.bos = "";
    if (!tokens.eos) tokens.eos = "";
  }
  absl::StatusOr<ChatProgram> program =
      ChatProgram::Read(by_model ? absl::string_view(own) : shape->jinja,
                        std::move(tokens), std::move(end_marks));
  if (!program.ok()) return WithRemedy(program.status());
  return ChatTemplate(*std::move(program));
}

absl::StatusOr<std::vector<ChatPiece>> ChatTemplate::Render(
    absl::Span<const ChatMessage> messages, bool add_generation_prompt) const {
  auto pieces = program_.Render(messages, add_generation_prompt);
  if (absl::IsFailedPrecondition(pieces.status())) {
    return WithRemedy(pieces.status());
  }
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
