// choir-coordinator: the daemon.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/cli.h"
#include "base/command_line.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status_macros.h"
#include "coordinator/main/daemon.h"
#include "nlohmann/json.hpp"
#include "proto/config/job_options.h"
#include "proto/config/toml_config.h"

namespace choir::coordinator {
namespace {

struct Flags {
  std::string config;
  std::vector<std::string> overrides;
  std::vector<std::string> jobs;
  bool check = false;
  bool json = false;
  bool verbose = false;
};

absl::StatusOr<v1::JobConfig> LoadJob(const std::string& path) {
  v1::ExperimentConfig file;
  CHOIR_RETURN_IF_ERROR(config::LoadTomlFile(path, {}, &file));
  CHOIR_RETURN_IF_ERROR(config::ResolveJob(file.job()).status());
  return file.job();
}

absl::StatusOr<DaemonRun> Resolve(const Flags& flags) {
  v1::CoordinatorConfig config;
  CHOIR_RETURN_IF_ERROR(
      config::LoadTomlFile(flags.config, flags.overrides, &config));
  DaemonRun run;
  CHOIR_ASSIGN_OR_RETURN(run.options, ResolveCoordinator(config));
  for (const std::string& path : flags.jobs) {
    CHOIR_ASSIGN_OR_RETURN(v1::JobConfig job, LoadJob(path));
    run.jobs.push_back(std::move(job));
  }
  run.json = flags.json;
  return run;
}

int Check(const DaemonRun& run) {
  if (const absl::Status files = CheckFiles(run.options); !files.ok()) {
    return base::PrintError(files, run.json, /*usage=*/true);
  }
  const std::string toml = config::ToToml(ToProto(run.options));
  if (run.json) {
    const nlohmann::json document = {{"ok", true}, {"config", toml}};
    std::printf("%s\n", document.dump().c_str());
  } else {
    std::fputs(toml.c_str(), stdout);
  }
  return base::kExitDone;
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app(
      "Choir's coordinator: runs federated fine-tuning jobs with the agents "
      "that check in.",
      "choir-coordinator");
  app.set_version_flag("--version", base::kVersion);
  app.footer(base::kExitCodeHelp);
  app.add_option("--config", flags.config, "coordinator.toml")->required();
  app.add_option("--set", flags.overrides,
                 "Override a field: path.to.field=value (repeatable)")
      ->allow_extra_args(false);
  app.add_option("--job", flags.jobs,
                 "Submit this job (TOML with a [job] table) unless the store "
                 "knows one of its name (repeatable)")
      ->allow_extra_args(false);
  app.add_flag("--check", flags.check,
               "Print the resolved configuration and leave");
  app.add_flag("--json", flags.json, "One JSON document on stdout");
  app.add_flag("--verbose", flags.verbose, "Log each task and report, too");
  if (const absl::optional<int> code =
          base::ParseCommandLine(app, argc, argv)) {
    return *code;
  }
  if (flags.verbose) base::SetLogLevel(base::LogLevel::kDebug);
  absl::StatusOr<DaemonRun> run = Resolve(flags);
  if (!run.ok()) {
    return base::PrintError(run.status(), flags.json, /*usage=*/true);
  }
  if (flags.check) return Check(*run);
  return RunDaemon(*std::move(run));
}

}  // namespace
}  // namespace choir::coordinator

int main(int argc, char** argv) {
  choir::base::PrepareProcess();
  // gRPC's own lines would only repeat what our errors and refusals say.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  return choir::base::FinishOutput(choir::coordinator::Main(argc, argv));
}
