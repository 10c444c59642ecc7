// What SecurePhaseClosed changes.
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/saturating_add.h"
#include "coordinator/engine/job_state.h"
#include "coordinator/engine/secure_events.h"
#include "proto/codec/task_key.h"

namespace choir::engine {
namespace {

constexpr char kRecord[] = "SecurePhaseClosed";

}  // namespace

absl::string_view NextSecurePhase(
    absl::string_view phase, const config::SecureAggregationOptions& options) {
  if (phase == kAdvertiseKeys) return kShareKeys;
  if (phase == kShareKeys) return kMaskedInput;
  if (phase == kMaskedInput &&
      options.adversary == config::SecureAdversary::kSemiMalicious) {
    return kConfirm;
  }
  if (phase == kMaskedInput || phase == kConfirm) return kUnmask;
  return kSum;
}

// Everybody who was in the phase answered or dropped out, and nobody else.
absl::Status JobState::CheckAccounted(
    const Cohort& cohort, const v1::SecurePhaseClosed& record) const {
  std::set<std::string, std::less<>> named;
  std::string last;
  for (const auto& client : record.clients()) {
    if (!named.insert(client.client()).second || client.client() <= last) {
      return BrokenJournal(kRecord, "its clients are not sorted");
    }
    last = client.client();
  }
  last.clear();
  for (const std::string& client : record.dropped()) {
    if (!named.insert(client).second || client <= last) {
      return BrokenJournal(kRecord, "those who dropped out are not sorted");
    }
    last = client;
  }
  if (named != cohort.pending) {
    return BrokenJournal(
        kRecord, absl::StrCat("it accounts for ", named.size(),
                              " clients, not for the ", cohort.pending.size(),
                              " who were in phase ", record.phase()));
  }
  return absl::OkStatus();
}

absl::Status JobState::ApplySecurePhase(const v1::SecurePhaseClosed& record) {
  const auto* training = std::get_if<Training>(&phase_);
  const auto* secure = std::get_if<SecureSum>(&phase_);
  const Training* round = secure != nullptr ? &secure->round : training;
  if (round == nullptr || !round->session.has_value() ||
      !codec::SameTask(record.key(), round->cohort.key)) {
    return BrokenJournal(kRecord, "no such round is summed in secret");
  }
  const absl::string_view open =
      secure != nullptr ? absl::string_view(secure->phase) : kAdvertiseKeys;
  if (record.phase() != open || open == kSum) {
    return BrokenJournal(kRecord, absl::StrCat("phase ", open, " is open"));
  }
  const absl::Status accounted = CheckAccounted(round->cohort, record);
  if (!accounted.ok()) return accounted;
  for (const auto& client : record.clients()) {
    bytes_up_ = base::SaturatingAdd(bytes_up_, client.bytes());
  }
  if (training != nullptr) {
    CloseAdvertising(record, Training(*training));
  } else {
    CloseSecure(record, SecureSum(*secure));
  }
  return absl::OkStatus();
}

void JobState::CloseAdvertising(const v1::SecurePhaseClosed& record,
                                const Training& training) {
  SecureSum sum;
  sum.round = training;
  sum.phase = std::string(kAdvertiseKeys);
  for (const auto& client : record.clients()) {
    sum.members[client.client()] = client.group();
    sum.groups.insert(client.group());
  }
  accusations_.Begin(record, training.session->assumptions());
  CloseSecure(record, std::move(sum));
}

absl::Status JobState::ApplyClientBlamed(const v1::ClientBlamed& record) {
  const Accusations::ByAccused proven = accusations_.Proven();
  const auto found = proven.find(record.client());
  if (!codec::SameTask(record.key(), accusations_.key()) ||
      found == proven.end() ||
      !std::equal(found->second.begin(), found->second.end(),
                  record.accusers().begin(), record.accusers().end())) {
    return BrokenJournal("ClientBlamed", absl::StrCat("not enough have named '",
                                                      record.client(), "'"));
  }
  accusations_.Settle(record.client());
  blamed_.insert(record.client());
  return absl::OkStatus();
}

void JobState::CloseSecure(const v1::SecurePhaseClosed& record, SecureSum sum) {
  Cohort& cohort = sum.round.cohort;
  const auto leave = [&](const std::string& client) {
    if (cohort.pending.erase(client) > 0) cohort.out[client] = false;
  };
  for (const std::string& client : record.dropped()) leave(client);
  if (record.phase() == kMaskedInput) {
    for (const auto& client : record.clients()) {
      sum.survivors.insert(client.client());
    }
  }
  for (const auto& client : record.clients()) {
    sum.bytes_up = base::SaturatingAdd(sum.bytes_up, client.bytes());
  }
  for (const auto& group : record.groups()) {
    if (group.lost().empty()) continue;
    blamed_.insert(group.blamed().begin(), group.blamed().end());
    sum.groups.erase(group.group());
    for (const auto& [client, its_group] : sum.members) {
      if (its_group != group.group()) continue;
      leave(client);
      sum.survivors.erase(client);
    }
  }
  sum.phase =
      std::string(NextSecurePhase(record.phase(), options_.secure_aggregation));
  Enter(std::move(sum));
}

absl::Status JobState::ApplySecureCommitted(const SecureSum& sum,
                                            const v1::RoundCommitted& record) {
  constexpr char kCommitted[] = "RoundCommitted";
  if (sum.phase != kSum || record.round() != sum.round.cohort.key.round() ||
      record.attempt() != sum.round.cohort.key.attempt()) {
    return BrokenJournal(
        kCommitted, absl::StrCat("round ", record.round(), ", attempt ",
                                 record.attempt(), " is not being summed"));
  }
  if (!std::equal(sum.survivors.begin(), sum.survivors.end(),
                  record.survivors().begin(), record.survivors().end())) {
    return BrokenJournal(
        kCommitted, "its survivors are not those whose vectors were summed");
  }
  if (record.adapter_before().digest() != adapter_.digest()) {
    return BrokenJournal(kCommitted, "it begins from another adapter");
  }
  bytes_down_ = base::SaturatingAdd(bytes_down_, record.bytes_down());
  last_training_ = {sum.round.cohort.key, sum.survivors};
  last_was_evaluation_ = false;
  return EnterCommitted(record);
}

}  // namespace choir::engine
