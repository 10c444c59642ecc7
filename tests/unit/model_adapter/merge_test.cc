// Merged checkpoints against the formulas of each kind of adapter.
#include "model/export/merge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "model/adapter/lofit.h"
#include "nlohmann/json.hpp"
#include "tests/unit/model_adapter/folders.h"

namespace choir::model {
namespace {

using config::AdapterKind;
using ::testing::HasSubstr;
using tests::RandomAdapter;
using tests::ReadAll;
using tests::SmallConfig;
using tests::SmallOptions;
using tests::ValuesOf;

struct Merged {
  ModelConfig config;
  PeftAdapter adapter;
  std::string base, out;
  MergeReport report;
};

Merged Merge(Family family, AdapterKind kind, DType dtype = DType::kF32,
             int shards = 1, std::optional<DType> target = std::nullopt) {
  Merged m;
  m.config = SmallConfig(family);
  m.adapter = RandomAdapter(m.config, SmallOptions(family, kind), 33);
  m.base = tests::WriteCheckpoint(m.config, dtype, shards);
  const std::string folder = tests::NewTempDir();
  CHOIR_CHECK(WritePeftFolder(folder, m.adapter.options, m.adapter.layout,
                              m.adapter.values, "small")
                  .ok());
  MergeOptions options;
  options.model = m.base;
  options.adapter = folder;
  options.out = tests::NewTempDir() + "/merged";
  options.dtype = target;
  const auto report = MergeAdapter(options);
  EXPECT_TRUE(report.ok()) << report.status();
  m.out = options.out;
  if (report.ok()) m.report = *report;
  return m;
}

// The weight [out, in] that the adapter's definition gives.
std::vector<double> Expected(const Merged& m, const LinearSpec& layer,
                             const std::vector<float>& stored) {
  const int64_t in = layer.in_features;
  const int64_t out = layer.out_features;
  const config::AdapterOptions& options = m.adapter.options;
  std::vector<double> w(in * out);
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t i = 0; i < in; ++i) {
      w[o * in + i] = stored[layer.transposed ? i * out + o : o * in + i];
    }
  }
  if (options.has_lora()) {
    const auto a = ValuesOf(m.adapter, LoraAName(layer.module));
    const auto b = ValuesOf(m.adapter, LoraBName(layer.module));
    for (int64_t o = 0; o < out; ++o) {
      double norm = 0.0;
      for (int64_t i = 0; i < in; ++i) {
        for (int r = 0; r < options.rank; ++r) {
          w[o * in + i] += options.scale() *
                           static_cast<double>(b[o * options.rank + r]) *
                           a[r * in + i];
        }
        norm += w[o * in + i] * w[o * in + i];
      }
      if (options.kind != AdapterKind::kDora) continue;
      const auto m_vector = ValuesOf(m.adapter, MagnitudeName(layer.module));
      for (int64_t i = 0; i < in; ++i) {
        w[o * in + i] *= m_vector[o] / std::sqrt(norm);
      }
    }
  } else if (options.kind == AdapterKind::kIa3) {
    const auto l = ValuesOf(m.adapter, Ia3Name(layer.module));
    const bool by_input = IsFeedforward(options, layer.module);
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i) w[o * in + i] *= l[by_input ? i : o];
    }
  }
  return w;
}

class MergeTest
    : public testing::TestWithParam<std::tuple<Family, AdapterKind>> {};

TEST_P(MergeTest, GivesTheWeightsOfTheDefinition) {
  const auto [family, kind] = GetParam();
  const Merged m = Merge(family, kind, DType::kF32, 2);
  const auto before = ReadAll(m.base);
  const auto after = ReadAll(m.out);
  ASSERT_EQ(before.size(), after.size());
  std::map<std::string, LinearSpec> adapted;
  const std::vector<LinearSpec> layers =
      AdaptedLayers(m.config, m.adapter.options).value();
  for (const LinearSpec& layer : layers) {
    adapted[layer.module + ".weight"] = layer;
  }
  for (const auto& [name, values] : before) {
    const auto layer = adapted.find(name);
    if (layer == adapted.end()) {
      if (!absl::EndsWith(name, ".bias")) {
        EXPECT_EQ(values, after.at(name)) << name;
      }
      continue;
    }
    const LinearSpec& spec = layer->second;
    const std::vector<double> expected = Expected(m, spec, values);
    for (int64_t o = 0; o < spec.out_features; ++o) {
      for (int64_t i = 0; i < spec.in_features; ++i) {
        const float got =
            after.at(name)[spec.transposed ? i * spec.out_features + o
                                           : o * spec.in_features + i];
        ASSERT_NEAR(got, expected[o * spec.in_features + i], 1e-5) << name;
      }
    }
  }
  EXPECT_EQ(m.report.tensors, before.size());
}

INSTANTIATE_TEST_SUITE_P(
    All, MergeTest,
    testing::Combine(testing::Values(Family::kLlama, Family::kGpt2,
                                     Family::kMixtral),
                     testing::Values(AdapterKind::kLora, AdapterKind::kDora,
                                     AdapterKind::kFrozenA, AdapterKind::kIa3)),
    [](const auto& info) {
      return std::string(FamilyName(std::get<0>(info.param))) + "_" +
             std::string(config::AdapterKindName(std::get<1>(info.param)));
    });

TEST(MergeBiasTest, Ia3ScalesTheBiasOfAScaledOutput) {
  const Merged m = Merge(Family::kGpt2, AdapterKind::kIa3);
  const auto before = ReadAll(m.base);
  const auto after = ReadAll(m.out);
  const std::string attn = "transformer.h.0.attn.c_attn";
  const auto l = ValuesOf(m.adapter, Ia3Name(attn));
  for (size_t i = 0; i < l.size(); ++i) {
    EXPECT_FLOAT_EQ(after.at(attn + ".bias")[i],
                    before.at(attn + ".bias")[i] * l[i]);
  }
  // Scaling an input leaves the bias alone.
  EXPECT_EQ(after.at("transformer.h.0.mlp.c_fc.bias"),
            before.at("transformer.h.0.mlp.c_fc.bias"));
}

// W v, for the offsets of the chosen heads.
std::vector<double> OffsetBias(const Merged& m, const LinearSpec& layer,
                               const std::vector<float>& weight) {
  const LofitState state = LofitStateOf(m.config, m.adapter.options,
                                        m.adapter.layout, m.adapter.values);
  const auto v = ValuesOf(m.adapter, LofitOffsetName(layer.module));
  std::vector<double> bias(layer.out_features, 0.0);
  for (int64_t o = 0; o < layer.out_features; ++o) {
    for (int64_t i = 0; i < layer.in_features; ++i) {
      const int64_t head =
          layer.layer * m.config.num_heads + i / m.config.head_dim;
      if (!state.chosen[head]) continue;
      bias[o] += static_cast<double>(
                     weight[layer.transposed ? i * layer.out_features + o
                                             : o * layer.in_features + i]) *
                 v[i];
    }
  }
  return bias;
}

TEST(MergeBiasTest, LofitGoesIntoTheOutputBias) {
  for (const Family family : {Family::kLlama, Family::kGpt2}) {
    const Merged m = Merge(family, AdapterKind::kLofit, DType::kF32, 2);
    const auto before = ReadAll(m.base);
    const auto after = ReadAll(m.out);
    const auto merged_config = LoadModelConfig(m.out + "/config.json");
    ASSERT_TRUE(merged_config.ok());
    EXPECT_TRUE(merged_config->output_bias);
    for (const auto& [name, values] : before) {
      if (!absl::EndsWith(name, "c_proj.bias")) {
        EXPECT_EQ(values, after.at(name)) << name;
      }
    }
    const std::vector<LinearSpec> layers =
        AdaptedLayers(m.config, m.adapter.options).value();
    for (const LinearSpec& layer : layers) {
      const std::vector<double> change =
          OffsetBias(m, layer, before.at(layer.module + ".weight"));
      const std::string bias = layer.module + ".bias";
      for (size_t i = 0; i < change.size(); ++i) {
        const double old = before.count(bias) > 0 ? before.at(bias)[i] : 0.0;
        EXPECT_NEAR(after.at(bias)[i], old + change[i], 1e-5);
      }
    }
    if (family == Family::kLlama) {
      for (const float v : after.at("model.layers.0.self_attn.q_proj.bias")) {
        EXPECT_EQ(v, 0.0f);
      }
    }
  }
}

TEST(MergeBiasTest, LofitIsRefusedWhereNoBiasFits) {
  const ModelConfig config = SmallConfig(Family::kQwen2);
  const PeftAdapter adapter = RandomAdapter(
      config, SmallOptions(Family::kQwen2, AdapterKind::kLofit), 3);
  MergeOptions options;
  options.model = tests::WriteCheckpoint(config);
  options.adapter = tests::NewTempDir();
  options.out = options.adapter + "/out";
  ASSERT_TRUE(WritePeftFolder(options.adapter, adapter.options, adapter.layout,
                              adapter.values, "s")
                  .ok());
  EXPECT_THAT(std::string(MergeAdapter(options).status().message()),
              HasSubstr("have no biases"));
}

TEST(MergeFilesTest, KeepsDtypeUnlessToldOtherwise) {
  const auto dtypes = [](const std::string& folder) {
    const auto file = SafetensorsFile::Open(folder + "/model.safetensors");
    return file->tensors()[0].dtype;
  };
  EXPECT_EQ(dtypes(Merge(Family::kLlama, AdapterKind::kLora, DType::kBf16).out),
            DType::kBf16);
  const Merged wide =
      Merge(Family::kLlama, AdapterKind::kLora, DType::kBf16, 1, DType::kF32);
  EXPECT_EQ(dtypes(wide.out), DType::kF32);
  EXPECT_EQ(LoadModelConfig(wide.out + "/config.json")->torch_dtype, "float32");
}

TEST(MergeFilesTest, IndexNamesEveryTensorAndItsSize) {
  const Merged m = Merge(Family::kLlama, AdapterKind::kLofit, DType::kF32, 3);
  const auto index = nlohmann::json::parse(
      base::ReadFile(m.out + "/model.safetensors.index.json").value());
  uint64_t bytes = 0;
  const auto all = ReadAll(m.out);
  for (const auto& [name, values] : all) {
    EXPECT_TRUE(index["weight_map"].contains(name)) << name;
    bytes += 4 * values.size();
  }
  EXPECT_EQ(index["weight_map"].size(), all.size());
  EXPECT_EQ(index["metadata"]["total_size"], bytes);
}

TEST(MergeFilesTest, NeverOverwrites) {
  Merged m = Merge(Family::kLlama, AdapterKind::kLora);
  MergeOptions options;
  options.model = m.base;
  options.adapter = tests::NewTempDir();
  ASSERT_TRUE(WritePeftFolder(options.adapter, m.adapter.options,
                              m.adapter.layout, m.adapter.values, "s")
                  .ok());
  options.out = m.out;
  EXPECT_EQ(MergeAdapter(options).status().code(),
            absl::StatusCode::kAlreadyExists);
  options.out = m.base + "/";
  EXPECT_EQ(MergeAdapter(options).status().code(),
            absl::StatusCode::kAlreadyExists);
  options.out = m.out + "2";
  options.dtype = DType::kI8;
  EXPECT_EQ(MergeAdapter(options).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// Folds an adapter with values of 1e6 in tensors named `part` into a base of
// `stored`, in `target`.
absl::Status MergeMillion(AdapterKind kind, const std::string& part,
                          DType stored, std::optional<DType> target) {
  const ModelConfig config = SmallConfig(Family::kLlama);
  PeftAdapter adapter =
      RandomAdapter(config, SmallOptions(Family::kLlama, kind), 4);
  const std::vector<codec::TensorSpec>& tensors = adapter.layout.tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    // Of the last block, whose tensors are in the last shard, too.
    if (absl::StrContains(tensors[i].name, "layers.1.") &&
        absl::StrContains(tensors[i].name, part)) {
      std::fill_n(adapter.values.begin() + adapter.layout.offset(i),
                  tensors[i].num_elements(), 1e6f);
    }
  }
  MergeOptions options;
  options.model = tests::WriteCheckpoint(config, stored, 3);
  options.adapter = tests::NewTempDir();
  options.out = options.adapter + "/out";
  options.dtype = target;
  CHOIR_CHECK(WritePeftFolder(options.adapter, adapter.options, adapter.layout,
                              adapter.values, "s")
                  .ok());
  const absl::Status status = MergeAdapter(options).status();
  EXPECT_EQ(base::FileExists(options.out), status.ok());
  return status;
}

TEST(MergeFilesTest, ValuesThatTheDtypeLacksAreRefused) {
  const auto refusal = [](AdapterKind kind, const std::string& part,
                          DType stored, std::optional<DType> target) {
    const absl::Status status = MergeMillion(kind, part, stored, target);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  const auto weight =
      testing::AllOf(HasSubstr("'model.layers.1.self_attn.q_proj.weight'"),
                     HasSubstr("too large for F16"), HasSubstr("float32"));
  const std::string b = "q_proj.lora_B";
  EXPECT_THAT(refusal(AdapterKind::kLora, b, DType::kF32, DType::kF16), weight);
  EXPECT_THAT(refusal(AdapterKind::kLora, b, DType::kF16, std::nullopt),
              weight);
  EXPECT_THAT(refusal(AdapterKind::kLofit, "lofit_", DType::kF16, std::nullopt),
              HasSubstr("'model.layers.1.self_attn.o_proj.bias'"));
  EXPECT_TRUE(
      MergeMillion(AdapterKind::kLora, b, DType::kF16, DType::kBf16).ok());
}

// A base that classifies into `base_labels` (0: a language model) and an
// adapter whose head has `adapter_labels`.
MergeOptions HeadOptions(Family family, int64_t base_labels, int adapter_labels,
                         PeftAdapter* adapter) {
  ModelConfig config = SmallConfig(family);
  config.num_labels = base_labels;
  if (base_labels > 0) config.tie_word_embeddings = true;
  config::AdapterOptions options = SmallOptions(family, AdapterKind::kLora);
  options.num_labels = adapter_labels;
  *adapter = RandomAdapter(config, options, 5);
  MergeOptions merge;
  merge.model = tests::WriteCheckpoint(config, DType::kF32, 2);
  merge.adapter = tests::NewTempDir();
  merge.out = merge.adapter + "/out";
  CHOIR_CHECK(WritePeftFolder(merge.adapter, adapter->options, adapter->layout,
                              adapter->values, "s")
                  .ok());
  return merge;
}

TEST(MergeHeadTest, AnAdaptersHeadReplacesThatOfAClassifier) {
  for (const Family family : {Family::kLlama, Family::kGpt2}) {
    PeftAdapter adapter;
    const MergeOptions merge = HeadOptions(family, 3, 3, &adapter);
    const auto report = MergeAdapter(merge);
    ASSERT_TRUE(report.ok()) << report.status();
    const absl::Span<const float> head = ValuesOf(adapter, ScoreName());
    ASSERT_EQ(head.size(), 3u * 16u);
    const auto after = ReadAll(merge.out);
    EXPECT_EQ(after.at("score.weight"),
              std::vector<float>(head.begin(), head.end()));
    EXPECT_NE(ReadAll(merge.model).at("score.weight"),
              after.at("score.weight"));
    const auto layers =
        AdaptedLayers(SmallConfig(family), adapter.options).value();
    EXPECT_GE(report->merged, layers.size() + 1);
    const auto config = LoadModelConfig(merge.out + "/config.json");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->num_labels, 3);
  }
}

TEST(MergeHeadTest, AHeadThatTheDtypeLacksIsRefused) {
  PeftAdapter adapter;
  MergeOptions merge = HeadOptions(Family::kLlama, 3, 3, &adapter);
  const absl::Span<const float> head = ValuesOf(adapter, ScoreName());
  adapter.values[head.data() - adapter.values.data()] = -1e6f;
  ASSERT_TRUE(WritePeftFolder(merge.adapter, adapter.options, adapter.layout,
                              adapter.values, "s")
                  .ok());
  merge.dtype = DType::kF16;
  EXPECT_THAT(std::string(MergeAdapter(merge).status().message()),
              testing::AllOf(HasSubstr("'score.weight'"), HasSubstr("-1e+06"),
                             HasSubstr("too large for F16")));
  EXPECT_FALSE(base::FileExists(merge.out));
}

TEST(MergeHeadTest, HeadsOfOtherBasesAreRefused) {
  PeftAdapter adapter;
  const auto refusal = [&](int64_t base_labels) {
    const absl::Status status =
        MergeAdapter(HeadOptions(Family::kLlama, base_labels, 2, &adapter))
            .status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(refusal(0), HasSubstr("merged language model"));
  EXPECT_THAT(refusal(3),
              testing::AllOf(HasSubstr("has 2 labels"), HasSubstr("has 3"),
                             HasSubstr("config.json")));
}

}  // namespace
}  // namespace choir::model
