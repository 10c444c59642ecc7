#include "client/agent/agent.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "client/agent/model_folder.h"
#include "client/agent/retry.h"

namespace choir::client {
namespace {

constexpr uint64_t kMaxAdapterBytes = 2ull << 30;
constexpr int kMaxDamaged = 3;
constexpr BackoffOptions kBackoff = {.max = absl::Seconds(20)};
constexpr absl::Duration kProgressEvery = absl::Seconds(2);
constexpr absl::Duration kMinRetry = absl::Milliseconds(10);
constexpr absl::Duration kMaxRetry = absl::Minutes(5);

}  // namespace

std::string Agent::Label(const v1::TaskKey& key) {
  return absl::StrCat("job ", key.job(),
                      key.kind() == v1::TASK_KIND_EVALUATE
                          ? ", evaluation of version "
                          : ", round ",
                      key.round());
}

Agent::Agent(const ClientOptions& options, std::unique_ptr<StateDir> state,
             const AgentDeps& deps)
    : options_(options),
      state_(std::move(state)),
      deps_(deps),
      cache_(state_->blobs_path(), options.cache_bytes, deps.clock),
      enrolment_(options, *state_, deps.transport, deps.clock, deps.random,
                 deps.sleeper),
      backoff_(kBackoff, deps.random),
      task_backoff_({}, deps.random) {}

bool Agent::Done(uint64_t max_rounds) const {
  return deps_.sleeper.stopping() ||
         (max_rounds > 0 && summary_.rounds >= max_rounds);
}

absl::StatusOr<AgentSummary> Agent::Run(uint64_t max_rounds) {
  absl::Status status = enrolment_.EnsureEnrolled();
  if (status.ok()) status = WithdrawUnmasked();
  while (status.ok() && !Done(max_rounds)) {
    if (state_->pending().has_value()) {
      base::LogInfo(Label(state_->pending()->key()),
                    ": reporting work that was finished before");
      status = Deliver();
    } else {
      status = Step();
    }
  }
  summary_.stopped = deps_.sleeper.stopping();
  if (!status.ok() && !summary_.stopped) return status;
  return summary_;
}

absl::Status Agent::Pause(absl::string_view act, const absl::Status& status) {
  if (deps_.sleeper.stopping()) return absl::OkStatus();
  if (KindOf(status) == ErrorKind::kFatal) {
    return absl::Status(status.code(),
                        absl::StrCat(options_.name, " cannot go on (", act,
                                     "): ", status.message()));
  }
  const absl::Duration wait = backoff_.Next();
  base::LogWarning(act, ": ", Describe(status), "; next try in ",
                   absl::FormatDuration(wait));
  deps_.sleeper.Sleep(wait);
  return absl::OkStatus();
}

absl::Status Agent::Step() {
  CHOIR_RETURN_IF_ERROR(enrolment_.RenewIfDue());
  v1::CheckInRequest request;
  *request.mutable_capabilities() = deps_.runner.capabilities();
  const absl::StatusOr<v1::CheckInResponse> response =
      deps_.transport.CheckIn(request);
  if (deps_.sleeper.stopping()) return absl::OkStatus();
  if (!response.ok()) return Pause("check-in", response.status());
  if (response->has_task()) return DoTask(response->task());
  backoff_.Reset();
  const absl::Duration wait = std::clamp(
      absl::Milliseconds(response->retry_after_ms()), kMinRetry, kMaxRetry);
  base::LogDebug("no task yet; asking again in ", absl::FormatDuration(wait));
  deps_.sleeper.Sleep(wait);
  return absl::OkStatus();
}

absl::Status Agent::DoTask(const v1::TaskPlan& plan) {
  const absl::Time expires =
      deps_.clock.Now() + (plan.deadline_ms() == 0
                               ? absl::InfiniteDuration()
                               : absl::Milliseconds(std::min<uint64_t>(
                                     plan.deadline_ms(), 1ull << 40)));
  const std::string obstacle = Obstacle(plan);
  if (!obstacle.empty()) return ReportFailure(plan.key(), obstacle);
  const uint64_t downloaded_before = cache_.bytes_downloaded();
  TaskResult result;
  const absl::Status status = Work(plan, expires, &result);
  const uint64_t downloaded = cache_.bytes_downloaded() - downloaded_before;
  summary_.bytes_down += downloaded;
  if (deps_.sleeper.stopping()) return absl::OkStatus();
  if (!status.ok()) {
    if (absl::IsAborted(status) || absl::IsNotFound(status) ||
        KindOf(status) == ErrorKind::kFatal) {
      return Pause(Label(plan.key()), status);
    }
    result.report = MakeFailureReport(plan.key(), status.message());
    result.update_bytes.clear();
  }
  if (result.report.has_train() && plan.has_secure_session()) {
    return DoSecure(plan, result, downloaded);
  }
  if (result.report.has_train()) {
    result.report.mutable_train()->set_bytes_downloaded(downloaded);
  } else if (result.report.has_evaluation()) {
    result.report.mutable_evaluation()->set_bytes_downloaded(downloaded);
  }
  const absl::Status saved =
      state_->SavePending(result.report, result.update_bytes);
  // A full disk may have room again later; the task is done anew then.
  if (!saved.ok()) return Pause(Label(plan.key()), saved);
  return Deliver();
}

absl::Status Agent::Work(const v1::TaskPlan& plan, absl::Time expires,
                         TaskResult* result) {
  const std::string label = Label(plan.key());
  CHOIR_RETURN_IF_ERROR(CheckModelFiles(plan.base_model()));
  if (plan.adapter().size() > kMaxAdapterBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the adapter has ", plan.adapter().size(),
                     " bytes; the limit is ", kMaxAdapterBytes));
  }
  std::set<std::string> keep = {plan.adapter().digest()};
  for (const v1::ModelFile& file : plan.base_model()) {
    keep.insert(file.blob().digest());
  }
  for (const v1::ModelFile& file : plan.base_model()) {
    CHOIR_RETURN_IF_ERROR(Fetch(file.blob(), keep, expires).status());
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string adapter_path,
                         Fetch(plan.adapter(), keep, expires));
  CHOIR_RETURN_IF_ERROR(RememberAdapter(plan.adapter()));
  CHOIR_ASSIGN_OR_RETURN(
      const std::string folder,
      LinkModelFolder(state_->models_path(), plan.base_model()));
  CHOIR_ASSIGN_OR_RETURN(const std::string adapter,
                         base::ReadFile(adapter_path, kMaxAdapterBytes));
  const char* verb =
      plan.key().kind() == v1::TASK_KIND_EVALUATE ? "evaluation" : "training";
  absl::Time next_line = deps_.clock.Now() + kProgressEvery;
  const auto progress = [&](int step, int steps) -> absl::Status {
    const absl::Time now = deps_.clock.Now();
    if (deps_.sleeper.stopping()) return absl::CancelledError("asked to stop");
    if (now > expires) {
      return absl::AbortedError(absl::StrCat("its deadline passed at ", verb,
                                             " step ", step, " of ", steps));
    }
    if (now >= next_line) {
      base::LogInfo(label, ": ", verb, " step ", step, "/", steps);
      next_line = now + kProgressEvery;
    }
    return absl::OkStatus();
  };
  base::LogInfo(label, ": ", verb, " begins");
  CHOIR_ASSIGN_OR_RETURN(
      *result,
      deps_.runner.Run(plan, folder, BaseModelDigest(plan.base_model()),
                       adapter, progress));
  if (result->report.has_train()) {
    const v1::TrainReport& train = result->report.train();
    base::LogInfo(label, ": trained ", train.steps(), " steps on ",
                  train.num_examples(), " examples, mean loss ",
                  train.mean_loss());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Agent::Fetch(const v1::BlobRef& blob,
                                         const std::set<std::string>& keep,
                                         absl::Time expires) {
  int damaged = 0;
  while (!deps_.sleeper.stopping()) {
    absl::StatusOr<std::string> path =
        cache_.Fetch(blob, deps_.transport, keep);
    if (path.ok()) {
      base::LogDebug("blob ", blob.digest(), " of ", blob.size(),
                     " bytes is here");
      backoff_.Reset();
      return path;
    }
    // A coordinator that began anew, or gave the task up, does not know it.
    if (absl::IsPermissionDenied(path.status())) {
      return absl::AbortedError(path.status().message());
    }
    if (absl::IsDataLoss(path.status()) && ++damaged >= kMaxDamaged) {
      return path.status();
    }
    if (!absl::IsDataLoss(path.status()) &&
        KindOf(path.status()) != ErrorKind::kTransient) {
      return path.status();
    }
    if (deps_.clock.Now() > expires) {
      return absl::AbortedError(absl::StrCat(
          "its deadline passed while downloading: ", path.status().message()));
    }
    CHOIR_RETURN_IF_ERROR(Pause("download", path.status()));
  }
  return absl::CancelledError("asked to stop");
}

absl::Status Agent::RememberAdapter(const v1::BlobRef& adapter) {
  const std::string before = state_->adapter_digest();
  if (before == adapter.digest()) return absl::OkStatus();
  // Adapters change every round; only the last one may be of use again.
  CHOIR_RETURN_IF_ERROR(state_->SetAdapterDigest(adapter.digest()));
  if (!before.empty()) cache_.Remove(before);
  return absl::OkStatus();
}

}  // namespace choir::client
