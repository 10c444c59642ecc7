// PEFT folders in 16 bits.
#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/peft_folder.h"
#include "model/checkpoint/safetensors.h"
#include "model/quantize/float_formats.h"
#include "tests/unit/model_adapter/folders.h"

namespace choir::model {
namespace {

using config::AdapterKind;
using testing::HasSubstr;

constexpr AdapterKind kKinds[] = {AdapterKind::kLora, AdapterKind::kDora,
                                  AdapterKind::kIa3, AdapterKind::kLofit};

PeftAdapter RandomAdapter(AdapterKind kind) {
  const ModelConfig config = tests::SmallConfig(Family::kLlama);
  PeftAdapter adapter;
  adapter.options = tests::SmallOptions(Family::kLlama, kind);
  adapter.layout = StoredLayout(config, adapter.options).value();
  adapter.values = tests::Normals(adapter.layout.num_elements(), 9, 0.3);
  adapter.base_model = "base";
  return adapter;
}

float Rounded(float value, DType dtype) {
  return dtype == DType::kBf16 ? RoundToBf16(value)
                               : F16ToFloat(FloatToF16(value));
}

TEST(AdapterDtypesTest, FoldersIn16BitsAreReadBackExactly) {
  for (const AdapterKind kind : kKinds) {
    for (const DType dtype : {DType::kBf16, DType::kF16}) {
      const PeftAdapter adapter = RandomAdapter(kind);
      const std::string folder = tests::NewTempDir();
      ASSERT_TRUE(WritePeftFolder(folder, adapter, dtype).ok());
      const auto read =
          ReadPeftFolder(folder, tests::SmallConfig(Family::kLlama));
      ASSERT_TRUE(read.ok()) << read.status();
      std::vector<float> expected = adapter.values;
      for (float& value : expected) value = Rounded(value, dtype);
      EXPECT_EQ(read->values, expected) << DTypeName(dtype);
      EXPECT_NE(read->values, adapter.values);
      // Once rounded, nothing more is lost, whatever it is written as.
      for (const DType next : {dtype, DType::kF32}) {
        const std::string again = tests::NewTempDir();
        ASSERT_TRUE(WritePeftFolder(again, *read, next).ok());
        EXPECT_EQ(
            ReadPeftFolder(again, tests::SmallConfig(Family::kLlama))->values,
            expected);
      }
    }
  }
}

TEST(AdapterDtypesTest, TensorsAreStoredInTheTypeAsked) {
  const PeftAdapter adapter = RandomAdapter(AdapterKind::kLora);
  const std::string folder = tests::NewTempDir();
  ASSERT_TRUE(WritePeftFolder(folder, adapter, DType::kBf16).ok());
  const auto file =
      SafetensorsFile::Open(base::JoinPath(folder, kAdapterModelName));
  ASSERT_TRUE(file.ok()) << file.status();
  int64_t bytes = 0;
  for (const TensorView& tensor : file->tensors()) {
    EXPECT_EQ(tensor.dtype, DType::kBf16) << tensor.name;
    bytes += static_cast<int64_t>(tensor.bytes.size());
  }
  EXPECT_EQ(bytes, 2 * adapter.layout.num_elements());
}

TEST(AdapterDtypesTest, AFolderThatIsNotThereIsNamedWithTheRemedy) {
  const absl::Status missing =
      ReadPeftFolder("/nowhere", tests::SmallConfig(Family::kLlama)).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()),
              testing::AllOf(HasSubstr("/nowhere/adapter_config.json"),
                             HasSubstr("the folder of a PEFT adapter")));
}

TEST(AdapterDtypesTest, ValuesThatHalfPrecisionLacksAreRefused) {
  PeftAdapter adapter = RandomAdapter(AdapterKind::kLora);
  adapter.values[3] = 1e5f;
  const std::string folder = base::JoinPath(tests::NewTempDir(), "new");
  const absl::Status refused = WritePeftFolder(folder, adapter, DType::kF16);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(refused.message()),
      testing::AllOf(HasSubstr("too large for F16"), HasSubstr("100000"),
                     HasSubstr(adapter.layout.tensors()[0].name)));
  EXPECT_FALSE(base::FileExists(folder));
  EXPECT_TRUE(WritePeftFolder(folder, adapter, DType::kBf16).ok());
}

}  // namespace
}  // namespace choir::model
