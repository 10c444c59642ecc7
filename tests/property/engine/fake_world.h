// A world for the round engine: clients, a journal and time, all in memory.
//
// Updates and adapters are digests of what they would depend on, so that two
// runs that train and sum the same thing have the same adapter.
#ifndef CHOIR_TESTS_PROPERTY_ENGINE_FAKE_WORLD_H_
#define CHOIR_TESTS_PROPERTY_ENGINE_FAKE_WORLD_H_

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "base/sim_random.h"
#include "coordinator/engine/engine.h"

namespace choir::engine {

// A job with defaults as ResolveJob() would give them, and its facts.
config::JobOptions TestJob(int rounds, int cohort_size);
JobFacts TestFacts(const config::JobOptions& options);
std::vector<std::string> ClientNames(int count);

// The report that `client` sends for `plan`: the same for the same seed and
// adapter.
v1::TrainReport TrainFor(const v1::TaskPlan& plan, const std::string& client);
v1::EvaluationReport EvaluateFor(const v1::TaskPlan& plan,
                                 const std::string& client);
// What summing the updates gives.
v1::RoundCommitted SumOf(const Aggregate& action);
v1::RoundCommitted SumOf(const AggregateSecure& action);

class FakeWorld {
 public:
  // `journal`: what an earlier world wrote; replayed, then resumed.
  explicit FakeWorld(config::JobOptions options,
                     std::vector<v1::JournalRecord> journal = {});

  // Posts an event and carries out what follows, except for the aggregation,
  // which waits for RunAggregation() if `manual_aggregation`.
  v1::ReportResponse Post(const Event& event);
  void Arrive(const std::string& client) { Post(ClientArrived{client}); }
  void ArriveAll(const std::vector<std::string>& clients);
  // The client does the task it was sent. False if it has none.
  bool DoTask(const std::string& client);
  // The client's next message in a secure round: its keys for the plan it was
  // sent, then one for each phase that it was told of. False if it has nothing
  // to say.
  bool DoSecure(const std::string& client);
  // Repeats the client's last report.
  v1::ReportResponse RepeatReport(const std::string& client);
  void RunAggregation();
  // Moves time to the timer and fires it. False if there is none.
  bool FireTimer();
  // Does all tasks and arrivals of `clients` until the job is finished; fires
  // the timer when nothing else can happen. False if it got stuck.
  bool RunToEnd(const std::vector<std::string>& clients);
  // Throws the engine away and makes a new one from the first `keep` records.
  void Crash(size_t keep);
  // One random thing happens: arrivals, departures, reports, repetitions,
  // failures, deadlines, crashes.
  void RandomStep(const std::vector<std::string>& clients,
                  base::SimRandom& random);

  bool finished() const { return engine_->progress().finished; }
  const Engine& engine() const { return *engine_; }
  const std::vector<v1::JournalRecord>& journal() const { return journal_; }
  const std::map<std::string, v1::TaskPlan>& tasks() const { return tasks_; }
  const std::vector<std::string>& discarded() const { return discarded_; }
  absl::optional<SetTimer> timer() const { return timer_; }
  absl::Time now() const { return now_; }
  size_t tasks_sent() const { return tasks_sent_; }

  // Clients that are told of the phase that is open in a secure round.
  const std::map<std::string, std::string>& told() const { return told_; }
  // Reasons of sessions that were aborted.
  const std::vector<std::string>& aborted() const { return aborted_; }
  // The sessions' own minimum of each group, and groups that they lose when
  // `lose_group_in` is closed.
  size_t session_minimum = 1;
  std::string lose_group_in;
  uint32_t lose_group = 0;
  // Who is to blame for it.
  std::string blame;
  // Whose certificate has expired when sessions are begun.
  std::string unfit;

  bool manual_aggregation = false;
  bool fail_aggregations = false;

 private:
  void Carry(Outcome outcome);
  void CarrySecure(const Action& action);
  void CloseSessions();

  config::JobOptions options_;
  std::unique_ptr<Engine> engine_;
  std::vector<v1::JournalRecord> journal_;
  std::map<std::string, v1::TaskPlan> tasks_;
  std::map<std::string, Event> last_report_;
  absl::optional<Aggregate> aggregation_;
  absl::optional<AggregateSecure> secure_sum_;
  absl::optional<CloseSecurePhase> close_;
  // What a driver's sessions hold: the members of each group still in it, who
  // has said something in the open phase, and what they wait to be told.
  std::map<std::string, uint32_t> members_;
  std::set<std::string> answered_;
  std::map<std::string, std::string> told_;
  v1::TaskKey secure_key_;
  std::vector<std::string> aborted_;
  int sessions_ = 0;
  absl::optional<SetTimer> timer_;
  std::vector<std::string> discarded_;
  absl::Time now_ = absl::UnixEpoch();
  size_t tasks_sent_ = 0;
};

// Empty if the journal tells a possible story, otherwise what is wrong: a round
// committed twice or out of order, an adapter that does not follow from the one
// before, a survivor counted twice or outside its cohort, a wrong total weight.
std::string StoryFault(const std::vector<v1::JournalRecord>& journal);

// The adapters of the committed rounds, in order.
std::vector<std::string> CommittedAdapters(
    const std::vector<v1::JournalRecord>& journal);

}  // namespace choir::engine

#endif  // CHOIR_TESTS_PROPERTY_ENGINE_FAKE_WORLD_H_
