// The virtual clients of an experiment and their data.
#ifndef CHOIR_SIM_EXPERIMENT_POPULATION_H_
#define CHOIR_SIM_EXPERIMENT_POPULATION_H_

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "client/data/dataset.h"
#include "client/session/participation.h"
#include "model/tokenizer/tokenizer.h"
#include "proto/config/job_options.h"
#include "sim/experiment/experiment_options.h"

namespace choir::sim {

// Texts of all clients in memory, each once; token ids are made when a client
// is first asked and kept while they fit a fixed number of bytes, the least
// recently used leaving first.
//
// A client's examples, their order and which of them are held out are the same
// as an agent would read from a file with that client's examples alone.
// Threads: safe.
class Population {
 public:
  // Errors: those of client::LoadDataset and MakePartition; INVALID_ARGUMENT
  // if the field is missing from the data.
  static absl::StatusOr<std::unique_ptr<Population>> Create(
      const PopulationOptions& options);

  size_t size() const { return clients_.size(); }
  const std::string& name(size_t client) const { return clients_[client].name; }
  // Index of a client; NOT_FOUND.
  absl::StatusOr<size_t> Find(absl::string_view name) const;
  uint64_t train_examples() const { return train_examples_; }
  uint64_t heldout_examples() const { return heldout_examples_; }
  // SHA-256, hexadecimal, of all clients' names and examples.
  std::string Digest() const;

  // INVALID_ARGUMENT if a client has examples that the objective cannot learn
  // from (client::CheckExamples).
  absl::Status Check(const config::TrainingOptions& training) const;
  // The same for conversations and the base model's tokenizer
  // (client::CheckConversations).
  absl::Status CheckConversations(
      const model::Tokenizer& tokenizer,
      const config::TrainingOptions& training) const;

  // The client's examples for a base model and training settings, which must
  // be the same in every call. The pointer is shared because a client in
  // training outlives its place among the cached ones.
  std::shared_ptr<const client::LocalData> Encoded(
      size_t client, const model::Tokenizer& tokenizer,
      const config::TrainingOptions& training) const;

 private:
  struct Client {
    std::string name;
    std::vector<client::RawExample> train;
    std::vector<client::RawExample> heldout;
  };
  struct Cached {
    std::shared_ptr<const client::LocalData> data;
    uint64_t bytes = 0;
    std::list<size_t>::iterator place;
  };

  Population() = default;

  std::vector<Client> clients_;  // sorted by name
  uint64_t train_examples_ = 0;
  uint64_t heldout_examples_ = 0;

  mutable base::Mutex mu_;
  mutable std::unordered_map<size_t, Cached> cache_ ABSL_GUARDED_BY(mu_);
  mutable std::list<size_t> recent_ ABSL_GUARDED_BY(mu_);  // newest first
  mutable uint64_t cached_bytes_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace choir::sim

#endif  // CHOIR_SIM_EXPERIMENT_POPULATION_H_
