#include "model/planner.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"
#include "model/checkpoint/families.h"

namespace choir::model {
namespace {

ModelConfig Config() {
  ModelConfig config;
  config.hidden_size = 512;
  config.num_layers = 12;
  config.intermediate_size = 1408;
  config.vocab_size = 32000;
  config.num_heads = 8;
  config.num_kv_heads = 4;
  config.head_dim = 64;
  config.max_positions = 1024;
  config.tie_word_embeddings = true;
  return config;
}

PlanRequest Request(int64_t budget_mib) {
  PlanRequest request;
  request.budget_mib = budget_mib;
  request.adapter.target_modules = LinearKinds(Config());
  request.training.batch_size = 8;
  request.training.max_sequence_length = 512;
  return request;
}

int64_t Smallest(PlanRequest request) {
  request.budget_mib = 1;
  const auto refused = PlanMemory(Config(), request);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  const std::string message(refused.status().message());
  const std::string marker = "would do is ";
  return std::stoll(message.substr(message.find(marker) + marker.size()));
}

TEST(PlannerTest, PlentyOfMemoryChangesNothing) {
  const auto plan = PlanMemory(Config(), Request(1 << 20));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->changes.empty());
  EXPECT_EQ(plan->precision, WeightFormat::kFloat32);
  EXPECT_EQ(plan->training.batch_size, 8);
  EXPECT_FALSE(plan->training.activation_checkpointing);
}

TEST(PlannerTest, EveryPlanKeepsItsBudgetAndTheStep) {
  const int64_t smallest = Smallest(Request(1));
  for (int64_t budget = smallest; budget < 2000; budget += 13) {
    const auto plan = PlanMemory(Config(), Request(budget));
    ASSERT_TRUE(plan.ok()) << budget << ": " << plan.status();
    EXPECT_LE(plan->estimate.total_mib(), budget);
    EXPECT_EQ(plan->training.batch_size * plan->training.gradient_accumulation,
              8);
    // The weight of the adapter's product stays.
    EXPECT_DOUBLE_EQ(plan->adapter.scale(), Request(1).adapter.scale());
  }
  EXPECT_FALSE(PlanMemory(Config(), Request(smallest - 1)).ok());
}

TEST(PlannerTest, ThePassShrinksBeforeThePrecisionFalls) {
  const auto all = PlanMemory(Config(), Request(1 << 20));
  const auto plan =
      PlanMemory(Config(), Request(all->estimate.total_mib() - 1));
  ASSERT_TRUE(plan.ok());
  EXPECT_LT(plan->training.batch_size, 8);
  EXPECT_EQ(plan->precision, WeightFormat::kFloat32);
  EXPECT_EQ(plan->adapter.rank, 8);
  EXPECT_EQ(plan->training.max_sequence_length, 512);
  EXPECT_FALSE(plan->changes.empty());
}

TEST(PlannerTest, LongPassesAreCountedAsTheyAreSplit) {
  PlanRequest request = Request(1 << 20);
  const auto total = [&request](int batch_size) {
    request.training.batch_size = batch_size;
    return PlanMemory(Config(), request)->estimate.total();
  };
  EXPECT_EQ(total(8), total(2));  // of 512 tokens
  EXPECT_GT(total(2), total(1));
  request.adapter.dropout = 0.1;
  EXPECT_GT(total(8), total(2));
}

TEST(PlannerTest, AFederationsAdapterKeepsItsShape) {
  PlanRequest request = Request(1);
  request.may_shrink_adapter = false;
  const int64_t fixed = Smallest(request);
  EXPECT_GT(fixed, Smallest(Request(1)));
  request.budget_mib = fixed;
  const auto plan = PlanMemory(Config(), request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->adapter.rank, 8);
  EXPECT_EQ(plan->training.max_sequence_length, 512);
  EXPECT_EQ(plan->precision, WeightFormat::kNf4);
  EXPECT_TRUE(plan->training.activation_checkpointing);
}

TEST(PlannerTest, ShortExamplesNeedLess) {
  PlanRequest request = Request(1 << 20);
  request.longest_example = 64;
  const auto plan = PlanMemory(Config(), request);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->training.max_sequence_length, 512);  // free
  EXPECT_LT(plan->estimate.total(),
            PlanMemory(Config(), Request(1 << 20))->estimate.total());
}

TEST(PlannerTest, NothingIsPlannedBeyondTheModelsContext) {
  PlanRequest request = Request(1 << 20);
  request.training.max_sequence_length = 100000;
  const auto plan = PlanMemory(Config(), request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->training.max_sequence_length, 1024);
  ASSERT_EQ(plan->changes.size(), 1u);
  EXPECT_EQ(plan->changes[0],
            "max_sequence_length 1024 (the model's context) instead of 100000");
  // A federation's setting stays what it is; it counts up to the context.
  request.may_shrink_adapter = false;
  const auto fixed = PlanMemory(Config(), request);
  ASSERT_TRUE(fixed.ok()) << fixed.status();
  EXPECT_EQ(fixed->training.max_sequence_length, 100000);
  EXPECT_TRUE(fixed->changes.empty());
  EXPECT_EQ(fixed->estimate.total(), plan->estimate.total());
  // A single token predicts nothing, and data are not cut that short.
  ModelConfig tiny = Config();
  tiny.max_positions = 1;
  request.may_shrink_adapter = true;
  EXPECT_EQ(PlanMemory(tiny, request)->training.max_sequence_length, 2);
}

TEST(PlannerTest, AWishedPrecisionIsTheOnlyOne) {
  PlanRequest request = Request(1 << 20);
  request.precisions = {WeightFormat::kInt8};
  EXPECT_EQ(PlanMemory(Config(), request)->precision, WeightFormat::kInt8);
  request.budget_mib = 0;
  EXPECT_EQ(PlanMemory(Config(), request).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace choir::model
