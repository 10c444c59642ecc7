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
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
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
  std::function<absl::Status(const std::string& folder, const std::string& out,
                             const StopFn& stop)>
      run;
};

std::vector<Way> Ways() {
  return {
      {"merge",
       [](const std::string& folder, const std::string& out,
          const StopFn& stop) {
         const ModelConfig config = tests::SmallConfig(Family::kLlama);
         const config::AdapterOptions options =
             tests::SmallOptions(Family::kLlama, AdapterKind::kLora);
         const PeftAdapter adapter = tests::RandomAdapter(config, options, 5);
         MergeOptions merge;
         merge.model = folder;
         merge.adapter = tests::NewTempDir();
         merge.out = out;
         merge.stop = stop;
         EXPECT_TRUE(WritePeftFolder(merge.adapter, options, adapter.layout,
                                     adapter.values, "small")
                         .ok());
         return MergeAdapter(merge).status();
       }},
      {"upcycle",
       [](const std::string& folder, const std::string& out,
          const StopFn& stop) {
         UpcycleOptions options;
         options.experts = 3;
         return UpcycleFolder(folder, out, options, stop);
       }},
      {"quantise", [](const std::string& folder, const std::string& out,
                      const StopFn& stop) {
         return QuantizeCheckpoint(folder, WeightFormat::kInt8, out, {}, stop)
             .status();
       }}};
}

TEST(CheckpointCopiesTest, AQuantisedBaseIsRefusedWithItsFormatAndTheRemedy) {
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kNf4}) {
    const std::string folder = Quantised(format);
    for (const Way& way : Ways()) {
      const std::string out = NewFolder();
      const absl::Status status = way.run(folder, out, nullptr);
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
    const absl::Status status = way.run(folder, NewFolder(), nullptr);
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
    const absl::Status status = way.run(folder, out, nullptr);
    ASSERT_TRUE(status.ok()) << way.name << ": " << status;
    for (const char* name : SideFiles()) {
      const auto copy = base::ReadFile(base::JoinPath(out, name));
      ASSERT_TRUE(copy.ok()) << way.name << " " << copy.status();
      EXPECT_EQ(*copy, base::ReadFile(base::JoinPath(folder, name)).value());
    }
  }
}

TEST(CheckpointCopiesTest, NoOtherFormOfTheWeightsComesAlong) {
  const std::string folder = Base();
  for (const char* name :
       {"consolidated.safetensors", "pytorch_model.bin", "adapter_config.json",
        "README.md", "tokenizer.model"}) {
    ASSERT_TRUE(
        base::WriteFileAtomic(base::JoinPath(folder, name), "of the base")
            .ok());
  }
  for (const Way& way : Ways()) {
    const std::string out = NewFolder();
    const absl::Status status = way.run(folder, out, nullptr);
    ASSERT_TRUE(status.ok()) << way.name << ": " << status;
    EXPECT_THAT(
        base::ListDirectory(out).value(),
        ElementsAre("config.json", "model.safetensors", "tokenizer.model"))
        << way.name;
  }
}

TEST(CheckpointCopiesTest, OnlyNewAndEmptyFoldersAreWrittenTo) {
  const std::string folder = Base();
  for (const Way& way : Ways()) {
    const std::string out = tests::NewTempDir();
    const std::string other = base::JoinPath(out, "adapter_config.json");
    ASSERT_TRUE(base::WriteFileAtomic(other, "{}").ok());
    for (const std::string& taken : {out, other}) {
      const absl::Status status = way.run(folder, taken, nullptr);
      EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists) << way.name;
      EXPECT_THAT(std::string(status.message()),
                  AllOf(HasSubstr(out), HasSubstr("adapter_config.json"),
                        HasSubstr("name a new folder")))
          << way.name;
    }
    EXPECT_THAT(base::ListDirectory(out).value(),
                ElementsAre("adapter_config.json"));
    const absl::Status empty = way.run(folder, tests::NewTempDir(), nullptr);
    EXPECT_TRUE(empty.ok()) << way.name << ": " << empty;
  }
}

TEST(CheckpointCopiesTest, WhatIsStoppedLeavesNothing) {
  const std::string folder = Base();
  for (const Way& way : Ways()) {
    int asked = 0;
    ASSERT_TRUE(way.run(folder, NewFolder(),
                        [&] {
                          ++asked;
                          return absl::OkStatus();
                        })
                    .ok())
        << way.name;
    ASSERT_GT(asked, 10) << way.name;
    for (const int last : {1, asked / 2, asked}) {
      int left = last;
      const StopFn stop = [&left] {
        return --left > 0 ? absl::OkStatus() : absl::CancelledError("enough");
      };
      const std::string fresh = NewFolder();
      EXPECT_EQ(way.run(folder, fresh, stop), absl::CancelledError("enough"))
          << way.name << " " << last;
      EXPECT_FALSE(base::FileExists(fresh)) << way.name << " " << last;
      // A folder that was there stays there.
      left = last;
      const std::string empty = tests::NewTempDir();
      EXPECT_FALSE(way.run(folder, empty, stop).ok());
      EXPECT_THAT(base::ListDirectory(empty).value(), IsEmpty()) << way.name;
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
