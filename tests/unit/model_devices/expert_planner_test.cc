// Plans for mixtures of experts, of which a device may hold a part.
#include <algorithm>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/adapter/targets.h"
#include "model/checkpoint/families.h"
#include "model/planner.h"

namespace choir::model {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ModelConfig Config() {
  ModelConfig config;
  config.family = Family::kMixtral;
  config.hidden_size = 512;
  config.num_layers = 8;
  config.intermediate_size = 1024;
  config.vocab_size = 8192;
  config.num_heads = 8;
  config.num_kv_heads = 4;
  config.head_dim = 64;
  config.max_positions = 512;
  config.moe.num_experts = 16;
  config.moe.experts_per_token = 2;
  config.moe.intermediate_size = 1024;
  return config;
}

PlanRequest Request(int64_t budget_mib) {
  PlanRequest request;
  request.budget_mib = budget_mib;
  request.adapter = WithTargets(Config(), request.adapter);
  request.training.batch_size = 4;
  request.training.max_sequence_length = 128;
  return request;
}

int64_t Smallest(PlanRequest request, std::string* why = nullptr) {
  request.budget_mib = 1;
  const auto refused = PlanMemory(Config(), request);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  const std::string message(refused.status().message());
  if (why != nullptr) *why = message;
  const std::string marker = "would do is ";
  return std::stoll(message.substr(message.find(marker) + marker.size()));
}

// The least that all experts take: an adapter of experts lets none go.
int64_t SmallestWithAll() {
  PlanRequest request = Request(1);
  for (int64_t e = 0; e < Config().moe.num_experts; ++e) {
    request.experts.push_back(e);
  }
  return Smallest(request);
}

TEST(ExpertPlannerTest, ExpertsGoLastAndAsFewAsNeedBe) {
  std::string why;
  const int64_t smallest = Smallest(Request(1), &why);
  const int64_t with_all = SmallestWithAll();
  ASSERT_LT(smallest, with_all - 30);
  EXPECT_THAT(why, HasSubstr("2 experts of a block"));
  EXPECT_TRUE(PlanMemory(Config(), Request(with_all))->experts.empty());
  EXPECT_FALSE(PlanMemory(Config(), Request(smallest - 1)).ok());
  size_t before = 2;
  for (int64_t budget = smallest; budget < with_all; budget += 5) {
    const auto plan = PlanMemory(Config(), Request(budget));
    ASSERT_TRUE(plan.ok()) << budget << ": " << plan.status();
    EXPECT_LE(plan->estimate.total_mib(), budget);
    // The first ones, more of them in more memory.
    std::vector<int64_t> first(plan->experts.size());
    std::iota(first.begin(), first.end(), 0);
    EXPECT_EQ(plan->experts, first);
    EXPECT_GE(plan->experts.size(), before);
    before = plan->experts.size();
    EXPECT_THAT(plan->changes, testing::Contains(HasSubstr("tokens routed")));
    // Everything else was given up before.
    EXPECT_EQ(plan->precision, WeightFormat::kNf4);
    // One expert more would not fit, whatever else is given up.
    PlanRequest more = Request(budget);
    more.experts = first;
    more.experts.push_back(static_cast<int64_t>(first.size()));
    EXPECT_EQ(PlanMemory(Config(), more).status().code(),
              absl::StatusCode::kResourceExhausted)
        << budget;
  }
  EXPECT_GE(before, 13u);
}

TEST(ExpertPlannerTest, AFederationsShapeStays) {
  PlanRequest request = Request(1);
  request.may_shrink_adapter = false;
  request.budget_mib = Smallest(request);
  const auto plan = PlanMemory(Config(), request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->experts, ElementsAre(0, 1));
  EXPECT_EQ(plan->adapter.rank, request.adapter.rank);
  EXPECT_EQ(plan->training.max_sequence_length, 128);
}

TEST(ExpertPlannerTest, AnAdapterOfExpertsNeedsThemAll) {
  PlanRequest request = Request(1);
  request.adapter.target_modules = LinearKinds(Config());
  EXPECT_GE(Smallest(request), SmallestWithAll());
  request.budget_mib = 1 << 20;
  request.experts = {0, 1, 2};
  const absl::Status refused = PlanMemory(Config(), request).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("w1, w2, w3"));
}

TEST(ExpertPlannerTest, WishedExpertsStay) {
  PlanRequest request = Request(1 << 20);
  request.experts = {9, 4, 0};
  const auto plan = PlanMemory(Config(), request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->experts, ElementsAre(0, 4, 9));
  EXPECT_TRUE(plan->changes.empty());
  EXPECT_LT(plan->estimate.weights,
            PlanMemory(Config(), Request(1 << 20))->estimate.weights / 3);
  EXPECT_GT(Smallest(request), Smallest(Request(1)));
  const std::pair<std::vector<int64_t>, const char*> bad[] = {
      {{1}, "each token passes 2"},
      {{1, 16}, "expert 16 does not exist"},
      {{1, 2, 1}, "named twice"}};
  for (const auto& [experts, why] : bad) {
    request.experts = experts;
    const absl::Status refused = PlanMemory(Config(), request).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(refused.message()), HasSubstr(why));
  }
  ModelConfig dense = Config();
  dense.family = Family::kLlama;
  dense.moe = MoeConfig();
  EXPECT_THAT(std::string(PlanMemory(dense, request).status().message()),
              HasSubstr("no experts"));
}

}  // namespace
}  // namespace choir::model
