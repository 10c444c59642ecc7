#include "sim/experiment/population.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace choir::sim {
namespace {

// Of token ids.
constexpr uint64_t kMostCachedBytes = 512ull << 20;

// Whether each example is held out, decided by the very function that agents
// use.
std::vector<bool> HeldOut(const std::vector<client::RawExample>& examples,
                          double holdout) {
  std::vector<client::RawExample> numbered = examples;
  for (size_t i = 0; i < numbered.size(); ++i) {
    numbered[i].fields = {{"index", absl::StrCat(i)}};
  }
  std::vector<bool> held_out(examples.size(), false);
  const client::DatasetSplit split =
      client::SplitHoldout(std::move(numbered), holdout);
  for (const client::RawExample& example : split.heldout) {
    held_out[std::stoull(example.fields.at("index"))] = true;
  }
  return held_out;
}

absl::Status CheckField(const std::vector<client::RawExample>& examples,
                        const PopulationOptions& options) {
  if (options.field.empty()) return absl::OkStatus();
  std::set<std::string> known;
  for (const client::RawExample& example : examples) {
    if (example.fields.count(options.field) > 0) return absl::OkStatus();
    for (const auto& [name, value] : example.fields) known.insert(name);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "clients.field is \"", options.field, "\", but no example of ",
      options.data.path, " has it; fields there: ",
      known.empty() ? "none" : absl::StrJoin(known, ", ")));
}

uint64_t BytesOf(const std::vector<model::Example>& examples) {
  uint64_t bytes = examples.capacity() * sizeof(model::Example);
  for (const model::Example& example : examples) {
    bytes += example.ids.capacity() * sizeof(int32_t) +
             example.rejected.capacity() * sizeof(int32_t) +
             example.loss_mask.capacity() + 32;
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Population>> Population::Create(
    const PopulationOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(std::vector<client::RawExample> examples,
                         client::LoadDataset(options.data));
  CHOIR_RETURN_IF_ERROR(CheckField(examples, options));
  const std::vector<bool> held_out = HeldOut(examples, options.holdout);
  std::vector<PartitionItem> items(examples.size());
  for (size_t i = 0; i < examples.size(); ++i) {
    items[i].is_train = !held_out[i];
    const auto label = examples[i].fields.find(options.field);
    if (label != examples[i].fields.end()) items[i].label = label->second;
  }
  CHOIR_ASSIGN_OR_RETURN(const Partition partition,
                         MakePartition(items, options.partition));

  std::unique_ptr<Population> population(new Population);
  if (!partition.left_out.empty()) {
    base::LogInfo(partition.left_out.size(), " of ", items.size(),
                  " examples are left out: their clients would have fewer "
                  "than clients.min_examples");
  }
  for (const ClientPart& part : partition.clients) {
    Client client;
    client.name = part.name;
    for (const uint32_t i : part.items) {
      examples[i].fields.clear();
      (held_out[i] ? client.heldout : client.train)
          .push_back(std::move(examples[i]));
    }
    population->train_examples_ += client.train.size();
    population->heldout_examples_ += client.heldout.size();
    population->clients_.push_back(std::move(client));
  }
  return population;
}

absl::Status Population::Check(const config::TrainingOptions& training) const {
  for (const Client& client : clients_) {
    for (const auto* examples : {&client.train, &client.heldout}) {
      const absl::Status status = client::CheckExamples(*examples, training);
      if (status.ok()) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("client ", client.name, ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

absl::Status Population::CheckConversations(
    const model::Tokenizer& tokenizer,
    const config::TrainingOptions& training) const {
  for (const Client& client : clients_) {
    for (const auto* examples : {&client.train, &client.heldout}) {
      const absl::Status status =
          client::CheckConversations(tokenizer, *examples, training);
      if (status.ok()) continue;
      return absl::Status(status.code(), absl::StrCat("client ", client.name,
                                                      ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> Population::Find(absl::string_view name) const {
  const auto found =
      std::lower_bound(clients_.begin(), clients_.end(), name,
                       [](const Client& client, absl::string_view wanted) {
                         return absl::string_view(client.name) < wanted;
                       });
  if (found == clients_.end() || found->name != name) {
    return absl::NotFoundError(absl::StrCat("no virtual client '", name, "'"));
  }
  return static_cast<size_t>(found - clients_.begin());
}

std::string Population::Digest() const {
  base::Sha256 hash;
  const auto add = [&hash](absl::string_view text) {
    hash.Update(absl::StrCat(text.size(), ":"));
    hash.Update(text);
  };
  for (const Client& client : clients_) {
    add(client.name);
    for (const auto* part : {&client.train, &client.heldout}) {
      hash.Update(absl::StrCat(part->size(), ";"));
      for (const client::RawExample& example : *part) {
        for (const std::string* text :
             {&example.text, &example.prompt, &example.response,
              &example.rejected, &example.label}) {
          add(*text);
        }
        hash.Update(absl::StrCat(example.messages.size(), ";"));
        for (const model::ChatMessage& message : example.messages) {
          add(message.role);
          add(message.content);
        }
      }
    }
  }
  return base::ToHex(hash.Finish());
}

std::shared_ptr<const client::LocalData> Population::Encoded(
    size_t client, const model::Tokenizer& tokenizer,
    const config::TrainingOptions& training) const {
  {
    base::MutexLock lock(&mu_);
    const auto found = cache_.find(client);
    if (found != cache_.end()) {
      recent_.splice(recent_.begin(), recent_, found->second.place);
      return found->second.data;
    }
  }
  // Two threads may encode the same client at once; the results are equal.
  auto data = std::make_shared<client::LocalData>();
  data->train =
      client::EncodeExamples(tokenizer, clients_[client].train, training);
  data->heldout =
      client::EncodeExamples(tokenizer, clients_[client].heldout, training);
  const uint64_t bytes = BytesOf(data->train) + BytesOf(data->heldout);

  base::MutexLock lock(&mu_);
  if (cache_.count(client) > 0) return cache_[client].data;
  recent_.push_front(client);
  cache_[client] = {data, bytes, recent_.begin()};
  cached_bytes_ += bytes;
  while (cached_bytes_ > kMostCachedBytes && recent_.size() > 1) {
    const auto oldest = cache_.find(recent_.back());
    cached_bytes_ -= oldest->second.bytes;
    cache_.erase(oldest);
    recent_.pop_back();
  }
  return data;
}

}  // namespace choir::sim
