#include "tests/integration/runner/fake_fleet.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/files.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "coordinator/runner/base_model.h"
#include "model/adapter/peft_folder.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/model_config.h"
#include "model/checkpoint/safetensors.h"
#include "proto/codec/flat_update.h"
#include "tests/support/golden.h"

namespace choir::runner {

TempFolder::TempFolder() {
  std::string name =
      (std::filesystem::temp_directory_path() / "choir_runner_XXXXXX").string();
  CHOIR_CHECK(mkdtemp(name.data()) != nullptr);
  path_ = name;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void WriteBaseModel(const std::string& folder, int hidden_size) {
  CHOIR_CHECK(base::MakeDirectories(folder).ok());
  const auto tokenizer = base::ReadFile(base::JoinPath(
      tests::SourceDir(), "tests/data/micro-llama/tokenizer.json"));
  CHOIR_CHECK(tokenizer.ok());
  model::ModelConfig config;
  config.vocab_size = 384;
  config.hidden_size = hidden_size;
  config.intermediate_size = 16;
  config.num_layers = 1;
  config.num_heads = 2;
  config.num_kv_heads = 2;
  config.head_dim = hidden_size / 2;
  config.max_positions = 32;
  config.tie_word_embeddings = true;
  const size_t most = static_cast<size_t>(
      std::max<int64_t>(config.vocab_size, hidden_size) * hidden_size);
  const std::string zeros(most * sizeof(float), '\0');
  std::vector<model::TensorView> tensors;
  for (const codec::TensorSpec& spec : model::ModelTensors(config)) {
    model::TensorView& tensor = tensors.emplace_back();
    tensor.name = spec.name;
    tensor.shape = spec.shape;
    tensor.bytes = absl::string_view(zeros).substr(
        0, static_cast<size_t>(spec.num_elements()) * sizeof(float));
  }
  const std::pair<const char*, std::string> files[] = {
      {"config.json", model::ModelConfigJson(config)},
      {"tokenizer.json", *tokenizer},
      {"README.md", "not for clients"},
      {"model.safetensors", model::EncodeSafetensors(tensors)}};
  for (const auto& [name, contents] : files) {
    CHOIR_CHECK(base::WriteFileAtomic(base::JoinPath(folder, name), contents,
                                      base::Durability::kProcessCrash)
                    .ok());
  }
}

config::JobOptions FleetJob(const std::string& folder, int rounds,
                            int clients) {
  config::JobOptions options;
  options.name = "job";
  options.seed = 11;
  options.base_model = folder;
  options.adapter.rank = 2;
  options.adapter.alpha = 4;
  options.adapter.target_modules = {"q_proj"};
  options.rounds.count = rounds;
  options.rounds.cohort_size = clients;
  options.rounds.min_survivors = clients;
  options.rounds.min_available = clients;
  options.aggregation.server_momentum = 0.5;
  return options;
}

class FaultyStore::FaultyJournal final : public store::Journal {
 public:
  explicit FaultyJournal(FaultyStore& store) : store_(store) {}
  absl::Status Append(absl::Span<const v1::JournalRecord> records) override {
    ++store_.appends;
    if (store_.append_fault) {
      CHOIR_RETURN_IF_ERROR(store_.append_fault(false));
    }
    CHOIR_RETURN_IF_ERROR(store_.real_->journal().Append(records));
    return store_.append_fault ? store_.append_fault(true) : absl::OkStatus();
  }
  absl::Status ForEach(
      const std::function<absl::Status(const store::JournalEntry&)>& visit)
      const override {
    return store_.real_->journal().ForEach(visit);
  }
  uint64_t num_entries() const override {
    return store_.real_->journal().num_entries();
  }
  absl::Status Close() override { return store_.real_->journal().Close(); }

 private:
  FaultyStore& store_;
};

class FaultyStore::FaultyBlobs final : public store::BlobStore {
 public:
  explicit FaultyBlobs(FaultyStore& store) : store_(store) {}
  absl::StatusOr<v1::BlobRef> Put(absl::string_view bytes) override {
    if (store_.put_fault) CHOIR_RETURN_IF_ERROR(store_.put_fault());
    return real().Put(bytes);
  }
  absl::StatusOr<v1::BlobRef> PutFile(const std::string& path) override {
    return real().PutFile(path);
  }
  bool Contains(absl::string_view digest) const override {
    return real().Contains(digest);
  }
  absl::StatusOr<std::unique_ptr<base::RandomAccessFile>> OpenBlob(
      absl::string_view digest) const override {
    return real().OpenBlob(digest);
  }
  absl::StatusOr<std::string> Read(absl::string_view digest) const override {
    return real().Read(digest);
  }
  absl::StatusOr<std::string> PathOf(absl::string_view digest) const override {
    return real().PathOf(digest);
  }
  absl::StatusOr<std::unique_ptr<store::IncomingBlob>> Receive(
      const v1::BlobRef& blob, absl::string_view owner) override {
    return real().Receive(blob, owner);
  }
  absl::Status Remove(absl::string_view digest) override {
    return real().Remove(digest);
  }
  absl::StatusOr<int> RemoveStaleIncoming(absl::Duration max_age,
                                          const base::Clock& clock) override {
    return real().RemoveStaleIncoming(max_age, clock);
  }
  absl::StatusOr<int> RemoveIncoming(absl::string_view magic) override {
    return real().RemoveIncoming(magic);
  }
  absl::StatusOr<std::vector<std::string>> List() const override {
    return real().List();
  }

 private:
  store::BlobStore& real() const { return store_.real_->blobs(); }
  FaultyStore& store_;
};

FaultyStore::FaultyStore(std::unique_ptr<store::Store> real)
    : real_(std::move(real)),
      journal_(std::make_unique<FaultyJournal>(*this)),
      blobs_(std::make_unique<FaultyBlobs>(*this)) {}
FaultyStore::~FaultyStore() = default;
store::Journal& FaultyStore::journal() { return *journal_; }
store::BlobStore& FaultyStore::blobs() { return *blobs_; }

absl::Status FakeFleet::Start(const config::JobOptions& options,
                              const RunnerOptions& runner_options,
                              base::ThreadPool* pool) {
  RunnerHooks hooks;
  hooks.send_task = [this](const std::string& client, v1::TaskPlan plan) {
    tasks_[client] = std::move(plan);
  };
  hooks.on_record = [this](const v1::JournalRecord& record) {
    records_.push_back(record);
  };
  CHOIR_ASSIGN_OR_RETURN(
      runner_, JobRunner::Start(options, runner_options, store_, clock_, pool,
                                std::move(hooks)));
  CHOIR_ASSIGN_OR_RETURN(
      layout_, LayoutOfJob(options, runner_->facts(), store_.blobs()));
  return absl::OkStatus();
}

absl::StatusOr<engine::Event> FakeFleet::DoTask(const std::string& client) {
  const v1::TaskPlan plan = tasks_.at(client);
  if (plan.key().kind() == v1::TASK_KIND_EVALUATE) {
    v1::EvaluationReport report;
    report.set_tokens(10);
    report.set_loss_sum(static_cast<double>(30 - plan.key().round()));
    return engine::Event(
        engine::EvaluationReceived{client, plan.key(), report});
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string bytes,
                         store_.blobs().Read(plan.adapter().digest()));
  CHOIR_ASSIGN_OR_RETURN(const std::vector<float> adapter,
                         model::DecodeAdapterFile(bytes, layout_));
  base::SimRandom random(plan.seed());
  std::vector<float> update(adapter.size());
  for (size_t i = 0; i < update.size(); ++i) {
    update[i] =
        static_cast<float>(0.01 * (random.Uniform() - 0.5)) - 0.1f * adapter[i];
  }
  v1::TrainReport report;
  CHOIR_ASSIGN_OR_RETURN(
      *report.mutable_update(),
      store_.blobs().Put(codec::EncodeFlatUpdate(layout_, update)));
  report.set_num_examples(1 + plan.seed() % 20);
  report.set_tokens(50);
  report.set_mean_loss(2.0);
  return engine::Event(engine::UpdateReceived{client, plan.key(), report});
}

absl::Status FakeFleet::Turn() {
  bool worked = false;
  for (const std::string& client : clients_) {
    if (tasks_.count(client) > 0) {
      worked = true;
      CHOIR_ASSIGN_OR_RETURN(const engine::Event event, DoTask(client));
      // Kept until it is answered, and asked again otherwise.
      CHOIR_RETURN_IF_ERROR(runner_->Post(event).status());
      tasks_.erase(client);
    }
    CHOIR_RETURN_IF_ERROR(
        runner_->Post(engine::ClientArrived{client}).status());
  }
  if (worked || !tasks_.empty() || runner_->finished()) return absl::OkStatus();
  const absl::optional<absl::Time> wakeup = runner_->next_wakeup();
  if (!wakeup.has_value()) {
    return absl::DeadlineExceededError(
        absl::StrCat("stuck: ", runner_->progress().waiting_for));
  }
  clock_.SetTime(*wakeup);
  return runner_->Poll();
}

absl::Status FakeFleet::Run() {
  while (!runner_->finished()) CHOIR_RETURN_IF_ERROR(Turn());
  return absl::OkStatus();
}

}  // namespace choir::runner
