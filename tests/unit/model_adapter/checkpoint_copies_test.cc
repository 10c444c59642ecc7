// What is made of a checkpoint: which bases are taken, and what comes along.
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "base/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint/quantize_checkpoint.h"
#include "model/checkpoint/side_files.h"
#include "model/checkpoint/upcycle.h"
#include "model/export/merge.h"
#include "tests/unit/model_adapter/folders.h"

namespace choir::model {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using tests::AdapterKind;

std::string Base() {
  return tests::WriteCheckpoint(tests::SmallConfig(Family::kLlama));
}

std::string NewFolder() { return base::JoinPath(tests::NewTempDir(), "out"); }

std::string Quantised(WeightFormat format) {
  const std::string out = NewFolder();
  const auto report = QuantizeCheckpoint(Base(), format, out);
  EXPECT_TRUE(report.ok()) << report.status();
  return out;
}

// Every way to make another checkpoint of the one in `folder`.
struct Way {
  const char* name;
  std::function<absl::Status(const std::string& folder, const std::string& out)>
      run;
};

std::vector<Way> Ways() {
  return {
      {"merge",
       [](const std::string& folder, const std::string& out) {
         const ModelConfig config = tests::SmallConfig(Family::kLlama);
         const config::AdapterOptions options =
             tests::SmallOptions(Family::kLlama, AdapterKind::kLora);
         const PeftAdapter adapter = tests::RandomAdapter(config, options, 5);
         MergeOptions merge;
         merge.model = folder;
         merge.adapter = tests::NewTempDir();
         merge.out = out;
         EXPECT_TRUE(WritePeftFolder(merge.adapter, options, adapter.layout,
                                     adapter.values, "small")
                         .ok());
         return MergeAdapter(merge).status();
       }},
      {"upcycle",
       [](const std::string& folder, const std::string& out) {
         UpcycleOptions options;
         options.experts = 3;
         return UpcycleFolder(folder, out, options);
       }},
      {"quantise", [](const std::string& folder, const std::string& out) {
         return QuantizeCheckpoint(folder, WeightFormat::kInt8, out).status();
       }}};
}

TEST(CheckpointCopiesTest, AQuantisedBaseIsRefusedWithItsFormatAndTheRemedy) {
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kNf4}) {
    const std::string folder = Quantised(format);
    for (const Way& way : Ways()) {
      const std::string out = NewFolder();
      const absl::Status status = way.run(folder, out);
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << way.name;
      EXPECT_THAT(std::string(status.message()),
                  AllOf(HasSubstr(folder),
                        HasSubstr("quantised to " +
                                  std::string(WeightFormatName(format))),
                        HasSubstr("the checkpoint that was not")))
          << way.name;
      EXPECT_FALSE(base::FileExists(out)) << way.name;
    }
  }
}

TEST(CheckpointCopiesTest, PackedWeightsThatNothingAnnouncesAreRefused) {
  const std::string folder = Quantised(WeightFormat::kInt8);
  ASSERT_TRUE(
      base::WriteFileAtomic(base::JoinPath(folder, "config.json"),
                            ModelConfigJson(tests::SmallConfig(Family::kLlama)))
          .ok());
  for (const Way& way : Ways()) {
    const absl::Status status = way.run(folder, NewFolder());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << way.name;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("_proj.weight' is quantised"),
                      HasSubstr("the checkpoint that was not")))
        << way.name;
  }
}

TEST(CheckpointCopiesTest, EverySideFileComesAlong) {
  const std::string folder = Base();
  for (const char* name : SideFiles()) {
    ASSERT_TRUE(base::WriteFileAtomic(base::JoinPath(folder, name),
                                      std::string("of ") + name)
                    .ok());
  }
  // The end of texts is read from this one.
  ASSERT_TRUE(base::WriteFileAtomic(
                  base::JoinPath(folder, "generation_config.json"), "{}")
                  .ok());
  // Without it a tokenizer of vocab.json and merges.txt has other ids.
  ASSERT_TRUE(IsSideFile("added_tokens.json"));
  for (const Way& way : Ways()) {
    const std::string out = NewFolder();
    const absl::Status status = way.run(folder, out);
    ASSERT_TRUE(status.ok()) << way.name << ": " << status;
    for (const char* name : SideFiles()) {
      const auto copy = base::ReadFile(base::JoinPath(out, name));
      ASSERT_TRUE(copy.ok()) << way.name << " " << copy.status();
      EXPECT_EQ(*copy, base::ReadFile(base::JoinPath(folder, name)).value());
    }
  }
}

TEST(CheckpointCopiesTest, OutliersBeginAtANumberFromZeroOn) {
  const std::string folder = Base();
  QuantizeOptions options;
  for (const double bad :
       {-1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    options.outlier_rms = bad;
    const auto report =
        QuantizeCheckpoint(folder, WeightFormat::kInt8, NewFolder(), options);
    EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument)
        << bad;
  }
  options.outlier_rms = 0.0;
  const auto report =
      QuantizeCheckpoint(folder, WeightFormat::kInt8, NewFolder(), options);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->outlier_columns, 0);
}

}  // namespace
}  // namespace choir::model
