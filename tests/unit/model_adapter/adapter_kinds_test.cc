// Layouts, initial values and folders of every kind of adapter.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/adapter/lofit.h"
#include "nlohmann/json.hpp"
#include "tests/unit/model_adapter/folders.h"

namespace choir::model {
namespace {

using config::AdapterKind;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using tests::RandomAdapter;
using tests::SmallConfig;
using tests::SmallOptions;
using tests::ValuesOf;

std::vector<int64_t> ShapeOf(const codec::Layout& layout,
                             const std::string& name) {
  for (const codec::TensorSpec& spec : layout.tensors()) {
    if (spec.name == name) return spec.shape;
  }
  return {};
}

constexpr char kDown[] = "model.layers.1.mlp.down_proj";
constexpr char kKeys[] = "model.layers.1.self_attn.k_proj";

TEST(AdapterKindsTest, DoraAddsAMagnitudePerOutput) {
  const auto layout =
      AdapterLayout(SmallConfig(Family::kLlama),
                    SmallOptions(Family::kLlama, AdapterKind::kDora));
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->tensors().size(), 2 * 3 * 3u);
  EXPECT_THAT(ShapeOf(*layout,
                      "base_model.model.model.layers.1.self_attn."
                      "k_proj.lora_magnitude_vector"),
              ElementsAre(8));
  EXPECT_THAT(ShapeOf(*layout, LoraAName(kKeys)), ElementsAre(3, 16));
}

TEST(AdapterKindsTest, Ia3ScalesOutputsAndInputsOfFeedforwardModules) {
  const auto layout =
      AdapterLayout(SmallConfig(Family::kLlama),
                    SmallOptions(Family::kLlama, AdapterKind::kIa3));
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_THAT(ShapeOf(*layout,
                      "base_model.model.model.layers.1.self_attn."
                      "k_proj.ia3_l"),
              ElementsAre(8, 1));
  EXPECT_THAT(ShapeOf(*layout, Ia3Name(kDown)), ElementsAre(1, 24));
  for (const float v : InitialAdapter(*layout, 1)) EXPECT_EQ(v, 1.0f);
}

TEST(AdapterKindsTest, FrozenASendsBAloneAndStoresBoth) {
  const ModelConfig config = SmallConfig(Family::kLlama);
  const config::AdapterOptions options =
      SmallOptions(Family::kLlama, AdapterKind::kFrozenA);
  const auto sent = AdapterLayout(config, options);
  const auto stored = StoredLayout(config, options);
  ASSERT_TRUE(sent.ok() && stored.ok());
  EXPECT_EQ(sent->tensors().size(), 6u);
  EXPECT_EQ(stored->tensors().size(), 12u);
  std::vector<float> b(sent->num_elements());
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i);
  const auto values = StoredValues(config, options, b);
  ASSERT_TRUE(values.ok());
  PeftAdapter adapter{options, *stored, *values, ""};
  EXPECT_THAT(FrozenA(kKeys, 3, 16, 11),
              testing::ElementsAreArray(ValuesOf(adapter, LoraAName(kKeys))));
  EXPECT_NE(FrozenA(kKeys, 3, 16, 11), FrozenA(kKeys, 3, 16, 12));
  EXPECT_EQ(ShapeOf(*sent, LoraBName(kKeys)),
            ShapeOf(*stored, LoraBName(kKeys)));
  // B's numbers are where they were sent.
  for (size_t i = 0; i < sent->tensors().size(); ++i) {
    EXPECT_EQ(ValuesOf(adapter, sent->tensors()[i].name)[0],
              static_cast<float>(sent->offset(i)));
  }
}

TEST(AdapterKindsTest, LofitHasAScaleAndAnOffsetPerHeadOutput) {
  for (const Family family : {Family::kLlama, Family::kGpt2}) {
    const ModelConfig config = SmallConfig(family);
    const auto layout =
        AdapterLayout(config, SmallOptions(family, AdapterKind::kLofit));
    ASSERT_TRUE(layout.ok()) << layout.status();
    EXPECT_EQ(layout->tensors().size(), 4u);
    for (const codec::TensorSpec& spec : layout->tensors()) {
      EXPECT_THAT(spec.shape, ElementsAre(config.num_heads, config.head_dim));
    }
  }
}

TEST(AdapterKindsTest, LofitChoosesTheHeadsOfLargestScalings) {
  const ModelConfig config = SmallConfig(Family::kLlama);  // 8 heads of 4
  config::AdapterOptions options =
      SmallOptions(Family::kLlama, AdapterKind::kLofit);
  options.lofit_heads = 2;
  PeftAdapter adapter = RandomAdapter(config, options, 1);
  std::fill(adapter.values.begin(), adapter.values.end(), 0.0f);
  const auto state = [&] {
    return LofitStateOf(config, options, adapter.layout, adapter.values);
  };
  EXPECT_TRUE(state().choosing);
  const auto at = [&](int layer, int head, int i) -> float& {
    const auto span = ValuesOf(
        adapter, LofitScaleName("model.layers." + std::to_string(layer) +
                                ".self_attn.o_proj"));
    return adapter.values[span.data() - adapter.values.data() + head * 4 + i];
  };
  at(1, 2, 3) = -0.5f;
  EXPECT_THAT(state().chosen, ElementsAre(true, false, false, false, false,
                                          false, true, false));
  at(0, 1, 0) = 0.4f;
  at(0, 3, 0) = 0.3f;
  at(0, 3, 1) = 0.3f;  // norm 0.42: above 0.4
  EXPECT_FALSE(state().choosing);
  EXPECT_THAT(state().chosen, ElementsAre(false, false, false, true, false,
                                          false, true, false));
}

TEST(AdapterKindsTest, LofitRefusesMoreHeadsThanThereAre) {
  config::AdapterOptions options =
      SmallOptions(Family::kLlama, AdapterKind::kLofit);
  options.lofit_heads = 9;
  const auto layout = AdapterLayout(SmallConfig(Family::kLlama), options);
  EXPECT_THAT(std::string(layout.status().message()),
              HasSubstr("9, but the model has 8"));
  options.lofit_heads = 0;
  EXPECT_EQ(LofitHeads(SmallConfig(Family::kLlama), options), 1);
}

TEST(AdapterKindsTest, DorasMagnitudesBeginAsTheNormsOfTheRows) {
  for (const Family family : {Family::kLlama, Family::kGpt2}) {
    const ModelConfig config = SmallConfig(family);
    const config::AdapterOptions options =
        SmallOptions(family, AdapterKind::kDora);
    const std::string folder = tests::WriteCheckpoint(config);
    const codec::Layout layout = AdapterLayout(config, options).value();
    const auto values = InitialAdapterOf(folder, config, options, layout, 5);
    ASSERT_TRUE(values.ok()) << values.status();
    const PeftAdapter adapter{options, layout, *values, ""};
    const auto base = tests::ReadAll(folder);
    const std::vector<LinearSpec> layers =
        AdaptedLayers(config, options).value();
    for (const LinearSpec& layer : layers) {
      const std::vector<float>& w = base.at(layer.module + ".weight");
      const auto magnitude = ValuesOf(adapter, MagnitudeName(layer.module));
      for (int64_t o = 0; o < layer.out_features; ++o) {
        double sum = 0.0;
        for (int64_t i = 0; i < layer.in_features; ++i) {
          const double v = w[layer.transposed ? i * layer.out_features + o
                                              : o * layer.in_features + i];
          sum += v * v;
        }
        EXPECT_NEAR(magnitude[o], std::sqrt(sum), 1e-5);
      }
    }
  }
}

// As QDoRA has it: of the rows that the quantised weights are read back as.
TEST(AdapterKindsTest, DorasMagnitudesOfAQuantisedBaseAreThoseReadBack) {
  for (const Family family :
       {Family::kLlama, Family::kGpt2, Family::kMixtral}) {
    const ModelConfig config = SmallConfig(family);
    const config::AdapterOptions options =
        SmallOptions(family, AdapterKind::kDora);
    const std::string dense = tests::WriteCheckpoint(config);
    const codec::Layout layout = AdapterLayout(config, options).value();
    for (const WeightFormat format :
         {WeightFormat::kInt8, WeightFormat::kNf4}) {
      const std::string folder = tests::Quantised(dense, format);
      const auto values = InitialAdapterOf(folder, config, options, layout, 5);
      ASSERT_TRUE(values.ok()) << values.status();
      EXPECT_NE(*values,
                InitialAdapterOf(dense, config, options, layout, 5).value());
      const PeftAdapter adapter{options, layout, *values, ""};
      const TensorFiles files = TensorFiles::Open(folder, config).value();
      const std::vector<LinearSpec> layers =
          AdaptedLayers(config, options).value();
      for (const LinearSpec& layer : layers) {
        const QuantizedMatrix matrix =
            files
                .Packed(layer.module + ".weight", layer.out_features,
                        layer.in_features)
                .value();
        const auto magnitude = ValuesOf(adapter, MagnitudeName(layer.module));
        std::vector<float> row(layer.in_features);
        for (int64_t o = 0; o < layer.out_features; ++o) {
          matrix.Dequantize(o, 1, row.data());
          double sum = 0.0;
          for (const double v : row) sum += v * v;
          EXPECT_EQ(magnitude[o], static_cast<float>(std::sqrt(sum)));
        }
      }
    }
  }
}

TEST(AdapterKindsTest, EveryKindBeginsOnAQuantisedBase) {
  for (const AdapterKind kind :
       {AdapterKind::kLora, AdapterKind::kDora, AdapterKind::kFrozenA,
        AdapterKind::kIa3, AdapterKind::kLofit}) {
    ModelConfig config = SmallConfig(Family::kLlama);
    config.num_labels = 2;
    config.tie_word_embeddings = true;  // a classifier has no head
    config::AdapterOptions options = SmallOptions(Family::kLlama, kind);
    options.num_labels = 2;
    const std::string dense = tests::WriteCheckpoint(config);
    const codec::Layout layout = AdapterLayout(config, options).value();
    const auto values =
        InitialAdapterOf(tests::Quantised(dense, WeightFormat::kNf4), config,
                         options, layout, 5);
    ASSERT_TRUE(values.ok()) << values.status();
    const PeftAdapter adapter{options, layout, *values, ""};
    EXPECT_THAT(
        ValuesOf(adapter, ScoreName()),
        testing::ElementsAreArray(tests::ReadAll(dense).at("score.weight")));
  }
}

TEST(AdapterKindsTest, DoraRefusesNormsThatAreNotFinite) {
  const ModelConfig config = SmallConfig(Family::kLlama);
  const config::AdapterOptions options =
      SmallOptions(Family::kLlama, AdapterKind::kDora);
  const std::string folder = tests::WriteCheckpoint(config);
  const std::string path = folder + "/model.safetensors";
  const SafetensorsFile file = SafetensorsFile::Open(path).value();
  std::vector<TensorView> tensors = file.tensors();
  const std::string nans(16 * 8 * sizeof(float), '\xFF');
  for (TensorView& tensor : tensors) {
    if (tensor.name == std::string(kKeys) + ".weight") tensor.bytes = nans;
  }
  ASSERT_TRUE(base::WriteFileAtomic(path, EncodeSafetensors(tensors)).ok());
  const absl::Status status =
      InitialAdapterOf(folder, config, options,
                       AdapterLayout(config, options).value(), 5)
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(kKeys));
}

class FolderTest : public testing::TestWithParam<AdapterKind> {};

TEST_P(FolderTest, SurvivesWritingAndReading) {
  for (const Family family :
       {Family::kLlama, Family::kGpt2, Family::kMixtral}) {
    const ModelConfig config = SmallConfig(family);
    const config::AdapterOptions options = SmallOptions(family, GetParam());
    const PeftAdapter adapter = RandomAdapter(config, options, 21);
    const std::string folder = tests::NewTempDir();
    ASSERT_TRUE(WritePeftFolder(folder, options, adapter.layout, adapter.values,
                                "small")
                    .ok());
    const auto read = ReadPeftFolder(folder, config);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->values, adapter.values);
    EXPECT_EQ(read->layout.digest(), adapter.layout.digest());
    EXPECT_EQ(read->options.kind, GetParam() == AdapterKind::kFrozenA
                                      ? AdapterKind::kLora
                                      : GetParam());
    EXPECT_EQ(read->options.target_modules, options.target_modules);
    EXPECT_EQ(read->options.feedforward_modules, options.feedforward_modules);
    EXPECT_EQ(read->options.lofit_heads, options.lofit_heads);
    EXPECT_EQ(read->base_model, "small");
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, FolderTest,
                         testing::Values(AdapterKind::kLora, AdapterKind::kDora,
                                         AdapterKind::kFrozenA,
                                         AdapterKind::kIa3,
                                         AdapterKind::kLofit),
                         [](const auto& info) {
                           return std::string(
                               config::AdapterKindName(info.param));
                         });

TEST(AdapterFolderTest, WritesTheKeysThatPeftReads) {
  using nlohmann::json;
  const auto of = [](AdapterKind kind) {
    return json::parse(
        AdapterConfigJson(SmallOptions(Family::kLlama, kind), "b"));
  };
  EXPECT_EQ(of(AdapterKind::kDora)["peft_type"], "LORA");
  EXPECT_EQ(of(AdapterKind::kDora)["use_dora"], true);
  EXPECT_EQ(of(AdapterKind::kLora)["use_dora"], false);
  EXPECT_EQ(of(AdapterKind::kFrozenA), of(AdapterKind::kLora));
  const json ia3 = of(AdapterKind::kIa3);
  EXPECT_EQ(ia3["peft_type"], "IA3");
  EXPECT_EQ(ia3["feedforward_modules"], json({"down_proj"}));
  EXPECT_EQ(ia3["target_modules"], json({"down_proj", "k_proj", "q_proj"}));
  EXPECT_FALSE(ia3.contains("r"));
}

TEST(AdapterFolderTest, AJobsFilesBecomeAPeftFolder) {
  const ModelConfig config = SmallConfig(Family::kMixtral);
  const config::AdapterOptions options =
      SmallOptions(Family::kMixtral, AdapterKind::kFrozenA);
  const codec::Layout sent = AdapterLayout(config, options).value();
  const std::vector<float> b = tests::Normals(sent.num_elements(), 4, 1.0);
  const std::string folder = tests::NewTempDir();
  ASSERT_TRUE(
      base::WriteFileAtomic(folder + "/adapter_config.json",
                            JobAdapterConfigJson(options, config, "m").value())
          .ok());
  ASSERT_TRUE(base::WriteFileAtomic(folder + "/adapter_model.safetensors",
                                    EncodeAdapterFile(sent, b))
                  .ok());
  const auto before = ReadPeftFolder(folder, config);
  ASSERT_TRUE(before.ok()) << before.status();
  ASSERT_TRUE(CompletePeftFolder(folder).ok());
  const auto after = ReadPeftFolder(folder, config);
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(before->values, after->values);
  EXPECT_EQ(after->values, StoredValues(config, options, b).value());
  EXPECT_EQ(after->options.kind, AdapterKind::kLora);
  // Nothing is left to draw.
  const auto text = base::ReadFile(folder + "/adapter_config.json");
  EXPECT_THAT(*text, testing::Not(HasSubstr("choir")));
  EXPECT_TRUE(CompletePeftFolder(folder).ok());
}

TEST(AdapterFolderTest, ReadsHalfPrecision) {
  const ModelConfig config = SmallConfig(Family::kLlama);
  const config::AdapterOptions options =
      SmallOptions(Family::kLlama, AdapterKind::kLora);
  const PeftAdapter adapter = RandomAdapter(config, options, 2);
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    std::vector<std::string> bytes;
    std::vector<TensorView> views;
    for (const codec::TensorSpec& spec : adapter.layout.tensors()) {
      bytes.push_back(FloatsToBytes(ValuesOf(adapter, spec.name), dtype));
    }
    for (size_t i = 0; i < bytes.size(); ++i) {
      const codec::TensorSpec& spec = adapter.layout.tensors()[i];
      views.push_back({spec.name, dtype, spec.shape, bytes[i]});
    }
    const std::string folder = tests::NewTempDir();
    ASSERT_TRUE(
        WritePeftFolder(folder, options, adapter.layout, adapter.values, "b")
            .ok());
    ASSERT_TRUE(base::WriteFileAtomic(folder + "/adapter_model.safetensors",
                                      EncodeSafetensors(views))
                    .ok());
    const auto read = ReadPeftFolder(folder, config);
    ASSERT_TRUE(read.ok()) << read.status();
    for (size_t i = 0; i < read->values.size(); ++i) {
      EXPECT_NEAR(read->values[i], adapter.values[i],
                  0.01 * std::fabs(adapter.values[i]) + 1e-6);
    }
  }
}

TEST(AdapterFolderTest, RefusesBadKeysOfEachKind) {
  using nlohmann::json;
  const struct {
    AdapterKind kind;
    const char* key;
    json value;
  } cases[] = {
      {AdapterKind::kIa3, "feedforward_modules", 7},
      {AdapterKind::kIa3, "feedforward_modules", {1}},
      {AdapterKind::kIa3, "target_modules", nullptr},
      {AdapterKind::kIa3, "modules_to_save", {"x"}},
      {AdapterKind::kLofit, "lofit_heads", -1},
      {AdapterKind::kLofit, "lofit_heads", nullptr},
      {AdapterKind::kLofit, "lofit_l1", "x"},
      {AdapterKind::kLora, "choir", 3},
      {AdapterKind::kLora, "choir", {{"frozen_seed", 3}}},
      {AdapterKind::kLora,
       "choir",
       {{"frozen_seed", 3}, {"in_features", {{"a", 0}}}}},
  };
  for (const auto& test : cases) {
    json document = json::parse(
        AdapterConfigJson(SmallOptions(Family::kLlama, test.kind), "b"));
    document[test.key] = test.value;
    const auto file = ParseAdapterConfig(document.dump(), "c");
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(test.key));
  }
}

}  // namespace
}  // namespace choir::model
