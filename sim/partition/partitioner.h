// Divides one data set among virtual clients.
//
// Every method depends on the items, the options and the seed alone, uses each
// item once, and names its clients in a way that config::IsValidName accepts.
#ifndef CHOIR_SIM_PARTITION_PARTITIONER_H_
#define CHOIR_SIM_PARTITION_PARTITIONER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace choir::sim {

enum class PartitionKind {
  // One client per value of a field: how federated data comes by nature.
  kNatural,
  // Shuffled and dealt out evenly.
  kIid,
  // Each client draws a mixture over labels from Dirichlet(concentration *
  // prior) and takes equally many examples by it, without replacement.
  // Source: Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data
  //         Distribution for Federated Visual Classification" (2019).
  kDirichlet,
  // Sorted by label, cut into shards of equal size, each client given
  // shards_per_client of them.
  // Source: McMahan et al., "Communication-Efficient Learning of Deep Networks
  //         from Decentralized Data" (AISTATS 2017).
  kShards,
  // Shuffled; the clients' sizes are drawn from Dirichlet(concentration).
  kQuantity,
};

// "natural", "iid", "dirichlet", "shards", "quantity"; INVALID_ARGUMENT lists
// them for anything else.
absl::StatusOr<PartitionKind> ParsePartitionKind(absl::string_view name);
absl::string_view PartitionKindName(PartitionKind kind);

struct PartitionOptions {
  PartitionKind kind = PartitionKind::kIid;
  int num_clients = 0;  // ignored by kNatural
  double concentration = 0.5;
  int shards_per_client = 2;
  // Fewest training items of a client. kNatural leaves smaller clients out;
  // the others fill them up from the largest.
  int min_examples = 1;
  uint64_t seed = 1;
};

struct PartitionItem {
  // Value of the field: the client (kNatural) or the label (kDirichlet,
  // kShards); ignored by the others.
  std::string label;
  // False for held-out items: they go to clients by the same rule, but do not
  // count for min_examples.
  bool is_train = true;
};

struct ClientPart {
  std::string name;
  std::vector<uint32_t> items;  // indices, ascending
};

struct Partition {
  std::vector<ClientPart> clients;  // sorted by name
  std::vector<uint32_t> left_out;   // kNatural: items of clients too small
};

// Client names are the labels, made valid (kNatural), else client-0001,
// client-0002, ... with as many digits as the largest needs, four at least.
//
// Errors: INVALID_ARGUMENT for an option out of range, too few items for
//         num_clients * min_examples (or for one item per shard), an empty
//         label where labels are needed, or no client left.
absl::StatusOr<Partition> MakePartition(absl::Span<const PartitionItem> items,
                                        const PartitionOptions& options);

// `value` with every character that a name must not have replaced by '-', a
// leading '.' by '_', cut to 64 characters; "unnamed" if empty.
std::string ClientNameFor(absl::string_view value);

}  // namespace choir::sim

#endif  // CHOIR_SIM_PARTITION_PARTITIONER_H_
