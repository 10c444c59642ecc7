// GGUF files: the container byte by byte, and LoRA adapters in it.
#include "model/export/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "model/export/gguf_lora.h"
#include "model/export/read_adapter.h"
#include "tests/unit/model_adapter/folders.h"

namespace choir::model {
namespace {

using config::AdapterKind;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using tests::RandomAdapter;
using tests::SmallConfig;
using tests::SmallOptions;

std::string Little(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) {
    out.push_back(static_cast<char>(value >> (8 * i) & 0xFF));
  }
  return out;
}
std::string Text(const std::string& text) {
  return Little(text.size(), 8) + text;
}

// A file with one key and one tensor, put together by the specification.
std::string ByHand() {
  std::string file = "GGUF" + Little(3, 4) + Little(1, 8) + Little(1, 8) +
                     Text("k") + Little(8, 4) + Text("v") + Text("t") +
                     Little(2, 4) + Little(3, 8) + Little(2, 8) + Little(0, 4) +
                     Little(0, 8);
  file.append((32 - file.size() % 32) % 32, '\0');
  const float values[6] = {1, 2, 3, 4, 5, 6};
  file.append(reinterpret_cast<const char*>(values), sizeof(values));
  file.append((32 - file.size() % 32) % 32, '\0');
  return file;
}

TEST(GgufTest, FollowsTheSpecification) {
  const std::string bytes = ByHand();
  const auto file = ParseGguf(bytes, "f");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->Text("k").value(), "v");
  ASSERT_EQ(file->tensors.size(), 1u);
  EXPECT_THAT(file->tensors[0].shape, ElementsAre(2, 3));
  EXPECT_THAT(ReadFloats(file->tensors[0]).value(),
              ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ(EncodeGguf(file->metadata, file->tensors).value(), bytes);
}

TEST(GgufTest, EveryTruncationIsRefused) {
  const std::string bytes = ByHand();
  // The padding after the last tensor may be missing.
  for (size_t size = 0; size + 8 < bytes.size(); ++size) {
    const auto file = ParseGguf(absl::string_view(bytes).substr(0, size), "f");
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << size;
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("f"));
  }
}

TEST(GgufTest, SaysWhatIsWrong) {
  const auto error = [](std::string bytes) {
    const auto file = ParseGguf(bytes, "f");
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(file.status().message());
  };
  const auto with = [](size_t at, const std::string& part) {
    std::string bytes = ByHand();
    bytes.replace(at, part.size(), part);
    return bytes;
  };
  EXPECT_THAT(error("GGML0000000000000000"), HasSubstr("is not a GGUF file"));
  EXPECT_THAT(error(with(4, Little(9, 4))), HasSubstr("version 9"));
  EXPECT_THAT(error(with(4, std::string("\0\0\0\3", 4))),
              HasSubstr("big-endian"));
  EXPECT_THAT(error(with(8, Little(~0ull, 8))), HasSubstr("claims"));
  EXPECT_THAT(error(with(24, Little(1ull << 40, 8))), HasSubstr("bytes long"));
  EXPECT_THAT(error(with(33, Little(77, 4))), HasSubstr("unknown type 77"));
  const size_t tensor = 24 + 9 + 4 + 9 + 9;  // its number of dimensions
  EXPECT_THAT(error(with(tensor, Little(5, 4))), HasSubstr("5 dimensions"));
  EXPECT_THAT(error(with(tensor + 4, Little(0, 8))),
              HasSubstr("impossible shape"));
  EXPECT_THAT(error(with(tensor + 4, Little(1ull << 63, 8))),
              HasSubstr("impossible shape"));
  EXPECT_THAT(error(with(tensor + 20, Little(8, 4))), HasSubstr("ggml type 8"));
  EXPECT_THAT(error(with(tensor + 24, Little(1, 8))),
              HasSubstr("does not lie"));
  EXPECT_THAT(error(with(tensor + 24, Little(1ull << 50, 8))),
              HasSubstr("does not lie"));
}

TEST(GgufTest, RefusesRepeatedNamesAndOverlaps) {
  const std::string four(16, 'x');
  const TensorView tensor{"t", DType::kF32, {4}, four};
  EXPECT_THAT(
      std::string(ParseGguf(EncodeGguf({}, {tensor, tensor}).value(), "f")
                      .status()
                      .message()),
      HasSubstr("tensor 't' appears twice"));
  EXPECT_THAT(
      std::string(
          ParseGguf(EncodeGguf({{"k", true}, {"k", 1.0f}}, {}).value(), "f")
              .status()
              .message()),
      HasSubstr("key 'k' appears twice"));
  std::string two =
      EncodeGguf({}, {tensor, {"u", DType::kF32, {4}, four}}).value();
  // The second tensor's offset, the last eight bytes before the padding.
  const size_t at = 24 + 2 * (9 + 4 + 8 + 4 + 8) - 8;
  two.replace(at, 8, Little(0, 8));
  EXPECT_THAT(std::string(ParseGguf(two, "f").status().message()),
              HasSubstr("overlap"));
}

TEST(GgufTest, RefusesWhatTheFormatCannotHold) {
  const std::string bytes(4, 'x');
  EXPECT_FALSE(EncodeGguf({}, {{"t", DType::kI32, {1}, bytes}}).ok());
  EXPECT_FALSE(EncodeGguf({}, {{"t", DType::kF32, {}, bytes}}).ok());
  EXPECT_FALSE(
      EncodeGguf({}, {{std::string(64, 't'), DType::kF32, {1}, bytes}}).ok());
  EXPECT_FALSE(EncodeGguf({{"k", GgufArray{2}}}, {}).ok());
}

TEST(GgufLoraTest, NamesAndShapesAreThoseOfLlamaCpp) {
  const ModelConfig config = SmallConfig(Family::kMixtral);
  const PeftAdapter adapter = RandomAdapter(
      config, SmallOptions(Family::kMixtral, AdapterKind::kLora), 1);
  const auto bytes = EncodeGgufLora(config, adapter, DType::kF32);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const auto file = ParseGguf(*bytes, "f");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->Text("general.type").value(), "adapter");
  EXPECT_EQ(file->Text("adapter.type").value(), "lora");
  EXPECT_EQ(file->Text("general.architecture").value(), "llama");
  EXPECT_EQ(std::get<float>(*file->Find("adapter.lora.alpha")), 5.0f);
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const TensorView& tensor : file->tensors) {
    shapes[tensor.name] = tensor.shape;
  }
  EXPECT_EQ(shapes.size(), 2 * 3 * 2u);
  EXPECT_THAT(shapes["blk.1.attn_q.weight.lora_a"], ElementsAre(3, 16));
  EXPECT_THAT(shapes["blk.1.attn_q.weight.lora_b"], ElementsAre(16, 3));
  EXPECT_THAT(shapes["blk.0.ffn_gate_exps.weight.lora_a"],
              ElementsAre(3, 3, 16));
  EXPECT_THAT(shapes["blk.0.ffn_down_exps.weight.lora_b"],
              ElementsAre(3, 16, 3));
}

TEST(GgufLoraTest, QueryAndKeyRowsAreInterleavedForLlamaAlone) {
  for (const Family family : {Family::kLlama, Family::kQwen2}) {
    const ModelConfig config = SmallConfig(family);  // heads of 4 rows
    PeftAdapter adapter =
        RandomAdapter(config, SmallOptions(family, AdapterKind::kLora), 1);
    const std::string name = LoraBName("model.layers.0.self_attn.k_proj");
    const auto b = tests::ValuesOf(adapter, name);
    for (int row = 0; row < 8; ++row) {
      adapter.values[b.data() - adapter.values.data() + row * 3] =
          static_cast<float>(row);
    }
    const std::string bytes =
        EncodeGgufLora(config, adapter, DType::kF32).value();
    const auto file = ParseGguf(bytes, "f");
    for (const TensorView& tensor : file->tensors) {
      if (tensor.name != "blk.0.attn_k.weight.lora_b") continue;
      const std::vector<float> values = ReadFloats(tensor).value();
      std::vector<int> rows;
      for (int row = 0; row < 8; ++row) {
        rows.push_back(static_cast<int>(values[row * 3]));
      }
      if (family == Family::kLlama) {
        EXPECT_THAT(rows, ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
      } else {
        EXPECT_THAT(rows, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
      }
    }
  }
}

TEST(GgufLoraTest, SurvivesWritingAndReading) {
  for (const Family family :
       {Family::kLlama, Family::kGpt2, Family::kMixtral, Family::kQwen2}) {
    const ModelConfig config = SmallConfig(family);
    config::AdapterOptions options = SmallOptions(family, AdapterKind::kLora);
    options.rank_stabilized = true;
    options.dropout = 0.25;
    const PeftAdapter adapter = RandomAdapter(config, options, 9);
    const std::string path = tests::NewTempDir() + "/a.gguf";
    ASSERT_TRUE(base::WriteFileAtomic(
                    path, EncodeGgufLora(config, adapter, DType::kF32).value())
                    .ok());
    const auto read = ReadAdapter(path, config);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->values, adapter.values);
    EXPECT_EQ(read->layout.digest(), adapter.layout.digest());
    EXPECT_EQ(AdapterConfigJson(read->options, read->base_model),
              AdapterConfigJson(options, "small"));
  }
}

TEST(GgufLoraTest, ReadsFilesWithoutOurKey) {
  const ModelConfig config = SmallConfig(Family::kLlama);
  config::AdapterOptions options =
      SmallOptions(Family::kLlama, AdapterKind::kLora);
  options.rank_stabilized = true;
  const PeftAdapter adapter = RandomAdapter(config, options, 9);
  const std::string bytes =
      EncodeGgufLora(config, adapter, DType::kF32).value();
  GgufFile file = ParseGguf(bytes, "f").value();
  file.metadata.pop_back();
  const std::string plain = EncodeGguf(file.metadata, file.tensors).value();
  const auto read = DecodeGgufLora(plain, config, "f");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->values, adapter.values);
  EXPECT_EQ(read->options.rank, 3);
  EXPECT_NEAR(read->options.scale(), options.scale(), 1e-6);
  EXPECT_EQ(read->options.target_modules, options.target_modules);
}

// llama.cpp multiplies every tensor by 1 then, whatever its rank.
TEST(GgufLoraTest, WithoutAnAlphaEveryLayerHasScaleOne) {
  const ModelConfig config = SmallConfig(Family::kLlama);
  config::AdapterOptions options =
      SmallOptions(Family::kLlama, AdapterKind::kLora);
  const std::string wide = "model.layers.1.self_attn.q_proj";
  options.layer_ranks[wide] = 5;
  const PeftAdapter adapter = RandomAdapter(config, options, 9);
  const std::string bytes =
      EncodeGgufLora(config, adapter, DType::kF32).value();
  const GgufFile written = ParseGguf(bytes, "f").value();
  const auto read = [&](absl::optional<float> alpha) {
    GgufFile file = written;
    std::vector<std::pair<std::string, GgufValue>> metadata;
    for (auto& [key, value] : file.metadata) {
      if (absl::StartsWith(key, "choir.")) continue;
      if (key == "adapter.lora.alpha") {
        if (!alpha.has_value()) continue;
        value = *alpha;
      }
      metadata.emplace_back(key, value);
    }
    auto decoded =
        DecodeGgufLora(EncodeGguf(metadata, file.tensors).value(), config, "f");
    EXPECT_TRUE(decoded.ok()) << decoded.status();
    return *std::move(decoded);
  };
  for (const auto alpha : {absl::optional<float>(), absl::optional<float>(0)}) {
    const PeftAdapter plain = read(alpha);
    EXPECT_EQ(plain.options.rank_of(wide), 5);
    EXPECT_EQ(plain.options.scale_of(wide), 1.0);
    EXPECT_EQ(plain.options.scale_of("model.layers.0.self_attn.q_proj"), 1.0);
  }
  const PeftAdapter scaled = read(6.0f);
  EXPECT_EQ(scaled.options.scale_of(wide), 6.0 / 5);
  EXPECT_EQ(scaled.options.scale_of("model.layers.0.self_attn.q_proj"), 2.0);
}

TEST(GgufLoraTest, ValuesThatTheDtypeLacksAreRefused) {
  const ModelConfig config = SmallConfig(Family::kLlama);
  PeftAdapter adapter = RandomAdapter(
      config, SmallOptions(Family::kLlama, AdapterKind::kLora), 9);
  adapter.values.back() = 1e6f;
  const absl::Status refused =
      EncodeGgufLora(config, adapter, DType::kF16).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(refused.message()),
      testing::AllOf(HasSubstr("tensor 'blk."), HasSubstr("lora_"),
                     HasSubstr("1e+06"), HasSubstr("too large for F16")));
  EXPECT_TRUE(EncodeGgufLora(config, adapter, DType::kBf16).ok());
}

TEST(GgufLoraTest, RefusesOtherKindsAndModels) {
  const ModelConfig config = SmallConfig(Family::kLlama);
  for (const AdapterKind kind :
       {AdapterKind::kDora, AdapterKind::kIa3, AdapterKind::kLofit}) {
    const PeftAdapter adapter =
        RandomAdapter(config, SmallOptions(Family::kLlama, kind), 9);
    EXPECT_THAT(
        std::string(
            EncodeGgufLora(config, adapter, DType::kF32).status().message()),
        HasSubstr("merge"));
  }
  const PeftAdapter adapter = RandomAdapter(
      config, SmallOptions(Family::kLlama, AdapterKind::kLora), 9);
  EXPECT_FALSE(EncodeGgufLora(config, adapter, DType::kI8).ok());
  const std::string bytes =
      EncodeGgufLora(config, adapter, DType::kF32).value();
  const auto error = [](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(
      error(DecodeGgufLora(bytes, SmallConfig(Family::kQwen2), "f").status()),
      HasSubstr("general.architecture is 'llama', not 'qwen2'"));
  ModelConfig shallow = config;
  shallow.num_layers = 1;
  EXPECT_THAT(error(DecodeGgufLora(bytes, shallow, "f").status()),
              HasSubstr("no linear layer"));
  ModelConfig wide = config;
  wide.intermediate_size = 32;
  EXPECT_THAT(error(DecodeGgufLora(bytes, wide, "f").status()),
              HasSubstr("has shape [3, 24], not [3, 32]"));
  GgufFile file = ParseGguf(bytes, "f").value();
  file.tensors.pop_back();
  EXPECT_THAT(
      error(DecodeGgufLora(EncodeGguf(file.metadata, file.tensors).value(),
                           config, "f")
                .status()),
      HasSubstr("has no partner"));
}

}  // namespace
}  // namespace choir::model
