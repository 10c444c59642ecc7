#include "sim/partition/partitioner.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "sim/partition/draws.h"

namespace choir::sim {
namespace {

constexpr int kMaxClients = 10000000;
constexpr size_t kMaxNameLength = 64;

using Indices = std::vector<uint32_t>;
using Parts = std::vector<Indices>;

constexpr struct {
  absl::string_view name;
  PartitionKind kind;
} kKinds[] = {
    {"natural", PartitionKind::kNatural},
    {"iid", PartitionKind::kIid},
    {"dirichlet", PartitionKind::kDirichlet},
    {"shards", PartitionKind::kShards},
    {"quantity", PartitionKind::kQuantity},
};

bool NeedsLabels(PartitionKind kind) {
  return kind == PartitionKind::kNatural || kind == PartitionKind::kDirichlet ||
         kind == PartitionKind::kShards;
}

absl::Status CheckOptions(absl::Span<const PartitionItem> items,
                          const PartitionOptions& options) {
  if (options.min_examples < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "min_examples is ", options.min_examples, "; it must not be negative"));
  }
  if (NeedsLabels(options.kind)) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (items[i].label.empty()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "example ", i + 1, " has no value in the field that partition \"",
            PartitionKindName(options.kind),
            "\" goes by; name another field or drop such examples"));
      }
    }
  }
  if (options.kind == PartitionKind::kNatural) return absl::OkStatus();
  if (options.num_clients < 1 || options.num_clients > kMaxClients) {
    return absl::InvalidArgumentError(
        absl::StrCat("clients.count is ", options.num_clients,
                     "; it must be 1 to ", kMaxClients));
  }
  const bool concentrated = options.kind == PartitionKind::kDirichlet ||
                            options.kind == PartitionKind::kQuantity;
  if (concentrated &&
      !(options.concentration > 0.0 && options.concentration <= 1e6)) {
    return absl::InvalidArgumentError(
        absl::StrCat("concentration is ", options.concentration,
                     "; it must be above 0 and at most 1e6"));
  }
  if (options.kind == PartitionKind::kShards &&
      (options.shards_per_client < 1 ||
       static_cast<uint64_t>(options.shards_per_client) * options.num_clients >
           items.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "shards_per_client is ", options.shards_per_client, " for ",
        options.num_clients, " clients and ", items.size(),
        " examples; it must be at least 1, with an example for every shard"));
  }
  const uint64_t train =
      std::count_if(items.begin(), items.end(),
                    [](const PartitionItem& item) { return item.is_train; });
  const uint64_t needed =
      static_cast<uint64_t>(options.min_examples) * options.num_clients;
  if (train < needed) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.num_clients, " clients with at least ", options.min_examples,
        " training examples need ", needed, ", but there are ", train,
        "; lower clients.count or clients.min_examples"));
  }
  return absl::OkStatus();
}

// Training items first, held-out items second; both in order.
std::pair<Indices, Indices> ByUse(absl::Span<const PartitionItem> items) {
  std::pair<Indices, Indices> uses;
  for (uint32_t i = 0; i < items.size(); ++i) {
    (items[i].is_train ? uses.first : uses.second).push_back(i);
  }
  return uses;
}

// Gives shuffled `pool` out in parts of the sizes `sizes`, which sum to its
// own size.
void Deal(Indices pool, const std::vector<uint64_t>& sizes,
          base::SimRandom& random, Parts& parts) {
  random.Shuffle(pool);
  size_t next = 0;
  for (size_t k = 0; k < parts.size(); ++k) {
    parts[k].insert(parts[k].end(), pool.begin() + next,
                    pool.begin() + next + sizes[k]);
    next += sizes[k];
  }
  CHOIR_CHECK(next == pool.size());
}

Parts MakeIid(absl::Span<const PartitionItem> items,
              const PartitionOptions& options, base::SimRandom& random) {
  Parts parts(options.num_clients);
  auto [train, heldout] = ByUse(items);
  for (Indices* pool : {&train, &heldout}) {
    const auto sizes = EvenSizes(pool->size(), options.num_clients);
    Deal(std::move(*pool), sizes, random, parts);
  }
  return parts;
}

Parts MakeQuantity(absl::Span<const PartitionItem> items,
                   const PartitionOptions& options, base::SimRandom& random) {
  Parts parts(options.num_clients);
  auto [train, heldout] = ByUse(items);
  const std::vector<double> shares = Dirichlet(
      std::vector<double>(options.num_clients, options.concentration), random);
  for (Indices* pool : {&train, &heldout}) {
    const auto sizes = Apportion(shares, pool->size());
    Deal(std::move(*pool), sizes, random, parts);
  }
  return parts;
}

Parts MakeShards(absl::Span<const PartitionItem> items,
                 const PartitionOptions& options, base::SimRandom& random) {
  Indices sorted(items.size());
  std::iota(sorted.begin(), sorted.end(), 0u);
  random.Shuffle(sorted);  // no order inside a label
  std::stable_sort(sorted.begin(), sorted.end(),
                   [&items](uint32_t a, uint32_t b) {
                     return items[a].label < items[b].label;
                   });
  const uint64_t num_shards =
      static_cast<uint64_t>(options.num_clients) * options.shards_per_client;
  std::vector<uint64_t> shards(num_shards);
  std::iota(shards.begin(), shards.end(), uint64_t{0});
  random.Shuffle(shards);
  Parts parts(options.num_clients);
  for (uint64_t i = 0; i < num_shards; ++i) {
    const uint64_t begin = items.size() * shards[i] / num_shards;
    const uint64_t end = items.size() * (shards[i] + 1) / num_shards;
    Indices& part = parts[i / options.shards_per_client];
    part.insert(part.end(), sorted.begin() + begin, sorted.begin() + end);
  }
  return parts;
}

// Index drawn with the given weights, which need not sum to 1. Weights whose
// sum is not positive fall back on `counts`.
size_t Draw(const std::vector<double>& weights,
            const std::vector<Indices>& left, base::SimRandom& random) {
  double sum = 0.0;
  for (size_t c = 0; c < weights.size(); ++c) {
    if (!left[c].empty()) sum += weights[c];
  }
  const bool by_weight = sum > 0.0;
  if (!by_weight) {
    for (const Indices& items : left) sum += items.size();
  }
  double point = random.Uniform() * sum;
  size_t last = 0;
  for (size_t c = 0; c < weights.size(); ++c) {
    if (left[c].empty()) continue;
    last = c;
    const double weight = by_weight ? weights[c] : left[c].size();
    if (point < weight) return c;
    point -= weight;
  }
  return last;
}

Parts MakeDirichlet(absl::Span<const PartitionItem> items,
                    const PartitionOptions& options, base::SimRandom& random) {
  std::map<std::string, size_t> labels;
  for (const PartitionItem& item : items) labels.emplace(item.label, 0);
  size_t next = 0;
  for (auto& [label, index] : labels) index = next++;
  std::vector<double> shapes(labels.size(), 0.0);
  std::vector<size_t> label_of;
  for (const PartitionItem& item : items) {
    label_of.push_back(labels[item.label]);
    shapes[label_of.back()] +=
        options.concentration / static_cast<double>(items.size());
  }
  std::vector<std::vector<double>> mixtures;
  for (int k = 0; k < options.num_clients; ++k) {
    mixtures.push_back(Dirichlet(shapes, random));
  }
  Parts parts(options.num_clients);
  auto [train, heldout] = ByUse(items);
  for (Indices* pool : {&train, &heldout}) {
    random.Shuffle(*pool);
    std::vector<Indices> left(labels.size());
    for (const uint32_t i : *pool) left[label_of[i]].push_back(i);
    const auto sizes = EvenSizes(pool->size(), options.num_clients);
    for (int k = 0; k < options.num_clients; ++k) {
      for (uint64_t taken = 0; taken < sizes[k]; ++taken) {
        Indices& from = left[Draw(mixtures[k], left, random)];
        parts[k].push_back(from.back());
        from.pop_back();
      }
    }
  }
  return parts;
}

// Moves training items from the largest clients to those below the minimum.
void TopUp(absl::Span<const PartitionItem> items, int min_examples,
           Parts& parts) {
  std::vector<Indices> train(parts.size());
  std::set<std::pair<size_t, size_t>> by_size;
  for (size_t k = 0; k < parts.size(); ++k) {
    for (const uint32_t i : parts[k]) {
      if (items[i].is_train) train[k].push_back(i);
    }
    by_size.emplace(train[k].size(), k);
  }
  const size_t wanted = static_cast<size_t>(min_examples);
  while (by_size.begin()->first < wanted) {
    const auto [small_size, small] = *by_size.begin();
    const auto [large_size, large] = *by_size.rbegin();
    const uint32_t moved = train[large].back();
    train[large].pop_back();
    train[small].push_back(moved);
    Indices& from = parts[large];
    from.erase(std::find(from.begin(), from.end(), moved));
    parts[small].push_back(moved);
    by_size.erase({small_size, small});
    by_size.erase({large_size, large});
    by_size.emplace(small_size + 1, small);
    by_size.emplace(large_size - 1, large);
  }
}

absl::StatusOr<Partition> MakeNatural(absl::Span<const PartitionItem> items,
                                      const PartitionOptions& options) {
  std::map<std::string, Indices> by_value;
  for (uint32_t i = 0; i < items.size(); ++i) {
    by_value[items[i].label].push_back(i);
  }
  Partition partition;
  std::set<std::string> names;
  for (auto& [value, indices] : by_value) {
    const int64_t train =
        std::count_if(indices.begin(), indices.end(),
                      [&items](uint32_t i) { return items[i].is_train; });
    if (train < options.min_examples) {
      partition.left_out.insert(partition.left_out.end(), indices.begin(),
                                indices.end());
      continue;
    }
    const std::string base = ClientNameFor(value);
    std::string name = base;
    for (int copy = 2; !names.insert(name).second; ++copy) {
      const std::string suffix = absl::StrCat("-", copy);
      name =
          absl::StrCat(base.substr(0, kMaxNameLength - suffix.size()), suffix);
    }
    partition.clients.push_back({name, std::move(indices)});
  }
  if (partition.clients.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no value of the field has ", options.min_examples,
        " training examples; lower clients.min_examples or add data"));
  }
  std::sort(partition.left_out.begin(), partition.left_out.end());
  std::sort(
      partition.clients.begin(), partition.clients.end(),
      [](const ClientPart& a, const ClientPart& b) { return a.name < b.name; });
  return partition;
}

}  // namespace

absl::StatusOr<PartitionKind> ParsePartitionKind(absl::string_view name) {
  std::string known;
  for (const auto& entry : kKinds) {
    if (entry.name == name) return entry.kind;
    absl::StrAppend(&known, known.empty() ? "" : ", ", entry.name);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "clients.partition is \"", name, "\"; it must be one of ", known));
}

absl::string_view PartitionKindName(PartitionKind kind) {
  for (const auto& entry : kKinds) {
    if (entry.kind == kind) return entry.name;
  }
  return "unknown";
}

std::string ClientNameFor(absl::string_view value) {
  std::string name(value.substr(0, kMaxNameLength));
  for (char& c : name) {
    if (!absl::ascii_isalnum(c) && c != '-' && c != '_' && c != '.') c = '-';
  }
  if (name.empty()) return "unnamed";
  if (name[0] == '.') name[0] = '_';
  return name;
}

absl::StatusOr<Partition> MakePartition(absl::Span<const PartitionItem> items,
                                        const PartitionOptions& options) {
  CHOIR_RETURN_IF_ERROR(CheckOptions(items, options));
  if (options.kind == PartitionKind::kNatural) {
    return MakeNatural(items, options);
  }
  base::SimRandom random(base::DeriveSeed(
      options.seed, {"partition", PartitionKindName(options.kind)}));
  Parts parts;
  switch (options.kind) {
    case PartitionKind::kDirichlet:
      parts = MakeDirichlet(items, options, random);
      break;
    case PartitionKind::kShards:
      parts = MakeShards(items, options, random);
      break;
    case PartitionKind::kQuantity:
      parts = MakeQuantity(items, options, random);
      break;
    default:
      parts = MakeIid(items, options, random);
  }
  TopUp(items, options.min_examples, parts);
  const int digits = std::max<int>(
      4, static_cast<int>(absl::StrCat(options.num_clients).size()));
  Partition partition;
  for (size_t k = 0; k < parts.size(); ++k) {
    std::sort(parts[k].begin(), parts[k].end());
    partition.clients.push_back(
        {absl::StrFormat("client-%0*d", digits, k + 1), std::move(parts[k])});
  }
  return partition;
}

}  // namespace choir::sim
