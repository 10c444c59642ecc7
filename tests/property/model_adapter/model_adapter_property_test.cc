// Adapters survive every way out and back in, and damaged files are refused.
#include <rapidcheck.h>

#include "gtest/gtest.h"
#include "model/export/gguf.h"
#include "model/export/gguf_lora.h"
#include "tests/unit/model_adapter/folders.h"

namespace choir::model {
namespace {

using config::AdapterKind;

Family AnyFamily() {
  return *rc::gen::element(Family::kLlama, Family::kGpt2, Family::kMixtral,
                           Family::kQwen2);
}

PeftAdapter AnyAdapter(const ModelConfig& config, Family family,
                       AdapterKind kind) {
  config::AdapterOptions options = tests::SmallOptions(family, kind);
  options.rank = *rc::gen::inRange(1, 9);
  options.alpha = *rc::gen::inRange(1, 100) / 8.0;
  options.rank_stabilized = *rc::gen::arbitrary<bool>();
  options.dropout =
      kind == AdapterKind::kDora ? 0.0 : *rc::gen::inRange(0, 8) / 8.0;
  if (!options.target_modules.empty() && kind != AdapterKind::kIa3) {
    options.target_modules =
        *rc::gen::nonEmpty(rc::gen::unique<std::vector<std::string>>(
            rc::gen::elementOf(LinearKinds(config))));
    std::sort(options.target_modules.begin(), options.target_modules.end());
  }
  return tests::RandomAdapter(config, options, *rc::gen::arbitrary<uint64_t>());
}

TEST(AdapterPropertyTest, GgufGivesBackTheSameAdapter) {
  EXPECT_TRUE(rc::check([] {
    const Family family = AnyFamily();
    const ModelConfig config = tests::SmallConfig(family);
    const PeftAdapter adapter = AnyAdapter(config, family, AdapterKind::kLora);
    const auto bytes = EncodeGgufLora(config, adapter, DType::kF32);
    RC_ASSERT(bytes.ok());
    const auto read = DecodeGgufLora(*bytes, config, "f");
    RC_ASSERT(read.ok());
    RC_ASSERT(read->values == adapter.values);
    RC_ASSERT(read->layout.digest() == adapter.layout.digest());
    RC_ASSERT(AdapterConfigJson(read->options, read->base_model) ==
              AdapterConfigJson(adapter.options, adapter.base_model));
  }));
}

TEST(AdapterPropertyTest, PeftFolderGivesBackTheSameAdapter) {
  const std::string folder = tests::NewTempDir();
  EXPECT_TRUE(rc::check([&] {
    const Family family = AnyFamily();
    const AdapterKind kind =
        *rc::gen::element(AdapterKind::kLora, AdapterKind::kDora,
                          AdapterKind::kIa3, AdapterKind::kLofit);
    const ModelConfig config = tests::SmallConfig(family);
    const PeftAdapter adapter = AnyAdapter(config, family, kind);
    RC_ASSERT(WritePeftFolder(folder, adapter.options, adapter.layout,
                              adapter.values, "b")
                  .ok());
    const auto read = ReadPeftFolder(folder, config);
    RC_ASSERT(read.ok());
    RC_ASSERT(read->values == adapter.values);
    RC_ASSERT(AdapterConfigJson(read->options, "b") ==
              AdapterConfigJson(adapter.options, "b"));
  }));
}

TEST(AdapterPropertyTest, DamagedGgufNeverCrashes) {
  const ModelConfig config = tests::SmallConfig(Family::kLlama);
  const std::string good =
      EncodeGgufLora(
          config,
          tests::RandomAdapter(
              config, tests::SmallOptions(Family::kLlama, AdapterKind::kLora),
              1),
          DType::kF32)
          .value();
  EXPECT_TRUE(rc::check([&] {
    std::string damaged = good;
    const int changes = *rc::gen::inRange(1, 5);
    for (int i = 0; i < changes; ++i) {
      // Most of what can go wrong lies before the tensors.
      damaged[*rc::gen::inRange<size_t>(0, 2500)] = *rc::gen::arbitrary<char>();
    }
    const auto file = ParseGguf(damaged, "damaged");
    if (!file.ok()) {
      RC_ASSERT(file.status().code() == absl::StatusCode::kInvalidArgument);
      return;
    }
    for (const TensorView& tensor : file->tensors) {
      RC_ASSERT(tensor.bytes.data() >= damaged.data());
      RC_ASSERT(tensor.bytes.data() + tensor.bytes.size() <=
                damaged.data() + damaged.size());
    }
    const auto adapter = DecodeGgufLora(damaged, config, "damaged");
    RC_ASSERT(adapter.ok() ||
              adapter.status().code() == absl::StatusCode::kInvalidArgument);
  }));
}

// Tensors left out, renamed, doubled, of another type or shape; `pool` has the
// bytes of those.
std::vector<TensorView> Odd(std::vector<TensorView> tensors,
                            absl::string_view pool) {
  const int changes = *rc::gen::inRange(1, 4);
  for (int i = 0; i < changes; ++i) {
    const size_t at = *rc::gen::inRange<size_t>(0, tensors.size());
    TensorView tensor = tensors[at];
    const int what = *rc::gen::inRange(0, 5);
    if (what != 3) tensors.erase(tensors.begin() + at);
    if (what == 0) continue;
    if (what == 1) {
      tensor.shape.back() = *rc::gen::inRange<int64_t>(1, 40);
    } else if (what == 2) {
      tensor.dtype = *rc::gen::element(DType::kI8, DType::kU8, DType::kBf16,
                                       DType::kF32, DType::kI32, DType::kI64);
    } else {
      const size_t end = tensor.name.find(".weight");
      tensor.name = tensor.name.substr(0, end) + ".weight" +
                    *rc::gen::element<std::string>(
                        "", ".int8", ".int8_scale", ".int8_columns",
                        ".int8_outliers", ".nf4", ".nf4_shape", ".nf4_absmax");
    }
    tensor.bytes =
        pool.substr(0, tensor.num_elements() * DTypeBytes(tensor.dtype));
    if (std::none_of(tensors.begin(), tensors.end(), [&](const TensorView& t) {
          return t.name == tensor.name;
        })) {
      tensors.push_back(tensor);
    }
  }
  return tensors;
}

TEST(AdapterPropertyTest, OddCheckpointsAreReadOrRefused) {
  const std::string pool(1 << 20, '\1');
  for (const Family family : {Family::kLlama, Family::kGpt2}) {
    const ModelConfig config = tests::SmallConfig(family);
    const config::AdapterOptions dora =
        tests::SmallOptions(family, AdapterKind::kDora);
    const codec::Layout layout = AdapterLayout(config, dora).value();
    const std::string dense = tests::WriteCheckpoint(config);
    for (const std::string& from :
         {dense, tests::Quantised(dense, WeightFormat::kInt8),
          tests::Quantised(dense, WeightFormat::kNf4)}) {
      const SafetensorsFile file =
          SafetensorsFile::Open(from + "/model.safetensors").value();
      const std::string folder = tests::NewTempDir();
      EXPECT_TRUE(rc::check([&] {
        RC_ASSERT(
            base::WriteFileAtomic(folder + "/model.safetensors",
                                  EncodeSafetensors(Odd(file.tensors(), pool)),
                                  base::Durability::kProcessCrash)
                .ok());
        const auto files = TensorFiles::Open(folder, config);
        if (!files.ok()) {
          RC_ASSERT(absl::IsInvalidArgument(files.status()));
          return;
        }
        for (const codec::TensorSpec& spec : ModelTensors(config)) {
          if (files->IsPacked(spec.name)) continue;
          (void)ReadFloats(*files->Find(spec.name).view).status();
        }
        const auto values = InitialAdapterOf(folder, config, dora, layout, 1);
        RC_ASSERT(values.ok() || absl::IsInvalidArgument(values.status()));
      }));
    }
  }
}

}  // namespace
}  // namespace choir::model
