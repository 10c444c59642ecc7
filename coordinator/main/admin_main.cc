// choir-admin: certificates, enrolment tokens, jobs, clients and models.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/cli.h"
#include "base/clock.h"
#include "base/command_line.h"
#include "base/secure_random.h"
#include "base/status_macros.h"
#include "coordinator/main/admin_text.h"
#include "coordinator/main/ca_commands.h"
#include "coordinator/main/online_commands.h"

namespace choir::coordinator {
namespace {

using Result = absl::StatusOr<nlohmann::json>;

// Everything the command line can say; `run` is set by the verb that was given.
struct AdminFlags {
  bool json = false;
  DialOptions dial;
  CaInitOptions init;
  CaIssueOptions issue;
  CaRevokeOptions revoke;
  std::string client;
  std::string valid;
  std::string file;
  std::vector<std::string> overrides;
  std::string job;
  std::string reason;
  std::string out;
  int version = -1;
  std::function<Result()> run;
};

const base::WallClock& TheClock() {
  static const base::WallClock clock;
  return clock;
}

// A verb that needs no coordinator.
CLI::App* Verb(CLI::App& parent, AdminFlags& flags, const char* name,
               const char* help, std::function<Result()> run) {
  CLI::App* verb = parent.add_subcommand(name, help);
  verb->add_flag("--json", flags.json, "One JSON document on stdout");
  verb->callback([&flags, run = std::move(run)] { flags.run = run; });
  return verb;
}

// A verb that calls a coordinator.
CLI::App* OnlineVerb(CLI::App& parent, AdminFlags& flags, const char* name,
                     const char* help,
                     std::function<Result(AdminClient&)> run) {
  CLI::App* verb = Verb(
      parent, flags, name, help, [&flags, run = std::move(run)]() -> Result {
        CHOIR_ASSIGN_OR_RETURN(AdminClient client,
                               AdminClient::Create(flags.dial));
        return run(client);
      });
  DialOptions& dial = flags.dial;
  verb->add_option("--coordinator", dial.coordinator, "host:port")->required();
  verb->add_option("--ca", dial.ca_certificate, "The CA's certificate")
      ->required();
  verb->add_option("--cert", dial.certificate, "The operator's certificate")
      ->required();
  verb->add_option("--key", dial.private_key, "The operator's private key")
      ->required();
  verb->add_option("--server-name", dial.server_name,
                   "Name in the coordinator's certificate, if not the host");
  return verb;
}

CLI::App* Group(CLI::App& app, const char* name, const char* help) {
  CLI::App* group = app.add_subcommand(name, help);
  group->require_subcommand(1);
  return group;
}

void AddCaVerbs(CLI::App& app, AdminFlags& flags) {
  CLI::App* ca = Group(app, "ca", "The certificate authority, offline");
  CLI::App* init = Verb(*ca, flags, "init", "Make a CA", [&flags]() {
    base::SystemRandom random;
    return RunCaInit(flags.init, TheClock(), random);
  });
  init->add_option("--dir", flags.init.directory, "Its folder")->required();
  init->add_option("--name", flags.init.name, "Its name")
      ->capture_default_str();
  init->add_option("--days", flags.init.days, "How long it is valid")
      ->capture_default_str();
  CLI::App* issue =
      Verb(*ca, flags, "issue", "Make a key and a certificate", [&flags]() {
        base::SystemRandom random;
        return RunCaIssue(flags.issue, TheClock(), random);
      });
  issue->add_option("--dir", flags.issue.directory, "The CA's folder")
      ->required();
  issue
      ->add_option("--role", flags.issue.role, "coordinator, operator or agent")
      ->required();
  issue->add_option("--name", flags.issue.name, "Whose certificate")
      ->required();
  issue
      ->add_option("--host", flags.issue.hosts,
                   "Host name or IP address of a coordinator (repeatable)")
      ->allow_extra_args(false);
  issue->add_option("--days", flags.issue.days, "How long it is valid")
      ->capture_default_str();
  CLI::App* revoke =
      Verb(*ca, flags, "revoke", "Add a certificate to crl.pem",
           [&flags]() { return RunCaRevoke(flags.revoke, TheClock()); });
  revoke->add_option("--dir", flags.revoke.directory, "The CA's folder")
      ->required();
  revoke->add_option("--serial", flags.revoke.serial, "Its serial number");
  revoke->add_option("--cert", flags.revoke.certificate, "Or its file");
}

void AddJobVerbs(CLI::App& app, AdminFlags& flags) {
  CLI::App* job = Group(app, "job", "Jobs of a coordinator");
  CLI::App* submit = OnlineVerb(
      *job, flags, "submit", "Queue a job", [&flags](AdminClient& client) {
        return client.SubmitJob(flags.file, flags.overrides);
      });
  submit->add_option("file", flags.file, "TOML with a [job] table")->required();
  submit
      ->add_option("--set", flags.overrides,
                   "Override a field: job.rounds.count=10 (repeatable)")
      ->allow_extra_args(false);
  OnlineVerb(*job, flags, "list", "All jobs",
             [](AdminClient& client) { return client.ListJobs(); });
  OnlineVerb(
      *job, flags, "show", "One job",
      [&flags](AdminClient& client) { return client.ShowJob(flags.job); })
      ->add_option("job", flags.job, "Its name")
      ->required();
  OnlineVerb(
      *job, flags, "stop", "Stop a job",
      [&flags](AdminClient& client) { return client.StopJob(flags.job); })
      ->add_option("job", flags.job, "Its name")
      ->required();
}

void AddClientVerbs(CLI::App& app, AdminFlags& flags) {
  CLI::App* token = Group(app, "token", "Enrolment tokens");
  CLI::App* create =
      OnlineVerb(*token, flags, "create", "Make a one-time token",
                 [&flags](AdminClient& client) {
                   return client.CreateToken(flags.client, flags.valid);
                 });
  create->add_option("--client", flags.client, "Only for a client so named");
  create->add_option("--valid", flags.valid, "For how long; default 24h");
  CLI::App* client = Group(app, "client", "Clients of a coordinator");
  OnlineVerb(*client, flags, "list", "All clients",
             [](AdminClient& admin) { return admin.ListClients(); });
  OnlineVerb(*client, flags, "approve", "Let a pending client in",
             [&flags](AdminClient& admin) {
               return admin.ApproveClient(flags.client);
             })
      ->add_option("client", flags.client, "Its name")
      ->required();
  CLI::App* revoke =
      OnlineVerb(*client, flags, "revoke", "Shut a client out",
                 [&flags](AdminClient& admin) {
                   return admin.RevokeClient(flags.client, flags.reason);
                 });
  revoke->add_option("client", flags.client, "Its name")->required();
  revoke->add_option("--reason", flags.reason, "Why");
  CLI::App* model = Group(app, "model", "Models of a coordinator");
  CLI::App* pull =
      OnlineVerb(*model, flags, "pull", "Fetch a version as a PEFT folder",
                 [&flags](AdminClient& admin) {
                   return admin.PullModel(flags.job, flags.version, flags.out);
                 });
  pull->add_option("--job", flags.job, "The job's name")->required();
  pull->add_option("--version", flags.version, "-1: the latest")
      ->capture_default_str();
  pull->add_option("--out", flags.out, "Folder to write")->required();
}

int Main(int argc, char** argv) {
  // gRPC's own lines would only repeat what our errors say.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  AdminFlags flags;
  CLI::App app("Choir's tool for operators.", "choir-admin");
  app.set_version_flag("--version", base::kVersion);
  app.footer(base::kExitCodeHelp);
  app.require_subcommand(1);
  AddCaVerbs(app, flags);
  AddJobVerbs(app, flags);
  AddClientVerbs(app, flags);
  if (const absl::optional<int> code =
          base::ParseCommandLine(app, argc, argv)) {
    return *code;
  }
  const Result result = flags.run();
  if (!result.ok()) {
    return base::PrintError(result.status(), flags.json,
                            absl::IsInvalidArgument(result.status()));
  }
  if (flags.json) {
    std::printf("%s\n", result->dump().c_str());
  } else {
    std::fputs(AdminText(*result).c_str(), stdout);
  }
  return base::kExitDone;
}

}  // namespace
}  // namespace choir::coordinator

int main(int argc, char** argv) {
  return choir::base::FinishOutput(choir::coordinator::Main(argc, argv));
}
