// The part of the grammar that is about rounds that are summed in secret.
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/sim_random.h"
#include "coordinator/audit/grammar.h"
#include "coordinator/selection/selection.h"
#include "privacy/secagg/parameters.h"

namespace choir::audit {
namespace {

constexpr size_t kSessionIdBytes = 32;
constexpr char kFirstPhase[] = "advertise_keys";
constexpr char kSum[] = "sum";

std::string PhaseAfter(const std::string& phase,
                       const v1::SecureAssumptions& assumptions) {
  if (phase == kFirstPhase) return "share_keys";
  if (phase == "share_keys") return "masked_input";
  if (phase == "masked_input" &&
      assumptions.adversary() == v1::SecureAssumptions::SEMI_MALICIOUS) {
    return "confirm";
  }
  return phase == "unmask" ? kSum : "unmask";
}

bool SameAssumptions(const v1::SecureAssumptions& a,
                     const config::SecureAggregationOptions& b) {
  const bool curious = b.adversary == config::SecureAdversary::kCurious;
  return (a.adversary() == v1::SecureAssumptions::CURIOUS) == curious &&
         a.corrupt_fraction() == b.corrupt_fraction &&
         a.dropout_fraction() == b.dropout_fraction &&
         a.min_clients() == static_cast<uint32_t>(b.min_clients);
}

bool IsDigest(const std::string& text) {
  const auto digest = base::DigestFromHex(text);
  return digest.ok() && base::ToHex(*digest) == text;
}

}  // namespace

void Grammar::BeginSecure(Job& job, const v1::RoundStarted& record) {
  job.secure.reset();
  const bool asked =
      job.options.has_value() && job.options->secure_aggregation.enabled;
  if (record.has_secure_session() != asked) {
    Wrong(asked ? "the job is to be summed in secret, the round has no session"
                : "the round has a session, the job sums in the open");
  }
  if (!record.has_secure_session()) return;
  const v1::SecureSession& session = record.secure_session();
  if (session.session_id().size() != kSessionIdBytes) {
    Wrong("the id of a session has 32 bytes");
  } else if (!session_ids_.insert(session.session_id()).second) {
    Wrong("a session's id was used before: masks would be used twice");
  }
  if (session.job() != record.job() || session.round() != record.round() ||
      session.attempt() != record.attempt()) {
    Wrong("the session is that of another attempt");
  }
  if (asked && !SameAssumptions(session.assumptions(),
                                job.options->secure_aggregation)) {
    Wrong("the session assumes something else than the job's configuration");
  }
  Secure& secure = job.secure.emplace();
  secure.session = session;
  secure.phase = kFirstPhase;
  secure.inside = job.cohort;
}

void Grammar::CheckAccounted(const Secure& secure,
                             const v1::SecurePhaseClosed& record) {
  std::set<std::string> named;
  std::string last;
  for (const auto& client : record.clients()) {
    if (client.client() <= last) Wrong("the clients of a phase are not sorted");
    last = client.client();
    named.insert(last);
    if (!IsDigest(client.digest()) || client.bytes() == 0) {
      Wrong(
          absl::StrCat("the message of '", last, "' has no size or no digest"));
    }
  }
  last.clear();
  for (const std::string& client : record.dropped()) {
    if (client <= last) Wrong("those who dropped out are not sorted");
    last = client;
    if (!named.insert(client).second) {
      Wrong(absl::StrCat("'", client, "' both answered and dropped out"));
    }
  }
  if (named != secure.inside) {
    Wrong(absl::StrCat("phase ", record.phase(), " accounts for ", named.size(),
                       " clients; ", secure.inside.size(), " were in it"));
  }
}

void Grammar::CheckGroups(const Job& job, Secure& secure,
                          const v1::SecurePhaseClosed& record) {
  std::map<uint32_t, int> sizes;
  for (const auto& client : record.clients()) ++sizes[client.group()];
  for (const auto& group : record.groups()) {
    const int size = sizes[group.group()];
    if (static_cast<uint32_t>(size) != group.clients()) {
      Wrong(absl::StrCat("group ", group.group(), " is given as ",
                         group.clients(), " clients; ", size, " answered"));
    }
    if (record.phase() != kFirstPhase || !group.lost().empty()) continue;
    const auto parameters =
        secagg::ChooseParameters(size, secure.session.assumptions());
    if (!parameters.ok() ||
        static_cast<uint32_t>(parameters->degree) != group.degree() ||
        static_cast<uint32_t>(parameters->threshold) != group.threshold()) {
      Wrong(absl::StrCat("group ", group.group(), " of ", size,
                         " clients shares with ", group.degree(),
                         " neighbours and threshold ", group.threshold(),
                         ", which its assumptions do not give"));
    } else {
      secure.min_survivors[group.group()] =
          static_cast<uint64_t>(parameters->min_survivors);
    }
    const int least = job.options.has_value()
                          ? job.options->secure_aggregation.group_size
                          : 0;
    if (size < least) {
      Wrong(absl::StrCat("group ", group.group(), " has ", size,
                         " clients; the job's groups have at least ", least));
    }
  }
}

// The coordinator does not choose who is summed with whom: groups follow from
// the job's seed and from who is ready.
void Grammar::CheckFormation(const Job& job,
                             const v1::SecurePhaseClosed& record) {
  if (!job.options.has_value()) return;
  const int group_size = job.options->secure_aggregation.group_size;
  std::set<std::string> ready;
  std::map<std::string, uint32_t> actual;
  for (const auto& client : record.clients()) {
    ready.insert(client.client());
    actual[client.client()] = client.group();
  }
  const v1::TaskKey& key = record.key();
  const auto groups = selection::FormGroups(
      ready, group_size,
      base::DeriveSeed(job.options->seed, {"groups", absl::StrCat(key.round()),
                                           absl::StrCat(key.attempt())}));
  std::map<std::string, uint32_t> drawn;
  for (size_t i = 0; i < groups.size(); ++i) {
    for (const std::string& client : groups[i]) {
      drawn[client] = group_size == 0 ? 0 : static_cast<uint32_t>(i + 1);
    }
  }
  if (drawn != actual) {
    Wrong("the groups are not those that the job's seed draws");
  }
}

// What is lost leaves; who is masked is in the sum.
void Grammar::CloseGroups(Secure& secure, const v1::SecurePhaseClosed& record) {
  for (const auto& client : record.clients()) {
    if (record.phase() == kFirstPhase) {
      secure.group_of[client.client()] = client.group();
      secure.groups.insert(client.group());
    } else if (secure.group_of[client.client()] != client.group()) {
      Wrong(absl::StrCat("'", client.client(), "' has changed its group"));
    }
    secure.bytes_up += client.bytes();
  }
  for (const std::string& client : record.dropped()) {
    secure.inside.erase(client);
  }
  if (record.phase() == "masked_input") secure.survivors = secure.inside;
  for (const auto& group : record.groups()) {
    if (group.lost().empty()) continue;
    secure.groups.erase(group.group());
    for (const auto& [client, its] : secure.group_of) {
      if (its != group.group()) continue;
      secure.inside.erase(client);
      secure.survivors.erase(client);
    }
  }
}

void Grammar::On(const v1::SecurePhaseClosed& record) {
  Job* job = RunningJob(record.key().job());
  if (job == nullptr) return;
  const v1::TaskKey& key = record.key();
  if (!job->round_open || key.kind() != v1::TASK_KIND_TRAIN ||
      key.round() != job->version + 1 || key.attempt() != job->attempt ||
      !job->secure.has_value()) {
    Wrong(absl::StrCat("phase ", record.phase(), " was closed of round ",
                       key.round(), ", attempt ", key.attempt(),
                       ", which is no secure round in progress"));
    return;
  }
  Secure& secure = *job->secure;
  if (record.phase() != secure.phase) {
    Wrong(absl::StrCat("phase ", record.phase(), " was closed; phase ",
                       secure.phase, " is open"));
    return;
  }
  CheckAccounted(secure, record);
  CheckGroups(*job, secure, record);
  if (record.phase() == kFirstPhase) {
    CheckFormation(*job, record);
    BeginBlame(*job, record);
  }
  CloseGroups(secure, record);
  secure.phase = PhaseAfter(secure.phase, secure.session.assumptions());
}

void Grammar::BeginBlame(Job& job, const v1::SecurePhaseClosed& record) {
  Blame& blame = job.blame.emplace();
  blame.attempt = record.key().attempt();
  for (const auto& client : record.clients()) {
    blame.group_of[client.client()] = client.group();
  }
  for (const auto& group : record.groups()) {
    if (!group.lost().empty()) continue;
    secagg::Parameters parameters;
    parameters.num_clients = static_cast<int>(group.clients());
    parameters.degree = static_cast<int>(group.degree());
    blame.needed[group.group()] = static_cast<size_t>(
        secagg::AccusersNeeded(parameters, job.secure->session.assumptions()));
  }
}

void Grammar::CheckAccused(
    Job& job, const v1::TaskKey& key, const std::string& client,
    const google::protobuf::RepeatedPtrField<std::string>& accused) {
  if (accused.empty()) return;
  if (!job.blame.has_value() || key.kind() != v1::TASK_KIND_TRAIN ||
      key.round() != job.version + 1 || key.attempt() != job.blame->attempt ||
      job.blame->group_of.count(client) == 0) {
    Wrong(absl::StrCat("'", client,
                       "' names others of a session that it was not in"));
    return;
  }
  for (const std::string& peer : accused) {
    const auto group = job.blame->group_of.find(peer);
    if (peer == client || group == job.blame->group_of.end() ||
        group->second != job.blame->group_of[client]) {
      Wrong(absl::StrCat("'", client, "' names '", peer,
                         "', who was not with it in a session"));
    } else {
      job.blame->accusers[peer].insert(client);
    }
  }
}

// One client's word is not enough, nor are those of as many as may collude.
void Grammar::On(const v1::ClientBlamed& record) {
  Job* job = RunningJob(record.key().job());
  if (job == nullptr) return;
  const std::string& client = record.client();
  if (!job->blame.has_value() || record.key().round() != job->version + 1 ||
      record.key().attempt() != job->blame->attempt ||
      record.key().kind() != v1::TASK_KIND_TRAIN) {
    Wrong(absl::StrCat("'", client,
                       "' was blamed in an attempt without a session"));
    return;
  }
  Blame& blame = *job->blame;
  CheckCohort(record.accusers(), "the list of accusers");
  for (const std::string& accuser : record.accusers()) {
    if (blame.accusers[client].count(accuser) == 0) {
      Wrong(absl::StrCat("'", accuser, "' is said to have named '", client,
                         "', and has not"));
    }
  }
  const auto group = blame.group_of.find(client);
  const auto needed = group == blame.group_of.end()
                          ? blame.needed.end()
                          : blame.needed.find(group->second);
  if (needed == blame.needed.end() ||
      static_cast<size_t>(record.accusers_size()) < needed->second) {
    Wrong(absl::StrCat("'", client, "' was blamed by ", record.accusers_size(),
                       " clients; ",
                       needed == blame.needed.end()
                           ? std::string("it was in no session")
                           : absl::StrCat(needed->second, " are needed")));
  }
  if (!blame.blamed.insert(client).second) {
    Wrong(absl::StrCat("'", client, "' was blamed before in this attempt"));
  }
}

void Grammar::CheckSecureSurvivors(const Job& job,
                                   const v1::RoundCommitted& record,
                                   Step& step) {
  const Secure& secure = *job.secure;
  CheckCohort(record.survivors(), "the list of survivors");
  if (secure.phase != kSum) {
    Wrong(absl::StrCat("the round was committed in phase ", secure.phase));
  }
  if (std::set<std::string>(record.survivors().begin(),
                            record.survivors().end()) != secure.survivors) {
    Wrong("the survivors are not those whose masked vectors were summed");
  }
  if (record.secure_session().session_id() != secure.session.session_id()) {
    Wrong("the round was committed with another session");
  }
  if (record.bytes_up() != secure.bytes_up) {
    Wrong(absl::StrCat("bytes moved are given as ", record.bytes_up(),
                       " up; the phases add up to ", secure.bytes_up));
  }
  step.secure = true;
  for (const uint32_t group : secure.groups) {
    uint64_t clients = 0;
    for (const std::string& client : secure.survivors) {
      clients += secure.group_of.at(client) == group ? 1 : 0;
    }
    step.group_survivors.push_back(clients);
    const auto least = secure.min_survivors.find(group);
    if (least != secure.min_survivors.end() && clients < least->second) {
      Wrong(absl::StrCat("a sum of ", clients,
                         " clients was revealed; at least ", least->second,
                         " are required"));
    }
  }
  if (!job.options.has_value()) return;
  const config::SecureAggregationOptions& options =
      job.options->secure_aggregation;
  step.group_rule = options.group_rule;
  const size_t expected = options.group_size > 0 ? secure.groups.size() : 0;
  if (static_cast<size_t>(record.group_aggregates_size()) != expected) {
    Wrong(absl::StrCat("the round names ", record.group_aggregates_size(),
                       " aggregates of groups; ", expected,
                       " groups were summed"));
  }
  if (secure.groups.size() < static_cast<size_t>(options.min_groups())) {
    Wrong(absl::StrCat(secure.groups.size(), " groups were combined; ",
                       config::GroupRuleName(options.group_rule), " needs ",
                       options.min_groups()));
  }
  if (record.survivors_size() < job.options->rounds.min_survivors) {
    Wrong(absl::StrCat("the round was committed with ", record.survivors_size(),
                       " clients; at least ", job.options->rounds.min_survivors,
                       " are required"));
  }
}

}  // namespace choir::audit
