// Rounds that are summed in secret: clients' messages in, sums out.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/secure_random.h"
#include "base/status_macros.h"
#include "coordinator/aggregate/group_rule.h"
#include "coordinator/runner/job_runner_impl.h"
#include "coordinator/runner/update_sum.h"
#include "privacy/secagg/round_spec.h"
#include "proto/codec/plan_digest.h"

namespace choir::runner {
namespace {

using Answer = absl::optional<v1::SecureServerMessage>;

constexpr size_t kSessionIdBytes = 32;
// Of a client's own words in the journal.
constexpr size_t kMaxDetailBytes = 200;

std::string Printable(const std::string& text) {
  std::string out = text.substr(0, kMaxDetailBytes);
  for (char& c : out) {
    if (c < ' ' || c > '~') c = '?';
  }
  return out;
}

bool Names(const v1::SecureSession& session, const v1::TaskKey& key) {
  return key.kind() == v1::TASK_KIND_TRAIN && key.job() == session.job() &&
         key.round() == session.round() && key.attempt() == session.attempt();
}

}  // namespace

absl::StatusOr<Answer> JobRunner::PostSecure(const std::string&,
                                             const v1::SecureExchangeRequest&) {
  return absl::FailedPreconditionError(
      "this job's updates are summed in the open; report yours");
}

std::unique_ptr<engine::Engine> JobRunnerImpl::MakeEngine(
    const config::JobOptions& options, engine::JobFacts facts) {
  return std::make_unique<engine::Engine>(
      options, std::move(facts),
      [this](const v1::TaskPlan& plan, uint32_t max_clients) {
        return MakeSession(plan, max_clients);
      });
}

secagg::ContributionSpec JobRunnerImpl::SpecOf(
    const v1::SecureSession& session) const {
  const v1::JobConfig config = config::ToProto(engine_->options());
  return secagg::RoundSpec(config.aggregation(), config.secure_aggregation(),
                           session,
                           static_cast<uint64_t>(layout_.num_elements()));
}

absl::StatusOr<v1::SecureSession> JobRunnerImpl::MakeSession(
    const v1::TaskPlan& plan, uint32_t max_clients) const {
  std::string id(kSessionIdBytes, '\0');
  const auto bytes =
      absl::MakeSpan(reinterpret_cast<uint8_t*>(id.data()), id.size());
  base::SystemRandom system;
  (options_.random != nullptr ? *options_.random : system).Fill(bytes);
  v1::SecureSession session;
  session.set_session_id(id);
  session.set_job(plan.key().job());
  session.set_round(plan.key().round());
  session.set_attempt(plan.key().attempt());
  session.set_model_digest(codec::ModelDigest(plan));
  session.set_config_digest(codec::ConfigDigest(plan));
  session.set_max_clients(max_clients);
  *session.mutable_assumptions() =
      AssumptionsOf(engine_->options().secure_aggregation);
  const secagg::ContributionSpec spec = SpecOf(session);
  CHOIR_ASSIGN_OR_RETURN(const int bits, secagg::ModulusBits(spec));
  session.set_modulus_bits(static_cast<uint32_t>(bits));
  session.set_length(secagg::ContributionLength(spec));
  return session;
}

SecureRound* JobRunnerImpl::SecureRoundOf(const v1::TaskKey& key) {
  if (secure_ != nullptr && Names(secure_->session(), key)) {
    return secure_.get();
  }
  const v1::SecureSession* session = engine_->secure_session();
  if (session == nullptr || !Names(*session, key)) return nullptr;
  refusals_logged_.clear();
  secure_ = std::make_unique<SecureRound>(key, *session, SpecOf(*session),
                                          *options_.verifier, used_keys_);
  return secure_.get();
}

absl::StatusOr<Answer> JobRunnerImpl::PostSecure(
    const std::string& client, const v1::SecureExchangeRequest& request) {
  CHOIR_RETURN_IF_ERROR(Drain());
  if (!engine_->options().secure_aggregation.enabled) {
    return JobRunner::PostSecure(client, request);
  }
  const bool masked = request.message().has_masked();
  const std::string& digest = request.message().masked().digest();
  if (masked && !store::IsDigestText(digest)) {
    return absl::InvalidArgumentError(
        "masked vector is not named by 64 lower-case hexadecimal digits "
        "(SHA-256)");
  }
  asking_ = client;
  const absl::Cleanup done = [this] { asking_.clear(); };
  absl::StatusOr<Answer> answer = HearSecure(client, request);
  // In the sum, or too late for it.
  if (masked && (answer.ok() || absl::IsAborted(answer.status()))) {
    RemoveMasked(digest);
  }
  return answer;
}

absl::StatusOr<Answer> JobRunnerImpl::HearSecure(
    const std::string& client, const v1::SecureExchangeRequest& request) {
  SecureRound* round = SecureRoundOf(request.key());
  if (request.message().has_refusal()) {
    CHOIR_RETURN_IF_ERROR(RefuseSession(round, client, request));
    return absl::AbortedError("the client has left the session");
  }
  if (round == nullptr) {
    return absl::AbortedError(
        absl::StrCat("round ", request.key().round(), ", attempt ",
                     request.key().attempt(), " is over; check in again"));
  }
  const absl::string_view phase = PhaseOf(request.message());
  if (phase.empty()) {
    return absl::InvalidArgumentError("an empty message of the protocol");
  }
  CHOIR_ASSIGN_OR_RETURN(Answer answer, round->AnswerAfter(client, phase));
  if (answer.has_value()) return answer;
  CHOIR_RETURN_IF_ERROR(TakeSecure(*round, client, request));
  const absl::Status drained = Drain();
  if (!drained.ok()) return drained;
  return round->AnswerAfter(client, phase);
}

absl::Status JobRunnerImpl::RefuseSession(
    SecureRound* round, const std::string& client,
    const v1::SecureExchangeRequest& request) {
  const v1::SecureRefusal& refusal = request.message().refusal();
  const std::string reason =
      v1::SecureRefusal::Reason_IsValid(refusal.reason())
          ? v1::SecureRefusal::Reason_Name(refusal.reason())
          : absl::StrCat(refusal.reason());
  std::string text = absl::StrCat("refused the secure session: ", reason);
  if (!refusal.detail().empty()) {
    absl::StrAppend(&text, ": ", Printable(refusal.detail()));
  }
  if (refusals_logged_.insert(client).second) {
    base::LogWarning("job ", request.key().job(), " round ",
                     request.key().round(), " attempt ",
                     request.key().attempt(), ": client ", client, " ", text);
  }
  // Who is out already changes nothing any more, but is heard.
  if (round != nullptr && engine_->WantsSecure(client, request.key())) {
    round->Refused(client, request.message());
  }
  engine::SecureRefused event{client, request.key(), text};
  if (round != nullptr) event.accused = round->Accused(client, refusal);
  Enqueue(engine_->Handle(event, Arrived()));
  return Drain();
}

void JobRunnerImpl::RemoveMasked(const std::string& digest) {
  // A client may name any blob of the store.
  if (IsMaskedBlob(store_.blobs(), digest)) {
    RemoveBlobs({digest}).IgnoreError();  // logged there
  }
}

void JobRunnerImpl::RemoveMaskedStrays() {
  for (auto it = strays_.begin(); it != strays_.end();) {
    const bool masked = IsMaskedBlob(store_.blobs(), *it);
    if (masked) RemoveMasked(*it);
    it = masked ? strays_.erase(it) : std::next(it);
  }
}

absl::Status JobRunnerImpl::TakeSecure(
    SecureRound& round, const std::string& client,
    const v1::SecureExchangeRequest& request) {
  const v1::SecureClientMessage& message = request.message();
  const std::string phase(PhaseOf(message));
  if (!engine_->WantsSecure(client, request.key())) {
    return absl::AbortedError(
        "the round goes on without this client; check in again");
  }
  const std::string open = engine_->secure_phase(request.key());
  if (phase != open) {
    return absl::FailedPreconditionError(absl::StrCat(
        "a message of phase ", phase, " where ", open, " is in progress"));
  }
  engine::SecureAnswered event;
  event.client = client;
  event.key = request.key();
  event.phase = phase;
  event.bytes = message.ByteSizeLong();
  event.digest = DigestOf(message);
  event.bytes_downloaded = request.bytes_downloaded();
  const bool masked = message.has_masked();
  if (masked) {
    event.bytes += message.masked().size();
    event.digest = message.masked().digest();
  }
  if (!round.Taken(client, message)) {
    std::string payload;
    if (masked) {
      const uint64_t expected = secagg::EncodedMaskedBytes(
          static_cast<int>(round.session().modulus_bits()),
          round.session().length());
      if (message.masked().size() != expected) {
        return absl::InvalidArgumentError(
            absl::StrCat("masked vector has ", message.masked().size(),
                         " bytes; this session's have ", expected));
      }
      absl::StatusOr<std::string> bytes =
          store_.blobs().Read(message.masked().digest());
      if (absl::IsNotFound(bytes.status())) {
        return absl::NotFoundError(absl::StrCat(
            "masked vector ", message.masked().digest(), " was not uploaded"));
      }
      CHOIR_RETURN_IF_ERROR(bytes.status());
      payload = *std::move(bytes);
    }
    const absl::Status taken = round.Receive(client, message, payload);
    if (masked && taken.ok()) {
      // It is in the sum; nobody shall ever see it by itself.
      RemoveMasked(message.masked().digest());
    } else if (masked && strays_.size() < kMaxStrays) {
      strays_.insert(message.masked().digest());
    }
    CHOIR_RETURN_IF_ERROR(taken);
  }
  Enqueue(engine_->Handle(event, Arrived()));
  return absl::OkStatus();
}

absl::Status JobRunnerImpl::PerformClose(
    const engine::CloseSecurePhase& action) {
  SecureRound* round = SecureRoundOf(action.key);
  CHOIR_CHECK(round != nullptr);
  if (action.phase == engine::kAdvertiseKeys) {
    engine::SecureUnfit unfit{action.key, round->TakeUnfit(action.members)};
    if (!unfit.reasons.empty()) {
      Enqueue(engine_->Handle(unfit, clock_.Now()));
      return absl::OkStatus();
    }
  }
  engine::SecurePhaseAdvanced advanced{action.key, action.phase,
                                       round->Close(action, pool_)};
  if (action.phase == engine::kMaskedInput) RemoveMaskedStrays();
  // The next phase begins now, whenever what ended this one arrived.
  Enqueue(engine_->Handle(advanced, clock_.Now()));
  return absl::OkStatus();
}

void JobRunnerImpl::SendSecure(
    const std::string& client, const v1::TaskKey& key,
    const absl::StatusOr<v1::SecureServerMessage>& answer) {
  if (client != asking_) hooks_.send_secure(client, key, answer);
}

absl::Status JobRunnerImpl::PerformOpen(const engine::OpenSecurePhase& action) {
  SecureRound* round = SecureRoundOf(action.key);
  if (round == nullptr) return absl::OkStatus();
  round->Open(action.phase);
  for (const auto& [client, phase] : round->participants()) {
    absl::StatusOr<Answer> answer = round->AnswerAfter(client, phase);
    if (!answer.ok()) {
      round->Tell(client);
      SendSecure(client, action.key, answer.status());
    } else if (answer->has_value()) {
      SendSecure(client, action.key, *std::move(*answer));
    }
  }
  return absl::OkStatus();
}

void JobRunnerImpl::PerformAbort(const engine::AbortSecure& action) {
  RemoveMaskedStrays();
  if (secure_ == nullptr || !Names(secure_->session(), action.key)) return;
  secure_->End(absl::StrCat("the attempt is over: ", action.reason));
  for (const auto& [client, phase] : secure_->participants()) {
    secure_->Tell(client);
    SendSecure(client, action.key,
               secure_->AnswerAfter(client, phase).status());
  }
}

absl::StatusOr<v1::RoundCommitted> JobRunnerImpl::SumSecurely(
    const engine::AggregateSecure& action) {
  const config::JobOptions& options = engine_->options();
  std::vector<aggregate::IntegerSum> sums;
  std::vector<std::string> survivors;
  double loss = 0.0;
  double weight = 0.0;
  double squares = 0.0;
  double worst = 0.0;
  for (const GroupSum& group : secure_->sums()) {
    CHOIR_ASSIGN_OR_RETURN(
        aggregate::IntegerSum sum,
        aggregate::IntegerSum::FromSums(
            layout_.digest(), options.aggregation.fixed_point_bits,
            group.sum.sums, group.survivors.size(), group.sum.total_weight));
    sums.push_back(std::move(sum));
    survivors.insert(survivors.end(), group.survivors.begin(),
                     group.survivors.end());
    const double its_weight = static_cast<double>(group.sum.total_weight);
    const double error = group.sum.rounding_error_l2;
    weight += its_weight;
    loss += its_weight * group.sum.mean_loss;
    squares += its_weight * error * its_weight * error;
    worst = std::max(worst, error);
  }
  std::sort(survivors.begin(), survivors.end());
  if (survivors != action.survivors) {
    return absl::InternalError(
        "those in the sums are not those who were to be summed");
  }
  const config::GroupRule rule = options.secure_aggregation.group_rule;
  CHOIR_ASSIGN_OR_RETURN(const aggregate::IntegerSum combined,
                         aggregate::CombineGroups(rule, sums));
  CHOIR_ASSIGN_OR_RETURN(
      v1::RoundCommitted committed,
      StepServer(action.round, action.attempt, action.adapter,
                 action.server_state, combined.Encode()));
  if (options.secure_aggregation.group_size > 0) {
    for (const aggregate::IntegerSum& sum : sums) {
      CHOIR_ASSIGN_OR_RETURN(*committed.add_group_aggregates(),
                             PutBlob(sum.Encode()));
    }
  }
  committed.set_total_weight(combined.total_weight());
  committed.set_mean_train_loss(loss / weight);
  // Errors of a mean add as squares; a robust rule picks one group.
  committed.set_rounding_error_l2(
      rule == config::GroupRule::kMean ? std::sqrt(squares) / weight : worst);
  return committed;
}

absl::Status JobRunnerImpl::PerformSecureSum(
    const engine::AggregateSecure& action) {
  CHOIR_CHECK(secure_ != nullptr);
  absl::StatusOr<v1::RoundCommitted> committed = SumSecurely(action);
  if (absl::IsUnavailable(committed.status())) return committed.status();
  if (committed.ok()) secure_->End("");
  return AnswerSum(action.round, action.attempt, std::move(committed));
}

}  // namespace choir::runner
