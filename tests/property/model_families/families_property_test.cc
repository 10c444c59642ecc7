// Every family against a plain decoder in double precision: logits, packing,
// decoding with a cache, gradients of adapters, checkpoints that are read back.
#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/safetensors.h"
#include "model/checkpoint/tensor_files.h"
#include "model/loaded_model.h"
#include "model/objective/packing.h"
#include "tests/property/model_families/plain_model.h"
#include "tests/support/golden.h"

namespace choir::model {
namespace {

using ::testing::HasSubstr;

std::vector<int32_t> RandomIds(int length, int64_t vocabulary, uint64_t seed) {
  base::SimRandom random(seed);
  std::vector<int32_t> ids;
  for (int i = 0; i < length; ++i) {
    ids.push_back(static_cast<int32_t>(random.Below(vocabulary)));
  }
  return ids;
}

double Difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

class FamilyTest : public ::testing::TestWithParam<ModelConfig> {
 protected:
  std::shared_ptr<const LoadedModel> Load(const std::string& folder) {
    auto model = LoadedModel::LoadFolder(folder, DeviceKind::kCpu, false);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *model : nullptr;
  }
  const ModelConfig& config() const { return GetParam(); }
  const tests::PlainTensors tensors_ =
      tests::RandomTensors(GetParam(), 5, 0.15);
};

TEST_P(FamilyTest, ConfigComesBackFromItsOwnJson) {
  const std::string json = ModelConfigJson(config());
  const auto parsed = ParseModelConfig(json, "c");
  ASSERT_TRUE(parsed.ok()) << parsed.status() << json;
  EXPECT_EQ(ModelConfigJson(*parsed), json);
  EXPECT_EQ(parsed->num_parameters(), config().num_parameters());
}

TEST_P(FamilyTest, LogitsEqualThePlainModel) {
  const auto model = Load(tests::WritePlainModel(config(), tensors_));
  ASSERT_NE(model, nullptr);
  for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
    ForwardOptions options;
    options.kernels = kernels;
    for (const int length : {1, 7, 40}) {
      const std::vector<int32_t> ids =
          RandomIds(length, config().vocab_size, 3 + length);
      const at::Tensor logits =
          model->decoder().Logits(PackWhole(ids, at::kCPU), options);
      EXPECT_LT(Difference(logits, tests::PlainLogits(config(), tensors_, ids)),
                5e-5)
          << length;
    }
  }
}

TEST_P(FamilyTest, PackedSequencesDoNotSeeEachOther) {
  const auto model = Load(tests::WritePlainModel(config(), tensors_));
  ASSERT_NE(model, nullptr);
  const std::vector<Example> examples = {
      {RandomIds(9, config().vocab_size, 1), 1},
      {RandomIds(33, config().vocab_size, 2), 4},
      {RandomIds(5, config().vocab_size, 3), 1}};
  double apart = 0.0;
  for (const Example& example : examples) {
    const Example* const one[] = {&example};
    apart += model->decoder()
                 .Loss(PackExamples(one, 64, at::kCPU), {}, 1.0)
                 .item<double>();
  }
  const Example* const all[] = {&examples[0], &examples[1], &examples[2]};
  for (const bool keep_last : {false, true}) {
    const PackedBatch batch = PackExamples(all, 64, at::kCPU, keep_last);
    EXPECT_NEAR(model->decoder().Loss(batch, {}, 1.0).item<double>(), apart,
                1e-4);
  }
}

TEST_P(FamilyTest, DecodingWithACacheEqualsOneForwardPass) {
  const auto model = Load(tests::WritePlainModel(config(), tensors_));
  ASSERT_NE(model, nullptr);
  const std::vector<int32_t> ids = RandomIds(20, config().vocab_size, 9);
  const at::Tensor whole =
      model->decoder().Logits(PackWhole(ids, at::kCPU), {});
  for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
    ForwardOptions options;
    options.kernels = kernels;
    KvCache cache = model->decoder().NewCache(20);
    const absl::Span<const int32_t> span(ids);
    EXPECT_LT(Difference(model->decoder().Decode(span.first(8), options, cache),
                         whole[7]),
              1e-4);
    for (int i = 8; i < 20; ++i) {
      EXPECT_LT(Difference(
                    model->decoder().Decode(span.subspan(i, 1), options, cache),
                    whole[i]),
                1e-4)
          << i;
    }
  }
}

TEST_P(FamilyTest, AdapterGradientsOfFusedAndReferenceKernelsAgree) {
  const auto model = Load(tests::WritePlainModel(config(), tensors_));
  ASSERT_NE(model, nullptr);
  config::AdapterOptions adapter;
  adapter.rank = 3;
  adapter.target_modules = LinearKinds(config());
  const auto layout = AdapterLayout(config(), adapter);
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->tensors().size(), 2 * LinearLayers(config()).size());
  at::Tensor flat = at::empty({layout->num_elements()}, at::kFloat);
  base::SimRandom random(4);
  for (int64_t i = 0; i < flat.numel(); ++i) {
    flat.data_ptr<float>()[i] = static_cast<float>(random.Normal() * 0.1);
  }
  const Example example = {RandomIds(40, config().vocab_size, 2), 1};
  const Example* const one[] = {&example};
  const PackedBatch batch = PackExamples(one, 64, at::kCPU);
  std::vector<at::Tensor> gradients;
  std::vector<double> losses;
  for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
    LoraBank bank = BindLora(config(), *layout, flat, 2.0);
    gradients.push_back(at::zeros_like(flat));
    GatherGradients(BindLora(config(), *layout, gradients.back(), 1.0), bank);
    ForwardOptions options;
    options.lora = &bank;
    options.kernels = kernels;
    const at::Tensor loss =
        model->decoder().Loss(batch, options, 1.0 / batch.predictions);
    torch::autograd::backward({loss}, {});
    losses.push_back(loss.item<double>());
  }
  EXPECT_NEAR(losses[0], losses[1], 1e-5);
  EXPECT_GT(gradients[0].norm().item<double>(), 1e-3);
  EXPECT_LT(Difference(gradients[0], gradients[1]), 1e-4);
}

TEST_P(FamilyTest, AnAdapterEqualsTheMergedWeights) {
  const std::string folder = tests::WritePlainModel(config(), tensors_);
  const auto model = Load(folder);
  ASSERT_NE(model, nullptr);
  config::AdapterOptions adapter;
  adapter.rank = 2;
  adapter.target_modules = LinearKinds(config());
  const auto layout = AdapterLayout(config(), adapter).value();
  at::Tensor flat = at::randn({layout.num_elements()}, at::kFloat) * 0.1;
  const LoraBank bank = BindLora(config(), layout, flat, 1.5);
  tests::PlainTensors merged = tensors_;
  for (const LinearSpec& spec : LinearLayers(config())) {
    const auto& blocks = bank.blocks[spec.layer];
    size_t i = 0;
    while (
        model->decoder().weights().blocks[spec.layer].linear[i].spec.module !=
        spec.module) {
      ++i;
    }
    at::Tensor delta =
        at::matmul(blocks[i].lora_b, blocks[i].lora_a).to(at::kDouble) * 1.5;
    at::Tensor& weight = merged[spec.module + ".weight"];
    weight = weight + (spec.transposed ? delta.t() : delta);
  }
  const std::vector<int32_t> ids = RandomIds(12, config().vocab_size, 8);
  ForwardOptions options;
  options.lora = &bank;
  EXPECT_LT(
      Difference(model->decoder().Logits(PackWhole(ids, at::kCPU), options),
                 tests::PlainLogits(config(), merged, ids)),
      1e-4);
}

TEST_P(FamilyTest, ShardsWithAnIndexLoadLikeOneFile) {
  const std::string folder = tests::WritePlainModel(config(), tensors_);
  const std::vector<int32_t> ids = RandomIds(6, config().vocab_size, 8);
  const at::Tensor expected =
      Load(folder)->decoder().Logits(PackWhole(ids, at::kCPU), {});
  const auto file = SafetensorsFile::Open(folder + "/model.safetensors");
  ASSERT_TRUE(file.ok());
  std::vector<TensorView> parts[2];
  std::string map;
  for (size_t i = 0; i < file->tensors().size(); ++i) {
    parts[i % 2].push_back(file->tensors()[i]);
    absl::StrAppend(&map, map.empty() ? "" : ",", "\"", file->tensors()[i].name,
                    "\":\"part-", i % 2, ".safetensors\"");
  }
  for (int p = 0; p < 2; ++p) {
    ASSERT_TRUE(
        base::WriteFileAtomic(absl::StrCat(folder, "/part-", p, ".safetensors"),
                              EncodeSafetensors(parts[p]))
            .ok());
  }
  ASSERT_TRUE(base::WriteFileAtomic(folder + "/model.safetensors.index.json",
                                    "{\"weight_map\":{" + map + "}}")
                  .ok());
  ASSERT_EQ(std::remove((folder + "/model.safetensors").c_str()), 0);
  const auto model = Load(folder);
  ASSERT_NE(model, nullptr);
  EXPECT_TRUE(at::equal(model->decoder().Logits(PackWhole(ids, at::kCPU), {}),
                        expected));
}

TEST_P(FamilyTest, OneErrorListsMissingUnexpectedAndMisshapenTensors) {
  tests::PlainTensors wrong = tensors_;
  const LinearSpec linear = LinearLayers(config())[1];
  wrong.erase(linear.module + ".weight");
  wrong["model.vision.weight"] = at::zeros({2}, at::kDouble);
  const std::string norm = BlockNames(config(), 1).post_norm;
  wrong[norm] = at::zeros({3}, at::kDouble);
  const std::string folder = tests::WritePlainModel(config(), wrong);
  const auto model = LoadedModel::LoadFolder(folder, DeviceKind::kCpu, false);
  EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string error(model.status().message());
  EXPECT_THAT(error, HasSubstr(folder));
  EXPECT_THAT(error, HasSubstr(absl::StrCat("missing: '", linear.module)));
  EXPECT_THAT(error, HasSubstr("unexpected: 'model.vision.weight'"));
  EXPECT_THAT(error, HasSubstr(absl::StrCat("misshaped: '", norm,
                                            "' has shape [3], not [24]")));
}

TEST_P(FamilyTest, HarmlessExtrasAndAMissingPrefixAreAccepted) {
  tests::PlainTensors stored;
  const std::string prefix(NamePrefix(config()));
  for (const auto& [name, tensor] : tensors_) {
    absl::string_view rest = name;
    absl::ConsumePrefix(&rest, prefix);
    stored[std::string(rest)] = tensor;
  }
  stored["layers.0.self_attn.rotary_emb.inv_freq"] =
      at::zeros({3}, at::kDouble);
  if (config().family == Family::kGpt2) {
    stored["h.0.attn.bias"] = at::zeros({1, 1, 8, 8}, at::kDouble);
    stored["h.0.attn.masked_bias"] = at::zeros({1}, at::kDouble);
  }
  if (config().tie_word_embeddings) {
    stored["lm_head.weight"] = at::zeros({31, 24}, at::kDouble);
  }
  const auto model = Load(tests::WritePlainModel(config(), stored));
  ASSERT_NE(model, nullptr);
  const std::vector<int32_t> ids = RandomIds(6, config().vocab_size, 8);
  EXPECT_LT(Difference(model->decoder().Logits(PackWhole(ids, at::kCPU), {}),
                       tests::PlainLogits(config(), tensors_, ids)),
            5e-5);
}

class ExpertFamilyTest : public FamilyTest {};

TEST_P(ExpertFamilyTest, FusedExpertsLoadLikeSeparateOnes) {
  const bool mixtral = config().family == Family::kMixtral;
  tests::PlainTensors stored;
  std::map<std::string, std::vector<at::Tensor>> fused[3];  // gate, up, down
  const std::string kinds[3] = {mixtral ? "w1" : "gate_proj",
                                mixtral ? "w3" : "up_proj",
                                mixtral ? "w2" : "down_proj"};
  for (const auto& [name, tensor] : tensors_) {
    const size_t folder = name.find(mixtral ? "block_sparse_moe." : "mlp.");
    if (folder == std::string::npos ||
        !config().IsMoe(name[std::string("model.layers.").size()] - '0')) {
      stored[name] = tensor;
      continue;
    }
    const std::string mlp = name.substr(0, folder) + "mlp.";
    if (name.find(".experts.") == std::string::npos) {
      stored[mlp + "gate.weight"] = tensor;
    }
    for (int kind = 0; kind < 3; ++kind) {
      // The names go through the experts in order.
      if (name.find("." + kinds[kind] + ".weight") != std::string::npos) {
        fused[kind][mlp].push_back(tensor);
      }
    }
  }
  for (const auto& [mlp, gates] : fused[0]) {
    stored[mlp + "experts.gate_up_proj"] =
        at::cat({at::stack(gates), at::stack(fused[1][mlp])}, 1);
    stored[mlp + "experts.down_proj"] = at::stack(fused[2][mlp]);
  }
  ASSERT_LT(stored.size(), tensors_.size());
  const auto model = Load(tests::WritePlainModel(config(), stored));
  ASSERT_NE(model, nullptr);
  const std::vector<int32_t> ids = RandomIds(6, config().vocab_size, 8);
  EXPECT_LT(Difference(model->decoder().Logits(PackWhole(ids, at::kCPU), {}),
                       tests::PlainLogits(config(), tensors_, ids)),
            5e-5);
}

std::vector<ModelConfig> ConfigsWithExperts() {
  std::vector<ModelConfig> configs = tests::FamilyConfigs();
  configs.erase(std::remove_if(configs.begin(), configs.end(),
                               [](const ModelConfig& config) {
                                 return config.moe.num_experts == 0;
                               }),
                configs.end());
  return configs;
}

std::string NameOf(const ::testing::TestParamInfo<ModelConfig>& info) {
  return absl::StrCat(FamilyName(info.param.family),
                      info.param.scale_by_layer ? "_scaled" : "");
}

INSTANTIATE_TEST_SUITE_P(All, FamilyTest,
                         ::testing::ValuesIn(tests::FamilyConfigs()), NameOf);
INSTANTIATE_TEST_SUITE_P(All, ExpertFamilyTest,
                         ::testing::ValuesIn(ConfigsWithExperts()), NameOf);

}  // namespace
}  // namespace choir::model
