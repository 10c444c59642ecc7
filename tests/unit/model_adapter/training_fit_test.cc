// Jobs that their base model or adapter cannot take, told by the folder alone.
#include "model/training/training_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/checkpoint/packed_checkpoint.h"
#include "tests/unit/model_adapter/folders.h"

namespace choir::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

config::JobOptions Job(Family family,
                       config::AdapterKind kind = config::AdapterKind::kLora) {
  config::JobOptions job;
  job.base_model = tests::WriteCheckpoint(tests::SmallConfig(family));
  job.adapter = tests::SmallOptions(family, kind);
  return job;
}

std::string Refusal(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

TEST(TrainingFitTest, SparsityNeedsADenseBaseOfPlainWeights) {
  for (const Family family : {Family::kLlama, Family::kGpt2}) {
    for (const auto kind :
         {config::AdapterKind::kLora, config::AdapterKind::kFrozenA}) {
      config::JobOptions job = Job(family, kind);
      job.training.sparsity.max_rate = 0.5;
      EXPECT_TRUE(CheckJobFits(job).ok()) << CheckJobFits(job);
    }
  }
  config::JobOptions experts = Job(Family::kMixtral);
  EXPECT_TRUE(CheckJobFits(experts).ok()) << CheckJobFits(experts);
  experts.training.sparsity.max_rate = 0.25;
  EXPECT_THAT(Refusal(CheckJobFits(experts)),
              AllOf(HasSubstr("training.sparsity.max_rate is 0.25"),
                    HasSubstr("3 experts"), HasSubstr("set max_rate to 0")));
  for (const auto kind : {config::AdapterKind::kDora, config::AdapterKind::kIa3,
                          config::AdapterKind::kLofit}) {
    config::JobOptions job = Job(Family::kLlama, kind);
    EXPECT_TRUE(CheckJobFits(job).ok()) << CheckJobFits(job);
    job.training.sparsity.max_rate = 0.5;
    EXPECT_THAT(Refusal(CheckJobFits(job)),
                AllOf(HasSubstr("adapter.kind is"),
                      HasSubstr(std::string(config::AdapterKindName(kind))),
                      HasSubstr("frozen_a")));
  }
}

TEST(TrainingFitTest, SparsityNeedsWeightsThatAreNotPacked) {
  config::JobOptions job = Job(Family::kLlama);
  job.training.sparsity.max_rate = 0.5;
  EXPECT_TRUE(CheckJobFits(job, WeightFormat::kFloat32).ok());
  for (const WeightFormat format :
       {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kNf4}) {
    EXPECT_THAT(Refusal(CheckJobFits(job, format)), HasSubstr("packed"));
  }
  const std::string path = base::JoinPath(job.base_model, "config.json");
  const auto quantised = WithQuantization(base::ReadFile(path).value(),
                                          WeightFormat::kNf4, "config.json");
  ASSERT_TRUE(quantised.ok()) << quantised.status();
  ASSERT_TRUE(base::WriteFileAtomic(path, *quantised).ok());
  EXPECT_THAT(Refusal(CheckJobFits(job)), HasSubstr("quantised folder"));
  job.training.sparsity.max_rate = 0.0;
  EXPECT_TRUE(CheckJobFits(job).ok()) << CheckJobFits(job);
}

TEST(TrainingFitTest, RoutersAreOfModelsWithExperts) {
  struct Setting {
    const char* text;
    double config::RouterOptions::*field;
  };
  for (const Setting& setting : {Setting{"training.router.aux_loss is 0.5",
                                         &config::RouterOptions::aux_loss},
                                 Setting{"training.router.z_loss is 0.5",
                                         &config::RouterOptions::z_loss},
                                 Setting{"training.router.bias_rate is 0.5",
                                         &config::RouterOptions::bias_rate}}) {
    config::JobOptions job = Job(Family::kLlama);
    job.training.router.*setting.field = 0.5;
    EXPECT_THAT(Refusal(CheckJobFits(job)),
                AllOf(HasSubstr(setting.text), HasSubstr("llama"),
                      HasSubstr("[training.router]")));
    job.training.router.*setting.field = 0.0;  // switched off
    EXPECT_TRUE(CheckJobFits(job).ok());
    config::JobOptions experts = Job(Family::kMixtral);
    experts.training.router.*setting.field = 0.5;
    EXPECT_TRUE(CheckJobFits(experts).ok()) << CheckJobFits(experts);
  }
  // Every block dense: nothing to balance either.
  ModelConfig config = tests::SmallConfig(Family::kMixtral);
  config.dense_layers = {true, true};
  config::TrainingOptions training;
  training.router.z_loss = 0.1;
  EXPECT_FALSE(CheckTrainingFits(config, false, {}, training).ok());
  config.dense_layers = {true, false};
  EXPECT_TRUE(CheckTrainingFits(config, false, {}, training).ok());
}

TEST(TrainingFitTest, LayersThatTheModelDoesNotHaveAreNamed) {
  config::JobOptions job = Job(Family::kLlama);
  job.adapter.target_modules = {"c_attn"};
  EXPECT_THAT(Refusal(CheckJobFits(job)), HasSubstr("'c_attn'"));
  job.base_model = "/models/none";
  EXPECT_EQ(CheckJobFits(job).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace choir::model
