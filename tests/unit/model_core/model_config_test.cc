#include "model/checkpoint/model_config.h"

#include <string>

#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint/safetensors.h"
#include "model/checkpoint/tensor_files.h"
#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"

namespace choir::model {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

json Good() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"vocab_size", 512},
          {"hidden_size", 64},
          {"intermediate_size", 172},
          {"num_hidden_layers", 5},
          {"num_attention_heads", 8},
          {"num_key_value_heads", 4},
          {"max_position_embeddings", 512}};
}

std::string ErrorOf(const json& config) {
  const auto parsed = ParseModelConfig(config.dump(), "m/config.json");
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument)
      << config;
  return std::string(parsed.status().message());
}

TEST(ModelConfigTest, FillsDefaults) {
  const auto config = ParseModelConfig(Good().dump(), "c");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_EQ(config->rope_theta, 10000.0);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_EQ(config->bos_token_id, -1);
  EXPECT_EQ(config->rope_scaling.kind, RopeScalingKind::kNone);
}

TEST(ModelConfigTest, ListsEverythingThatIsWrongInOneMessage) {
  json config = Good();
  config.erase("vocab_size");
  config["architectures"] = {"FalconForCausalLM"};
  config["hidden_act"] = "gelu";
  config["rms_norm_eps"] = -1;
  config["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 2.0}};
  const std::string error = ErrorOf(config);
  EXPECT_THAT(error, HasSubstr("m/config.json"));
  EXPECT_THAT(error, HasSubstr("vocab_size is missing"));
  EXPECT_THAT(error, HasSubstr("FalconForCausalLM"));
  EXPECT_THAT(error, HasSubstr("'gelu'; known is silu"));
  EXPECT_THAT(error, HasSubstr("rms_norm_eps is -1"));
  EXPECT_THAT(error, HasSubstr("rope_scaling.rope_type is 'yarn'"));
}

TEST(ModelConfigTest, RefusesEachImpossibleSize) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size",
                          "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "max_position_embeddings"}) {
    for (const json& value :
         {json(0), json(-4), json(1.5), json("8"), json(true), json::array(),
          json(uint64_t{1} << 63), json(1e300)}) {
      json config = Good();
      config[key] = value;
      EXPECT_THAT(ErrorOf(config), HasSubstr(key)) << value;
    }
  }
}

TEST(ModelConfigTest, RefusesShapesThatDoNotFit) {
  json config = Good();
  config["num_key_value_heads"] = 3;
  EXPECT_THAT(ErrorOf(config), HasSubstr("not a multiple"));
  config = Good();
  config["hidden_size"] = 65;
  EXPECT_THAT(ErrorOf(config), HasSubstr("hidden_size is 65"));
  config = Good();
  config["head_dim"] = 7;
  EXPECT_THAT(ErrorOf(config), HasSubstr("even"));
}

TEST(ModelConfigTest, ASizeThatIsWrongMakesNoOtherSizeWrong) {
  const std::string empty = ErrorOf(json::object());
  EXPECT_THAT(empty, HasSubstr("hidden_size is missing"));
  EXPECT_THAT(empty, Not(HasSubstr("multiple")));
  EXPECT_THAT(empty, Not(HasSubstr("head_dim")));
  json config = Good();
  config["hidden_size"] = int64_t{1} << 40;
  EXPECT_EQ(ErrorOf(config),
            "m/config.json: hidden_size is 1099511627776, not a whole number "
            "from 1 to 16777216");
  config = Good();
  config["num_key_value_heads"] = 0;
  EXPECT_THAT(ErrorOf(config), Not(HasSubstr("multiple")));
  config = Good();
  config["architectures"] = {"Qwen3MoeForCausalLM"};
  config["num_experts"] = -1;
  config["num_hidden_layers"] = 0;
  config["mlp_only_layers"] = {3};
  EXPECT_THAT(ErrorOf(config), Not(HasSubstr("num_experts_per_tok")));
  EXPECT_THAT(ErrorOf(config), Not(HasSubstr("mlp_only_layers")));
}

TEST(ModelConfigTest, RefusesAnArchitectureOfAnotherModelType) {
  json config = Good();
  config["model_type"] = "mistral";
  config["sliding_window"] = 2;
  EXPECT_THAT(ErrorOf(config),
              HasSubstr("model_type is 'mistral', but architectures names "
                        "LlamaForCausalLM, which is of model_type 'llama'; "
                        "correct the one that is wrong (model_type to llama, "
                        "or architectures to MistralForCausalLM)"));
  config["model_type"] = "gemma";
  EXPECT_THAT(ErrorOf(config), HasSubstr("'gemma'"));
  config["model_type"] = 3;
  EXPECT_THAT(ErrorOf(config), HasSubstr("model_type is 3"));
  config["architectures"] = {"MistralForCausalLM"};
  config["model_type"] = "mistral";
  const auto parsed = ParseModelConfig(config.dump(), "c");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->sliding_window, 2);
  for (const char* silent : {"null", "\"\"", "\"llama\""}) {
    config = Good();
    config["model_type"] = json::parse(silent);
    EXPECT_TRUE(ParseModelConfig(config.dump(), "c").ok()) << silent;
  }
}

TEST(ModelConfigTest, RopeFactorsAreTold) {
  json config = Good();
  config["partial_rotary_factor"] = 0.5;
  EXPECT_THAT(ErrorOf(config), HasSubstr("partial_rotary_factor is 0.5"));
  config = Good();
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 4.0},
                            {"high_freq_factor", 1.5}};
  EXPECT_THAT(
      ErrorOf(config),
      HasSubstr("rope_scaling.high_freq_factor is 1.5; it must be above "
                "low_freq_factor, which is 4"));
}

TEST(ModelConfigTest, AFolderWithoutAModelIsToldWhatToGive) {
  const std::string folder = tests::NewTempDir();
  const auto error = [&] {
    const auto config = LoadModelConfig(base::JoinPath(folder, "config.json"));
    EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
    return std::string(config.status().message());
  };
  EXPECT_THAT(error(), HasSubstr(folder));
  EXPECT_THAT(error(), HasSubstr("give the folder of a Hugging Face model"));
  const std::string adapter = base::JoinPath(folder, "adapter_config.json");
  ASSERT_TRUE(base::WriteFileAtomic(adapter, "{}").ok());
  EXPECT_THAT(error(), HasSubstr("holds a PEFT adapter"));
  EXPECT_THAT(error(), HasSubstr("--adapter"));
  const auto tokenizer = Tokenizer::LoadFolder(folder);
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(tokenizer.status().message()),
              HasSubstr("needs tokenizer.json, or vocab.json"));
}

TEST(ModelConfigTest, RefusesWhatIsNotJson) {
  EXPECT_FALSE(ParseModelConfig("", "c").ok());
  EXPECT_FALSE(ParseModelConfig("[]", "c").ok());
  EXPECT_FALSE(ParseModelConfig("{\"vocab_size\":", "c").ok());
}

TEST(ModelConfigTest, ReadsBothPlacesOfRopeSettings) {
  json config = Good();
  config["rope_theta"] = 5e5;
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  auto parsed = ParseModelConfig(config.dump(), "c");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->rope_theta, 5e5);
  EXPECT_EQ(parsed->rope_scaling.kind, RopeScalingKind::kLinear);
  EXPECT_EQ(parsed->rope_scaling.factor, 4.0);

  config = Good();
  config["rope_parameters"] = {{"rope_type", "llama3"},
                               {"rope_theta", 1e6},
                               {"factor", 8.0},
                               {"original_max_position_embeddings", 32}};
  parsed = ParseModelConfig(config.dump(), "c");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->rope_theta, 1e6);
  EXPECT_EQ(parsed->rope_scaling.kind, RopeScalingKind::kLlama3);
  EXPECT_EQ(parsed->rope_scaling.original_max_positions, 32);
}

TEST(ModelConfigTest, WritesWhatItReads) {
  json config = Good();
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 32}};
  config["tie_word_embeddings"] = true;
  config["attention_bias"] = true;
  config["eos_token_id"] = {2, 7};
  config["bos_token_id"] = 1;
  const auto first = ParseModelConfig(config.dump(), "c");
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string text = ModelConfigJson(*first);
  const auto second = ParseModelConfig(text, "c");
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(ModelConfigJson(*second), text);
  EXPECT_THAT(second->eos_token_ids, testing::ElementsAre(2, 7));
  EXPECT_EQ(second->bos_token_id, 1);
  EXPECT_TRUE(second->qkv_bias);
  EXPECT_TRUE(second->output_bias);
  EXPECT_EQ(second->rope_scaling.factor, 8.0);
}

TEST(ModelConfigTest, MinusOneIsNoToken) {
  json config = Good();
  config["bos_token_id"] = config["eos_token_id"] = -1;
  config["pad_token_id"] = -1;
  auto parsed = ParseModelConfig(config.dump(), "c");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->bos_token_id, -1);
  EXPECT_TRUE(parsed->eos_token_ids.empty());
  config["eos_token_id"] = {-1, 7};
  parsed = ParseModelConfig(config.dump(), "c");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT(parsed->eos_token_ids, testing::ElementsAre(7));
  for (const json& bad : {json(-2), json(-1.0), json("-1")}) {
    config["eos_token_id"] = bad;
    EXPECT_THAT(
        std::string(ParseModelConfig(config.dump(), "c").status().message()),
        testing::HasSubstr("eos_token_id"))
        << bad;
  }
}

TEST(ModelConfigTest, CountsTheParametersOfTheGoldenModels) {
  CHOIR_SKIP_WITHOUT_GOLDEN("stories260k, llama");
  for (const char* name : {"stories260k", "arch/llama"}) {
    const std::string folder = base::JoinPath(tests::GoldenDir(), name);
    const auto config = LoadModelConfig(folder + "/config.json");
    ASSERT_TRUE(config.ok()) << config.status();
    const auto file = SafetensorsFile::Open(folder + "/model.safetensors");
    ASSERT_TRUE(file.ok()) << file.status();
    int64_t stored = 0;
    for (const TensorView& tensor : file->tensors()) {
      stored += tensor.num_elements();
    }
    EXPECT_EQ(config->num_parameters(), stored) << name;
  }
}

TEST(ModelConfigTest, CountsTheParametersOfEveryGoldenFamily) {
  CHOIR_SKIP_WITHOUT_GOLDEN("mixtral, gpt2");
  for (const char* name : {"mixtral", "gpt2"}) {
    const std::string folder =
        base::JoinPath(tests::GoldenDir(), "arch/") + name;
    const auto config = LoadModelConfig(folder + "/config.json");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(FamilyName(config->family), name);
    EXPECT_TRUE(TensorFiles::Open(folder, *config).ok())
        << TensorFiles::Open(folder, *config).status();
  }
}

}  // namespace
}  // namespace choir::model
