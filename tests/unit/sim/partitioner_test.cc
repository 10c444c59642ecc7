#include "sim/partition/partitioner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace choir::sim {
namespace {

// `count` items over `labels` labels in turn; every tenth is held out.
std::vector<PartitionItem> Items(int count, int labels) {
  std::vector<PartitionItem> items;
  for (int i = 0; i < count; ++i) {
    items.push_back({absl::StrCat("label", i % labels), i % 10 != 9});
  }
  return items;
}

PartitionOptions Options(PartitionKind kind, int clients) {
  PartitionOptions options;
  options.kind = kind;
  options.num_clients = clients;
  return options;
}

size_t LabelsOf(const ClientPart& part,
                const std::vector<PartitionItem>& items) {
  std::set<std::string> labels;
  for (const uint32_t i : part.items) labels.insert(items[i].label);
  return labels.size();
}

size_t TrainItemsOf(const ClientPart& part,
                    const std::vector<PartitionItem>& items) {
  return std::count_if(part.items.begin(), part.items.end(),
                       [&](uint32_t i) { return items[i].is_train; });
}

// Mean over clients of the largest label's share: 1 is one label per client.
double Concentration(const Partition& partition,
                     const std::vector<PartitionItem>& items) {
  double sum = 0.0;
  for (const ClientPart& part : partition.clients) {
    std::map<std::string, int> counts;
    int most = 0;
    for (const uint32_t i : part.items) {
      most = std::max(most, ++counts[items[i].label]);
    }
    sum += static_cast<double>(most) / part.items.size();
  }
  return sum / partition.clients.size();
}

TEST(PartitionerTest, NaturalMakesOneClientPerValueNamedByIt) {
  std::vector<PartitionItem> items = {
      {"noun.food"}, {"verb motion!"}, {"noun.food"}, {".hidden"}};
  const auto partition =
      MakePartition(items, Options(PartitionKind::kNatural, 0));
  ASSERT_TRUE(partition.ok()) << partition.status();
  ASSERT_EQ(partition->clients.size(), 3u);
  EXPECT_EQ(partition->clients[0].name, "_hidden");
  EXPECT_EQ(partition->clients[1].name, "noun.food");
  EXPECT_THAT(partition->clients[1].items, testing::ElementsAre(0, 2));
  EXPECT_EQ(partition->clients[2].name, "verb-motion-");
}

TEST(PartitionerTest, NaturalKeepsValuesApartWhoseNamesWouldBeTheSame) {
  const std::string long_value(70, 'x');
  std::vector<PartitionItem> items = {
      {"a b"}, {"a-b"}, {"a_b"}, {long_value}, {long_value + "y"}};
  const auto partition =
      MakePartition(items, Options(PartitionKind::kNatural, 0));
  ASSERT_TRUE(partition.ok()) << partition.status();
  std::set<std::string> names;
  for (const ClientPart& part : partition->clients) {
    EXPECT_LE(part.name.size(), 64u);
    names.insert(part.name);
  }
  EXPECT_EQ(names.size(), 5u);
  EXPECT_TRUE(names.count("a-b") && names.count("a-b-2") && names.count("a_b"));
}

TEST(PartitionerTest, NaturalLeavesOutClientsBelowTheMinimum) {
  std::vector<PartitionItem> items = {
      {"big"}, {"small"}, {"big"}, {"small", false}, {"big", false}};
  PartitionOptions options = Options(PartitionKind::kNatural, 0);
  options.min_examples = 2;
  const auto partition = MakePartition(items, options);
  ASSERT_TRUE(partition.ok()) << partition.status();
  ASSERT_EQ(partition->clients.size(), 1u);
  EXPECT_EQ(partition->clients[0].name, "big");
  EXPECT_THAT(partition->left_out, testing::ElementsAre(1, 3));
  options.min_examples = 3;
  EXPECT_EQ(MakePartition(items, options).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(PartitionerTest, IidGivesEvenSizesAndMixedLabels) {
  const auto items = Items(1003, 5);
  const auto partition = MakePartition(items, Options(PartitionKind::kIid, 10));
  ASSERT_TRUE(partition.ok()) << partition.status();
  ASSERT_EQ(partition->clients.size(), 10u);
  EXPECT_EQ(partition->clients[0].name, "client-0001");
  EXPECT_EQ(partition->clients[9].name, "client-0010");
  for (const ClientPart& part : partition->clients) {
    EXPECT_GE(TrainItemsOf(part, items), 90u);
    EXPECT_LE(TrainItemsOf(part, items), 91u);
    EXPECT_EQ(LabelsOf(part, items), 5u);
  }
}

TEST(PartitionerTest, ShardsLimitTheLabelsOfAClient) {
  const auto items = Items(2000, 8);
  PartitionOptions options = Options(PartitionKind::kShards, 20);
  options.shards_per_client = 2;
  const auto partition = MakePartition(items, options);
  ASSERT_TRUE(partition.ok()) << partition.status();
  for (const ClientPart& part : partition->clients) {
    EXPECT_EQ(part.items.size(), 100u);
    // 40 shards of 50 over 8 labels of 250: a shard never spans two labels.
    EXPECT_LE(LabelsOf(part, items), 2u);
  }
}

TEST(PartitionerTest, SmallDirichletConcentrationSkewsLabelsLargeOneDoesNot) {
  const auto items = Items(5000, 10);
  PartitionOptions options = Options(PartitionKind::kDirichlet, 25);
  options.concentration = 0.1;
  const auto skewed = MakePartition(items, options);
  options.concentration = 1000.0;
  const auto even = MakePartition(items, options);
  ASSERT_TRUE(skewed.ok() && even.ok());
  EXPECT_GT(Concentration(*skewed, items), 0.6);
  EXPECT_LT(Concentration(*even, items), 0.25);
  for (const ClientPart& part : skewed->clients) {
    EXPECT_EQ(part.items.size(), 200u);  // Hsu et al.: equal sizes
  }
}

TEST(PartitionerTest, QuantitySkewsSizesAndTopsUpSmallClients) {
  const auto items = Items(4000, 4);
  PartitionOptions options = Options(PartitionKind::kQuantity, 40);
  options.concentration = 0.3;
  options.min_examples = 5;
  const auto partition = MakePartition(items, options);
  ASSERT_TRUE(partition.ok()) << partition.status();
  size_t smallest = items.size(), largest = 0;
  for (const ClientPart& part : partition->clients) {
    smallest = std::min(smallest, TrainItemsOf(part, items));
    largest = std::max(largest, TrainItemsOf(part, items));
  }
  EXPECT_GE(smallest, 5u);
  EXPECT_LT(smallest, 20u);
  EXPECT_GT(largest, 270u);  // three times an even share
}

TEST(PartitionerTest, RefusesOptionsOutOfRange) {
  const auto items = Items(100, 4);
  std::vector<PartitionOptions> bad;
  for (const int clients : {0, -1, 91}) {
    bad.push_back(Options(PartitionKind::kIid, clients));
  }
  for (const double concentration :
       {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    for (const PartitionKind kind :
         {PartitionKind::kDirichlet, PartitionKind::kQuantity}) {
      bad.push_back(Options(kind, 4));
      bad.back().concentration = concentration;
    }
  }
  for (const int shards : {0, -2, 26}) {
    bad.push_back(Options(PartitionKind::kShards, 4));
    bad.back().shards_per_client = shards;
  }
  bad.push_back(Options(PartitionKind::kIid, 4));
  bad.back().min_examples = -1;
  for (const PartitionOptions& options : bad) {
    EXPECT_EQ(MakePartition(items, options).status().code(),
              absl::StatusCode::kInvalidArgument)
        << PartitionKindName(options.kind) << " " << options.num_clients;
  }
}

TEST(PartitionerTest, RefusesItemsWithoutTheLabelTheMethodNeeds) {
  std::vector<PartitionItem> items = Items(20, 2);
  items[7].label.clear();
  for (const PartitionKind kind :
       {PartitionKind::kNatural, PartitionKind::kDirichlet,
        PartitionKind::kShards}) {
    const auto status = MakePartition(items, Options(kind, 2)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("example 8"));
  }
  EXPECT_TRUE(MakePartition(items, Options(PartitionKind::kIid, 2)).ok());
}

TEST(PartitionerTest, NamesOfMethodsAreReadBack) {
  for (const PartitionKind kind :
       {PartitionKind::kNatural, PartitionKind::kIid, PartitionKind::kDirichlet,
        PartitionKind::kShards, PartitionKind::kQuantity}) {
    EXPECT_EQ(*ParsePartitionKind(PartitionKindName(kind)), kind);
  }
  const auto unknown = ParsePartitionKind("random").status();
  EXPECT_THAT(std::string(unknown.message()), testing::HasSubstr("dirichlet"));
}

}  // namespace
}  // namespace choir::sim
