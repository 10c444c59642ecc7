// Which layers an adapter adapts: defaults by family, and the rules of PEFT's
// adapter_config.json.
#include "model/adapter/targets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/peft_folder.h"
#include "model/adapter/target_rules.h"
#include "model/export/gguf.h"
#include "model/export/gguf_lora.h"
#include "model/export/merge.h"
#include "nlohmann/json.hpp"
#include "tests/unit/model_adapter/folders.h"

namespace choir::model {
namespace {

using config::AdapterKind;
using config::AdapterOptions;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using tests::SmallConfig;

AdapterOptions Unnamed(AdapterKind kind,
                       std::vector<std::string> targets = {}) {
  AdapterOptions options;
  options.kind = kind;
  options.rank = 4;
  options.target_modules = std::move(targets);
  return options;
}

std::vector<std::string> Targets(Family family, const AdapterOptions& options) {
  return WithTargets(SmallConfig(family), options).target_modules;
}

TEST(WithTargetsTest, LoraAdaptsAllOfADenseModelAndTheAttentionOfExperts) {
  const AdapterOptions lora = Unnamed(AdapterKind::kLora);
  EXPECT_THAT(Targets(Family::kLlama, lora),
              ElementsAre("down_proj", "gate_proj", "k_proj", "o_proj",
                          "q_proj", "up_proj", "v_proj"));
  EXPECT_THAT(Targets(Family::kGpt2, lora),
              ElementsAre("c_attn", "c_fc", "c_proj"));
  EXPECT_THAT(Targets(Family::kMixtral, lora),
              ElementsAre("k_proj", "o_proj", "q_proj", "v_proj"));
}

TEST(WithTargetsTest, AllLinearTakesExpertsInAndRoutersNot) {
  const AdapterOptions all = Unnamed(AdapterKind::kLora, {"all-linear"});
  for (const Family family :
       {Family::kLlama, Family::kGpt2, Family::kMixtral}) {
    EXPECT_EQ(Targets(family, all), LinearKinds(SmallConfig(family)));
  }
}

TEST(WithTargetsTest, Ia3ScalesTheInputsOfLastFeedforwardLayersAlone) {
  const std::map<Family, std::vector<std::string>> expected = {
      {Family::kLlama, {"down_proj", "k_proj", "v_proj"}},
      {Family::kGpt2, {"c_attn", "mlp.c_proj"}},
      {Family::kMixtral, {"k_proj", "v_proj", "w2"}}};
  for (const auto& [family, targets] : expected) {
    const ModelConfig config = SmallConfig(family);
    for (const bool all : {false, true}) {
      AdapterOptions given = Unnamed(AdapterKind::kIa3);
      if (all) given.target_modules = {"all-linear"};
      const AdapterOptions options = WithTargets(config, given);
      if (!all) {
        EXPECT_EQ(options.target_modules, targets);
      }
      const auto layers = AdaptedLayers(config, given);
      ASSERT_TRUE(layers.ok()) << layers.status();
      if (all) {
        EXPECT_EQ(layers->size(), LinearLayers(config).size());
      }
      for (const LinearSpec& layer : *layers) {
        EXPECT_EQ(IsFeedforward(options, layer.module),
                  layer.role == LinearRole::kDown)
            << layer.module;
      }
      // Twice is once, and the layout is that of the names.
      const AdapterOptions again = WithTargets(config, options);
      EXPECT_EQ(again.target_modules, options.target_modules);
      EXPECT_EQ(AdapterLayout(config, given)->digest(),
                AdapterLayout(config, options)->digest());
    }
  }
}

TEST(WithTargetsTest, NamesThatAreGivenStay) {
  const AdapterOptions options =
      Unnamed(AdapterKind::kIa3, {"down_proj", "k_proj"});
  const AdapterOptions same = WithTargets(SmallConfig(Family::kLlama), options);
  EXPECT_EQ(same.target_modules, options.target_modules);
  EXPECT_TRUE(same.feedforward_modules.empty());
}

// The layers that a PEFT configuration with `changes` adapts.
absl::StatusOr<AdapterOptions> Read(Family family, const json& changes) {
  const ModelConfig config = SmallConfig(family);
  AdapterOptions options = Unnamed(AdapterKind::kLora, {"x"});
  json document = json::parse(AdapterConfigJson(options, "b"));
  document.update(changes);
  auto file = ParseAdapterConfig(document.dump(), "c");
  if (!file.ok()) return file.status();
  const absl::Status applied =
      ApplyTargetRules(config, file->rules, file->options);
  if (!applied.ok()) return applied;
  return file->options;
}

std::vector<std::string> ReadTargets(Family family, const json& changes) {
  const auto options = Read(family, changes);
  EXPECT_TRUE(options.ok()) << options.status() << changes;
  return options.ok() ? options->target_modules : std::vector<std::string>();
}

TEST(TargetRulesTest, ExpressionsMatchWholePaths) {
  EXPECT_THAT(
      ReadTargets(Family::kLlama, {{"target_modules", ".*\\.(q|v)_proj"}}),
      ElementsAre("q_proj", "v_proj"));
  EXPECT_THAT(ReadTargets(Family::kLlama, {{"target_modules",
                                            "model\\.layers\\.1\\..*k_proj$"}}),
              ElementsAre("model.layers.1.self_attn.k_proj"));
  EXPECT_THAT(
      ReadTargets(Family::kGpt2,
                  {{"target_modules", "^transformer.*mlp\\.c_proj"}}),
      ElementsAre("transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj"));
  EXPECT_EQ(ReadTargets(Family::kMixtral, {{"target_modules", "ALL-linear"}}),
            LinearKinds(SmallConfig(Family::kMixtral)));
  // As with PEFT, one name that matches is enough.
  EXPECT_THAT(ReadTargets(Family::kLlama,
                          {{"target_modules", {"q_proj", "query_key_value"}}}),
              ElementsAre("q_proj"));
  // A match of a part is none.
  EXPECT_FALSE(Read(Family::kLlama, {{"target_modules", "q_proj"}}).ok());
}

TEST(TargetRulesTest, LayersAndExclusionsNarrowTheTargets) {
  EXPECT_THAT(ReadTargets(Family::kLlama, {{"target_modules", {"q_proj"}},
                                           {"layers_to_transform", {1}}}),
              ElementsAre("model.layers.1.self_attn.q_proj"));
  EXPECT_THAT(ReadTargets(Family::kGpt2, {{"target_modules", {"c_attn"}},
                                          {"layers_to_transform", 0},
                                          {"layers_pattern", "h"}}),
              ElementsAre("transformer.h.0.attn.c_attn"));
  EXPECT_THAT(
      ReadTargets(Family::kLlama,
                  {{"target_modules", "all-linear"},
                   {"exclude_modules", {"mlp.up_proj", "o_proj"}}}),
      ElementsAre("down_proj", "gate_proj", "k_proj", "q_proj", "v_proj"));
  EXPECT_THAT(
      ReadTargets(Family::kLlama, {{"target_modules", {"k_proj", "q_proj"}},
                                   {"exclude_modules", ".*layers\\.0\\..*"}}),
      ElementsAre("model.layers.1.self_attn.k_proj",
                  "model.layers.1.self_attn.q_proj"));
  // As PEFT does, the last number of a path counts where no list is named.
  EXPECT_THAT(ReadTargets(Family::kMixtral, {{"target_modules", {"w1"}},
                                             {"layers_to_transform", {2}}}),
              ElementsAre("model.layers.0.block_sparse_moe.experts.2.w1",
                          "model.layers.1.block_sparse_moe.experts.2.w1"));
  EXPECT_EQ(ReadTargets(Family::kMixtral, {{"target_modules", {"w1"}},
                                           {"layers_to_transform", {0}},
                                           {"layers_pattern", {"layers"}}})
                .size(),
            3u);
}

TEST(TargetRulesTest, TheFirstPatternThatMatchesGivesTheRank) {
  // Keys are texts of a JSON object in their order, so the text is spelt out.
  const std::string text = R"({"peft_type":"LORA","r":4,"lora_alpha":8,
      "target_modules":["q_proj","v_proj"],
      "rank_pattern":{"layers.1.self_attn.q_proj":2,"q_proj":3,".*v_pro.":4},
      "alpha_pattern":{"^model.layers.0.self_attn.v_proj":16,"proj":99,
                       "layers.0.self_attn.[qv]_proj":5}})";
  auto file = ParseAdapterConfig(text, "c");
  ASSERT_TRUE(file.ok()) << file.status();
  const ModelConfig config = SmallConfig(Family::kLlama);
  AdapterOptions& options = file->options;
  ASSERT_TRUE(ApplyTargetRules(config, file->rules, options).ok());
  EXPECT_EQ(options.rank_of("model.layers.1.self_attn.q_proj"), 2);
  EXPECT_EQ(options.rank_of("model.layers.0.self_attn.q_proj"), 3);
  EXPECT_EQ(options.rank_of("model.layers.0.self_attn.v_proj"), 4);
  EXPECT_EQ(options.scale_of("model.layers.0.self_attn.v_proj"), 16.0 / 4);
  EXPECT_EQ(options.scale_of("model.layers.0.self_attn.q_proj"), 5.0 / 3);
  EXPECT_EQ(options.scale_of("model.layers.1.self_attn.q_proj"), 8.0 / 2);
  EXPECT_EQ(options.scale_of("model.layers.1.self_attn.v_proj"), 8.0 / 4);
  options.rank_stabilized = true;
  EXPECT_DOUBLE_EQ(options.scale_of("model.layers.0.self_attn.v_proj"), 8.0);
  const auto layout = AdapterLayout(config, options);
  ASSERT_TRUE(layout.ok());
  std::multiset<int64_t> ranks;
  for (const auto& tensor : layout->tensors()) {
    if (absl::EndsWith(tensor.name, "lora_A.weight")) {
      ranks.insert(tensor.shape[0]);
    }
  }
  EXPECT_EQ(ranks, (std::multiset<int64_t>{2, 3, 4, 4}));
}

TEST(TargetRulesTest, RefusesBrokenRulesByName) {
  const std::pair<const char*, json> cases[] = {
      {"target_modules", {{"target_modules", "(q_proj"}}},
      {"target_modules", {{"target_modules", "nothing.*"}}},
      {"q_projj", {{"target_modules", {"q_projj"}}}},
      {"'lm_head'; embeddings, heads and routers",
       {{"target_modules", {"q_proj", "lm_head"}}}},
      {"target_modules",
       {{"target_modules", {"q_proj"}}, {"exclude_modules", {"q_proj"}}}},
      {"exclude_modules",
       {{"target_modules", {"q_proj"}}, {"exclude_modules", 3}}},
      {"layers_to_transform",
       {{"target_modules", {"q_proj"}}, {"layers_to_transform", {"a"}}}},
      {"layers_to_transform",
       {{"target_modules", ".*q_proj"}, {"layers_to_transform", {1}}}},
      {"layers_pattern",
       {{"target_modules", {"q_proj"}}, {"layers_pattern", 1}}},
      {"rank_pattern", {{"target_modules", {"q_proj"}}, {"rank_pattern", 1}}},
      {"rank_pattern",
       {{"target_modules", {"q_proj"}}, {"rank_pattern", {{"q_proj", 0}}}}},
      {"rank_pattern",
       {{"target_modules", {"q_proj"}}, {"rank_pattern", {{"q(proj", 2}}}}},
      {"alpha_pattern",
       {{"target_modules", {"q_proj"}}, {"alpha_pattern", {{"q_proj", "x"}}}}},
  };
  for (const auto& [named, changes] : cases) {
    const auto options = Read(Family::kLlama, changes);
    ASSERT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument)
        << changes;
    EXPECT_THAT(std::string(options.status().message()), HasSubstr(named));
  }
}

// An adapter whose layers differ in rank and alpha.
PeftAdapter Uneven(Family family, AdapterKind kind, bool stabilized) {
  const ModelConfig config = SmallConfig(family);
  AdapterOptions options = tests::SmallOptions(family, kind);
  options.rank_stabilized = stabilized;
  const std::vector<LinearSpec> layers = AdaptedLayers(config, options).value();
  for (const LinearSpec& layer : layers) {
    // The experts of a layer share a tensor in GGUF, and so a rank.
    const int i = static_cast<int>(layer.layer) + static_cast<int>(layer.role);
    if (i % 2 == 1) options.layer_ranks[layer.module] = i % 4 == 1 ? 2 : 5;
    if (i % 3 == 1) options.layer_alphas[layer.module] = 2.5 + i;
  }
  return tests::RandomAdapter(config, options, 4);
}

TEST(UnevenAdapterTest, FoldersAreReadAsWritten) {
  for (const Family family : {Family::kLlama, Family::kGpt2}) {
    const PeftAdapter adapter = Uneven(family, AdapterKind::kDora, true);
    const std::string folder = tests::NewTempDir();
    ASSERT_TRUE(WritePeftFolder(folder, adapter.options, adapter.layout,
                                adapter.values, "b")
                    .ok());
    const auto read = ReadPeftFolder(folder, SmallConfig(family));
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->values, adapter.values);
    EXPECT_EQ(read->options.layer_ranks, adapter.options.layer_ranks);
    EXPECT_EQ(read->options.layer_alphas, adapter.options.layer_alphas);
  }
}

// scale * B A of every adapted layer.
std::map<std::string, std::vector<double>> Products(
    const ModelConfig& config, const PeftAdapter& adapter) {
  std::map<std::string, std::vector<double>> products;
  const auto values = [&](const std::string& name) {
    for (size_t i = 0; i < adapter.layout.tensors().size(); ++i) {
      if (adapter.layout.tensors()[i].name == name) {
        return adapter.values.data() + adapter.layout.offset(i);
      }
    }
    return static_cast<const float*>(nullptr);
  };
  const std::vector<LinearSpec> layers =
      AdaptedLayers(config, adapter.options).value();
  for (const LinearSpec& layer : layers) {
    const float* a = values(LoraAName(layer.module));
    const float* b = values(LoraBName(layer.module));
    const int rank = adapter.options.rank_of(layer.module);
    std::vector<double>& product = products[layer.module];
    for (int64_t o = 0; o < layer.out_features; ++o) {
      for (int64_t i = 0; i < layer.in_features; ++i) {
        double sum = 0.0;
        for (int r = 0; r < rank; ++r) {
          sum += static_cast<double>(b[o * rank + r]) *
                 a[r * layer.in_features + i];
        }
        product.push_back(adapter.options.scale_of(layer.module) * sum);
      }
    }
  }
  return products;
}

TEST(UnevenAdapterTest, GgufHoldsTheSameProducts) {
  for (const Family family : {Family::kLlama, Family::kMixtral}) {
    for (const bool stabilized : {false, true}) {
      for (const bool with_key : {false, true}) {
        const ModelConfig config = SmallConfig(family);
        const PeftAdapter adapter =
            Uneven(family, AdapterKind::kLora, stabilized);
        std::string bytes =
            EncodeGgufLora(config, adapter, DType::kF32).value();
        if (!with_key) {
          GgufFile file = ParseGguf(bytes, "f").value();
          file.metadata.pop_back();
          bytes = EncodeGguf(file.metadata, file.tensors).value();
        }
        const auto read = DecodeGgufLora(bytes, config, "f");
        ASSERT_TRUE(read.ok()) << read.status();
        const auto expected = Products(config, adapter);
        const auto got = Products(config, *read);
        ASSERT_EQ(got.size(), expected.size());
        for (const auto& [module, product] : expected) {
          for (size_t i = 0; i < product.size(); ++i) {
            ASSERT_NEAR(got.at(module)[i], product[i], 2e-5) << module;
          }
        }
      }
    }
  }
}

TEST(UnevenAdapterTest, GgufRefusesExpertsOfDifferentRanks) {
  const ModelConfig config = SmallConfig(Family::kMixtral);
  AdapterOptions options =
      tests::SmallOptions(Family::kMixtral, AdapterKind::kLora);
  options.layer_ranks["model.layers.0.block_sparse_moe.experts.1.w1"] = 2;
  const auto bytes = EncodeGgufLora(
      config, tests::RandomAdapter(config, options, 1), DType::kF32);
  EXPECT_THAT(std::string(bytes.status().message()),
              HasSubstr("different ranks"));
}

TEST(UnevenAdapterTest, MergingAddsEachLayersOwnProduct) {
  const ModelConfig config = SmallConfig(Family::kLlama);
  const PeftAdapter adapter = Uneven(Family::kLlama, AdapterKind::kLora, true);
  const std::string base = tests::WriteCheckpoint(config);
  MergeOptions merge;
  merge.model = base;
  merge.adapter = tests::NewTempDir();
  merge.out = tests::NewTempDir() + "/merged";
  ASSERT_TRUE(WritePeftFolder(merge.adapter, adapter.options, adapter.layout,
                              adapter.values, "b")
                  .ok());
  ASSERT_TRUE(MergeAdapter(merge).ok());
  const auto before = tests::ReadAll(base);
  const auto after = tests::ReadAll(merge.out);
  for (const auto& [module, product] : Products(config, adapter)) {
    const std::string name = module + ".weight";
    for (size_t i = 0; i < product.size(); ++i) {
      ASSERT_NEAR(after.at(name)[i], before.at(name)[i] + product[i], 2e-5);
    }
  }
}

}  // namespace
}  // namespace choir::model
