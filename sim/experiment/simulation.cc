#include "sim/experiment/simulation.h"

#include <malloc.h>
#include <sys/resource.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "coordinator/store/store.h"
#include "model/adapter/lora_layout.h"
#include "model/adapter/peft_folder.h"
#include "model/adapter/targets.h"
#include "model/checkpoint/model_config.h"
#include "model/training/training_fit.h"
#include "proto/config/toml_config.h"
#include "sim/experiment/simulation_loop.h"

namespace choir::sim {
namespace {

constexpr char kResolvedName[] = "resolved.toml";
// SHA-256 of the clients' examples: a run goes on with the data it began with.
constexpr char kDataName[] = "data.sha256";

absl::Status CheckSameData(const std::string& path, const std::string& digest) {
  CHOIR_ASSIGN_OR_RETURN(const std::string before, base::ReadFile(path));
  if (before == digest) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the data are not those that the run was begun with (SHA-256 ", digest,
      ", ", path, " says ", before,
      "); bring them back or give another --out to begin anew"));
}

absl::Status PrepareFolder(const ExperimentOptions& options,
                           const RunOptions& run,
                           const std::string& data_digest) {
  const std::string resolved = base::JoinPath(run.out_dir, kResolvedName);
  const bool begun = base::FileExists(resolved);
  if (run.resume) {
    if (!begun) {
      return absl::NotFoundError(
          absl::StrCat(run.out_dir, " holds no run to resume (no ",
                       kResolvedName, "); leave --resume out to begin one"));
    }
    v1::ExperimentConfig before;
    CHOIR_RETURN_IF_ERROR(config::LoadTomlFile(resolved, {}, &before));
    CHOIR_RETURN_IF_ERROR(CheckResumable(before, ToProto(options)));
    return CheckSameData(base::JoinPath(run.out_dir, kDataName), data_digest);
  }
  if (base::FileExists(run.out_dir)) {
    CHOIR_ASSIGN_OR_RETURN(const std::vector<std::string> entries,
                           base::ListDirectory(run.out_dir));
    if (!entries.empty()) {
      return absl::AlreadyExistsError(absl::StrCat(
          run.out_dir, begun ? " already holds a run" : " is not empty",
          begun ? "; add --resume to go on with it or give another --out"
                : "; give another --out"));
    }
  }
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(run.out_dir));
  CHOIR_RETURN_IF_ERROR(
      base::WriteFileAtomic(base::JoinPath(run.out_dir, kDataName), data_digest,
                            base::Durability::kProcessCrash));
  return base::WriteFileAtomic(resolved, config::ToToml(ToProto(options)),
                               base::Durability::kProcessCrash);
}

// Fits the round's demands to the population: all clients are always there,
// so a round waits for all of them, and the draw is the same in every run.
absl::Status FitToPopulation(const Population& population,
                             config::JobOptions& job) {
  const int64_t clients = static_cast<int64_t>(population.size());
  if (job.rounds.selection == config::Selection::kUniform &&
      job.rounds.num_to_select() > clients) {
    return absl::InvalidArgumentError(absl::StrCat(
        "job.rounds selects ", job.rounds.num_to_select(),
        " clients (cohort_size times over_selection), but there are ", clients,
        "; lower job.rounds.cohort_size or raise clients.count"));
  }
  job.rounds.min_available = static_cast<int>(clients);
  return absl::OkStatus();
}

absl::Status WriteAdapter(const ExperimentOptions& options,
                          const std::string& directory,
                          const v1::BlobRef& adapter, store::Store& store) {
  CHOIR_ASSIGN_OR_RETURN(const model::ModelConfig config,
                         model::LoadModelConfig(base::JoinPath(
                             options.job.base_model, "config.json")));
  CHOIR_ASSIGN_OR_RETURN(const codec::Layout layout,
                         model::AdapterLayout(config, options.job.adapter));
  CHOIR_ASSIGN_OR_RETURN(const std::string bytes,
                         store.blobs().Read(adapter.digest()));
  CHOIR_ASSIGN_OR_RETURN(const std::vector<float> values,
                         model::DecodeAdapterFile(bytes, layout));
  return model::WriteTrainedAdapter(directory, config, options.job.adapter,
                                    values, options.job.base_model);
}

// What is shared by the steps of one run.
struct Parts {
  std::unique_ptr<Population> population;
  std::shared_ptr<const model::BaseModel> base;
  std::unique_ptr<store::Store> store;
  std::unique_ptr<MetricsLog> metrics;
};

absl::Status RunLoop(const ExperimentOptions& options, const RunOptions& run,
                     const Parts& parts, RunResult& result) {
  SimulationLoop loop(options, run, *parts.population, *parts.store,
                      *parts.metrics, parts.base);
  if (run.resume) {
    CHOIR_RETURN_IF_ERROR(
        parts.store->journal().ForEach([&](const store::JournalEntry& entry) {
          loop.Replay(entry.record);
          parts.metrics->Add(entry.record, entry.time);
          return absl::OkStatus();
        }));
    parts.metrics->Resume(absl::Now());
  }
  CHOIR_RETURN_IF_ERROR(loop.Start());
  CHOIR_RETURN_IF_ERROR(loop.Run(result.interrupted));
  result.progress = loop.runner().progress();
  return absl::OkStatus();
}

}  // namespace

double PeakRssMib() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024.0;
}

void ConfigureAllocator(int workers) { mallopt(M_ARENA_MAX, workers + 1); }

absl::StatusOr<RunResult> RunExperiment(const ExperimentOptions& given,
                                        const RunOptions& run) {
  const absl::Time begin = absl::Now();
  ExperimentOptions options = given;
  Parts parts;
  CHOIR_ASSIGN_OR_RETURN(parts.population, Population::Create(options.clients));
  CHOIR_RETURN_IF_ERROR(parts.population->Check(options.job.training));
  CHOIR_RETURN_IF_ERROR(FitToPopulation(*parts.population, options.job));
  CHOIR_ASSIGN_OR_RETURN(options.job, model::WithTargets(options.job));
  CHOIR_RETURN_IF_ERROR(model::CheckJobFits(options.job, options.precision));
  parts.base = run.base;
  if (parts.base == nullptr) {
    CHOIR_ASSIGN_OR_RETURN(
        parts.base,
        model::BaseModel::Load(options.job.base_model, HowToLoad(options)));
  }
  CHOIR_RETURN_IF_ERROR(parts.population->CheckConversations(
      parts.base->tokenizer(), options.job.training));
  CHOIR_RETURN_IF_ERROR(
      PrepareFolder(options, run, parts.population->Digest()));

  base::WallClock clock;
  RunResult result;
  result.resumed = run.resume;
  result.store_dir = base::JoinPath(run.out_dir, "store");
  CHOIR_ASSIGN_OR_RETURN(
      parts.store, store::Store::Open(result.store_dir,
                                      base::Durability::kProcessCrash, clock));
  CHOIR_ASSIGN_OR_RETURN(
      parts.metrics,
      MetricsLog::Create(base::JoinPath(run.out_dir, kMetricsName),
                         run.on_round));
  const absl::Status ran = RunLoop(options, run, parts, result);
  const absl::Status written = parts.metrics->Finish();
  if (ran.ok() && !result.progress.adapter.digest().empty()) {
    result.adapter_dir = base::JoinPath(run.out_dir, "adapter");
    CHOIR_RETURN_IF_ERROR(WriteAdapter(options, result.adapter_dir,
                                       result.progress.adapter, *parts.store));
  }
  const absl::Status closed = parts.store->Close();
  CHOIR_RETURN_IF_ERROR(ran);
  CHOIR_RETURN_IF_ERROR(written);
  CHOIR_RETURN_IF_ERROR(closed);

  result.num_clients = parts.population->size();
  result.train_examples = parts.population->train_examples();
  result.heldout_examples = parts.population->heldout_examples();
  result.clients_trained = parts.metrics->clients_trained();
  result.clients_lost = parts.metrics->clients_lost();
  result.heldout_accuracy_before = parts.metrics->heldout_accuracy_before();
  result.heldout_accuracy = parts.metrics->heldout_accuracy();
  result.flops_saved = parts.metrics->flops_saved();
  result.training_seconds = parts.metrics->training_seconds();
  result.device = parts.base->device();
  result.wall_seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  result.peak_rss_mib = PeakRssMib();
  return result;
}

}  // namespace choir::sim
