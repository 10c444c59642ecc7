#include "tests/unit/audit/sample_store.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/aggregate/integer_sum.h"
#include "coordinator/aggregate/server_optimizer.h"
#include "model/adapter/peft_folder.h"
#include "proto/codec/flat_update.h"
#include "proto/codec/layout.h"
#include "proto/config/job_options.h"

namespace choir::tests {
namespace {

constexpr char kJob[] = "demo";

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
  }
  CHOIR_CHECK(value.ok());
  return *std::move(value);
}

v1::JobConfig SampleConfig() {
  v1::JobConfig config;
  config.set_name(kJob);
  config.mutable_model()->set_base("/models/tiny");
  config.mutable_rounds()->set_count(3);
  config.mutable_rounds()->set_cohort_size(3);
  config.mutable_rounds()->set_min_survivors(2);
  config.mutable_aggregation()->set_server_momentum(0.5);
  return config::ToProto(Must(config::ResolveJob(config)));
}

// Builds the records one after another. Threads: one.
class Sample {
 public:
  Sample(store::BlobStore& blobs, const SampleOptions& options)
      : blobs_(blobs),
        options_(options),
        config_(SampleConfig()),
        resolved_(Must(config::ResolveJob(config_))),
        layout_(Must(codec::Layout::Create(
            {{"a.lora_A.weight", {2, 8}}, {"a.lora_B.weight", {8, 2}}}))) {}

  std::vector<v1::JournalRecord> Build() {
    v1::JobSubmitted& submitted = *Add().mutable_job_submitted();
    *submitted.mutable_config() = config_;
    submitted.set_submitted_by("operator");
    std::vector<float> values(static_cast<size_t>(layout_.num_elements()),
                              0.25f);
    adapter_bytes_ = model::EncodeAdapterFile(layout_, values);
    adapter_ = Must(blobs_.Put(adapter_bytes_));
    v1::JobStarted& started = *Add().mutable_job_started();
    started.set_job(kJob);
    started.set_layout_digest(layout_.digest());
    started.set_num_parameters(static_cast<uint64_t>(layout_.num_elements()));
    *started.mutable_adapter() = adapter_;
    *started.mutable_adapter_config() = Must(blobs_.Put("{\"r\": 2}"));
    v1::ModelFile& file = *started.add_base_model();
    file.set_name("model.safetensors");
    *file.mutable_blob() = Must(blobs_.Put(std::string(5000, 'w')));
    AddEvaluation(0);
    for (uint32_t round = 1; round <= 3; ++round) {
      uint32_t attempt = 1;
      if (round == 2) AddLostAttempt(round, attempt++);
      AddRound(round, attempt);
      AddEvaluation(round);
    }
    v1::PeerRefused& refused = *Add().mutable_peer_refused();
    refused.set_peer("mallory");
    refused.set_method("SubmitJob");
    refused.set_reason("not an operator");
    v1::JobFinished& finished = *Add().mutable_job_finished();
    finished.set_job(kJob);
    finished.set_state(v1::JobFinished::DONE);
    return std::move(records_);
  }

 private:
  v1::JournalRecord& Add() {
    records_.emplace_back();
    return records_.back();
  }
  v1::TaskKey Key(uint32_t round, uint32_t attempt, v1::TaskKind kind) {
    v1::TaskKey key;
    key.set_job(kJob);
    key.set_round(round);
    key.set_attempt(attempt);
    key.set_kind(kind);
    return key;
  }
  void AddStart(uint32_t round, uint32_t attempt) {
    v1::RoundStarted& started = *Add().mutable_round_started();
    started.set_job(kJob);
    started.set_round(round);
    started.set_attempt(attempt);
    for (const char* client : {"ada", "bob", "cyd"}) started.add_cohort(client);
    started.set_available(4);
    started.set_seed(round);
  }
  void AddLostAttempt(uint32_t round, uint32_t attempt) {
    AddStart(round, attempt);
    for (const char* client : {"ada", "bob"}) {
      v1::ClientLost& lost = *Add().mutable_client_lost();
      *lost.mutable_key() = Key(round, attempt, v1::TASK_KIND_TRAIN);
      lost.set_client(client);
      lost.set_reason("deadline");
    }
    v1::RoundLost& lost = *Add().mutable_round_lost();
    lost.set_job(kJob);
    lost.set_round(round);
    lost.set_attempt(attempt);
    lost.set_reason("too few survivors");
  }
  void AddRound(uint32_t round, uint32_t attempt) {
    AddStart(round, attempt);
    aggregate::IntegerSum sum = Must(aggregate::IntegerSum::Create(
        layout_, resolved_.aggregation.fixed_point_bits));
    v1::JournalRecord committed_record;
    v1::RoundCommitted& committed = *committed_record.mutable_round_committed();
    uint64_t weight = 10 * round;
    for (const char* client : {"ada", "cyd"}) {
      std::vector<float> update(static_cast<size_t>(layout_.num_elements()));
      for (size_t i = 0; i < update.size(); ++i) {
        update[i] = 0.001f * static_cast<float>(i + weight);
      }
      CHOIR_CHECK(sum.Add(update, weight).ok());
      const v1::BlobRef blob =
          Must(blobs_.Put(codec::EncodeFlatUpdate(layout_, update)));
      v1::UpdateAccepted& accepted = *Add().mutable_update_accepted();
      *accepted.mutable_key() = Key(round, attempt, v1::TASK_KIND_TRAIN);
      accepted.set_client(client);
      accepted.set_weight(weight);
      *accepted.mutable_report()->mutable_update() = blob;
      accepted.mutable_report()->set_num_examples(weight);
      accepted.mutable_report()->set_mean_loss(2.5);
      accepted.mutable_report()->set_bytes_downloaded(100);
      committed.add_survivors(client);
      committed.set_total_weight(committed.total_weight() + weight);
      committed.set_bytes_up(committed.bytes_up() + blob.size());
      committed.set_bytes_down(committed.bytes_down() + 100);
      if (!options_.keep_updates) {
        CHOIR_CHECK(blobs_.Remove(blob.digest()).ok());
      }
      weight += 7;
    }
    v1::UpdateRefused& refused = *Add().mutable_update_refused();
    *refused.mutable_key() = Key(round, attempt, v1::TASK_KIND_TRAIN);
    refused.set_client("bob");
    refused.set_reason("not finite");
    Step(round, attempt, sum, committed);
    records_.push_back(committed_record);
  }
  void Step(uint32_t round, uint32_t attempt, const aggregate::IntegerSum& sum,
            v1::RoundCommitted& committed) {
    const std::string aggregate = sum.Encode();
    const auto result = Must(aggregate::ServerStep(
        adapter_bytes_, aggregate, state_bytes_, resolved_.aggregation));
    committed.set_job(kJob);
    committed.set_round(round);
    committed.set_attempt(attempt);
    *committed.mutable_aggregate() = Must(blobs_.Put(aggregate));
    *committed.mutable_adapter_before() = adapter_;
    *committed.mutable_server_state_before() = state_;
    adapter_bytes_ = result.adapter_after;
    state_bytes_ = result.server_state;
    adapter_ = Must(blobs_.Put(adapter_bytes_));
    state_ = Must(blobs_.Put(state_bytes_));
    *committed.mutable_adapter() = adapter_;
    *committed.mutable_server_state() = state_;
    committed.set_mean_train_loss(2.5);
  }
  void AddEvaluation(uint32_t version) {
    v1::EvaluationStarted& started = *Add().mutable_evaluation_started();
    started.set_job(kJob);
    started.set_version(version);
    started.set_attempt(1);
    started.add_cohort("ada");
    started.add_cohort("bob");
    double loss_sum = 0.0;
    for (const char* client : {"ada", "bob"}) {
      v1::EvaluationAccepted& accepted = *Add().mutable_evaluation_accepted();
      *accepted.mutable_key() = Key(version, 1, v1::TASK_KIND_EVALUATE);
      accepted.set_client(client);
      accepted.mutable_report()->set_loss_sum(33.3 / (version + 1));
      accepted.mutable_report()->set_tokens(10);
      loss_sum += accepted.report().loss_sum();
    }
    v1::EvaluationFinished& finished = *Add().mutable_evaluation_finished();
    finished.set_job(kJob);
    finished.set_version(version);
    finished.set_attempt(1);
    finished.set_clients(2);
    finished.set_loss_sum(loss_sum);
    finished.set_tokens(20);
  }

  store::BlobStore& blobs_;
  const SampleOptions& options_;
  const v1::JobConfig config_;
  const config::JobOptions resolved_;
  const codec::Layout layout_;
  std::vector<v1::JournalRecord> records_;
  std::string adapter_bytes_;
  std::string state_bytes_;
  v1::BlobRef adapter_;
  v1::BlobRef state_;
};

}  // namespace

std::vector<v1::JournalRecord> SampleRecords(store::BlobStore& blobs,
                                             const SampleOptions& options) {
  std::vector<v1::JournalRecord> records = Sample(blobs, options).Build();
  if (options.edit) options.edit(records);
  return records;
}

std::unique_ptr<store::Store> MakeSampleStore(const std::string& root,
                                              const base::Clock& clock,
                                              const SampleOptions& options) {
  auto store =
      Must(store::Store::Open(root, base::Durability::kProcessCrash, clock));
  for (const auto& record : SampleRecords(store->blobs(), options)) {
    CHOIR_CHECK(store->journal().Append({record}).ok());
  }
  return store;
}

}  // namespace choir::tests
