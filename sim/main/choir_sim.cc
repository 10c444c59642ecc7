// choir-sim: federated experiments on one machine.
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "base/cli.h"
#include "base/command_line.h"
#include "base/exit_codes.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "coordinator/store/store.h"
#include "model/compute.h"
#include "nlohmann/json.hpp"
#include "sim/experiment/pooled.h"
#include "sim/experiment/simulation.h"
#include "sim/experiment/summary.h"
#include "sim/main/experiment_list.h"
#include "sim/main/progress_display.h"

namespace choir::sim {
namespace {

struct Flags {
  std::string experiment;
  std::string out_dir;
  std::string list_dir;
  uint64_t seed = 0;
  int workers = 0;
  int steps = 0;
  bool seed_given = false;
  bool workers_given = false;
  bool resume = false;
  bool json = false;
  bool quiet = false;
  std::vector<std::string> set;
};

int FailUsage(const absl::Status& status, const Flags& flags) {
  return base::PrintError(status, flags.json, /*usage=*/true);
}

absl::StatusOr<ExperimentOptions> Load(const Flags& flags) {
  CHOIR_ASSIGN_OR_RETURN(const std::string path,
                         FindExperiment(flags.experiment));
  std::vector<std::string> overrides = flags.set;
  if (flags.seed_given) {
    overrides.push_back(absl::StrCat("job.seed=", flags.seed));
  }
  if (flags.workers_given) {
    overrides.push_back(absl::StrCat("simulation.workers=", flags.workers));
  }
  return LoadExperiment(path, overrides);
}

// What the user got wrong, as opposed to what went wrong.
bool IsUsage(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsAlreadyExists(status) ||
         absl::IsNotFound(status) || absl::IsFailedPrecondition(status);
}

int Fail(const absl::Status& status, const Flags& flags) {
  const int code = base::PrintError(status, flags.json, IsUsage(status));
  return store::IsStoreLocked(status) ? base::kExitStoreLocked : code;
}

void Configure(const ExperimentOptions& options) {
  ConfigureAllocator(options.workers);
  model::ConfigureCompute(options.device_threads);
}

void PrintResult(const ExperimentOptions& options, const RunResult& result,
                 const std::string& out_dir) {
  const engine::Progress& progress = result.progress;
  std::printf("%s: %u of %u rounds, %u lost, %zu clients, %.1f s\n",
              options.job.name.c_str(), progress.rounds_committed,
              progress.rounds_total, progress.rounds_lost, result.num_clients,
              result.wall_seconds);
  // Not of a job that does not evaluate.
  if (std::isfinite(progress.heldout_loss)) {
    std::printf("held-out loss  %.4f -> %.4f nats per token\n",
                progress.heldout_loss_before, progress.heldout_loss);
  }
  if (result.training_seconds > 0.0) {
    std::printf("speed          %.2f clients/s, peak memory %.0f MiB\n",
                result.clients_trained / result.training_seconds,
                result.peak_rss_mib);
  }
  std::printf("adapter        %s (sha256:%s)\n", result.adapter_dir.c_str(),
              progress.adapter.digest().c_str());
  std::printf("report         %s\n",
              base::JoinPath(out_dir, "report.html").c_str());
  if (result.interrupted) {
    std::printf("interrupted; go on with --out %s --resume\n", out_dir.c_str());
  }
}

int RunCommand(const Flags& flags) {
  const absl::StatusOr<ExperimentOptions> options = Load(flags);
  if (!options.ok()) return FailUsage(options.status(), flags);
  Configure(*options);
  RunOptions run;
  run.out_dir = flags.out_dir.empty() ? base::JoinPath("out", options->job.name)
                                      : flags.out_dir;
  run.resume = flags.resume;
  run.stop_requested = [] { return base::StopSignal::requested(); };
  absl::StatusOr<RunResult> result;
  {
    ProgressDisplay display(options->job.rounds.count, flags.quiet);
    run.on_round = [&display](const RoundMetrics& round) {
      display.OnRound(round);
    };
    run.on_client = [&display](int done, int total, bool evaluation) {
      display.OnClient(done, total, evaluation);
    };
    result = RunExperiment(*options, run);
  }
  if (!result.ok()) return Fail(result.status(), flags);
  const absl::Status written = WriteSummary(*options, *result, run.out_dir);
  if (!written.ok()) return Fail(written, flags);
  const bool failed =
      result->progress.result.state() == v1::JobFinished::FAILED;
  if (failed) {
    return Fail(absl::AbortedError(result->progress.result.reason()), flags);
  }
  if (flags.json) {
    std::printf("%s\n", SummaryJson(*options, *result, run.out_dir).c_str());
  } else {
    PrintResult(*options, *result, run.out_dir);
  }
  if (result->interrupted) return base::kExitInterrupted;
  return result->progress.rounds_lost > 0 ? base::kExitRoundsLost
                                          : base::kExitDone;
}

int PooledCommand(const Flags& flags) {
  const absl::StatusOr<ExperimentOptions> options = Load(flags);
  if (!options.ok()) return FailUsage(options.status(), flags);
  Configure(*options);
  const bool terminal = !flags.quiet && isatty(STDERR_FILENO) == 1;
  const absl::StatusOr<PooledResult> result =
      TrainPooled(*options, flags.steps, [terminal](int step, int steps) {
        if (terminal) {
          std::fprintf(stderr, "\r%s %d/%d steps", Bar(step, steps, 24).c_str(),
                       step, steps);
        }
        return base::StopSignal::requested()
                   ? absl::CancelledError("interrupted")
                   : absl::OkStatus();
      });
  if (terminal) std::fputc('\n', stderr);
  if (absl::IsCancelled(result.status())) {
    base::PrintError(result.status(), flags.json);
    return base::kExitInterrupted;
  }
  if (!result.ok()) return Fail(result.status(), flags);
  if (flags.json) {
    std::printf("%s\n", PooledJson(*options, *result).c_str());
  } else {
    std::printf(
        "%s, pooled: %d steps on %llu examples of %zu clients\n"
        "held-out loss  %.4f -> %.4f nats per token\n",
        options->job.name.c_str(), result->steps,
        static_cast<unsigned long long>(result->train_examples),
        result->num_clients, result->heldout_loss_before, result->heldout_loss);
  }
  return base::kExitDone;
}

int ListCommand(const Flags& flags) {
  const std::string directory =
      flags.list_dir.empty() ? ExperimentDir() : flags.list_dir;
  const auto experiments = ListExperiments(directory);
  if (!experiments.ok()) return FailUsage(experiments.status(), flags);
  nlohmann::ordered_json json;
  json["experiments"] = nlohmann::ordered_json::array();
  for (const ListedExperiment& experiment : *experiments) {
    if (flags.json) {
      json["experiments"].push_back({{"name", experiment.name},
                                     {"path", experiment.path},
                                     {"title", experiment.title}});
    } else {
      std::printf("%-24s %s\n", experiment.name.c_str(),
                  experiment.title.c_str());
    }
  }
  if (flags.json) std::printf("%s\n", json.dump().c_str());
  return base::kExitDone;
}

void AddExperimentFlags(CLI::App& command, Flags& flags) {
  command
      .add_option("experiment", flags.experiment,
                  "Experiment file, or a name that `choir-sim list` shows")
      ->required();
  command.add_option("--seed", flags.seed, "Replaces job.seed");
  command
      .add_option("--set", flags.set,
                  "path.to.field=value, for example job.rounds.count=3")
      ->allow_extra_args(false);
  command.add_flag("--json", flags.json, "One JSON document on stdout");
  command.add_flag("--quiet", flags.quiet, "No progress on stderr");
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Choir's simulator: federated experiments on one machine.",
               "choir-sim");
  app.footer(base::kExitCodeHelp);
  app.set_version_flag("--version", base::kVersion);
  app.require_subcommand(1);
  CLI::App* run = app.add_subcommand("run", "Run an experiment");
  AddExperimentFlags(*run, flags);
  run->add_option("--workers", flags.workers,
                  "Threads that train virtual clients");
  run->add_option("--out", flags.out_dir,
                  "Folder to write (default out/<job name>)");
  run->add_flag("--resume", flags.resume,
                "Go on with the run in the output folder");
  CLI::App* pooled = app.add_subcommand(
      "pooled", "Train on all clients' data in one place, for comparison");
  AddExperimentFlags(*pooled, flags);
  pooled->add_option("--steps", flags.steps, "Optimiser steps in total")
      ->required();
  CLI::App* list = app.add_subcommand("list", "List the experiments");
  list->add_option("--dir", flags.list_dir, "Folder of experiment files");
  list->add_flag("--json", flags.json, "One JSON document on stdout");
  for (CLI::App* command : {run, pooled, list}) {
    command->footer(base::kExitCodeHelp);
  }
  if (const absl::optional<int> code =
          base::ParseCommandLine(app, argc, argv)) {
    return *code;
  }
  CLI::App* used = run->parsed() ? run : pooled;
  if (!list->parsed()) {
    flags.seed_given = used->count("--seed") > 0;
  }
  flags.workers_given = run->count("--workers") > 0;
  if (list->parsed()) return ListCommand(flags);
  base::StopSignal::Install();
  return run->parsed() ? RunCommand(flags) : PooledCommand(flags);
}

}  // namespace
}  // namespace choir::sim

int main(int argc, char** argv) {
  return choir::base::FinishOutput(choir::sim::Main(argc, argv));
}
