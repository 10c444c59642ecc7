#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/peft_folder.h"
#include "model/checkpoint/safetensors.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"

namespace choir::model {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

ModelConfig SmallModel() {
  ModelConfig config;
  config.vocab_size = 50;
  config.hidden_size = 16;
  config.intermediate_size = 24;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 4;
  config.max_positions = 32;
  return config;
}

config::AdapterOptions SmallAdapter() {
  config::AdapterOptions options;
  options.rank = 3;
  options.alpha = 6;
  options.target_modules = {"down_proj", "v_proj"};
  return options;
}

TEST(LoraLayoutTest, NamesAndShapesAreThoseOfPeft) {
  const auto layout = AdapterLayout(SmallModel(), SmallAdapter());
  ASSERT_TRUE(layout.ok()) << layout.status();
  ASSERT_EQ(layout->tensors().size(), 8u);
  EXPECT_EQ(layout->tensors()[0].name,
            "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight");
  EXPECT_THAT(layout->tensors()[0].shape, testing::ElementsAre(3, 24));
  EXPECT_THAT(layout->tensors()[1].shape, testing::ElementsAre(16, 3));
  EXPECT_EQ(layout->tensors()[3].name,
            "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight");
  EXPECT_THAT(layout->tensors()[3].shape, testing::ElementsAre(8, 3));
  EXPECT_EQ(layout->num_elements(), 2 * (3 * 24 + 16 * 3 + 3 * 16 + 8 * 3));
}

TEST(LoraLayoutTest, RefusesUnknownModulesAndListsTheKnown) {
  config::AdapterOptions options = SmallAdapter();
  options.target_modules = {"v_proj", "c_attn"};
  const auto layout = AdapterLayout(SmallModel(), options);
  EXPECT_EQ(layout.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(layout.status().message()), HasSubstr("'c_attn'"));
  EXPECT_THAT(std::string(layout.status().message()),
              HasSubstr("down_proj, gate_proj, k_proj"));
}

TEST(LoraLayoutTest, RefusesImpossibleRanks) {
  for (const int rank : {0, -1, 25, 1 << 30}) {
    config::AdapterOptions options = SmallAdapter();
    options.rank = rank;
    EXPECT_EQ(AdapterLayout(SmallModel(), options).status().code(),
              absl::StatusCode::kInvalidArgument)
        << rank;
  }
}

TEST(LoraLayoutTest, BeginsWithUniformAAndZeroB) {
  const auto layout = AdapterLayout(SmallModel(), SmallAdapter());
  ASSERT_TRUE(layout.ok());
  const std::vector<float> values = InitialAdapter(*layout, 7);
  for (size_t i = 0; i < layout->tensors().size(); ++i) {
    const codec::TensorSpec& tensor = layout->tensors()[i];
    const auto begin = values.begin() + layout->offset(i);
    const auto end = begin + tensor.num_elements();
    if (absl::StrContains(tensor.name, "lora_B")) {
      EXPECT_TRUE(std::all_of(begin, end, [](float v) { return v == 0.0f; }));
      continue;
    }
    const float bound = 1.0f / std::sqrt(static_cast<float>(tensor.shape[1]));
    EXPECT_LE(*std::max_element(begin, end), bound);
    EXPECT_GE(*std::min_element(begin, end), -bound);
    // 48 uniform draws stay within half of the bound with chance 2^-48.
    EXPECT_GT(*std::max_element(begin, end), bound / 2);
    EXPECT_LT(*std::min_element(begin, end), -bound / 2);
  }
}

TEST(LoraLayoutTest, ATensorBeginsTheSameWhateverElseIsAdapted) {
  config::AdapterOptions more = SmallAdapter();
  more.target_modules = {"down_proj", "q_proj", "v_proj"};
  const auto small = AdapterLayout(SmallModel(), SmallAdapter());
  const auto large = AdapterLayout(SmallModel(), more);
  ASSERT_TRUE(small.ok() && large.ok());
  const std::vector<float> a = InitialAdapter(*small, 7);
  const std::vector<float> b = InitialAdapter(*large, 7);
  const std::string name = LoraAName("model.layers.1.self_attn.v_proj");
  const auto find = [&](const codec::Layout& layout,
                        const std::vector<float>& values) {
    for (size_t i = 0; i < layout.tensors().size(); ++i) {
      if (layout.tensors()[i].name != name) continue;
      const auto begin = values.begin() + layout.offset(i);
      return std::vector<float>(begin,
                                begin + layout.tensors()[i].num_elements());
    }
    return std::vector<float>();
  };
  EXPECT_FALSE(find(*small, a).empty());
  EXPECT_EQ(find(*small, a), find(*large, b));
  EXPECT_NE(InitialAdapter(*small, 8), a);
  EXPECT_EQ(InitialAdapter(*small, 7), a);
}

TEST(PeftFolderTest, GoldenAdapterSurvivesReadingAndWriting) {
  CHOIR_SKIP_WITHOUT_GOLDEN("arch/llama");
  const std::string folder = base::JoinPath(tests::GoldenDir(), "arch/llama");
  const auto config = LoadModelConfig(folder + "/config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  const auto adapter = ReadPeftFolder(folder + "/adapter", *config);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(adapter->options.rank, 4);
  EXPECT_EQ(adapter->options.alpha, 8);
  EXPECT_EQ(adapter->base_model, "llama");
  EXPECT_THAT(adapter->options.target_modules,
              testing::ElementsAre("down_proj", "gate_proj", "o_proj", "q_proj",
                                   "v_proj"));

  const std::string copy = tests::NewTempDir() + "/copy";
  ASSERT_TRUE(WritePeftFolder(copy, adapter->options, adapter->layout,
                              adapter->values, adapter->base_model)
                  .ok());
  const auto again = ReadPeftFolder(copy, *config);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->values, adapter->values);
  EXPECT_EQ(again->layout.digest(), adapter->layout.digest());
  EXPECT_EQ(again->base_model, "llama");

  // Tensor by tensor, the bytes are those of the golden file.
  const auto golden =
      SafetensorsFile::Open(folder + "/adapter/adapter_model.safetensors");
  const auto written =
      SafetensorsFile::Open(copy + "/adapter_model.safetensors");
  ASSERT_TRUE(golden.ok() && written.ok());
  ASSERT_EQ(golden->tensors().size(), written->tensors().size());
  for (size_t i = 0; i < golden->tensors().size(); ++i) {
    EXPECT_EQ(golden->tensors()[i].name, written->tensors()[i].name);
    EXPECT_EQ(golden->tensors()[i].bytes, written->tensors()[i].bytes);
  }
}

TEST(PeftFolderTest, ConfigSurvivesWritingAndReading) {
  config::AdapterOptions options = SmallAdapter();
  options.alpha = 2.5;
  options.dropout = 0.125;
  options.rank_stabilized = true;
  const auto file =
      ParseAdapterConfig(AdapterConfigJson(options, "models/tiny"), "c");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->options.rank, options.rank);
  EXPECT_EQ(file->options.alpha, options.alpha);
  EXPECT_EQ(file->options.dropout, options.dropout);
  EXPECT_EQ(file->options.rank_stabilized, options.rank_stabilized);
  EXPECT_EQ(file->options.target_modules, options.target_modules);
  EXPECT_EQ(file->base_model, "models/tiny");
}

TEST(PeftFolderTest, RefusesWhatChoirDoesNotCompute) {
  const json good = json::parse(AdapterConfigJson(SmallAdapter(), "b"));
  const std::pair<const char*, json> cases[] = {
      {"peft_type", "VERA"},
      {"peft_type", nullptr},
      {"task_type", "TOKEN_CLS"},
      {"bias", "all"},
      {"use_dora", "yes"},
      {"layer_replication", {{0, 1}}},
      {"modules_to_save", {"lm_head"}},
      {"r", 0},
      {"r", -1},
      {"r", 1.5},
      {"r", "4"},
      {"lora_alpha", 0},
      {"lora_alpha", "x"},
      {"lora_dropout", 1.0},
      {"lora_dropout", -0.1},
      {"use_rslora", 3},
      {"target_modules", 3},
      {"target_modules", ""},
      {"target_modules", json::array()},
      {"target_modules", {1}},
      {"base_model_name_or_path", 5},
  };
  for (const auto& [key, value] : cases) {
    json config = good;
    config[key] = value;
    const auto file = ParseAdapterConfig(config.dump(), "a/config");
    ASSERT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument)
        << key << " " << value;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(key)) << value;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("a/config"));
  }
}

TEST(PeftFolderTest, InitialWeightsThatChangedTheBaseAreRefusedByName) {
  const json good = json::parse(AdapterConfigJson(SmallAdapter(), "b"));
  const auto with = [&](const json& value) {
    json config = good;
    config["init_lora_weights"] = value;
    return ParseAdapterConfig(config.dump(), "c").status();
  };
  // These begin A and B otherwise and leave the base alone.
  for (const json& fine : {json(true), json(false), json(nullptr),
                           json("gaussian"), json("eva"), json("orthogonal")}) {
    EXPECT_TRUE(with(fine).ok()) << fine << ": " << with(fine);
  }
  for (const std::string name : {"pissa", "pissa_niter_16", "olora", "OLoRA",
                                 "corda", "loftq", "lora_ga", "of_next_year"}) {
    const absl::Status status = with(name);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("init_lora_weights is '" + name + "'"),
                      HasSubstr("convert it to plain LoRA with PEFT first")));
  }
  EXPECT_THAT(std::string(with(3).message()), HasSubstr("init_lora_weights"));
}

TEST(PeftFolderTest, ErrorsTellTheValueAndTheLimit) {
  const json good = json::parse(AdapterConfigJson(SmallAdapter(), "b"));
  const auto error = [&](const char* key, const json& value) {
    json config = good;
    config[key] = value;
    if (value.is_discarded()) config.erase(key);
    return std::string(
        ParseAdapterConfig(config.dump(), "c").status().message());
  };
  EXPECT_EQ(error("r", 0), "c: r is 0; give a whole number from 1 to 65536");
  EXPECT_EQ(error("r", json(json::value_t::discarded)),
            "c: r is missing; give a whole number from 1 to 65536");
  EXPECT_EQ(error("lora_alpha", -2),
            "c: lora_alpha is -2; give a positive number");
  EXPECT_EQ(error("lora_dropout", 1.5),
            "c: lora_dropout is 1.5; give a number from 0 to below 1");
  EXPECT_EQ(error("use_dora", "yes"),
            "c: use_dora is \"yes\"; give true or false");
  EXPECT_THAT(error("target_modules", json::array()),
              HasSubstr("target_modules is empty; name the layers"));
  EXPECT_THAT(error("target_modules", nullptr),
              HasSubstr("target_modules is missing; name the layers"));
  EXPECT_THAT(error("target_modules", 3),
              HasSubstr("neither a list of names nor an expression"));
  EXPECT_THAT(error("target_modules", 3), Not(HasSubstr("is empty")));
}

TEST(PeftFolderTest, AllLinearIsEveryModule) {
  json config = json::parse(AdapterConfigJson(SmallAdapter(), "b"));
  config["target_modules"] = "all-linear";
  const auto file = ParseAdapterConfig(config.dump(), "c");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->rules.all_linear);
}

class AdapterFileTest : public testing::Test {
 protected:
  AdapterFileTest()
      : layout_(AdapterLayout(SmallModel(), SmallAdapter()).value()),
        values_(InitialAdapter(layout_, 3)) {}
  std::string ErrorOf(const std::string& bytes,
                      const codec::Layout& layout) const {
    const auto decoded = DecodeAdapterFile(bytes, layout, "up");
    EXPECT_EQ(decoded.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(decoded.status().message());
  }
  codec::Layout layout_;
  std::vector<float> values_;
};

TEST_F(AdapterFileTest, GivesBackTheSameValues) {
  const auto decoded =
      DecodeAdapterFile(EncodeAdapterFile(layout_, values_), layout_);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, values_);
}

TEST_F(AdapterFileTest, RefusesValuesThatAreNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()}) {
    std::vector<float> values = values_;
    values[5] = bad;
    EXPECT_THAT(ErrorOf(EncodeAdapterFile(layout_, values), layout_),
                HasSubstr("not finite"));
  }
}

TEST_F(AdapterFileTest, RefusesAnotherLayout) {
  const std::string bytes = EncodeAdapterFile(layout_, values_);
  config::AdapterOptions other = SmallAdapter();
  other.rank = 2;
  EXPECT_THAT(ErrorOf(bytes, AdapterLayout(SmallModel(), other).value()),
              HasSubstr("has shape [3, 24], not [2, 24]"));
  other = SmallAdapter();
  other.target_modules = {"down_proj"};
  EXPECT_THAT(ErrorOf(bytes, AdapterLayout(SmallModel(), other).value()),
              HasSubstr("v_proj.lora_A.weight' is not one of"));
  other.target_modules = {"down_proj", "q_proj", "v_proj"};
  EXPECT_THAT(ErrorOf(bytes, AdapterLayout(SmallModel(), other).value()),
              HasSubstr("q_proj.lora_A.weight' is not there"));
}

TEST_F(AdapterFileTest, RefusesEveryTruncation) {
  const std::string bytes = EncodeAdapterFile(layout_, values_);
  for (size_t size = 0; size < bytes.size(); size += 17) {
    EXPECT_FALSE(DecodeAdapterFile(bytes.substr(0, size), layout_).ok());
  }
}

TEST(PeftFolderTest, SaysWhenAnAdapterDoesNotFitTheModel) {
  const auto layout = AdapterLayout(SmallModel(), SmallAdapter());
  const std::string folder = tests::NewTempDir();
  ASSERT_TRUE(WritePeftFolder(folder, SmallAdapter(), *layout,
                              InitialAdapter(*layout, 1), "b")
                  .ok());
  ModelConfig wider = SmallModel();
  wider.hidden_size = 32;
  const auto adapter = ReadPeftFolder(folder, wider);
  EXPECT_EQ(adapter.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(adapter.status().message()),
              HasSubstr(kAdapterModelName));
  EXPECT_EQ(ReadPeftFolder(folder + "/none", wider).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace choir::model
