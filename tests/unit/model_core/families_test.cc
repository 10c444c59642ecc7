// What Hugging Face means by config.json of each family, where it is silent and
// where its spellings differ.
#include "model/checkpoint/families.h"

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint/fused_experts.h"
#include "model/checkpoint/model_config.h"
#include "nlohmann/json.hpp"

namespace choir::model {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json Shape(const char* architecture) {
  return {{"architectures", {architecture}},
          {"vocab_size", 100},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 4},
          {"num_attention_heads", 8},
          {"num_key_value_heads", 4}};
}

ModelConfig Parse(const json& config) {
  const auto parsed = ParseModelConfig(config.dump(), "c");
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  return parsed.ok() ? *parsed : ModelConfig();
}

std::string ErrorOf(const json& config) {
  const auto parsed = ParseModelConfig(config.dump(), "m/config.json");
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(parsed.status().message());
}

TEST(FamiliesTest, UnknownArchitecturesAreToldWhatIsKnown) {
  const std::string error = ErrorOf(Shape("FalconForCausalLM"));
  EXPECT_THAT(error, HasSubstr("'FalconForCausalLM'"));
  for (const char* known :
       {"GPT2LMHeadModel", "LlamaForCausalLM", "MistralForCausalLM",
        "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MixtralForCausalLM",
        "OlmoeForCausalLM", "Qwen3MoeForCausalLM"}) {
    EXPECT_THAT(error, HasSubstr(known));
  }
  json typed = Shape("x");
  typed.erase("architectures");
  typed["model_type"] = "mistral";
  EXPECT_EQ(Parse(typed).family, Family::kMistral);
}

TEST(FamiliesTest, ModelsSavedWithoutTheirHeadKeepTheirFamily) {
  EXPECT_EQ(Parse(Shape("LlamaModel")).family, Family::kLlama);
  EXPECT_EQ(Parse(Shape("Qwen3MoeModel")).family, Family::kQwen3Moe);
  json config = Shape("GPT2Model");
  config["n_embd"] = 64;
  config["n_layer"] = 2;
  config["n_head"] = 4;
  EXPECT_EQ(Parse(config).family, Family::kGpt2);
  EXPECT_THAT(ErrorOf(Shape("LlamaForTokenClassification")),
              HasSubstr("'LlamaForTokenClassification'; known are"));
}

TEST(FamiliesTest, MistralSlidesUnlessItSaysNull) {
  json config = Shape("MistralForCausalLM");
  EXPECT_EQ(Parse(config).sliding_window, 4096);
  EXPECT_EQ(Parse(config).max_positions, 131072);
  config["sliding_window"] = 16;
  EXPECT_EQ(Parse(config).WindowOf(3), 16);
  config["sliding_window"] = nullptr;
  EXPECT_EQ(Parse(config).WindowOf(0), 0);
  config.erase("num_key_value_heads");
  EXPECT_EQ(Parse(config).num_kv_heads, 8);
  EXPECT_EQ(Parse(Shape("MixtralForCausalLM")).sliding_window, 0);
}

TEST(FamiliesTest, QwenSlidesFromMaxWindowLayersOnIfAskedTo) {
  json config = Shape("Qwen2ForCausalLM");
  config["sliding_window"] = 32;
  config["max_window_layers"] = 3;
  EXPECT_EQ(Parse(config).sliding_window, 0);
  EXPECT_TRUE(Parse(config).qkv_bias);
  EXPECT_FALSE(Parse(config).output_bias);
  config["use_sliding_window"] = true;
  EXPECT_EQ(Parse(config).WindowOf(2), 0);
  EXPECT_EQ(Parse(config).WindowOf(3), 32);
  config["max_window_layers"] = 0;
  EXPECT_EQ(Parse(config).WindowOf(0), 32);
  config["max_window_layers"] = 28;
  EXPECT_EQ(Parse(config).sliding_window, 0);
  config["layer_types"] = {"sliding_attention", "full_attention",
                           "sliding_attention", "full_attention"};
  EXPECT_EQ(Parse(config).WindowOf(0), 32);
  EXPECT_EQ(Parse(config).WindowOf(1), 0);
  config["layer_types"] = {"full_attention"};
  EXPECT_THAT(ErrorOf(config), HasSubstr("layer_types"));
  config["layer_types"] = nullptr;
  config["sliding_window"] = nullptr;
  EXPECT_EQ(Parse(config).sliding_window, 0);
}

TEST(FamiliesTest, Qwen3NormalisesHeadsOfItsOwnSize) {
  json config = Shape("Qwen3ForCausalLM");
  EXPECT_EQ(Parse(config).head_dim, 128);
  EXPECT_EQ(Parse(config).qk_norm, QkNorm::kPerHead);
  config["head_dim"] = 12;
  const ModelConfig parsed = Parse(config);
  EXPECT_EQ(parsed.head_dim, 12);
  EXPECT_EQ(LinearLayers(parsed)[0].out_features, 96);
  EXPECT_EQ(LinearLayers(parsed)[3].in_features, 96);
  EXPECT_EQ(BlockNames(parsed, 2).q_norm,
            "model.layers.2.self_attn.q_norm.weight");
}

TEST(FamiliesTest, RotationHasThreeSpellings) {
  json config = Shape("LlamaForCausalLM");
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  EXPECT_EQ(Parse(config).rope_scaling.kind, RopeScalingKind::kLinear);
  config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 4.0}};
  EXPECT_EQ(Parse(config).rope_scaling.factor, 4.0);
  config.erase("rope_scaling");
  config["rope_parameters"] = {
      {"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 5e5}};
  EXPECT_EQ(Parse(config).rope_scaling.kind, RopeScalingKind::kLinear);
  EXPECT_EQ(Parse(config).rope_theta, 5e5);
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 7e3}};
  EXPECT_EQ(Parse(config).rope_scaling.kind, RopeScalingKind::kNone);
  EXPECT_EQ(Parse(config).rope_theta, 7e3);
  config["rope_parameters"]["full_attention"] = {{"rope_theta", 1e4}};
  EXPECT_THAT(ErrorOf(config), HasSubstr("rope_parameters.full_attention"));
  config.erase("rope_parameters");
  config["rope_scaling"] = {{"rope_type", "default"}, {"rope_theta", 3e3}};
  EXPECT_EQ(Parse(config).rope_theta, 3e3);
  config["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4.0}};
  EXPECT_EQ(Parse(config).rope_scaling.kind, RopeScalingKind::kNone);
  config["rope_scaling"] = json::object();
  EXPECT_EQ(Parse(config).rope_scaling.kind, RopeScalingKind::kLinear);
  config["rope_scaling"] = nullptr;
  EXPECT_EQ(Parse(config).rope_scaling.kind, RopeScalingKind::kLinear);
  config["rope_parameters"] = {{"rope_type", "default"}};
  config["rope_parameters"]["partial_rotary_factor"] = 0.5;
  EXPECT_THAT(ErrorOf(config), HasSubstr("partial_rotary_factor"));
}

TEST(FamiliesTest, Gpt2HasItsOwnKeys) {
  json config = {{"architectures", {"GPT2LMHeadModel"}},
                 {"vocab_size", 50},
                 {"n_embd", 32},
                 {"n_layer", 2},
                 {"n_head", 4},
                 {"n_inner", nullptr}};
  const ModelConfig parsed = Parse(config);
  EXPECT_EQ(parsed.intermediate_size, 128);
  EXPECT_EQ(parsed.max_positions, 1024);
  EXPECT_EQ(parsed.norm_eps, 1e-5);
  EXPECT_TRUE(parsed.tie_word_embeddings);
  EXPECT_EQ(parsed.activation, Activation::kGeluTanh);
  EXPECT_THAT(LinearKinds(parsed), ElementsAre("c_attn", "c_fc", "c_proj"));
  const LinearSpec qkv = LinearLayers(parsed)[0];
  EXPECT_EQ(qkv.module, "transformer.h.0.attn.c_attn");
  EXPECT_TRUE(qkv.transposed);
  EXPECT_TRUE(qkv.bias);
  EXPECT_EQ(qkv.out_features, 96);
  EXPECT_EQ(parsed.ScoreFactor(1), 1.0);
  for (const auto& [name, activation] :
       {std::pair("gelu", Activation::kGelu),
        std::pair("gelu_python", Activation::kGelu),
        std::pair("gelu_fast", Activation::kGeluTanh),
        std::pair("gelu_pytorch_tanh", Activation::kGeluTanh)}) {
    config["activation_function"] = name;
    EXPECT_EQ(Parse(config).activation, activation) << name;
  }
  config["scale_attn_by_inverse_layer_idx"] = true;
  EXPECT_EQ(Parse(config).ScoreFactor(0), 1.0);
  EXPECT_EQ(Parse(config).ScoreFactor(1), 0.5);
  config["scale_attn_weights"] = false;
  EXPECT_DOUBLE_EQ(Parse(config).ScoreFactor(1), std::sqrt(8.0) / 2);
  config["activation_function"] = "mish";
  config["n_head"] = 5;
  const std::string error = ErrorOf(config);
  EXPECT_THAT(error, HasSubstr("activation_function is 'mish'"));
  EXPECT_THAT(error, HasSubstr("n_embd is 32, not a multiple of n_head 5"));
}

TEST(FamiliesTest, ExpertsAreReadAsTheFamilyNamesThem) {
  json config = Shape("MixtralForCausalLM");
  EXPECT_EQ(Parse(config).moe.num_experts, 8);
  EXPECT_EQ(Parse(config).moe.experts_per_token, 2);
  EXPECT_TRUE(Parse(config).moe.renormalise);
  config["num_local_experts"] = 4;
  EXPECT_EQ(Parse(config).moe.num_experts, 4);
  EXPECT_EQ(LinearLayers(Parse(config))[5].module,
            "model.layers.0.block_sparse_moe.experts.0.w3");
  config["num_experts_per_tok"] = 5;
  EXPECT_THAT(ErrorOf(config),
              HasSubstr("is 5, above the number of experts 4"));

  config = Shape("OlmoeForCausalLM");
  config["num_experts"] = 16;
  config["clip_qkv"] = nullptr;
  EXPECT_FALSE(Parse(config).moe.renormalise);
  EXPECT_EQ(Parse(config).moe.experts_per_token, 8);
  EXPECT_EQ(Parse(config).moe.aux_loss_coefficient, 0.01);
  EXPECT_FALSE(Parse(config).moe.aux_loss);
  EXPECT_EQ(Parse(config).clip_qkv, 0.0);
  EXPECT_EQ(Parse(config).qk_norm, QkNorm::kWhole);
  config["output_router_logits"] = true;
  EXPECT_TRUE(Parse(config).moe.aux_loss);

  config.erase("num_experts");
  EXPECT_EQ(Parse(config).moe.num_experts, 64);

  config = Shape("Qwen3MoeForCausalLM");
  EXPECT_EQ(Parse(config).moe.num_experts, 128);
  config["num_local_experts"] = 8;  // as newer files have it
  config["moe_intermediate_size"] = 24;
  config["decoder_sparse_step"] = 2;
  config["mlp_only_layers"] = {3};
  config["num_experts_per_tok"] = 3;
  config["norm_topk_prob"] = true;
  const ModelConfig parsed = Parse(config);
  EXPECT_EQ(parsed.moe.num_experts, 8);
  EXPECT_FALSE(parsed.IsMoe(0));
  EXPECT_TRUE(parsed.IsMoe(1));
  EXPECT_FALSE(parsed.IsMoe(2));
  EXPECT_FALSE(parsed.IsMoe(3));
  EXPECT_TRUE(parsed.moe.renormalise);
  EXPECT_EQ(BlockNames(parsed, 0).router, "");
  EXPECT_EQ(BlockNames(parsed, 1).router, "model.layers.1.mlp.gate.weight");
  // 3 of 8 experts in one block of four.
  EXPECT_EQ(parsed.num_parameters() - parsed.num_active_parameters(),
            5 * 3 * 64 * 24);
  config["mlp_only_layers"] = {4};
  EXPECT_THAT(ErrorOf(config), HasSubstr("mlp_only_layers"));
}

TEST(FamiliesTest, APartOfTheExpertsIsCheckedAndCounted) {
  json shape = Shape("MixtralForCausalLM");
  ModelConfig config = Parse(shape);
  EXPECT_THAT(config.moe.HeldExperts(), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  ASSERT_TRUE(HoldExperts({5, 1}, config).ok());
  EXPECT_THAT(config.moe.HeldExperts(), ElementsAre(1, 5));
  EXPECT_EQ(LinearLayers(config)[4].module,
            "model.layers.0.block_sparse_moe.experts.1.w1");
  EXPECT_EQ(LinearLayers(config)[4].expert, 1);
  EXPECT_FALSE(HoldExperts({1, 1}, config).ok());
  EXPECT_FALSE(HoldExperts({-1}, config).ok());
  ASSERT_TRUE(HoldExperts({}, config).ok());
  EXPECT_TRUE(config.moe.held.empty());
  ModelConfig dense = Parse(Shape("LlamaForCausalLM"));
  EXPECT_FALSE(HoldExperts({0}, dense).ok());
}

// A tensor whose bytes count up from `first`.
TensorView Counting(const std::string& name, std::vector<int64_t> shape,
                    std::string& bytes) {
  TensorView view;
  view.name = name;
  view.dtype = DType::kBf16;
  view.shape = std::move(shape);
  bytes.clear();
  for (int64_t i = 0; i < 2 * view.num_elements(); ++i) {
    bytes.push_back(static_cast<char>(i));
  }
  view.bytes = bytes;
  return view;
}

TEST(FamiliesTest, FusedExpertsAreSplitIntoTheirMatrices) {
  json shape = {{"vocab_size", 10},         {"hidden_size", 2},
                {"intermediate_size", 3},   {"num_hidden_layers", 1},
                {"num_attention_heads", 1}, {"num_key_value_heads", 1},
                {"num_local_experts", 2},   {"num_experts", 2},
                {"num_experts_per_tok", 1}, {"moe_intermediate_size", 3}};
  for (const bool mixtral : {false, true}) {
    shape["architectures"] = {mixtral ? "MixtralForCausalLM"
                                      : "Qwen3MoeForCausalLM"};
    shape["head_dim"] = 2;
    const ModelConfig config = Parse(shape);
    std::string bytes[3];
    const std::string block = "model.layers.0.mlp.";
    const std::vector<TensorView> parts = SplitFusedExperts(
        config, {Counting(block + "experts.gate_up_proj", {2, 6, 2}, bytes[0]),
                 Counting(block + "experts.down_proj", {2, 2, 3}, bytes[1]),
                 Counting(block + "gate.weight", {2, 2}, bytes[2])});
    ASSERT_EQ(parts.size(), 7u);
    const std::string folder =
        mixtral ? "model.layers.0.block_sparse_moe." : block;
    // Gates above ups, expert after expert; 12 bytes each.
    EXPECT_EQ(parts[1].name, folder + (mixtral ? "experts.1.w1.weight"
                                               : "experts.1.gate_proj.weight"));
    EXPECT_THAT(parts[1].shape, ElementsAre(3, 2));
    EXPECT_EQ(parts[1].bytes, bytes[0].substr(24, 12));
    EXPECT_EQ(parts[2].name, folder + (mixtral ? "experts.0.w3.weight"
                                               : "experts.0.up_proj.weight"));
    EXPECT_EQ(parts[2].bytes, bytes[0].substr(12, 12));
    EXPECT_EQ(parts[5].name, folder + (mixtral ? "experts.1.w2.weight"
                                               : "experts.1.down_proj.weight"));
    EXPECT_THAT(parts[5].shape, ElementsAre(2, 3));
    EXPECT_EQ(parts[5].bytes, bytes[1].substr(12, 12));
    EXPECT_EQ(parts[6].name, folder + "gate.weight");
    // In another shape it stays, to be listed as unexpected.
    EXPECT_EQ(
        SplitFusedExperts(config, {Counting(block + "experts.gate_up_proj",
                                            {2, 2, 6}, bytes[0])})
            .size(),
        1u);
  }
}

TEST(FamiliesTest, GenerationConfigSaysWhatEndsAText) {
  json shape = Shape("LlamaForCausalLM");
  shape["eos_token_id"] = 2;
  ModelConfig config = Parse(shape);
  ASSERT_TRUE(
      ApplyGenerationConfig(R"({"eos_token_id": [5, 7]})", "g", config).ok());
  EXPECT_THAT(config.eos_token_ids, ElementsAre(5, 7));
  ASSERT_TRUE(ApplyGenerationConfig("{}", "g", config).ok());
  EXPECT_THAT(config.eos_token_ids, ElementsAre(5, 7));
  EXPECT_FALSE(
      ApplyGenerationConfig(R"({"eos_token_id": "x"})", "g", config).ok());
  ASSERT_TRUE(
      ApplyGenerationConfig(R"({"eos_token_id": -1})", "g", config).ok());
  EXPECT_TRUE(config.eos_token_ids.empty());

  const std::string folder = ::testing::TempDir() + "/generation_config";
  ASSERT_TRUE(base::MakeDirectories(folder).ok());
  ASSERT_TRUE(
      base::WriteFileAtomic(folder + "/config.json", shape.dump()).ok());
  ASSERT_TRUE(base::WriteFileAtomic(folder + "/generation_config.json",
                                    R"({"eos_token_id": 9})")
                  .ok());
  const auto loaded = LoadModelConfig(folder + "/config.json");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->eos_token_ids, ElementsAre(9));
}

TEST(FamiliesTest, EveryTensorThatDoesNotFitIsListed) {
  json shape = Shape("LlamaForCausalLM");
  shape["num_hidden_layers"] = 9;
  const ModelConfig config = Parse(shape);
  std::vector<StoredTensor> stored;
  for (int i = 0; i < 40; ++i) stored.push_back({absl::StrCat("x.", i), {3}});
  stored.push_back({"model.norm.weight", {7}});
  const absl::Status status = CheckTensorTable(config, stored, "m");
  ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const std::string error(status.message());
  for (const codec::TensorSpec& spec : ModelTensors(config)) {
    EXPECT_THAT(error, HasSubstr(absl::StrCat("'", spec.name, "'")));
  }
  for (int i = 0; i < 40; ++i) {
    EXPECT_THAT(error, HasSubstr(absl::StrCat("'x.", i, "'")));
  }
}

TEST(FamiliesTest, TargetsNameWholePartsOfPaths) {
  const std::string module = "transformer.h.0.attn.c_proj";
  EXPECT_TRUE(TargetMatches("c_proj", module));
  EXPECT_TRUE(TargetMatches("attn.c_proj", module));
  EXPECT_TRUE(TargetMatches(module, module));
  EXPECT_FALSE(TargetMatches("proj", module));
  EXPECT_FALSE(TargetMatches("mlp.c_proj", module));
  EXPECT_FALSE(TargetMatches("", module));
}

}  // namespace
}  // namespace choir::model
