#include "model/tokenizer/chat_template.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer/bpe_trainer.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"

namespace choir::model {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

// A byte-level tokenizer with the special tokens of all shapes, whose folder
// has the chat template `jinja`.
std::unique_ptr<const Tokenizer> WithTemplate(const json& jinja,
                                              const json& bos = "<s>",
                                              const json& eos = "</s>") {
  BpeTrainerOptions options;
  options.vocab_size = 300;
  options.special_tokens = {"<s>",
                            "</s>",
                            "<|im_start|>",
                            "<|im_end|>",
                            "<|start_header_id|>",
                            "<|end_header_id|>",
                            "<|begin_of_text|>",
                            "<|eot_id|>"};
  const std::string folder = tests::NewTempDir();
  EXPECT_TRUE(base::WriteFileAtomic(folder + "/tokenizer.json",
                                    TrainBpe({"a b c"}, options).value())
                  .ok());
  json config = {{"bos_token", bos}, {"eos_token", eos}};
  if (!jinja.is_null()) config["chat_template"] = jinja;
  EXPECT_TRUE(
      base::WriteFileAtomic(folder + "/tokenizer_config.json", config.dump())
          .ok());
  return Tokenizer::LoadFolder(folder).value();
}

std::string Text(const std::vector<ChatTemplate::Piece>& pieces) {
  std::string text;
  for (const auto& piece : pieces) text += piece.text;
  return text;
}

std::string Learnt(const std::vector<ChatTemplate::Piece>& pieces) {
  std::string text;
  for (const auto& piece : pieces) {
    if (piece.learnt) text += "{" + piece.text + "}";
  }
  return text;
}

const std::vector<ChatMessage>& Talk() {
  static const auto* const talk =
      new std::vector<ChatMessage>{{"system", "Be brief."},
                                   {"user", "Hi "},
                                   {"assistant", "Hello."},
                                   {"user", "Why?"},
                                   {"assistant", " So"}};
  return *talk;
}

std::vector<ChatTemplate::Piece> Render(
    const json& jinja, const std::vector<ChatMessage>& messages,
    bool generation_prompt = false) {
  const auto tokenizer = WithTemplate(jinja);
  const auto chat = ChatTemplate::For(*tokenizer, "model");
  EXPECT_TRUE(chat.ok()) << chat.status();
  const auto pieces = chat->Render(messages, generation_prompt);
  EXPECT_TRUE(pieces.ok()) << pieces.status();
  return *pieces;
}

constexpr char kChatMl[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + "
    "'<|im_end|>\\n' }}{% endfor %}";

TEST(ChatTemplateTest, ChatMl) {
  const auto pieces = Render(kChatMl, Talk());
  EXPECT_EQ(Text(pieces),
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            "<|im_start|>user\nHi <|im_end|>\n"
            "<|im_start|>assistant\nHello.<|im_end|>\n"
            "<|im_start|>user\nWhy?<|im_end|>\n"
            "<|im_start|>assistant\n So<|im_end|>\n");
  EXPECT_EQ(Learnt(pieces), "{Hello.<|im_end|>}{ So<|im_end|>}");
  EXPECT_EQ(Text(Render(kChatMl, {{"user", "Hi"}}, true)),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplateTest, ChatMlWithASystemPromptOfItsOwn) {
  const std::string jinja =
      std::string(
          "{% if messages[0].role != 'system' %}{{ '<|im_start|>system"
          "\\nYou are kind.<|im_end|>\\n' }}{% endif %}") +
      kChatMl;
  EXPECT_EQ(Text(Render(jinja, {{"user", "Hi"}})),
            "<|im_start|>system\nYou are kind.<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n");
  EXPECT_EQ(Text(Render(jinja, {{"system", "Be"}, {"user", "Hi"}})),
            "<|im_start|>system\nBe<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n");
}

json Golden() {
  const auto text = base::ReadFile(base::JoinPath(
      tests::SourceDir(), "tests/data/tokenizer/chat_templates.json"));
  EXPECT_TRUE(text.ok()) << text.status();
  return json::parse(*text);
}

// The templates that chat_templates.json has, by name.
json Templates() {
  const json golden = Golden();
  json named = json::object();
  for (const json& one : golden["templates"]) named[one["name"]] = one;
  return named;
}

TEST(ChatTemplateTest, EveryTemplateWritesWhatJinjaWrites) {
  const json golden = Golden();
  ASSERT_GT(golden["templates"].size(), 20u);
  for (const json& one : golden["templates"]) {
    const auto tokenizer = WithTemplate(one["jinja"], one["bos"], one["eos"]);
    const auto chat = ChatTemplate::For(*tokenizer, "model");
    ASSERT_TRUE(chat.ok()) << one["name"] << ": " << chat.status();
    const bool prompts = absl::StrContains(one["jinja"].get<std::string>(),
                                           "add_generation_prompt");
    for (size_t i = 0; i < golden["cases"].size(); ++i) {
      const json& wanted = golden["cases"][i];
      const bool generates = wanted["generates"].get<bool>();
      if (generates && !prompts) continue;
      SCOPED_TRACE(one["name"].get<std::string>() + wanted.dump());
      std::vector<ChatMessage> messages;
      ptrdiff_t answers = 0;
      bool has_blank = false;
      for (const json& message : wanted["messages"]) {
        messages.push_back({message["role"], message["content"]});
        if (messages.back().role != "assistant") continue;
        ++answers;
        has_blank |= messages.back().content.empty();
      }
      const auto pieces = chat->Render(messages, generates);
      ASSERT_EQ(pieces.ok(), !one["texts"][i].is_null()) << pieces.status();
      if (!pieces.ok()) continue;
      EXPECT_EQ(Text(*pieces), one["texts"][i].get<std::string>());
      // What each assistant says is learnt, the end of its turn included.
      if (has_blank) continue;
      EXPECT_EQ(std::count_if(pieces->begin(), pieces->end(),
                              [](const auto& piece) { return piece.learnt; }),
                answers);
    }
  }
}

TEST(ChatTemplateTest, ChatMlWithThoughts) {
  const json jinja = Templates()["ChatML, thoughts"]["jinja"];
  const auto pieces =
      Render(jinja, {{"user", "a"},
                     {"assistant", "<think>\nx\n</think>\n\nb"},
                     {"user", "c"},
                     {"assistant", "<think>\ny\n</think>\n\nd"}});
  EXPECT_EQ(Learnt(pieces),
            "{b<|im_end|>}{<think>\ny\n</think>\n\nd<|im_end|>}");
  EXPECT_EQ(Learnt(Render(jinja, {{"user", "a"}, {"assistant", "b"}})),
            "{<think>\n\n</think>\n\nb<|im_end|>}");
}

constexpr char kLlama3[] =
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + "
    "m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + "
    "'<|eot_id|>' }}{% endfor %}";

TEST(ChatTemplateTest, Llama3) {
  const auto pieces = Render(kLlama3, Talk());
  EXPECT_EQ(Text(pieces),
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe "
            "brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi"
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello."
            "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhy?"
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nSo"
            "<|eot_id|>");
  EXPECT_EQ(Learnt(pieces), "{Hello.<|eot_id|>}{So<|eot_id|>}");
}

TEST(ChatTemplateTest, Llama3WithADate) {
  const json jinja = Templates()["Llama 3 with a date"]["jinja"];
  EXPECT_EQ(Text(Render(jinja, {{"user", "Hi"}})),
            "<s><|start_header_id|>system<|end_header_id|>\n\n"
            "Learnt until: spring\nDay: 1 May 2020\n\n"
            "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi"
            "<|eot_id|>");
}

TEST(ChatTemplateTest, Llama2) {
  const auto pieces = Render(Templates()["Llama 2"]["jinja"], Talk());
  EXPECT_EQ(Text(pieces),
            "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. </s>"
            "<s>[INST] Why? [/INST] So </s>");
  EXPECT_EQ(Learnt(pieces), "{ Hello. </s>}{ So </s>}");
}

TEST(ChatTemplateTest, MistralReadsSpacesOffTheTemplate) {
  const json templates = Templates();
  const json first =
      templates["Mistral, a space after the system prompt"]["jinja"];
  EXPECT_EQ(Text(Render(first, Talk())),
            "<s>[INST] Be brief. Hi  [/INST]Hello.</s>[INST] Why? "
            "[/INST] So</s>");
  EXPECT_EQ(Learnt(Render(first, Talk())), "{Hello.</s>}{ So</s>}");
  // A system prompt that goes with a last question is written if there is one.
  const json last =
      templates["Mistral, system prompt with a last question"]["jinja"];
  EXPECT_EQ(Text(Render(last, Talk())),
            "<s>[INST] Hi [/INST] Hello.</s>[INST] Why?[/INST] So</s>");
  const std::vector<ChatMessage> asks(Talk().begin(), Talk().end() - 1);
  EXPECT_EQ(Text(Render(last, asks)),
            "<s>[INST] Hi [/INST] Hello.</s>[INST] Be brief.\n\nWhy?[/INST]");
  EXPECT_EQ(Learnt(Render(last, Talk())), "{ Hello.</s>}{ So</s>}");
}

TEST(ChatTemplateTest, ASystemPromptThatTheTemplateRefusesIsAnError) {
  const auto tokenizer =
      WithTemplate(Templates()["Mistral without system prompts"]["jinja"]);
  const auto chat = ChatTemplate::For(*tokenizer, "model").value();
  const auto status = chat.Render(Talk(), false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("message 1"), HasSubstr("system prompt"),
                    HasSubstr("into the first message of the user")));
}

std::string WhyRefused(const std::string& jinja) {
  const auto tokenizer = WithTemplate(jinja);
  const auto status = ChatTemplate::For(*tokenizer, "model").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("--chat-format"));
  return std::string(status.message());
}

std::string ChatMlWith(const std::string& more) {
  return "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + "
         "m.content + '<|im_end|>\\n' }}" +
         more + "{% endfor %}";
}

TEST(ChatTemplateTest, RefusesWhatIsNotUnderstood) {
  const auto with = ChatMlWith;
  EXPECT_THAT(WhyRefused(with("{{ m.content | shuffle }}")),
              HasSubstr("shuffle"));
  EXPECT_THAT(WhyRefused(with("{% include 'x' %}")), HasSubstr("{% include"));
  EXPECT_THAT(WhyRefused(with("{% if m %}")), HasSubstr("endif"));
  EXPECT_THAT(WhyRefused(with("{{ m.content +")), HasSubstr("cannot be read"));
  EXPECT_THAT(WhyRefused(with("{{ 'a\\b' }}")), HasSubstr("the escape \\b"));
  EXPECT_THAT(WhyRefused(with("{% for k in m %}{% endfor %}")),
              HasSubstr("runs over what is a object"));
  EXPECT_THAT(WhyRefused(with("{{ m.lost.found }}")), HasSubstr("undefined"));
  EXPECT_THAT(WhyRefused(with("{{ m.content }}")), HasSubstr("more than once"));
  EXPECT_THAT(WhyRefused("<|im_start|>{% for m in messages %}{{ "
                         "m.content|lower + '<|im_end|>' }}{% endfor %}"),
              HasSubstr("leaves out or changes what message 2"));
  EXPECT_THAT(
      WhyRefused("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + "
                 "m.content + '\\n' }}{% endfor %}"),
      HasSubstr("does not end what the assistant says with <|im_end|>"));
  // Branches for what conversations here never have do not matter.
  EXPECT_TRUE(
      ChatTemplate::For(
          *WithTemplate(with("{% if tools %}{{ tools|pretty }}{% endif %}")),
          "model")
          .ok());
}

absl::Status WhyNot(const std::string& jinja,
                    const std::vector<ChatMessage>& messages) {
  const auto tokenizer = WithTemplate(jinja);
  const auto chat = ChatTemplate::For(*tokenizer, "model");
  EXPECT_TRUE(chat.ok()) << chat.status();
  return chat->Render(messages, false).status();
}

std::vector<ChatMessage> Turns(int count) {
  std::vector<ChatMessage> turns;
  for (int i = 0; i < count; ++i) {
    turns.push_back({"user", "Go on."});
    turns.push_back({"assistant", "On."});
  }
  return turns;
}

TEST(ChatTemplateTest, RefusesConversationsWhoseAnswersCannotBeTold) {
  const std::vector<ChatMessage> talk = {{"user", "What?"},
                                         {"assistant", "A zebra."},
                                         {"user", "What?"},
                                         {"assistant", "An ox."}};
  // More around an answer for what it says.
  const absl::Status around =
      WhyNot(ChatMlWith("{{ 'Zzz' if 'zebra' in m.content }}"), talk);
  EXPECT_EQ(around.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(around.message()),
              AllOf(HasSubstr("Zzz"), HasSubstr("instead of"),
                    HasSubstr("--chat-format")));
  // Answers that are left out.
  const std::string short_talk =
      "{% for m in messages %}{% if loop.index < 12 %}{{ '<|im_start|>' + "
      "m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}";
  EXPECT_TRUE(WhyNot(short_talk, Turns(5)).ok());
  EXPECT_THAT(std::string(WhyNot(short_talk, Turns(6)).message()),
              HasSubstr("message 12"));
  // An answer that has the frame behind it.
  std::vector<ChatMessage> nested = talk;
  nested[1].content +=
      "<|im_end|>\n<|im_start|>user\nWhat?<|im_end|>\n"
      "<|im_start|>assistant\nA gnu.";
  const absl::Status ends = WhyNot(ChatMlWith(""), nested);
  EXPECT_EQ(ends.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ends.message()), HasSubstr("where it ends"));
  // What is not known of Jinja, when a conversation comes to it.
  const std::string loud =
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + (m.content "
      "if m.role == 'assistant' else m.content|upper) + '<|im_end|>' }}"
      "{% endfor %}";
  EXPECT_THAT(std::string(WhyNot(loud, {{"user", "Où?"}}).message()),
              HasSubstr("beyond ASCII by upper"));
  EXPECT_EQ(Text(Render(loud, {{"user", "who"}})),
            "<|im_start|>user\nWHO<|im_end|>");
}

TEST(ChatTemplateTest, ConditionsOnTheConversationHoldForEachOne) {
  const std::string jinja =
      ChatMlWith("{% if loop.index == 50 %}{{ 'Enough.' }}{% endif %}");
  EXPECT_THAT(Text(Render(jinja, Turns(24))), Not(HasSubstr("Enough.")));
  const auto pieces = Render(jinja, Turns(26));
  EXPECT_THAT(Text(pieces), HasSubstr("On.<|im_end|>\nEnough.<|im_start|>"));
  EXPECT_THAT(Learnt(pieces), Not(HasSubstr("Enough.")));
}

TEST(ChatTemplateTest, EmptyMessagesAreWrittenOrLeftOutAsJinjaDoes) {
  const std::vector<ChatMessage> talk = {{"system", ""},
                                         {"user", "a"},
                                         {"assistant", ""},
                                         {"user", "b"},
                                         {"assistant", "c"}};
  const auto all = Render(kChatMl, talk);
  EXPECT_EQ(Text(all),
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
            "<|im_start|>assistant\n<|im_end|>\n<|im_start|>user\nb<|im_end|>\n"
            "<|im_start|>assistant\nc<|im_end|>\n");
  EXPECT_EQ(Learnt(all), "{<|im_end|>}{c<|im_end|>}");
  const auto some =
      Render(Templates()["ChatML, empty messages left out, thoughts taken away"]
                        ["jinja"],
             talk);
  EXPECT_EQ(Text(some),
            "<|im_start|>user\na<|im_end|>\n<|im_start|>user\nb<|im_end|>\n"
            "<|im_start|>assistant\nc<|im_end|>\n");
  EXPECT_EQ(Learnt(some), "{c<|im_end|>}");
}

TEST(ChatTemplateTest, LearntIsWhatTheTemplateLeavesOfAnAnswer) {
  const std::vector<ChatMessage> talk = {
      {"user", "a"}, {"assistant", " <think>b</think>c ###d "}};
  EXPECT_EQ(
      Learnt(Render(
          Templates()["ChatML, empty messages left out, thoughts taken away"]
                     ["jinja"],
          talk)),
      "{c ###d <|im_end|>}");
  EXPECT_EQ(Learnt(Render(
                Templates()["ChatML, the part before a mark"]["jinja"], talk)),
            "{c <|im_end|>}");
  EXPECT_EQ(Learnt(Render(kLlama3, talk)),
            "{<think>b</think>c ###d<|eot_id|>}");
}

TEST(ChatTemplateTest, LongConversationsAreWritten) {
  std::vector<ChatMessage> talk = Turns(400);
  for (ChatMessage& message : talk) message.content += std::string(2000, 'x');
  for (const char* name : {"ChatML, thoughts", "Llama 2",
                           "Mistral, system prompt with a last question"}) {
    const auto pieces = Render(Templates()[name]["jinja"], talk);
    EXPECT_GT(Text(pieces).size(), 1600000u) << name;
  }
  const std::string longer =
      "{% for m in messages %}{{ '<|im_start|>' + m.content.replace('x', "
      "'yyyy') + '<|im_end|>' }}{% endfor %}";
  EXPECT_EQ(Text(Render(longer, {{"user", std::string(100000, 'x')}})).size(),
            400022u);
}

TEST(ChatTemplateTest, TruthsAreNumbersAsInPython) {
  const std::string jinja = ChatMlWith(
      "{{ 'a' if 1 == true and false == 0 and true != 2 else 'b' }}");
  EXPECT_EQ(Text(Render(jinja, {{"user", "Hi"}})),
            "<|im_start|>user\nHi<|im_end|>\na");
}

TEST(ChatTemplateTest, TemplatesThatRunLongAreRefused) {
  const std::string loops =
      "{% set ns = namespace(x='<|im_start|>') %}{% for a in messages %}";
  std::string body = "{% for b in [1,2,3,4,5,6,7,8,9,10] %}";
  std::string end = "{% endfor %}";
  for (int i = 0; i < 4; ++i) {
    body += body;
    end += end;
  }
  EXPECT_THAT(WhyRefused(loops + body + "{% set ns.x = ns.x + ns.x %}" + end +
                         "{% endfor %}"),
              HasSubstr("too long"));
  EXPECT_THAT(WhyRefused("<|im_start|>" + body + "{{ '' }}" + end),
              HasSubstr("runs too long"));
  EXPECT_THAT(WhyRefused("<|im_start|>{{ " + std::string(100000, '(') + " }}"),
              HasSubstr("too deeply"));
  std::string sum = "1";
  for (int i = 0; i < 100000; ++i) sum += "|d";
  EXPECT_THAT(WhyRefused("<|im_start|>{{ " + sum + " }}"),
              HasSubstr("too long an expression"));
}

TEST(ChatTemplateTest, TheTemplateNamedDefaultIsTaken) {
  const json jinja = {{{"name", "tool_use"}, {"template", kLlama3}},
                      {{"name", "default"}, {"template", kChatMl}}};
  EXPECT_THAT(Text(Render(jinja, Talk())), HasSubstr("<|im_start|>"));
}

TEST(ChatTemplateTest, IdsAreThoseOfTheWholeTextAndTheMaskFollowsTurns) {
  const auto tokenizer = WithTemplate(kChatMl);
  const auto chat = ChatTemplate::For(*tokenizer, "model").value();
  const auto pieces = chat.Render(Talk(), false).value();
  const ChatIds encoded = chat.Encode(*tokenizer, Talk(), false).value();
  EXPECT_EQ(encoded.ids, tokenizer->Encode(Text(pieces), false));
  ASSERT_EQ(encoded.learnt.size(), encoded.ids.size());
  std::vector<int32_t> learnt;
  for (size_t i = 0; i < encoded.ids.size(); ++i) {
    if (encoded.learnt[i] != 0) learnt.push_back(encoded.ids[i]);
  }
  EXPECT_EQ(tokenizer->Decode(learnt, false).value(),
            "Hello.<|im_end|> So<|im_end|>");
}

TEST(ChatTemplateTest, NamedFormatsNeedNoTemplate) {
  const auto tokenizer = WithTemplate(nullptr);
  const std::vector<ChatMessage> talk = {{"user", "a"}, {"assistant", "b"}};
  for (const auto& [format, text] :
       std::vector<std::pair<const char*, const char*>>{
           {"chatml",
            "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb"
            "<|im_end|>\n"},
           {"llama3",
            "<s><|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|>"},
           {"llama2", "<s>[INST] a [/INST] b </s>"},
           {"mistral", "<s>[INST] a[/INST] b</s>"},
           {"plain", "<s>User: a\n\nAssistant: b</s>\n\n"}}) {
    const auto chat = ChatTemplate::For(*tokenizer, format);
    ASSERT_TRUE(chat.ok()) << chat.status();
    EXPECT_EQ(Text(chat->Render(talk, false).value()), text);
  }
  EXPECT_EQ(ChatTemplate::For(*tokenizer, "alpaca").status().code(),
            absl::StatusCode::kInvalidArgument);
  const auto none = ChatTemplate::For(*tokenizer, "model").status();
  EXPECT_EQ(none.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(none.message()), HasSubstr("no chat template"));
}

TEST(ChatTemplateTest, RefusesShapesAndConversationsItDoesNotKnow) {
  for (const char* unknown :
       {"{{ '<start_of_turn>' + m.content }}",
        "{{ '[SYSTEM_PROMPT]' }}{{ '[INST]' + content }}"}) {
    const auto tokenizer = WithTemplate(unknown);
    const auto status = ChatTemplate::For(*tokenizer, "model").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("no known shape"));
  }
  const auto tokenizer = WithTemplate(kChatMl);
  const auto chatml = ChatTemplate::For(*tokenizer, "model").value();
  const auto llama2 = ChatTemplate::For(*tokenizer, "llama2").value();
  const auto problem = [](const ChatTemplate& chat,
                          const std::vector<ChatMessage>& messages) {
    const auto status = chat.Render(messages, false).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(problem(chatml, {}), HasSubstr("no messages"));
  EXPECT_THAT(problem(chatml, {{"system", "a"}}), HasSubstr("no messages"));
  EXPECT_THAT(problem(chatml, {{"tool", "a"}}), HasSubstr("role 'tool'"));
  EXPECT_THAT(problem(chatml, {{"user", "a"}, {"system", "b"}}),
              HasSubstr("message 2"));
  EXPECT_THAT(problem(llama2, {{"user", "a"}, {"user", "b"}, {"user", "c"}}),
              AllOf(HasSubstr("message 2"), HasSubstr("the role user"),
                    HasSubstr("take turns")));
  const std::vector<ChatMessage> twice = {{"user", "a"}, {"user", "b"}};
  EXPECT_TRUE(chatml.Render(twice, false).ok());
}

}  // namespace
}  // namespace choir::model
