#include "coordinator/main/daemon.h"

#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <latch>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/cli.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "coordinator/main/job_json.h"
#include "coordinator/rpc/server.h"
#include "nlohmann/json.hpp"
#include "proto/config/toml_config.h"

namespace choir::coordinator {
namespace {

constexpr uint64_t kMaxPemBytes = 1u << 20;
constexpr absl::Duration kGrace = absl::Seconds(2);

absl::StatusOr<rpc::ServerOptions> LoadServerOptions(
    const DaemonOptions& options) {
  rpc::ServerOptions out;
  out.listen = options.listen;
  CHOIR_ASSIGN_OR_RETURN(out.ca_certificate_pem,
                         base::ReadFile(options.ca_certificate, kMaxPemBytes));
  CHOIR_ASSIGN_OR_RETURN(out.certificate_pem,
                         base::ReadFile(options.certificate, kMaxPemBytes));
  CHOIR_ASSIGN_OR_RETURN(const crypto::PrivateKey key,
                         crypto::PrivateKey::ReadFile(options.private_key));
  CHOIR_ASSIGN_OR_RETURN(out.private_key_pem, key.ToPem());
  out.crl_path = options.crl;
  if (!options.ca_private_key.empty()) {
    CHOIR_ASSIGN_OR_RETURN(
        crypto::PrivateKey ca_key,
        crypto::PrivateKey::ReadFile(options.ca_private_key));
    CHOIR_ASSIGN_OR_RETURN(out.enrolment.authority,
                           crypto::CertificateAuthority::FromPem(
                               out.ca_certificate_pem, std::move(ca_key)));
  }
  out.enrolment.lifetime = options.certificate_lifetime;
  out.enrolment.require_approval = options.require_approval;
  out.transfers.max_update_bytes = options.max_update_bytes;
  out.transfers.chunk_bytes = options.chunk_bytes;
  out.loop.long_poll = options.long_poll;
  out.runner.keep_updates = options.keep_updates;
  out.config_text = config::ToToml(ToProto(options));
  return out;
}

// Submits `job` on the loop's thread and waits. A job that is known already is
// no error: the daemon was started again with the same command line.
absl::Status SubmitIfNew(rpc::JobLoop& loop, const v1::JobConfig& job) {
  absl::Status status;
  std::latch done{1};
  const bool posted = loop.Post([&] {
    status = loop.Submit(job, "command line").status();
    done.count_down();
  });
  if (!posted) return absl::CancelledError("shutting down");
  done.wait();
  if (absl::IsAlreadyExists(status)) {
    base::LogInfo("job ", job.name(), " is known already");
    return absl::OkStatus();
  }
  return status;
}

// Returns at a stop signal or when there is nothing to do and nobody wants to
// wait for more.
void WaitForEnd(const rpc::JobLoop& loop, bool exit_when_idle) {
  pollfd signal = {base::StopSignal::file_descriptor(), POLLIN, 0};
  while (!base::StopSignal::requested()) {
    if (exit_when_idle && loop.idle()) {
      base::LogInfo("no job is left: leaving");
      return;
    }
    // Without exit_when_idle only the signal matters.
    ::poll(&signal, 1, exit_when_idle ? 100 : 60000);
  }
  base::LogInfo(
      "stopping: finishing what was begun (a second signal stops at "
      "once)");
}

int ExitCodeOf(const std::vector<v1::JobStatus>& jobs, bool exit_when_idle) {
  int code = base::kExitDone;
  for (const v1::JobStatus& job : jobs) {
    if (exit_when_idle && job.state() == "failed") return base::kExitFailed;
    if (job.rounds_lost() > 0) code = base::kExitRoundsLost;
  }
  return exit_when_idle ? code : base::kExitDone;
}

int StoreError(const absl::Status& status, bool json) {
  const int code = base::PrintError(status, json);
  if (store::IsStoreLocked(status)) return base::kExitStoreLocked;
  if (absl::IsNotFound(status)) return base::kExitNoStore;
  return code;
}

absl::Status Serve(const DaemonRun& run, rpc::CoordinatorServer& server) {
  for (const v1::JobConfig& job : run.jobs) {
    CHOIR_RETURN_IF_ERROR(SubmitIfNew(server.loop(), job));
  }
  if (!run.options.port_file.empty()) {
    CHOIR_RETURN_IF_ERROR(base::WriteFileAtomic(
        run.options.port_file, absl::StrCat(server.port(), "\n"),
        base::Durability::kProcessCrash));
  }
  base::LogInfo("listening on port ", server.port(), ", store ",
                run.options.store);
  WaitForEnd(server.loop(), run.options.exit_when_idle);
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckFiles(const DaemonOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const rpc::ServerOptions server,
                         LoadServerOptions(options));
  const base::WallClock clock;
  CHOIR_RETURN_IF_ERROR(rpc::CheckOwnCertificate(server, clock.Now()));
  if (!server.crl_path.empty()) {
    CHOIR_ASSIGN_OR_RETURN(const std::string crl,
                           base::ReadFile(server.crl_path, 64u << 20));
    CHOIR_RETURN_IF_ERROR(
        crypto::ParseRevocationList(crl, server.ca_certificate_pem).status());
  }
  return absl::OkStatus();
}

int RunDaemon(DaemonRun run) {
  absl::StatusOr<rpc::ServerOptions> options = LoadServerOptions(run.options);
  if (!options.ok()) {
    return base::PrintError(options.status(), run.json, /*usage=*/true);
  }
  const base::WallClock clock;
  base::SystemRandom random;
  absl::StatusOr<std::unique_ptr<store::Store>> store = store::Store::Open(
      run.options.store, base::Durability::kPowerLoss, clock);
  if (!store.ok()) return StoreError(store.status(), run.json);
  // An upload that nobody resumed for so long never will be.
  const absl::StatusOr<int> stale =
      (*store)->blobs().RemoveStaleIncoming(absl::Hours(24 * 7), clock);
  if (!stale.ok()) return StoreError(stale.status(), run.json);
  base::StopSignal::Install();
  // One left by a run that was killed would be taken for readiness.
  if (!run.options.port_file.empty()) {
    ::unlink(run.options.port_file.c_str());
  }
  std::vector<v1::JobStatus> jobs;
  {
    absl::StatusOr<std::unique_ptr<rpc::CoordinatorServer>> server =
        rpc::CoordinatorServer::Start(*std::move(options), **store, clock,
                                      random);
    if (!server.ok()) return base::PrintError(server.status(), run.json);
    const absl::Status served = Serve(run, **server);
    (*server)->Shutdown(kGrace);
    if (!served.ok()) return base::PrintError(served, run.json);
    jobs = (*server)->jobs();
  }
  if (const absl::Status closed = (*store)->Close(); !closed.ok()) {
    return base::PrintError(closed, run.json);
  }
  base::LogInfo("stopped");
  if (run.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const v1::JobStatus& job : jobs) list.push_back(JobJson(job));
    std::printf("%s\n", nlohmann::json({{"jobs", list}}).dump().c_str());
  }
  return ExitCodeOf(jobs, run.options.exit_when_idle);
}

}  // namespace choir::coordinator
