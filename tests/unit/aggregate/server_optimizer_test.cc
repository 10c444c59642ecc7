#include "coordinator/aggregate/server_optimizer.h"

#include <vector>

#include "coordinator/aggregate/integer_sum.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/adapter/peft_folder.h"
#include "proto/codec/layout.h"

namespace choir::aggregate {
namespace {

using ::testing::ElementsAre;

class ServerStepTest : public ::testing::Test {
 protected:
  ServerStepTest()
      : layout_(*codec::Layout::Create({{"a", {2}}, {"b", {1, 1}}})),
        adapter_(model::EncodeAdapterFile(layout_, {1.0f, 2.0f, 3.0f})) {}

  std::string Sum(const std::vector<float>& update, int bits = 24) const {
    IntegerSum sum = *IntegerSum::Create(layout_, bits);
    EXPECT_TRUE(sum.Add(update, 5).ok());
    return sum.Encode();
  }
  std::vector<float> Values(const std::string& adapter) const {
    return *model::DecodeAdapterFile(adapter, layout_);
  }

  codec::Layout layout_;
  std::string adapter_;
  config::AggregationOptions options_;
};

TEST_F(ServerStepTest, WithoutMomentumAddsTheScaledMean) {
  options_.server_learning_rate = 0.5;
  const auto result =
      ServerStep(adapter_, Sum({1.0f, -1.0f, 4.0f}), "", options_);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(Values(result->adapter_after), ElementsAre(1.5f, 1.5f, 5.0f));
  EXPECT_EQ(result->server_state, "");
}

TEST_F(ServerStepTest, MomentumAccumulates) {
  options_.server_momentum = 0.5;
  const std::string sum = Sum({1.0f, 0.0f, -2.0f});
  const auto first = ServerStep(adapter_, sum, "", options_);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_THAT(Values(first->adapter_after), ElementsAre(2.0f, 2.0f, 1.0f));
  ASSERT_NE(first->server_state, "");
  const auto second =
      ServerStep(first->adapter_after, sum, first->server_state, options_);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_THAT(Values(second->adapter_after), ElementsAre(3.5f, 2.0f, -2.0f));
  const auto again =
      ServerStep(first->adapter_after, sum, first->server_state, options_);
  EXPECT_EQ(again->adapter_after, second->adapter_after);
  EXPECT_EQ(again->server_state, second->server_state);
}

TEST_F(ServerStepTest, RefusesWhatDoesNotBelongTogether) {
  const std::string sum = Sum({1.0f, 0.0f, -2.0f});
  const auto code = [&](const std::string& adapter, const std::string& bytes,
                        const std::string& state) {
    return ServerStep(adapter, bytes, state, options_).status().code();
  };
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code("no adapter", sum, ""), kInvalid);
  EXPECT_EQ(code(adapter_, "no sum", ""), kInvalid);
  EXPECT_EQ(code(adapter_, sum, "a state without momentum"), kInvalid);
  EXPECT_EQ(code(adapter_, Sum({1.0f, 0.0f, 0.0f}, 20), ""), kInvalid);
  const codec::Layout other = *codec::Layout::Create({{"c", {3}}});
  EXPECT_EQ(code(model::EncodeAdapterFile(other, {1.0f, 2.0f, 3.0f}), sum, ""),
            kInvalid);
  const IntegerSum empty = *IntegerSum::Create(layout_, 24);
  EXPECT_EQ(code(adapter_, empty.Encode(), ""),
            absl::StatusCode::kFailedPrecondition);
  options_.server_momentum = 0.9;
  EXPECT_EQ(code(adapter_, sum, "not a momentum"), kInvalid);
  std::string state = ServerStep(adapter_, sum, "", options_)->server_state;
  state.pop_back();
  EXPECT_EQ(code(adapter_, sum, state), kInvalid);
}

TEST_F(ServerStepTest, RefusesAnAdapterThatWouldNotBeFinite) {
  options_.server_learning_rate = 1e38;
  EXPECT_TRUE(absl::IsInvalidArgument(
      ServerStep(adapter_, Sum({100.0f, 0.0f, 0.0f}), "", options_).status()));
}

}  // namespace
}  // namespace choir::aggregate
