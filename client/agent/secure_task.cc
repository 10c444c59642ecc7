// The part of the agent that hands updates over in secret: a session of
// privacy/secagg, whose messages are exchanged with the coordinator.
//
// The session's secrets live in memory only. An agent that is stopped or killed
// amid a session has lost them: it takes no further part in that attempt.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "client/agent/agent.h"
#include "client/agent/retry.h"
#include "client/session/secure_participation.h"
#include "privacy/crypto/authority.h"

namespace choir::client {
namespace {

constexpr absl::Duration kMinRetry = absl::Milliseconds(10);
constexpr int kMaxDamaged = 3;
constexpr absl::Duration kMaxRetry = absl::Seconds(10);

constexpr absl::string_view kNoEvaluation =
    "this client does not evaluate: the results would travel unmasked "
    "(secure_aggregation.required or open_evaluation in client.toml); set "
    "evaluation.every = 0 in the job, or open_evaluation = true here";

std::string SessionText(const v1::TaskPlan& plan) {
  return absl::BytesToHexString(plan.secure_session().session_id());
}

}  // namespace

std::string Agent::Obstacle(const v1::TaskPlan& plan) const {
  if (plan.key().kind() == v1::TASK_KIND_EVALUATE) {
    return options_.secure.evaluates() ? "" : std::string(kNoEvaluation);
  }
  if (plan.key().kind() != v1::TASK_KIND_TRAIN) return "";
  if (!plan.has_secure_session()) {
    return options_.secure.required
               ? "this client hands updates over only in secret "
                 "(secure_aggregation.required in client.toml); the job has "
                 "no secure_aggregation"
               : "";
  }
  if (SessionText(plan) == state_->secure_session()) {
    return "this client has left this session, and lost its secrets; it takes "
           "part again in the next";
  }
  if (enrolment_.signer() == nullptr) {
    return "this client has no valid signing certificate yet; the coordinator "
           "issues it at enrolment and renewal, or `choir-admin ca issue` "
           "makes one";
  }
  return "";
}

absl::Status Agent::ReportFailure(const v1::TaskKey& key,
                                  absl::string_view reason) {
  const absl::Status saved =
      state_->SavePending(MakeFailureReport(key, reason), "");
  if (!saved.ok()) return Pause(Label(key), saved);
  return Deliver();
}

absl::Status Agent::WithdrawUnmasked() {
  if (!state_->pending().has_value()) return absl::OkStatus();
  const v1::ReportRequest& pending = *state_->pending();
  const bool update = pending.has_train() && options_.secure.required;
  const bool evaluation =
      pending.has_evaluation() && !options_.secure.evaluates();
  if (!update && !evaluation) return absl::OkStatus();
  const v1::ReportRequest failure = MakeFailureReport(
      pending.key(), update ? "finished before this client was told to hand "
                              "updates over only in secret"
                            : kNoEvaluation);
  absl::Status saved = state_->SavePending(failure, "");
  while (!saved.ok() && !deps_.sleeper.stopping()) {
    CHOIR_RETURN_IF_ERROR(Pause("state folder", saved));
    saved = state_->SavePending(failure, "");
  }
  return absl::OkStatus();
}

absl::Status Agent::ReadPeers() {
  CHOIR_ASSIGN_OR_RETURN(const std::string ca,
                         base::ReadFile(options_.ca_certificate, 1u << 20));
  if (peers_ == nullptr) {
    CHOIR_ASSIGN_OR_RETURN(peers_,
                           secagg::CertifiedPeers::Create(ca, deps_.clock));
  }
  if (options_.secure.crl.empty()) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(const std::string crl,
                         base::ReadFile(options_.secure.crl, 16u << 20));
  CHOIR_ASSIGN_OR_RETURN(const auto revoked,
                         crypto::ParseRevocationList(crl, ca));
  peers_->SetRevoked(crypto::SerialSet(revoked));
  return absl::OkStatus();
}

absl::StatusOr<secagg::ClientSession> Agent::BeginSession(
    const v1::TaskPlan& plan, const TaskResult& trained) {
  CHOIR_RETURN_IF_ERROR(ReadPeers());
  if (history_ == nullptr) {
    CHOIR_ASSIGN_OR_RETURN(history_,
                           secagg::DeviceHistory::Open(state_->sessions_path(),
                                                       state_->keys_path()));
  }
  const secagg::CertifiedSigner* signer = enrolment_.signer();
  if (signer == nullptr) {
    return absl::FailedPreconditionError("the signing certificate expired");
  }
  CHOIR_ASSIGN_OR_RETURN(
      secagg::ClientSession session,
      JoinSecureSession(plan, trained, options_.secure,
                        deps_.random.NextUint64(),
                        {*signer, *peers_, *history_, deps_.random}));
  // Before anything is said: a killed agent does not begin it again.
  CHOIR_RETURN_IF_ERROR(state_->SetSecureSession(SessionText(plan)));
  return session;
}

absl::Status Agent::DoSecure(const v1::TaskPlan& plan,
                             const TaskResult& trained,
                             uint64_t bytes_downloaded) {
  absl::StatusOr<secagg::ClientSession> session = BeginSession(plan, trained);
  absl::Status status = session.status();
  if (status.ok()) {
    v1::SecureExchangeRequest request;
    *request.mutable_key() = plan.key();
    request.set_bytes_downloaded(bytes_downloaded);
    // Not how long training took: that would tell the number of examples, which
    // travels masked.
    status = TalkInSecret(plan.key(), *session, std::move(request));
  }
  if (status.ok() || deps_.sleeper.stopping()) return absl::OkStatus();
  base::LogWarning(Label(plan.key()), ": given up: ", Describe(status));
  return ReportFailure(plan.key(), status.message());
}

absl::Status Agent::TalkInSecret(const v1::TaskKey& key,
                                 secagg::ClientSession& session,
                                 v1::SecureExchangeRequest request) {
  const absl::Cleanup wipe = [&request] {
    secagg::WipeShares(*request.mutable_message());
  };
  absl::optional<secagg::ClientStep> step = session.Start();
  while (!deps_.sleeper.stopping()) {
    if (step->refused()) {
      const v1::SecureRefusal& refusal = step->message.refusal();
      ++summary_.secure_refusals;
      base::LogWarning(Label(key), ": this client refuses to go on: ",
                       v1::SecureRefusal::Reason_Name(refusal.reason()), ": ",
                       refusal.detail());
    }
    secagg::WipeShares(*request.mutable_message());
    *request.mutable_message() = step->message;
    const absl::StatusOr<absl::optional<v1::SecureServerMessage>> answer =
        Exchange(request, step->payload);
    // A refusal ends the session whatever the coordinator says to it.
    if (step->refused() || deps_.sleeper.stopping()) return absl::OkStatus();
    if (absl::IsAborted(answer.status())) {
      ++summary_.too_late;
      base::LogInfo(Label(key), ": over: ", answer.status().message());
      return absl::OkStatus();
    }
    CHOIR_RETURN_IF_ERROR(answer.status());
    if (!answer->has_value()) continue;
    backoff_.Reset();
    absl::optional<secagg::ClientStep> next = session.Handle(**answer);
    if (next.has_value()) {
      step = std::move(next);
    } else if (session.finished()) {
      CountEnd(key, **answer);
      return absl::OkStatus();
    } else {
      // An older message said again: ours, too.
      deps_.sleeper.Sleep(kMinRetry);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<absl::optional<v1::SecureServerMessage>> Agent::Exchange(
    const v1::SecureExchangeRequest& request, const std::string& payload) {
  bool uploaded = payload.empty();
  int damaged = 0;
  while (!deps_.sleeper.stopping()) {
    absl::Status status;
    if (!uploaded) {
      v1::BlobRef blob;
      blob.set_digest(request.message().masked().digest());
      blob.set_size(request.message().masked().size());
      status =
          UploadBlob(request.key(), blob,
                     [&payload](uint64_t offset, uint64_t bytes, char* out) {
                       std::memcpy(out, payload.data() + offset, bytes);
                       return absl::OkStatus();
                     });
      uploaded = status.ok();
    }
    if (status.ok()) {
      absl::StatusOr<v1::SecureExchangeResponse> response =
          deps_.transport.SecureExchange(request);
      if (response.ok() && response->has_message()) {
        return absl::make_optional(std::move(*response->mutable_message()));
      }
      if (response.ok()) {
        if (request.message().has_refusal()) return absl::nullopt;
        backoff_.Reset();
        deps_.sleeper.Sleep(
            std::clamp(absl::Milliseconds(response->retry_after_ms()),
                       kMinRetry, kMaxRetry));
        continue;
      }
      status = response.status();
    }
    if (deps_.sleeper.stopping()) break;
    // The coordinator does not have the vector (any more), or not intact.
    const bool lost = (absl::IsNotFound(status) && !payload.empty()) ||
                      (absl::IsDataLoss(status) && ++damaged < kMaxDamaged);
    if (lost) uploaded = payload.empty();
    if (!lost && KindOf(status) != ErrorKind::kTransient) return status;
    CHOIR_RETURN_IF_ERROR(Pause(Label(request.key()), status));
  }
  return absl::nullopt;
}

void Agent::CountEnd(const v1::TaskKey& key,
                     const v1::SecureServerMessage& message) {
  if (message.has_done()) {
    ++summary_.rounds;
    task_backoff_.Reset();
    base::LogInfo(Label(key), ": accepted, in a secret sum");
    return;
  }
  ++summary_.too_late;
  base::LogInfo(Label(key), ": over: ", message.abort().reason());
}

}  // namespace choir::client
