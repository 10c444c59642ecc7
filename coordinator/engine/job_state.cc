#include "coordinator/engine/job_state.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/saturating_add.h"
#include "proto/codec/task_key.h"

namespace choir::engine {
namespace {

v1::TaskKey MakeKey(const std::string& job, uint32_t round, uint32_t attempt,
                    v1::TaskKind kind) {
  v1::TaskKey key;
  key.set_job(job);
  key.set_round(round);
  key.set_attempt(attempt);
  key.set_kind(kind);
  return key;
}

template <typename Names>
bool SortedAndUnique(const Names& names) {
  for (int i = 1; i < names.size(); ++i) {
    if (names[i - 1] >= names[i]) return false;
  }
  return true;
}

template <typename Map>
std::set<std::string, std::less<>> Keys(const Map& map) {
  std::set<std::string, std::less<>> keys;
  for (const auto& [key, value] : map) keys.insert(keys.end(), key);
  return keys;
}

// The job a record is about; empty for other kinds of records.
absl::string_view JobOf(const v1::JournalRecord& record) {
  switch (record.record_case()) {
    case v1::JournalRecord::kJobStarted:
      return record.job_started().job();
    case v1::JournalRecord::kJobFinished:
      return record.job_finished().job();
    case v1::JournalRecord::kRoundStarted:
      return record.round_started().job();
    case v1::JournalRecord::kUpdateAccepted:
      return record.update_accepted().key().job();
    case v1::JournalRecord::kUpdateRefused:
      return record.update_refused().key().job();
    case v1::JournalRecord::kClientLost:
      return record.client_lost().key().job();
    case v1::JournalRecord::kRoundCommitted:
      return record.round_committed().job();
    case v1::JournalRecord::kRoundLost:
      return record.round_lost().job();
    case v1::JournalRecord::kSecurePhaseClosed:
      return record.secure_phase_closed().key().job();
    case v1::JournalRecord::kClientBlamed:
      return record.client_blamed().key().job();
    case v1::JournalRecord::kEvaluationStarted:
      return record.evaluation_started().job();
    case v1::JournalRecord::kEvaluationAccepted:
      return record.evaluation_accepted().key().job();
    case v1::JournalRecord::kEvaluationFinished:
      return record.evaluation_finished().job();
    default:
      return "";
  }
}

}  // namespace

absl::Status BrokenJournal(absl::string_view record, absl::string_view why) {
  return absl::DataLossError(
      absl::StrCat("journal is broken: ", record, " cannot follow, ", why));
}

JobState::JobState(config::JobOptions options, v1::JobStarted facts)
    : options_(std::move(options)),
      facts_(std::move(facts)),
      adapter_(facts_.adapter()) {
  EnterAfterVersion(0);
}

uint32_t JobState::attempt() const { return lost_in_a_row_ + 1; }

template <typename Out>
void JobState::NoteDropout(const Out& record) {
  const Training* round = round_in_progress();
  if (round == nullptr || !codec::SameTask(record.key(), round->cohort.key) ||
      round->cohort.pending.count(record.client()) == 0) {
    return;
  }
  dropout_reason_ = absl::StrCat("'", record.client(), "': ", record.reason());
}

void JobState::NoteReasons(const v1::JournalRecord& record) {
  if (record.has_client_lost()) {
    NoteDropout(record.client_lost());
  } else if (record.has_update_refused()) {
    NoteDropout(record.update_refused());
  } else if (record.has_round_lost()) {
    lost_reason_ = record.round_lost().reason();
  } else if (record.has_round_committed()) {
    lost_reason_.clear();
    dropout_reason_.clear();
  }
}

absl::Status JobState::Apply(const v1::JournalRecord& record) {
  const absl::string_view job = JobOf(record);
  if (job.empty() || job != options_.name) return absl::OkStatus();
  if (std::holds_alternative<Finished>(phase_)) {
    return BrokenJournal("a record of the job", "the job is finished");
  }
  NoteReasons(record);
  switch (record.record_case()) {
    case v1::JournalRecord::kJobFinished:
      return ApplyJobFinished(record.job_finished());
    case v1::JournalRecord::kRoundStarted:
      return ApplyRoundStarted(record.round_started());
    case v1::JournalRecord::kUpdateAccepted:
      return ApplyUpdateAccepted(record.update_accepted());
    case v1::JournalRecord::kUpdateRefused:
      return ApplyOut(record.update_refused(), true);
    case v1::JournalRecord::kClientLost:
      return ApplyOut(record.client_lost(), false);
    case v1::JournalRecord::kRoundCommitted:
      return ApplyRoundCommitted(record.round_committed());
    case v1::JournalRecord::kRoundLost:
      return ApplyRoundLost(record.round_lost());
    case v1::JournalRecord::kSecurePhaseClosed:
      return ApplySecurePhase(record.secure_phase_closed());
    case v1::JournalRecord::kClientBlamed:
      return ApplyClientBlamed(record.client_blamed());
    case v1::JournalRecord::kEvaluationStarted:
      return ApplyEvaluationStarted(record.evaluation_started());
    case v1::JournalRecord::kEvaluationAccepted:
      return ApplyEvaluationAccepted(record.evaluation_accepted());
    case v1::JournalRecord::kEvaluationFinished:
      return ApplyEvaluationFinished(record.evaluation_finished());
    default:
      return absl::OkStatus();
  }
}

absl::Status JobState::ApplyRoundStarted(const v1::RoundStarted& record) {
  const auto* waiting = std::get_if<WaitingForClients>(&phase_);
  if (waiting == nullptr || waiting->evaluate ||
      record.round() != waiting->number || record.attempt() != attempt() ||
      static_cast<int64_t>(record.round()) > options_.rounds.count) {
    return BrokenJournal(
        "RoundStarted", absl::StrCat("round ", round(), ", attempt ", attempt(),
                                     " would be next"));
  }
  if (!SortedAndUnique(record.cohort())) {
    return BrokenJournal("RoundStarted", "its cohort is not sorted");
  }
  const bool secure = options_.secure_aggregation.enabled;
  if (secure != record.has_secure_session()) {
    return BrokenJournal("RoundStarted",
                         secure ? "it has no session to sum in secret"
                                : "this job sums in the open");
  }
  Training training;
  if (secure) training.session = record.secure_session();
  accusations_.Clear();
  training.cohort.key = MakeKey(options_.name, record.round(), record.attempt(),
                                v1::TASK_KIND_TRAIN);
  training.cohort.pending.insert(record.cohort().begin(),
                                 record.cohort().end());
  training.target = training.cohort.pending.size();
  if (options_.rounds.selection == config::Selection::kUniform) {
    training.target = std::min(
        training.target, static_cast<size_t>(options_.rounds.cohort_size));
  }
  Enter(std::move(training));
  return absl::OkStatus();
}

absl::Status JobState::ApplyUpdateAccepted(const v1::UpdateAccepted& record) {
  auto* training = std::get_if<Training>(&phase_);
  if (training == nullptr ||
      !codec::SameTask(record.key(), training->cohort.key) ||
      record.weight() == 0 || training->session.has_value() ||
      training->cohort.pending.count(record.client()) == 0) {
    return BrokenJournal(
        "UpdateAccepted",
        absl::StrCat("no update of '", record.client(), "' is awaited for it"));
  }
  training->cohort.pending.erase(record.client());
  training->accepted[record.client()] = {record.report(), record.weight()};
  bytes_up_ = base::SaturatingAdd(bytes_up_, record.report().update().size());
  bytes_down_ =
      base::SaturatingAdd(bytes_down_, record.report().bytes_downloaded());
  CloseTrainingIfComplete();
  return absl::OkStatus();
}

template <typename Out>
absl::Status JobState::ApplyOut(const Out& record, bool refused) {
  const v1::TaskKey& key = record.key();
  const std::string& client = record.client();
  Cohort* cohort = nullptr;
  if (auto* training = std::get_if<Training>(&phase_)) {
    cohort = &training->cohort;
  } else if (auto* secure = std::get_if<SecureSum>(&phase_)) {
    cohort = &secure->round.cohort;
  } else if (auto* aggregating = std::get_if<Aggregating>(&phase_)) {
    cohort = &aggregating->round.cohort;
  } else if (auto* evaluating = std::get_if<Evaluating>(&phase_)) {
    cohort = &evaluating->cohort;
  }
  // A refused report on a task that nobody was given changes nothing.
  const bool current = cohort != nullptr && codec::SameTask(key, cohort->key);
  if (!refused && (!current || cohort->pending.count(client) == 0)) {
    return BrokenJournal("ClientLost",
                         absl::StrCat("'", client, "' has no task to be lost"));
  }
  accusations_.Add(key, client, record.accused());
  if (!current) return absl::OkStatus();
  cohort->pending.erase(client);
  cohort->out[client] = refused;
  CloseTrainingIfComplete();
  return absl::OkStatus();
}

const Training* JobState::round_in_progress() const {
  if (const auto* training = std::get_if<Training>(&phase_)) return training;
  if (const auto* secure = std::get_if<SecureSum>(&phase_)) {
    return &secure->round;
  }
  if (const auto* sum = std::get_if<Aggregating>(&phase_)) return &sum->round;
  return nullptr;
}

const Cohort* JobState::cohort() const {
  if (const Training* round = round_in_progress()) return &round->cohort;
  const auto* evaluating = std::get_if<Evaluating>(&phase_);
  return evaluating == nullptr ? nullptr : &evaluating->cohort;
}

absl::Status JobState::ApplyRoundCommitted(const v1::RoundCommitted& record) {
  if (const auto* secure = std::get_if<SecureSum>(&phase_)) {
    return ApplySecureCommitted(*secure, record);
  }
  auto* aggregating = std::get_if<Aggregating>(&phase_);
  if (aggregating == nullptr ||
      record.round() != aggregating->round.cohort.key.round() ||
      record.attempt() != aggregating->round.cohort.key.attempt()) {
    return BrokenJournal(
        "RoundCommitted",
        absl::StrCat("round ", record.round(), ", attempt ", record.attempt(),
                     " is not being summed"));
  }
  const auto& accepted = aggregating->round.accepted;
  if (!std::equal(
          accepted.begin(), accepted.end(), record.survivors().begin(),
          record.survivors().end(),
          [](const auto& a, const std::string& b) { return a.first == b; })) {
    return BrokenJournal(
        "RoundCommitted",
        "its survivors are not those whose updates were accepted");
  }
  if (record.adapter_before().digest() != adapter_.digest()) {
    return BrokenJournal("RoundCommitted", "it begins from another adapter");
  }
  RememberTraining(aggregating->round);
  return EnterCommitted(record);
}

absl::Status JobState::EnterCommitted(const v1::RoundCommitted& record) {
  adapter_ = record.adapter();
  server_state_ = record.server_state();
  rounds_committed_ = record.round();
  lost_in_a_row_ = 0;
  blamed_.clear();
  accusations_.Clear();
  EnterAfterVersion(record.round());
  return absl::OkStatus();
}

absl::Status JobState::ApplyRoundLost(const v1::RoundLost& record) {
  const Training* training = round_in_progress();
  if (training == nullptr || record.round() != training->cohort.key.round() ||
      record.attempt() != training->cohort.key.attempt()) {
    return BrokenJournal("RoundLost",
                         absl::StrCat("round ", record.round(), ", attempt ",
                                      record.attempt(), " is not in progress"));
  }
  RememberTraining(*training);
  ++rounds_lost_;
  ++lost_in_a_row_;
  Enter(WaitingForClients{false, record.round()});
  return absl::OkStatus();
}

absl::Status JobState::ApplyEvaluationStarted(
    const v1::EvaluationStarted& record) {
  const auto* waiting = std::get_if<WaitingForClients>(&phase_);
  if (waiting == nullptr || !waiting->evaluate ||
      record.version() != waiting->number) {
    return BrokenJournal("EvaluationStarted",
                         absl::StrCat("version ", record.version(),
                                      " is not to be evaluated now"));
  }
  if (!SortedAndUnique(record.cohort())) {
    return BrokenJournal("EvaluationStarted", "its cohort is not sorted");
  }
  Evaluating evaluating;
  evaluating.cohort.key = MakeKey(options_.name, record.version(),
                                  record.attempt(), v1::TASK_KIND_EVALUATE);
  evaluating.cohort.pending.insert(record.cohort().begin(),
                                   record.cohort().end());
  Enter(std::move(evaluating));
  return absl::OkStatus();
}

absl::Status JobState::ApplyEvaluationAccepted(
    const v1::EvaluationAccepted& record) {
  auto* evaluating = std::get_if<Evaluating>(&phase_);
  if (evaluating == nullptr ||
      !codec::SameTask(record.key(), evaluating->cohort.key) ||
      evaluating->cohort.pending.count(record.client()) == 0) {
    return BrokenJournal("EvaluationAccepted",
                         absl::StrCat("no evaluation of '", record.client(),
                                      "' is awaited for it"));
  }
  evaluating->cohort.pending.erase(record.client());
  evaluating->accepted[record.client()] = record.report();
  bytes_down_ =
      base::SaturatingAdd(bytes_down_, record.report().bytes_downloaded());
  return absl::OkStatus();
}

absl::Status JobState::ApplyEvaluationFinished(
    const v1::EvaluationFinished& record) {
  const auto* evaluating = std::get_if<Evaluating>(&phase_);
  if (evaluating == nullptr ||
      record.version() != evaluating->cohort.key.round()) {
    return BrokenJournal(
        "EvaluationFinished",
        absl::StrCat("version ", record.version(), " is not being evaluated"));
  }
  if (record.clients() != evaluating->accepted.size()) {
    return BrokenJournal(
        "EvaluationFinished",
        absl::StrCat(evaluating->accepted.size(), " clients were accepted"));
  }
  last_evaluation_ = {evaluating->cohort.key, Keys(evaluating->accepted)};
  last_was_evaluation_ = true;
  if (record.tokens() > 0) {
    heldout_loss_ = record.loss_sum() / static_cast<double>(record.tokens());
    if (record.version() == 0) heldout_loss_before_ = heldout_loss_;
  }
  Enter(WaitingForClients{false, record.version() + 1});
  return absl::OkStatus();
}

absl::Status JobState::ApplyJobFinished(const v1::JobFinished& record) {
  const auto* waiting = std::get_if<WaitingForClients>(&phase_);
  const bool done =
      waiting != nullptr && !waiting->evaluate &&
      static_cast<int64_t>(waiting->number) > options_.rounds.count;
  if (record.state() == v1::JobFinished::DONE && !done) {
    return BrokenJournal("JobFinished", "rounds or evaluations are missing");
  }
  if (const Training* round = round_in_progress()) RememberTraining(*round);
  Enter(Finished{record});
  return absl::OkStatus();
}

bool JobState::EvaluationDue(uint32_t version) const {
  const int every = options_.evaluation.every;
  return every > 0 && (version % static_cast<uint32_t>(every) == 0 ||
                       version == static_cast<uint32_t>(options_.rounds.count));
}

void JobState::Enter(Phase phase) {
  phase_ = std::move(phase);
  ++phase_serial_;
}

void JobState::EnterAfterVersion(uint32_t version) {
  if (EvaluationDue(version)) {
    Enter(WaitingForClients{true, version});
  } else {
    Enter(WaitingForClients{false, version + 1});
  }
}

void JobState::CloseTrainingIfComplete() {
  auto* training = std::get_if<Training>(&phase_);
  if (training == nullptr) return;
  const size_t got = training->accepted.size();
  const bool all_in = training->cohort.pending.empty() && got > 0 &&
                      got >= static_cast<size_t>(options_.rounds.min_survivors);
  const bool enough = got > 0 && got >= training->target;
  if (!all_in && !enough) return;
  Aggregating aggregating{std::move(*training)};
  Enter(std::move(aggregating));
}

void JobState::RememberTraining(const Training& training) {
  last_training_ = {training.cohort.key, Keys(training.accepted)};
  last_was_evaluation_ = false;
}

}  // namespace choir::engine
