#include "sim/experiment/experiment_options.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "google/protobuf/util/message_differencer.h"
#include "proto/config/toml_config.h"

namespace choir::sim {
namespace {

constexpr int kMaxWorkers = 1024;
constexpr int kMaxClientsPerPass = 256;

absl::Status OutOfRange(absl::string_view field, double value,
                        absl::string_view limit) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is ", value, "; it must be ", limit));
}

absl::Status ResolvePartition(const v1::PopulationConfig& config,
                              uint64_t job_seed, PopulationOptions& options) {
  PartitionOptions& partition = options.partition;
  CHOIR_ASSIGN_OR_RETURN(
      partition.kind,
      ParsePartitionKind(config.has_partition() ? config.partition() : "iid"));
  const bool natural = partition.kind == PartitionKind::kNatural;
  const bool labelled = natural ||
                        partition.kind == PartitionKind::kDirichlet ||
                        partition.kind == PartitionKind::kShards;
  options.field = config.field();
  if (labelled && options.field.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "clients.field is not set; partition \"",
        PartitionKindName(partition.kind),
        "\" needs the name of a field of the examples, for example \"topic\""));
  }
  if (!natural && config.count() < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("clients.count is not set; partition \"",
                     PartitionKindName(partition.kind), "\" needs at least 1"));
  }
  partition.num_clients =
      static_cast<int>(std::min<uint32_t>(config.count(), 2000000000u));
  if (config.has_concentration()) {
    partition.concentration = config.concentration();
  }
  if (!(partition.concentration > 0.0 && partition.concentration <= 1e6)) {
    return OutOfRange("clients.concentration", partition.concentration,
                      "above 0 and at most 1e6");
  }
  if (config.has_shards_per_client()) {
    if (config.shards_per_client() < 1 || config.shards_per_client() > 100000) {
      return OutOfRange("clients.shards_per_client", config.shards_per_client(),
                        "1 to 100000");
    }
    partition.shards_per_client = static_cast<int>(config.shards_per_client());
  }
  if (config.has_min_examples()) {
    if (config.min_examples() < 1 || config.min_examples() > 1000000000u) {
      return OutOfRange("clients.min_examples", config.min_examples(),
                        "1 to 1e9");
    }
    partition.min_examples = static_cast<int>(config.min_examples());
  }
  partition.seed = base::DeriveSeed(job_seed, {"population"});
  return absl::OkStatus();
}

absl::Status ResolveData(const v1::DataConfig& config,
                         PopulationOptions& options) {
  if (config.path().empty()) {
    return absl::InvalidArgumentError(
        "clients.data.path is not set; name a .jsonl file or a folder of .txt "
        "files");
  }
  options.data.path = config.path();
  options.data.where = {config.where().begin(), config.where().end()};
  options.data.max_examples = config.max_examples();
  if (config.has_holdout()) options.holdout = config.holdout();
  if (!(options.holdout >= 0.0 && options.holdout <= 0.9)) {
    return OutOfRange("clients.data.holdout", options.holdout, "0 to 0.9");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ExperimentOptions> ResolveExperiment(
    const v1::ExperimentConfig& config) {
  ExperimentOptions options;
  CHOIR_ASSIGN_OR_RETURN(options.job, config::ResolveJob(config.job()));
  CHOIR_RETURN_IF_ERROR(ResolveData(config.clients().data(), options.clients));
  CHOIR_RETURN_IF_ERROR(
      ResolvePartition(config.clients(), options.job.seed, options.clients));
  const v1::SimulationConfig& simulation = config.simulation();
  if (simulation.has_workers()) {
    if (simulation.workers() < 1 || simulation.workers() > kMaxWorkers) {
      return OutOfRange("simulation.workers", simulation.workers(),
                        absl::StrCat("1 to ", kMaxWorkers));
    }
    options.workers = static_cast<int>(simulation.workers());
  } else {
    options.workers =
        std::clamp<int>(std::thread::hardware_concurrency(), 1, kMaxWorkers);
  }
  if (simulation.has_clients_per_pass()) {
    if (simulation.clients_per_pass() < 1 ||
        simulation.clients_per_pass() > uint32_t{kMaxClientsPerPass}) {
      return OutOfRange("simulation.clients_per_pass",
                        simulation.clients_per_pass(),
                        absl::StrCat("1 to ", kMaxClientsPerPass));
    }
    options.clients_per_pass = static_cast<int>(simulation.clients_per_pass());
  }
  options.dropout_rate = simulation.dropout_rate();
  if (!(options.dropout_rate >= 0.0 && options.dropout_rate < 1.0)) {
    return OutOfRange("simulation.dropout_rate", options.dropout_rate,
                      "at least 0 and below 1");
  }
  options.keep_updates = simulation.keep_updates();
  const v1::DeviceConfig& device = simulation.device();
  CHOIR_ASSIGN_OR_RETURN(
      options.device,
      model::ParseDeviceKind(device.has_kind() ? device.kind() : "auto",
                             "simulation.device.kind"));
  if (device.has_threads()) {
    if (device.threads() < 1 || device.threads() > kMaxWorkers) {
      return OutOfRange("simulation.device.threads", device.threads(),
                        absl::StrCat("1 to ", kMaxWorkers));
    }
    options.device_threads = static_cast<int>(device.threads());
  }
  CHOIR_ASSIGN_OR_RETURN(
      options.precision,
      model::ParsePrecision(device.precision(), "simulation.device.precision"));
  if (device.memory_mib() > 0) {
    return OutOfRange("simulation.device.memory_mib", device.memory_mib(),
                      "0: only choir-client plans its memory");
  }
  if (device.experts_size() > 0) {
    return absl::InvalidArgumentError(
        "simulation.device.experts is set, but only choir-client holds a part "
        "of the experts; leave it out");
  }
  return options;
}

model::LoadOptions HowToLoad(const ExperimentOptions& options) {
  model::LoadOptions load;
  load.device = options.device;
  load.precision = options.precision;
  return load;
}

v1::ExperimentConfig ToProto(const ExperimentOptions& options) {
  v1::ExperimentConfig config;
  *config.mutable_job() = config::ToProto(options.job);
  v1::PopulationConfig& clients = *config.mutable_clients();
  const PartitionOptions& partition = options.clients.partition;
  if (partition.kind != PartitionKind::kNatural) {
    clients.set_count(partition.num_clients);
  }
  v1::DataConfig& data = *clients.mutable_data();
  data.set_path(options.clients.data.path);
  data.set_holdout(options.clients.holdout);
  data.mutable_where()->insert(options.clients.data.where.begin(),
                               options.clients.data.where.end());
  data.set_max_examples(options.clients.data.max_examples);
  clients.set_partition(std::string(PartitionKindName(partition.kind)));
  clients.set_field(options.clients.field);
  clients.set_concentration(partition.concentration);
  clients.set_shards_per_client(partition.shards_per_client);
  clients.set_min_examples(partition.min_examples);
  v1::SimulationConfig& simulation = *config.mutable_simulation();
  simulation.set_workers(options.workers);
  simulation.set_clients_per_pass(options.clients_per_pass);
  simulation.set_dropout_rate(options.dropout_rate);
  simulation.set_keep_updates(options.keep_updates);
  simulation.mutable_device()->set_kind(
      std::string(model::DeviceKindName(options.device)));
  simulation.mutable_device()->set_threads(options.device_threads);
  simulation.mutable_device()->set_precision(
      std::string(model::PrecisionName(options.precision)));
  simulation.mutable_device()->set_memory_mib(0);
  return config;
}

absl::StatusOr<ExperimentOptions> LoadExperiment(
    const std::string& path, const std::vector<std::string>& overrides) {
  v1::ExperimentConfig config;
  CHOIR_RETURN_IF_ERROR(config::LoadTomlFile(path, overrides, &config));
  return ResolveExperiment(config);
}

absl::Status CheckResumable(const v1::ExperimentConfig& before,
                            const v1::ExperimentConfig& now) {
  using google::protobuf::util::MessageDifferencer;
  v1::ExperimentConfig a = before, b = now;
  for (v1::ExperimentConfig* config : {&a, &b}) {
    config->mutable_simulation()->clear_workers();
    config->mutable_simulation()->mutable_device()->clear_threads();
  }
  const char* differs = nullptr;
  if (!MessageDifferencer::Equals(a.job(), b.job())) {
    differs = "[job]";
  } else if (!MessageDifferencer::Equals(a.clients(), b.clients())) {
    differs = "[clients]";
  } else if (!MessageDifferencer::Equals(a.simulation(), b.simulation())) {
    differs = "[simulation]";
  }
  if (differs == nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the experiment differs in ", differs,
      " from the one begun in the "
      "output folder (see its resolved.toml); give another --out to begin "
      "anew"));
}

}  // namespace choir::sim
