// choir-client: the agent on a device.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/cli.h"
#include "base/clock.h"
#include "base/command_line.h"
#include "base/exit_codes.h"
#include "base/files.h"
#include "base/log.h"
#include "base/process.h"
#include "base/secure_random.h"
#include "base/status_macros.h"
#include "choir/v1/config.pb.h"
#include "client/agent/agent.h"
#include "client/agent/client_options.h"
#include "client/main/stop_watcher.h"
#include "client/rpc/grpc_transport.h"
#include "model/compute.h"
#include "proto/config/toml_config.h"

namespace choir::client {
namespace {

constexpr uint64_t kMaxCaBytes = 1u << 20;

struct MainOptions {
  std::string config;
  std::vector<std::string> overrides;
  uint64_t rounds = 0;
  bool check = false;
  bool json = false;
  bool verbose = false;
};

absl::StatusOr<std::unique_ptr<Transport>> Connect(
    const ClientOptions& options) {
  GrpcTransportOptions transport;
  transport.address = options.coordinator;
  transport.server_name = options.server_name;
  CHOIR_ASSIGN_OR_RETURN(transport.ca_certificate_pem,
                         base::ReadFile(options.ca_certificate, kMaxCaBytes));
  return MakeGrpcTransport(std::move(transport));
}

// Prints the resolved configuration and what the data holds; contacts nobody.
absl::Status Check(const v1::ClientConfig& config, const ClientOptions& options,
                   bool json) {
  CHOIR_RETURN_IF_ERROR(Connect(options).status());
  const base::WallClock clock;
  CHOIR_ASSIGN_OR_RETURN(const std::unique_ptr<LocalTaskRunner> runner,
                         LocalTaskRunner::Create(options, clock));
  if (!base::FileExists(base::JoinPath(options.state, "client.pem")) &&
      !base::FileExists(options.token_file)) {
    base::LogWarning(
        "not enrolled yet, and there is no token in token_file = \"",
        options.token_file, "\"; ask the operator for one");
  }
  const std::string toml = config::ToToml(WithDefaults(config));
  if (json) {
    std::printf(
        "%s\n",
        absl::StrCat(
            "{\"ok\":true,\"train_examples\":", runner->data().train.size(),
            ",\"heldout_examples\":", runner->data().heldout.size(),
            ",\"config\":", base::JsonQuote(toml), "}")
            .c_str());
  } else {
    std::printf("%s\n# %zu examples to train on, %zu held out\n", toml.c_str(),
                runner->data().train.size(), runner->data().heldout.size());
  }
  return absl::OkStatus();
}

void PrintSummary(const AgentSummary& summary, bool json) {
  const std::string document = absl::StrCat(
      "{\"rounds\":", summary.rounds, ",\"evaluations\":", summary.evaluations,
      ",\"too_late\":", summary.too_late, ",\"refused\":", summary.refused,
      ",\"failed\":", summary.failed,
      ",\"secure_refusals\":", summary.secure_refusals,
      ",\"bytes_up\":", summary.bytes_up,
      ",\"bytes_down\":", summary.bytes_down,
      ",\"stopped\":", summary.stopped ? "true" : "false", "}");
  if (json) {
    std::printf("%s\n", document.c_str());
    return;
  }
  std::printf("%s",
              absl::StrCat("rounds accepted ", summary.rounds, ", evaluations ",
                           summary.evaluations, ", too late ", summary.too_late,
                           ", refused ", summary.refused, ", failed ",
                           summary.failed, ", refused by this client ",
                           summary.secure_refusals, "; sent ", summary.bytes_up,
                           " bytes, received ", summary.bytes_down, " bytes\n")
                  .c_str());
}

int RunAgent(const ClientOptions& options, const MainOptions& main_options) {
  const bool json = main_options.json;
  base::StopSignal::Install();
  model::ConfigureCompute(options.threads);
  absl::StatusOr<std::unique_ptr<StateDir>> state =
      StateDir::Open(options.state);
  if (!state.ok()) {
    const int code = base::PrintError(state.status(), json);
    return absl::IsFailedPrecondition(state.status()) ? base::kExitStoreLocked
                                                      : code;
  }
  const base::WallClock clock;
  absl::StatusOr<std::unique_ptr<LocalTaskRunner>> runner =
      LocalTaskRunner::Create(options, clock);
  if (!runner.ok()) return base::PrintError(runner.status(), json, true);
  absl::StatusOr<std::unique_ptr<Transport>> transport = Connect(options);
  if (!transport.ok()) return base::PrintError(transport.status(), json, true);
  base::SystemRandom random;
  SignalSleeper sleeper;
  const StopWatcher watcher([&] {
    base::LogInfo("asked to stop; finished work is kept for the next start");
    (*transport)->Cancel();
  });
  Agent agent(options, *std::move(state),
              {**transport, **runner, clock, random, sleeper});
  const absl::StatusOr<AgentSummary> summary = agent.Run(main_options.rounds);
  if (!summary.ok()) return base::PrintError(summary.status(), json);
  PrintSummary(*summary, json);
  return base::kExitDone;
}

int Run(const MainOptions& options) {
  if (options.verbose) base::SetLogLevel(base::LogLevel::kDebug);
  v1::ClientConfig config;
  const absl::Status loaded =
      config::LoadTomlFile(options.config, options.overrides, &config);
  if (!loaded.ok()) return base::PrintError(loaded, options.json, true);
  const absl::StatusOr<ClientOptions> resolved = ResolveClient(config);
  if (!resolved.ok()) {
    return base::PrintError(resolved.status(), options.json, true);
  }
  if (!options.check) return RunAgent(*resolved, options);
  const absl::Status checked = Check(config, *resolved, options.json);
  if (!checked.ok()) return base::PrintError(checked, options.json, true);
  return base::kExitDone;
}

}  // namespace
}  // namespace choir::client

int main(int argc, char** argv) {
  choir::base::PrepareProcess();
  // gRPC's own lines would only repeat what our errors say.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  choir::client::MainOptions options;
  CLI::App app(
      "The agent on a device: trains on local data for a Choir coordinator. "
      "Data stays here; connections only go out.",
      "choir-client");
  app.footer(choir::base::kExitCodeHelp);
  app.set_version_flag("--version", choir::base::kVersion);
  app.add_option("--config", options.config, "client.toml")->required();
  app.add_option("--set", options.overrides,
                 "path.to.field=value, over what the file says; repeatable")
      ->allow_extra_args(false);
  app.add_option("--rounds", options.rounds,
                 "leave after so many accepted updates (default: never)")
      ->check(choir::base::AtLeast(0));
  app.add_flag("--check", options.check,
               "check configuration and data, print both, and leave");
  app.add_flag("--json", options.json, "one JSON document on stdout");
  app.add_flag("--verbose", options.verbose, "log each check-in and blob, too");
  if (const absl::optional<int> code =
          choir::base::ParseCommandLine(app, argc, argv)) {
    return *code;
  }
  return choir::base::FinishOutput(choir::client::Run(options));
}
