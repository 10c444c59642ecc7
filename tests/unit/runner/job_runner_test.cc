// Importing a base model, checking updates, and what is stored and removed.
#include "coordinator/runner/job_runner.h"

#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "coordinator/runner/base_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/adapter/peft_folder.h"
#include "model/checkpoint/quantize_checkpoint.h"
#include "model/checkpoint/safetensors.h"
#include "proto/codec/flat_update.h"
#include "tests/integration/runner/fake_fleet.h"

namespace choir::runner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Verdict = v1::ReportResponse;

class JobRunnerTest : public ::testing::Test {
 protected:
  JobRunnerTest() {
    base::SetLogLevel(base::LogLevel::kOff);
    base_ = folder_.path() + "/base";
    WriteBaseModel(base_);
    absl::StatusOr<std::unique_ptr<store::Store>> store = store::Store::Open(
        folder_.path() + "/store", base::Durability::kProcessCrash, clock_);
    EXPECT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    job_ = FleetJob(base_, 2, 3);
    job_.evaluation.every = 0;
    job_.rounds.min_survivors = 1;
  }

  // A fleet of three that has its training tasks.
  std::unique_ptr<FakeFleet> Training(const RunnerOptions& options = {}) {
    auto fleet = std::make_unique<FakeFleet>(
        std::vector<std::string>{"a", "b", "c"}, *store_, clock_);
    const absl::Status started = fleet->Start(job_, options);
    EXPECT_TRUE(started.ok()) << started;
    for (const char* client : {"a", "b", "c"}) {
      EXPECT_TRUE(fleet->runner().Post(engine::ClientArrived{client}).ok());
    }
    EXPECT_EQ(fleet->tasks().size(), 3u);
    return fleet;
  }

  // Uploads `bytes` and reports it as client "a".
  v1::ReportResponse Report(FakeFleet& fleet, const std::string& bytes) {
    absl::StatusOr<v1::BlobRef> blob = store_->blobs().Put(bytes);
    EXPECT_TRUE(blob.ok());
    v1::TrainReport report;
    *report.mutable_update() = *blob;
    report.set_num_examples(1);
    return Report(fleet, report);
  }
  v1::ReportResponse Report(FakeFleet& fleet, const v1::TrainReport& report) {
    const absl::StatusOr<v1::ReportResponse> response = fleet.runner().Post(
        engine::UpdateReceived{"a", fleet.tasks().at("b").key(), report});
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? *response : v1::ReportResponse();
  }
  std::vector<float> Zeros() const { return std::vector<float>(32, 0.0f); }
  codec::Layout Layout(FakeFleet& fleet) {
    return *LayoutOfJob(job_, fleet.runner().facts(), store_->blobs());
  }
  int CountUpdates() {
    int updates = 0;
    const std::vector<std::string> digests = store_->blobs().List().value();
    for (const std::string& digest : digests) {
      updates += store_->blobs().Read(digest)->substr(0, 4) == "CHU1";
    }
    return updates;
  }

  TempFolder folder_;
  std::string base_;
  base::ManualClock clock_;
  std::unique_ptr<store::Store> store_;
  config::JobOptions job_;
};

TEST_F(JobRunnerTest, ImportsWhatATokenizerIsMadeOf) {
  // Without added tokens or a chat template clients would train on other ids.
  ASSERT_TRUE(base::WriteFileAtomic(base_ + "/added_tokens.json", "{}").ok());
  ASSERT_TRUE(base::WriteFileAtomic(base_ + "/chat_template.jinja", "x").ok());
  ASSERT_TRUE(base::WriteFileAtomic(base_ + "/README.md", "x").ok());
  const auto facts = ImportBaseModel(job_, store_->blobs());
  ASSERT_TRUE(facts.ok()) << facts.status();
  std::vector<std::string> names;
  for (const v1::ModelFile& file : facts->base_model()) {
    names.push_back(file.name());
  }
  EXPECT_THAT(
      names, ElementsAre("added_tokens.json", "chat_template.jinja",
                         "config.json", "model.safetensors", "tokenizer.json"));
}

TEST_F(JobRunnerTest, ImportsTheFilesThatClientsNeed) {
  const auto facts = ImportBaseModel(job_, store_->blobs());
  ASSERT_TRUE(facts.ok()) << facts.status();
  std::vector<std::string> names;
  for (const v1::ModelFile& file : facts->base_model()) {
    names.push_back(file.name());
    EXPECT_TRUE(store_->blobs().Contains(file.blob().digest()));
    EXPECT_EQ(file.blob().size(),
              std::filesystem::file_size(base_ + "/" + file.name()));
  }
  EXPECT_THAT(
      names, ElementsAre("config.json", "model.safetensors", "tokenizer.json"));
  EXPECT_EQ(facts->num_parameters(), 32u);
  const auto again = ImportBaseModel(job_, store_->blobs());
  EXPECT_EQ(again->SerializeAsString(), facts->SerializeAsString());
  job_.seed = 12;
  const auto other = ImportBaseModel(job_, store_->blobs());
  EXPECT_NE(other->adapter().digest(), facts->adapter().digest());
  EXPECT_EQ(other->layout_digest(), facts->layout_digest());
}

TEST_F(JobRunnerTest, ImportsTheWeightsThatAreRead) {
  const auto names = [&] {
    const auto facts = ImportBaseModel(job_, store_->blobs());
    EXPECT_TRUE(facts.ok()) << facts.status();
    std::vector<std::string> names;
    for (const v1::ModelFile& file : facts->base_model()) {
      names.push_back(file.name());
    }
    return names;
  };
  const std::string single = base_ + "/model.safetensors";
  const std::string index = base_ + "/model.safetensors.index.json";
  const std::string shard = "model-00001-of-00001.safetensors";
  // Other forms of the weights, as some repositories have them, and adapters.
  for (const char* name : {"consolidated.safetensors", "model-old.safetensors",
                           "adapter_model.safetensors"}) {
    std::filesystem::copy(single, base_ + "/" + name);
  }
  ASSERT_TRUE(base::WriteFileAtomic(index, "{}").ok());
  EXPECT_THAT(names(), ElementsAre("config.json", "model.safetensors",
                                   "tokenizer.json"));
  const auto file = model::SafetensorsFile::Open(single);
  ASSERT_TRUE(file.ok()) << file.status();
  std::string map;
  for (const model::TensorView& tensor : file->tensors()) {
    absl::StrAppend(&map, map.empty() ? "" : ",", "\"", tensor.name, "\":\"",
                    shard, "\"");
  }
  ASSERT_TRUE(
      base::WriteFileAtomic(index, absl::StrCat("{\"weight_map\":{", map, "}}"))
          .ok());
  std::filesystem::rename(single, base_ + "/" + shard);
  EXPECT_THAT(names(),
              ElementsAre("config.json", shard, "model.safetensors.index.json",
                          "tokenizer.json"));
}

TEST_F(JobRunnerTest, RefusesFoldersThatAreNoModels) {
  const auto fault = [&] {
    const auto facts = ImportBaseModel(job_, store_->blobs());
    EXPECT_TRUE(absl::IsInvalidArgument(facts.status())) << facts.status();
    return std::string(facts.status().message());
  };
  for (const char* name : {"config.json", "tokenizer.json"}) {
    std::filesystem::remove(base_ + "/" + name);
    EXPECT_THAT(fault(), HasSubstr(name));
    WriteBaseModel(base_);
  }
  ASSERT_TRUE(base::WriteFileAtomic(base_ + "/tokenizer.json", "{}").ok());
  EXPECT_THAT(fault(), HasSubstr("tokenizer.json"));
  WriteBaseModel(base_);
  // A whole file, but of another model.
  const std::string other = folder_.path() + "/other";
  WriteBaseModel(other, 16);
  std::filesystem::copy(other + "/model.safetensors",
                        base_ + "/model.safetensors",
                        std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(fault(), HasSubstr("shape [384, 16], not [384, 8]"));
  WriteBaseModel(base_);
  std::filesystem::resize_file(base_ + "/model.safetensors", 40);
  EXPECT_THAT(fault(), HasSubstr("model.safetensors"));
  std::filesystem::remove(base_ + "/model.safetensors");
  EXPECT_THAT(fault(), HasSubstr("*.safetensors"));
  WriteBaseModel(base_);
  job_.adapter.target_modules = {"no_such_proj"};
  EXPECT_THAT(fault(), HasSubstr("no_such_proj"));
  job_.adapter.target_modules = {"q_proj"};
  job_.training.router.z_loss = 0.1;
  EXPECT_THAT(fault(), HasSubstr("training.router.z_loss"));
  job_.training.router.z_loss = 0.0;
  job_.base_model = folder_.path() + "/nowhere";
  EXPECT_THAT(fault(), HasSubstr("nowhere"));
}

// Whatever its first adapter needs of the base: the coordinator goes on.
TEST_F(JobRunnerTest, StartsDoraOnAQuantisedBaseThatTheJournalHas) {
  const std::string quantised = folder_.path() + "/quantised";
  ASSERT_TRUE(
      model::QuantizeCheckpoint(base_, model::WeightFormat::kNf4, quantised)
          .ok());
  job_.base_model = quantised;
  job_.adapter.kind = config::AdapterKind::kDora;
  // Submitted to a coordinator that ended before it could start the job.
  v1::JournalRecord record;
  *record.mutable_job_submitted()->mutable_config() = config::ToProto(job_);
  ASSERT_TRUE(store_->journal().Append({record}).ok());
  const auto fleet = Training();
  EXPECT_EQ(fleet->runner().facts().num_parameters(), 32u + 8u);
}

TEST_F(JobRunnerTest, RefusesQuantisedFoldersThatNobodyCanRead) {
  const std::string quantised = folder_.path() + "/quantised";
  ASSERT_TRUE(
      model::QuantizeCheckpoint(base_, model::WeightFormat::kInt8, quantised)
          .ok());
  job_.base_model = quantised;
  const auto fault = [&] {
    const auto facts = ImportBaseModel(job_, store_->blobs());
    EXPECT_TRUE(absl::IsInvalidArgument(facts.status())) << facts.status();
    return std::string(facts.status().message());
  };
  // Weights that are quantised, and a config.json that does not know.
  const std::string config = base::ReadFile(base_ + "/config.json").value();
  ASSERT_TRUE(base::WriteFileAtomic(quantised + "/config.json", config).ok());
  for (const auto kind :
       {config::AdapterKind::kLora, config::AdapterKind::kDora}) {
    job_.adapter.kind = kind;
    EXPECT_THAT(fault(), HasSubstr("restore its \"quantization_config\""));
  }
  // Of tensors that are read as they are.
  const auto file =
      model::SafetensorsFile::Open(quantised + "/model.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<model::TensorView> tensors = file->tensors();
  const std::string bytes(8, '\1');
  for (model::TensorView& tensor : tensors) {
    if (tensor.name != "model.norm.weight") continue;
    tensor = {"model.norm.weight.int8", model::DType::kI8, {8}, bytes};
  }
  const std::string norm = model::EncodeSafetensors(tensors);
  // And a weight both ways.
  const std::string dense(8 * 8 * 4, '\0');
  tensors = file->tensors();
  tensors.push_back({"model.layers.0.self_attn.q_proj.weight",
                     model::DType::kF32,
                     {8, 8},
                     dense});
  const std::string twice = model::EncodeSafetensors(tensors);
  ASSERT_TRUE(
      base::WriteFileAtomic(quantised + "/model.safetensors", norm).ok());
  EXPECT_THAT(fault(), HasSubstr("'model.norm.weight' is stored quantised"));
  ASSERT_TRUE(
      base::WriteFileAtomic(quantised + "/model.safetensors", twice).ok());
  EXPECT_THAT(fault(), HasSubstr("q_proj.weight' is there twice"));
}

TEST_F(JobRunnerTest, BrokenUpdatesAreRefusedWithAReasonAndJournaled) {
  using Make = std::function<std::string(const codec::Layout&)>;
  const auto with = [](float value) {
    return [value](const codec::Layout& layout) {
      std::vector<float> values(32, 0.0f);
      values[7] = value;
      return codec::EncodeFlatUpdate(layout, values);
    };
  };
  const std::pair<Make, const char*> cases[] = {
      {[](const codec::Layout&) { return std::string("short"); }, "bytes"},
      {[](const codec::Layout&) { return std::string(172, 'x'); }, "CHU1"},
      {[](const codec::Layout&) {
         return codec::EncodeFlatUpdate(
             *codec::Layout::Create({{"other", {32}}}),
             std::vector<float>(32, 0.0f));
       },
       "layout"},
      {with(std::numeric_limits<float>::quiet_NaN()), "not finite"},
      {with(std::numeric_limits<float>::infinity()), "not finite"},
      {with(129.0f), "beyond"},
  };
  int number = 0;
  for (const auto& [make, reason] : cases) {
    job_.name = absl::StrCat("job", number++);
    auto fleet = Training();
    const std::string bytes = make(Layout(*fleet));
    const v1::ReportResponse response = Report(*fleet, bytes);
    EXPECT_EQ(response.verdict(), Verdict::REFUSED) << reason;
    EXPECT_THAT(response.reason(), HasSubstr(reason));
    EXPECT_TRUE(fleet->records().back().has_update_refused());
    EXPECT_EQ(fleet->records().back().update_refused().client(), "a");
    ASSERT_TRUE(fleet->runner().Post(engine::StopRequested{"next case"}).ok());
    EXPECT_EQ(CountUpdates(), 0) << reason;
  }
}

TEST_F(JobRunnerTest, AnUpdateThatWasNotUploadedIsRefused) {
  auto fleet = Training();
  v1::TrainReport report;
  report.set_num_examples(1);
  report.mutable_update()->set_size(172);
  report.mutable_update()->set_digest(std::string(64, '0'));
  EXPECT_THAT(Report(*fleet, report).reason(), HasSubstr("not uploaded"));
  report.mutable_update()->set_digest("../../etc/passwd");
  EXPECT_EQ(Report(*fleet, report).verdict(), Verdict::REFUSED);
}

TEST_F(JobRunnerTest, ADigestHasOneSpelling) {
  auto fleet = Training();
  const auto blob =
      store_->blobs().Put(codec::EncodeFlatUpdate(Layout(*fleet), Zeros()));
  ASSERT_TRUE(blob.ok());
  v1::TrainReport report;
  report.set_num_examples(1);
  *report.mutable_update() = *blob;
  report.mutable_update()->set_digest("sha256:" + blob->digest());
  const v1::ReportResponse response = Report(*fleet, report);
  EXPECT_EQ(response.verdict(), Verdict::REFUSED);
  EXPECT_THAT(response.reason(), HasSubstr("lower-case"));
}

TEST_F(JobRunnerTest, AnUpdateThatShouldHaveBeenClippedIsRefused) {
  job_.aggregation.clip_norm_l2 = 1.0;
  auto fleet = Training();
  std::vector<float> values = Zeros();
  values[0] = 1.1f;
  const v1::ReportResponse response =
      Report(*fleet, codec::EncodeFlatUpdate(Layout(*fleet), values));
  EXPECT_EQ(response.verdict(), Verdict::REFUSED);
  EXPECT_THAT(response.reason(), HasSubstr("clip_norm_l2"));
}

TEST_F(JobRunnerTest, AForeignBlobNamedAsUpdateIsNotRemoved) {
  auto fleet = Training();
  v1::TrainReport report;
  report.set_num_examples(1);
  *report.mutable_update() = fleet->runner().facts().adapter();
  EXPECT_EQ(Report(*fleet, report).verdict(), Verdict::REFUSED);
  ASSERT_TRUE(fleet->Run().ok());
  EXPECT_TRUE(
      store_->blobs().Contains(fleet->runner().facts().adapter().digest()));
}

TEST_F(JobRunnerTest, UpdatesAreRemovedWithTheirRound) {
  auto fleet = Training();
  ASSERT_TRUE(fleet->Run().ok());
  EXPECT_EQ(fleet->runner().progress().rounds_committed, 2u);
  EXPECT_EQ(CountUpdates(), 0);
}

TEST_F(JobRunnerTest, UpdatesAreKeptOnRequest) {
  RunnerOptions options;
  options.keep_updates = true;
  auto fleet = Training(options);
  ASSERT_TRUE(fleet->Run().ok());
  EXPECT_EQ(CountUpdates(), 6);
}

TEST_F(JobRunnerTest, ADamagedUpdateLosesTheRoundAndNothingElse) {
  auto fleet = Training();
  std::vector<engine::Event> events;
  for (const char* client : {"a", "b", "c"}) {
    events.push_back(*fleet->DoTask(client));
    fleet->tasks().erase(client);
  }
  ASSERT_TRUE(fleet->runner().Post(events[0]).ok());
  ASSERT_TRUE(fleet->runner().Post(events[1]).ok());
  const std::string digest =
      std::get<engine::UpdateReceived>(events[0]).report.update().digest();
  const std::string path = *store_->blobs().PathOf(digest);
  std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  std::filesystem::resize_file(path, 100);
  ASSERT_TRUE(fleet->runner().Post(events[2]).ok());
  EXPECT_EQ(fleet->runner().progress().rounds_lost, 1u);
  ASSERT_TRUE(fleet->Run().ok());
  EXPECT_EQ(fleet->runner().progress().result.state(), v1::JobFinished::DONE);
}

TEST_F(JobRunnerTest, AnotherConfigurationDoesNotContinueAJob) {
  Training();
  job_.training.learning_rate = 0.5;
  FakeFleet fleet({"a"}, *store_, clock_);
  const absl::Status started = fleet.Start(job_);
  EXPECT_TRUE(absl::IsFailedPrecondition(started)) << started;
}

TEST_F(JobRunnerTest, TheBaseModelIsNotNeededAgain) {
  Training();
  std::filesystem::remove_all(base_);
  job_.base_model = "/moved";
  FakeFleet fleet({"a", "b", "c"}, *store_, clock_);
  const absl::Status started = fleet.Start(job_);
  ASSERT_TRUE(started.ok()) << started;
  EXPECT_EQ(fleet.tasks().size(), 3u) << "the round goes on";
  EXPECT_TRUE(fleet.Run().ok());
}

TEST_F(JobRunnerTest, AtDebugLevelTheLogFollowsEachTask) {
  base::SetLogLevel(base::LogLevel::kDebug);
  testing::internal::CaptureStderr();
  const std::unique_ptr<FakeFleet> fleet = Training();
  Report(*fleet, "no update");
  const std::string log = testing::internal::GetCapturedStderr();
  base::SetLogLevel(base::LogLevel::kOff);
  EXPECT_THAT(log, HasSubstr("round 1: task for a, due in"));
  EXPECT_THAT(log, HasSubstr("round 1: report of a: REFUSED, "));
}

TEST_F(JobRunnerTest, PlansCarryTheTimeLeft) {
  auto fleet = Training();
  EXPECT_EQ(fleet->tasks().at("a").deadline_ms(), 600000u);
  clock_.Advance(absl::Seconds(100));
  ASSERT_TRUE(fleet->runner().Post(engine::ClientArrived{"a"}).ok());
  EXPECT_EQ(fleet->tasks().at("a").deadline_ms(), 500000u);
  ASSERT_TRUE(fleet->runner().next_wakeup().has_value());
  EXPECT_EQ(*fleet->runner().next_wakeup(),
            absl::UnixEpoch() + absl::Seconds(600));
}

TEST_F(JobRunnerTest, PollFiresTheDeadlineOnlyWhenItIsDue) {
  auto fleet = Training();
  const absl::StatusOr<engine::Event> report = fleet->DoTask("a");
  ASSERT_TRUE(fleet->runner().Post(*report).ok());
  ASSERT_TRUE(fleet->runner().Poll().ok());
  EXPECT_EQ(fleet->runner().progress().rounds_committed, 0u);
  clock_.Advance(absl::Seconds(600));
  ASSERT_TRUE(fleet->runner().Poll().ok());
  EXPECT_EQ(fleet->runner().progress().rounds_committed, 1u);
}

}  // namespace
}  // namespace choir::runner
