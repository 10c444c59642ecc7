#include "client/data/dataset.h"

#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "client/data/line_reader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer/bpe_trainer.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/support/golden.h"

namespace choir::client {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string WriteFile(const std::string& name, const std::string& bytes) {
  const std::string path = base::JoinPath(tests::NewTempDir(), name);
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

absl::StatusOr<std::vector<RawExample>> Load(const std::string& jsonl) {
  return LoadDataset({.path = WriteFile("data.jsonl", jsonl)});
}

// The message of a refusal, or "" if it was accepted.
std::string Refusal(const std::string& jsonl) {
  return std::string(Load(jsonl).status().message());
}

TEST(DatasetTest, ReadsTextsAndPairsWithTheirFields) {
  const auto examples = Load(
      "\xEF\xBB\xBF{\"text\":\"one\",\"topic\":\"a\",\"n\":3,\"x\":0.5,"
      "\"yes\":true,\"list\":[1]}\r\n"
      "\r\n"
      "{\"prompt\":\"p\",\"response\":\"r\",\"topic\":\"b\"}");
  ASSERT_TRUE(examples.ok()) << examples.status();
  ASSERT_EQ(examples->size(), 2u);
  EXPECT_EQ((*examples)[0].text, "one");
  EXPECT_FALSE((*examples)[0].is_pair);
  const std::map<std::string, std::string> fields = {
      {"topic", "a"}, {"n", "3"}, {"x", "0.5"}, {"yes", "true"}};
  EXPECT_EQ((*examples)[0].fields, fields);
  EXPECT_TRUE((*examples)[1].is_pair);
  EXPECT_EQ((*examples)[1].prompt, "p");
  EXPECT_EQ((*examples)[1].response, "r");
}

TEST(DatasetTest, NamesFileLineAndProblem) {
  const std::string good = "{\"text\":\"t\"}\n";
  EXPECT_THAT(Refusal(good + "{\"text\":"), HasSubstr("data.jsonl:2"));
  EXPECT_THAT(Refusal(good + "\n[1]"), HasSubstr("data.jsonl:3"));
  EXPECT_THAT(
      Refusal("{\"prompt\":\"p\"}"),
      AllOf(HasSubstr("data.jsonl:1"), HasSubstr("\"response\" is missing")));
  EXPECT_THAT(Refusal("{\"response\":\"p\"}"),
              HasSubstr("\"prompt\" is missing"));
  EXPECT_THAT(Refusal("{}"), HasSubstr("needs \"text\""));
  EXPECT_THAT(Refusal("{\"text\":3}"), HasSubstr("\"text\" is number"));
  EXPECT_THAT(Refusal("{\"text\":\" \"}"), HasSubstr("\"text\" is empty"));
  EXPECT_THAT(Refusal("{\"prompt\":\"p\",\"response\":\"\"}"),
              HasSubstr("\"response\" is empty"));
  EXPECT_THAT(Refusal("{\"text\":\"t\",\"prompt\":\"p\"}"),
              HasSubstr("either the one or the other"));
  EXPECT_THAT(Refusal("{\"text\":\"\xFF\"}"), HasSubstr("data.jsonl:1"));
  EXPECT_THAT(Refusal("\n\n"), HasSubstr("no examples"));
}

TEST(DatasetTest, RefusesAMissingFileAndAnotherKind) {
  EXPECT_EQ(LoadDataset({.path = "/nowhere/x.jsonl"}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_THAT(
      LoadDataset({.path = WriteFile("data.csv", "a,b")}).status().message(),
      HasSubstr("must be a .jsonl file or a folder of .txt"));
}

TEST(DatasetTest, RefusesALineOverTheLimit) {
  const auto result = Load("{\"text\":\"t\"}\n{\"text\":\"" +
                           std::string(kMaxLineBytes, 'a') + "\"}\n");
  EXPECT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(result.status().message(),
              AllOf(HasSubstr("data.jsonl:2"), HasSubstr("4194304")));
}

TEST(DatasetTest, KeepsWhatMatchesWhereAndSaysWhatThereIs) {
  const std::string path = WriteFile(
      "data.jsonl",
      "{\"text\":\"1\",\"topic\":\"a\"}\n{\"text\":\"2\",\"topic\":\"b\"}\n"
      "{\"text\":\"3\",\"topic\":\"b\"}\n");
  auto examples = LoadDataset({.path = path, .where = {{"topic", "b"}}});
  ASSERT_TRUE(examples.ok());
  ASSERT_EQ(examples->size(), 2u);
  EXPECT_EQ((*examples)[0].text, "2");
  examples =
      LoadDataset({.path = path, .where = {{"topic", "b"}}, .max_examples = 1});
  ASSERT_TRUE(examples.ok());
  EXPECT_EQ(examples->size(), 1u);
  EXPECT_THAT(LoadDataset({.path = path, .where = {{"colour", "b"}}})
                  .status()
                  .message(),
              AllOf(HasSubstr("\"colour\""), HasSubstr("there are: topic")));
  EXPECT_THAT(
      LoadDataset({.path = path, .where = {{"topic", "z"}}}).status().message(),
      HasSubstr("none of 3 examples has topic = \"z\""));
}

TEST(DatasetTest, ReadsAFolderOfTextsInOrderOfNames) {
  const std::string folder = tests::NewTempDir();
  const auto write = [&](const char* name, const char* bytes) {
    std::ofstream(base::JoinPath(folder, name), std::ios::binary) << bytes;
  };
  write("b.txt", "second\r\nline");
  write("a.txt",
        "\xEF\xBB\xBF"
        "first");
  write("empty.txt", " \n");
  write("notes.md", "not read");
  const auto examples = LoadDataset({.path = folder});
  ASSERT_TRUE(examples.ok()) << examples.status();
  ASSERT_EQ(examples->size(), 2u);
  EXPECT_EQ((*examples)[0].text, "first");
  EXPECT_EQ((*examples)[0].fields.at("file"), "a.txt");
  EXPECT_EQ((*examples)[1].text, "second\nline");
}

TEST(DatasetTest, TextThatIsNotUtf8IsRefusedByName) {
  const std::string folder = tests::NewTempDir();
  std::ofstream(base::JoinPath(folder, "a.txt")) << "fine";
  std::ofstream(base::JoinPath(folder, "latin.txt")) << "caf\xE9";
  const absl::Status status = LoadDataset({.path = folder}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("latin.txt is not UTF-8"));
}

TEST(DatasetTest, APipeIsNoFileToReadAgain) {
  const std::string path = base::JoinPath(tests::NewTempDir(), "pipe.jsonl");
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(LoadDataset({.path = path}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(LoadDatasetTest, ReadsPreferencesAndLabels) {
  const auto examples = LoadDataset(
      {.path = WriteFile(
           "mixed.jsonl",
           "{\"prompt\":\"p\",\"chosen\":\"good\",\"rejected\":\"bad\","
           "\"topic\":\"x\"}\n{\"text\":\"t\",\"label\":3}\n")});
  ASSERT_TRUE(examples.ok()) << examples.status();
  EXPECT_TRUE((*examples)[0].is_preference);
  EXPECT_EQ((*examples)[0].response, "good");
  EXPECT_EQ((*examples)[0].rejected, "bad");
  EXPECT_EQ((*examples)[0].fields.size(), 1u);
  EXPECT_FALSE((*examples)[1].is_preference);
  EXPECT_EQ((*examples)[1].label, "3");
  for (const char* line :
       {"{\"prompt\":\"p\",\"chosen\":\"good\"}",
        "{\"chosen\":\"good\",\"rejected\":\"bad\"}",
        "{\"prompt\":\"p\",\"chosen\":\" \",\"rejected\":\"bad\"}",
        "{\"prompt\":\"p\",\"chosen\":\"a\",\"rejected\":7}",
        "{\"prompt\":\"p\",\"chosen\":\"a\",\"rejected\":\"b\","
        "\"text\":\"t\"}"}) {
    EXPECT_EQ(
        LoadDataset({.path = WriteFile("bad.jsonl", line)}).status().code(),
        absl::StatusCode::kInvalidArgument)
        << line;
  }
}

TEST(LoadDatasetTest, ReadsConversations) {
  const auto examples = Load(
      "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},"
      "{\"role\":\"assistant\",\"content\":[{\"type\":\"text\","
      "\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}],"
      "\"topic\":\"t\"}");
  ASSERT_TRUE(examples.ok()) << examples.status();
  ASSERT_EQ(examples->size(), 1u);
  const RawExample& example = (*examples)[0];
  ASSERT_EQ(example.messages.size(), 2u);
  EXPECT_EQ(example.messages[0].role, "user");
  EXPECT_EQ(example.messages[0].content, "q");
  EXPECT_EQ(example.messages[1].content, "ab");
  EXPECT_EQ(example.fields.at("topic"), "t");
  EXPECT_THAT(Refusal("{\"messages\":[]}"), HasSubstr("not a list"));
  EXPECT_THAT(Refusal("{\"messages\":[{\"role\":\"user\"}]}"),
              HasSubstr("lacks \"role\" or \"content\""));
  EXPECT_THAT(Refusal("{\"messages\":[{\"role\":\"user\",\"content\":3}]}"),
              HasSubstr("neither text nor"));
  EXPECT_THAT(Refusal("{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}"),
              HasSubstr("\"assistant\" says anything"));
  EXPECT_THAT(Refusal("{\"messages\":[],\"text\":\"t\"}"),
              HasSubstr("as well as \"messages\""));
}

TEST(SplitHoldoutTest, TellsConversationsApart) {
  std::vector<RawExample> examples(64);
  for (size_t i = 0; i < examples.size(); ++i) {
    examples[i].messages = {{"user", absl::StrCat(i)}, {"assistant", "a"}};
  }
  const DatasetSplit split = SplitHoldout(examples, 0.5);
  EXPECT_GT(split.train.size(), 16u);
  EXPECT_GT(split.heldout.size(), 16u);
}

std::unique_ptr<const model::Tokenizer> ByteTokenizer() {
  model::BpeTrainerOptions options;
  options.vocab_size = 280;
  return model::Tokenizer::Parse(model::TrainBpe({"a b"}, options).value(), "t")
      .value();
}

TEST(EncodeExamplesTest, ConversationsNeedAFormatThatFits) {
  const auto tokenizer = ByteTokenizer();
  std::vector<RawExample> examples(2);
  examples[0].text = "plain text";
  examples[1].messages = {{"user", "q"}, {"assistant", "a"}};
  config::TrainingOptions training;
  // The tokenizer has no chat template.
  EXPECT_EQ(CheckConversations(*tokenizer, examples, training).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(EncodeExamples(*tokenizer, examples, training).size(), 1u);
  EXPECT_TRUE(CheckConversations(*tokenizer, {examples[0]}, training).ok());
  training.chat_format = "plain";
  EXPECT_TRUE(CheckConversations(*tokenizer, examples, training).ok());
  const auto encoded = EncodeExamples(*tokenizer, examples, training);
  ASSERT_EQ(encoded.size(), 2u);
  const std::vector<uint8_t>& mask = encoded[1].loss_mask;
  EXPECT_EQ(std::count(mask.begin(), mask.end(), 1), 3);  // " ", "a", EOS
  training.objective = config::Objective::kCausalLm;
  EXPECT_TRUE(
      EncodeExamples(*tokenizer, examples, training)[1].loss_mask.empty());
  training.chat_format = "llama2";
  examples[1].messages = {{"assistant", "a"}};
  EXPECT_THAT(
      std::string(CheckConversations(*tokenizer, examples, training).message()),
      AllOf(HasSubstr("example 2"), HasSubstr("take turns")));
}

// Lists of messages in JSON: "uq aGood" is a question and an answer.
std::string MessageList(const std::string& words) {
  std::string list;
  for (absl::string_view word : absl::StrSplit(words, ' ')) {
    absl::StrAppend(&list, list.empty() ? "" : ",", "{\"role\":\"",
                    word[0] == 'u' ? "user" : "assistant", "\",\"content\":\"",
                    word.substr(1), "\"}");
  }
  return absl::StrCat("[", list, "]");
}

std::string ChatPreference(const std::string& prompt, const std::string& chosen,
                           const std::string& rejected) {
  return absl::StrCat(
      "{", prompt.empty() ? "" : "\"prompt\":" + MessageList(prompt) + ",",
      "\"chosen\":", MessageList(chosen),
      ",\"rejected\":", MessageList(rejected), "}");
}

TEST(LoadDatasetTest, ReadsPreferencesBetweenConversations) {
  const auto examples = Load(
      absl::StrCat(ChatPreference("uq ah uwhy", "agood", "abad"), "\n",
                   ChatPreference("", "uq ah uwhy agood", "uq ah uwhy abad")));
  ASSERT_TRUE(examples.ok()) << examples.status();
  ASSERT_EQ(examples->size(), 2u);
  for (const RawExample& example : *examples) {
    EXPECT_TRUE(example.is_preference);
    EXPECT_EQ(example.num_shared, 3u);
    ASSERT_EQ(example.messages.size(), 4u);
    EXPECT_EQ(example.messages[2].content, "why");
    EXPECT_EQ(example.messages[3].content, "good");
    ASSERT_EQ(example.rejected_messages.size(), 4u);
    EXPECT_EQ(example.rejected_messages[2].content, "why");
    EXPECT_EQ(example.rejected_messages[3].content, "bad");
  }
  EXPECT_THAT(Refusal(ChatPreference("", "agood", "abad")),
              HasSubstr("no message that both have"));
  EXPECT_THAT(Refusal(ChatPreference("", "uq agood", "uq agood")),
              HasSubstr("after what they share"));
  EXPECT_THAT(Refusal(ChatPreference("", "uq ux agood", "uq abad")),
              HasSubstr("after what they share"));
  EXPECT_THAT(Refusal("{\"chosen\":\"good\",\"rejected\":" +
                      MessageList("uq abad") + "}"),
              HasSubstr("\"chosen\" is not a list"));
  EXPECT_THAT(Refusal("{\"prompt\":\"q\",\"chosen\":" + MessageList("ab") +
                      ",\"rejected\":" + MessageList("ac") + "}"),
              HasSubstr("\"prompt\" is not a list"));
}

TEST(EncodeExamplesTest, PreferencesBetweenConversationsAreRendered) {
  const auto tokenizer = ByteTokenizer();
  const auto examples = Load(ChatPreference("uq ah uwhy", "agood", "abad"));
  ASSERT_TRUE(examples.ok()) << examples.status();
  config::TrainingOptions training;
  training.objective = config::Objective::kDpo;
  EXPECT_TRUE(CheckExamples(*examples, training).ok());
  EXPECT_FALSE(CheckConversations(*tokenizer, *examples, training).ok());
  EXPECT_TRUE(EncodeExamples(*tokenizer, *examples, training).empty());
  training.chat_format = "plain";
  EXPECT_TRUE(CheckConversations(*tokenizer, *examples, training).ok());
  const auto encoded = EncodeExamples(*tokenizer, *examples, training);
  ASSERT_EQ(encoded.size(), 1u);
  const auto text = [&](const std::vector<int32_t>& ids, size_t begin,
                        size_t end) {
    return tokenizer
        ->Decode(std::vector<int32_t>(ids.begin() + begin, ids.begin() + end),
                 true)
        .value();
  };
  const model::Example& one = encoded[0];
  const std::string prompt =
      "User: q\n\nAssistant: h\n\nUser: why\n\nAssistant:";
  EXPECT_EQ(text(one.ids, 0, one.loss_begin), prompt);
  EXPECT_EQ(text(one.ids, one.loss_begin, one.ids.size()), " good");
  EXPECT_EQ(text(one.rejected, 0, one.rejected_begin), prompt);
  EXPECT_EQ(text(one.rejected, one.rejected_begin, one.rejected.size()),
            " bad");
  EXPECT_EQ(one.ids.back(), *tokenizer->eos_id());
  EXPECT_EQ(one.rejected.back(), *tokenizer->eos_id());
  // What is too long loses the same of both prompts.
  training.max_sequence_length = 12;
  const auto cut = EncodeExamples(*tokenizer, *examples, training);
  ASSERT_EQ(cut.size(), 1u);
  EXPECT_EQ(cut[0].ids.size(), 12u);
  EXPECT_EQ(cut[0].loss_begin, cut[0].rejected_begin);
  EXPECT_EQ(text(cut[0].ids, cut[0].loss_begin, 12), " good");
}

TEST(CheckExamplesTest, SaysHowManyExamplesAnObjectiveCannotUse) {
  std::vector<RawExample> examples(3);
  for (RawExample& example : examples) example.text = "t";
  config::TrainingOptions training;
  EXPECT_TRUE(CheckExamples(examples, training).ok());
  training.objective = config::Objective::kClassification;
  training.labels = {"a", "b"};
  examples[0].label = "a";
  const absl::Status unlabelled = CheckExamples(examples, training);
  EXPECT_EQ(unlabelled.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unlabelled.message()),
              HasSubstr("2 of 3 examples have no \"label\""));
  examples[1].label = examples[2].label = "c";
  EXPECT_THAT(std::string(CheckExamples(examples, training).message()),
              HasSubstr("training.labels"));
  training.objective = config::Objective::kDpo;
  EXPECT_THAT(std::string(CheckExamples(examples, training).message()),
              HasSubstr("3 of 3 examples have no \"prompt\""));
}

TEST(LineReaderTest, CountsLinesAcrossBuffers) {
  std::string bytes;
  for (int i = 0; i < 5000; ++i) bytes += std::string(i % 97, 'x') + "\n";
  auto reader = LineReader::Open(WriteFile("lines", bytes), 1000);
  ASSERT_TRUE(reader.ok());
  std::string line;
  for (int i = 0; i < 5000; ++i) {
    const auto more = reader->Next(&line);
    ASSERT_TRUE(more.ok() && *more);
    ASSERT_EQ(line.size(), static_cast<size_t>(i % 97));
    ASSERT_EQ(reader->line_number(), static_cast<uint64_t>(i + 1));
  }
  EXPECT_FALSE(*reader->Next(&line));
}

std::vector<RawExample> Numbered(int count) {
  std::vector<RawExample> examples(count);
  for (int i = 0; i < count; ++i) examples[i].text = std::to_string(i);
  return examples;
}

TEST(SplitHoldoutTest, DependsOnTheTextAlone) {
  const DatasetSplit all = SplitHoldout(Numbered(1000), 0.2);
  // Four standard deviations of a binomial(1000, 0.2) around 200.
  EXPECT_NEAR(all.heldout.size(), 200.0, 51.0);
  EXPECT_EQ(all.train.size() + all.heldout.size(), 1000u);
  std::set<std::string> heldout;
  for (const RawExample& example : all.heldout) heldout.insert(example.text);
  // The same side alone as among others, with other fields.
  for (RawExample& example : Numbered(1000)) {
    const std::string text = example.text;
    example.fields["topic"] = "other";
    const DatasetSplit alone = SplitHoldout({std::move(example)}, 0.2);
    ASSERT_EQ(alone.heldout.size(), heldout.count(text)) << text;
  }
}

TEST(SplitHoldoutTest, KeepsOrderAndHonoursTheEnds) {
  const DatasetSplit split = SplitHoldout(Numbered(100), 0.3);
  ASSERT_GT(split.train.size(), 1u);
  for (size_t i = 1; i < split.train.size(); ++i) {
    EXPECT_LT(std::stoi(split.train[i - 1].text),
              std::stoi(split.train[i].text));
  }
  EXPECT_TRUE(SplitHoldout(Numbered(100), 0.0).heldout.empty());
  EXPECT_TRUE(SplitHoldout(Numbered(100), 1.0).train.empty());
}

TEST(SplitHoldoutTest, AGrowingShareOnlyAdds) {
  std::set<std::string> before;
  for (const double share : {0.1, 0.3, 0.6}) {
    std::set<std::string> now;
    for (const auto& example : SplitHoldout(Numbered(300), share).heldout) {
      now.insert(example.text);
    }
    EXPECT_GT(now.size(), before.size());
    EXPECT_TRUE(
        std::includes(now.begin(), now.end(), before.begin(), before.end()));
    before = now;
  }
}

}  // namespace
}  // namespace choir::client
