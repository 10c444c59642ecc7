// Clients trained in one pass get the adapters of clients trained one after
// another, within 1e-5.
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "model/adapter/lora_layout.h"
#include "model/compute.h"
#include "tests/unit/model/tiny_model.h"

namespace choir::model {
namespace {

using config::AdapterKind;

struct Client {
  std::vector<float> parameters;
  std::vector<Example> examples;
  uint64_t seed;
};

const std::string& Folder() {
  static const std::string* const folder =
      new std::string(tests::WriteTinyModel(tests::TinyConfig(), 0.2));
  return *folder;
}

config::AdapterOptions AnyAdapter() {
  config::AdapterOptions options;
  options.kind = *rc::gen::element(AdapterKind::kLora, AdapterKind::kFrozenA,
                                   AdapterKind::kLora, AdapterKind::kIa3);
  options.target_modules = {"down_proj", "q_proj", "v_proj"};
  if (options.kind == AdapterKind::kIa3) {
    options.feedforward_modules = {"down_proj"};
    return options;
  }
  options.rank = *rc::gen::inRange(1, 6);
  options.alpha = 2.0 * options.rank;
  options.rank_stabilized = *rc::gen::arbitrary<bool>();
  options.dropout = *rc::gen::element(0.0, 0.2);
  return options;
}

config::TrainingOptions AnyTraining() {
  config::TrainingOptions options;
  options.objective = *rc::gen::element(config::Objective::kCausalLm,
                                        config::Objective::kSupervised);
  options.optimizer = *rc::gen::element(config::OptimizerKind::kSgd,
                                        config::OptimizerKind::kAdamW);
  options.learning_rate =
      options.optimizer == config::OptimizerKind::kSgd ? 0.05 : 1e-3;
  options.batch_size = *rc::gen::inRange(1, 4);
  options.gradient_accumulation = *rc::gen::inRange(1, 3);
  options.max_sequence_length = *rc::gen::element(8, 16, 32);
  // AdamW divides by the size of gradients, those too that are nothing but
  // rounding; real ones are far above this.
  options.epsilon = 1e-5;
  if (*rc::gen::arbitrary<bool>()) {
    options.local_steps = *rc::gen::inRange(1, 5);
    options.local_epochs = 0;
  }
  return options;
}

TEST(BankPropertyTest, OnePassEqualsOneAfterAnother) {
  ConfigureCompute(1);
  const auto base = BaseModel::Load(Folder(), DeviceKind::kCpu).value();
  EXPECT_TRUE(rc::check([&] {
    const config::AdapterOptions adapter = AnyAdapter();
    const config::TrainingOptions training = AnyTraining();
    const auto trainer = Trainer::Create(base, adapter).value();
    std::vector<Client> clients(*rc::gen::inRange<size_t>(1, 6));
    for (Client& client : clients) {
      client.seed = *rc::gen::arbitrary<uint64_t>();
      client.parameters = InitialAdapter(trainer->layout(), client.seed);
      base::SimRandom random(client.seed);
      for (float& v : client.parameters) {
        v += static_cast<float>(random.Normal() * 0.05);
      }
      client.examples =
          tests::RandomExamples(*rc::gen::inRange(1, 7), 14, 300, client.seed);
    }
    std::vector<Client> alone = clients;
    std::vector<BankMember> members;
    for (Client& client : clients) {
      members.push_back(
          {absl::MakeSpan(client.parameters), client.examples, client.seed});
    }
    const auto together = trainer->TrainBank(members, training, nullptr);
    if (!together.ok()) RC_FAIL(std::string(together.status().message()));
    for (size_t i = 0; i < alone.size(); ++i) {
      const auto one =
          trainer->Train(absl::MakeSpan(alone[i].parameters), alone[i].examples,
                         training, alone[i].seed, nullptr);
      RC_ASSERT(one.ok());
      RC_ASSERT((*together)[i].steps == one->steps);
      RC_ASSERT((*together)[i].tokens == one->tokens);
      RC_ASSERT((*together)[i].examples_seen == one->examples_seen);
      RC_ASSERT(std::fabs((*together)[i].mean_loss - one->mean_loss) < 1e-5);
      float worst = 0.0f;
      for (size_t k = 0; k < alone[i].parameters.size(); ++k) {
        worst = std::max(worst, std::fabs(alone[i].parameters[k] -
                                          clients[i].parameters[k]));
      }
      RC_ASSERT(worst < 1e-5f);
    }
  }));
}

TEST(BankTest, WhatCannotShareAPassIsTrainedAloneBitForBit) {
  const auto base = BaseModel::Load(Folder(), DeviceKind::kCpu).value();
  config::AdapterOptions dora;
  dora.kind = AdapterKind::kDora;
  dora.target_modules = {"q_proj"};
  config::TrainingOptions training;
  training.objective = config::Objective::kCausalLm;
  const auto trainer = Trainer::Create(base, dora).value();
  const auto examples = tests::RandomExamples(4, 12, 300, 2);
  std::vector<float> a = InitialAdapter(trainer->layout(), 1);
  for (float& value : a) value += 0.5f;
  std::vector<float> b = a, alone_a = a, alone_b = a;
  const BankMember members[] = {{absl::MakeSpan(a), examples, 1},
                                {absl::MakeSpan(b), examples, 2}};
  ASSERT_TRUE(trainer->TrainBank(members, training, nullptr).ok());
  ASSERT_TRUE(
      trainer->Train(absl::MakeSpan(alone_a), examples, training, 1, nullptr)
          .ok());
  ASSERT_TRUE(
      trainer->Train(absl::MakeSpan(alone_b), examples, training, 2, nullptr)
          .ok());
  EXPECT_EQ(a, alone_a);
  EXPECT_EQ(b, alone_b);
}

TEST(BankTest, AnErrorLeavesEveryMemberUnchanged) {
  const auto base = BaseModel::Load(Folder(), DeviceKind::kCpu).value();
  config::AdapterOptions adapter;
  adapter.target_modules = {"q_proj"};
  const auto trainer = Trainer::Create(base, adapter).value();
  const std::vector<float> start = InitialAdapter(trainer->layout(), 1);
  std::vector<float> a = start, b = start;
  const auto good = tests::RandomExamples(3, 12, 300, 2);
  std::vector<Example> bad = good;
  bad[1].ids[2] = 100000;
  const BankMember members[] = {{absl::MakeSpan(a), good, 1},
                                {absl::MakeSpan(b), bad, 2}};
  const auto result =
      trainer->TrainBank(members, config::TrainingOptions(), nullptr);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(a, start);
  EXPECT_EQ(b, start);
}

}  // namespace
}  // namespace choir::model
