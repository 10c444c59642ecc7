// For any data set and any options: each example lands in exactly one place,
// the same seed gives the same clients, and nobody is below the minimum.
#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/config/job_options.h"
#include "rapidcheck/gtest.h"
#include "sim/partition/partitioner.h"

namespace choir::sim {
namespace {

struct Case {
  std::vector<PartitionItem> items;
  PartitionOptions options;
};

Case AnyCase() {
  Case result;
  const int count = *rc::gen::inRange(1, 400);
  const int labels = *rc::gen::inRange(1, 12);
  int train = 0;
  for (int i = 0; i < count; ++i) {
    PartitionItem item;
    item.label = absl::StrCat("l/", *rc::gen::inRange(0, labels));
    item.is_train = *rc::gen::inRange(0, 5) != 0;
    train += item.is_train;
    result.items.push_back(item);
  }
  result.options.kind = *rc::gen::element(
      PartitionKind::kNatural, PartitionKind::kIid, PartitionKind::kDirichlet,
      PartitionKind::kShards, PartitionKind::kQuantity);
  result.options.num_clients = *rc::gen::inRange(1, 20);
  result.options.min_examples = *rc::gen::inRange(0, 6);
  result.options.shards_per_client = *rc::gen::inRange(1, 4);
  result.options.concentration = *rc::gen::element(1e-4, 0.01, 0.5, 10.0);
  result.options.seed = *rc::gen::arbitrary<uint64_t>();
  return result;
}

RC_GTEST_PROP(PartitionerPropertyTest, EveryExampleIsAssignedExactlyOnce, ()) {
  const Case any = AnyCase();
  const auto partition = MakePartition(any.items, any.options);
  RC_PRE(partition.ok());
  std::vector<uint32_t> seen(partition->left_out);
  for (const ClientPart& part : partition->clients) {
    RC_ASSERT(std::is_sorted(part.items.begin(), part.items.end()));
    seen.insert(seen.end(), part.items.begin(), part.items.end());
  }
  std::sort(seen.begin(), seen.end());
  RC_ASSERT(seen.size() == any.items.size());
  for (uint32_t i = 0; i < seen.size(); ++i) RC_ASSERT(seen[i] == i);
}

RC_GTEST_PROP(PartitionerPropertyTest, TheSameSeedGivesTheSameClients, ()) {
  const Case any = AnyCase();
  const auto first = MakePartition(any.items, any.options);
  const auto second = MakePartition(any.items, any.options);
  RC_ASSERT(first.ok() == second.ok());
  RC_PRE(first.ok());
  RC_ASSERT(first->left_out == second->left_out);
  RC_ASSERT(first->clients.size() == second->clients.size());
  for (size_t k = 0; k < first->clients.size(); ++k) {
    RC_ASSERT(first->clients[k].name == second->clients[k].name);
    RC_ASSERT(first->clients[k].items == second->clients[k].items);
  }
}

RC_GTEST_PROP(PartitionerPropertyTest, NobodyIsBelowTheMinimum, ()) {
  const Case any = AnyCase();
  const auto partition = MakePartition(any.items, any.options);
  RC_PRE(partition.ok());
  for (const ClientPart& part : partition->clients) {
    const int64_t train =
        std::count_if(part.items.begin(), part.items.end(),
                      [&any](uint32_t i) { return any.items[i].is_train; });
    RC_ASSERT(train >= any.options.min_examples);
  }
}

RC_GTEST_PROP(PartitionerPropertyTest, NamesAreValidDistinctAndSorted, ()) {
  const Case any = AnyCase();
  const auto partition = MakePartition(any.items, any.options);
  RC_PRE(partition.ok());
  std::string previous;
  for (const ClientPart& part : partition->clients) {
    RC_ASSERT(config::IsValidName(part.name));
    RC_ASSERT(previous < part.name);
    previous = part.name;
  }
}

RC_GTEST_PROP(PartitionerPropertyTest, AnyValueBecomesAValidName,
              (const std::string& value)) {
  RC_ASSERT(config::IsValidName(ClientNameFor(value)));
}

}  // namespace
}  // namespace choir::sim
