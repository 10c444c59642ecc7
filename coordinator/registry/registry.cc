#include "coordinator/registry/registry.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "proto/config/job_options.h"

namespace choir::registry {
namespace {

absl::Status CheckName(absl::string_view name) {
  if (config::IsValidName(name)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "a client's name has 1 to 64 letters, digits, '-', '_' and '.', and does "
      "not begin with '.'");
}

}  // namespace

absl::string_view StateName(ClientState state) {
  switch (state) {
    case ClientState::kPending:
      return "pending";
    case ClientState::kEnrolled:
      return "enrolled";
    case ClientState::kRevoked:
      break;
  }
  return "revoked";
}

absl::Status Registry::ApplyEnrolled(const v1::ClientEnrolled& record) {
  auto token = tokens_.find(record.token_sha256());
  if (token == tokens_.end()) {
    return absl::DataLossError(
        absl::StrCat("client \"", record.name(),
                     "\" enrolled with a token that was never "
                     "created"));
  }
  token->second.used_by = record.name();
  token->second.public_key_sha256 = record.public_key_sha256();
  const bool anew = clients_.find(record.name()) != clients_.end();
  Entry& entry = clients_[record.name()];
  entry.client = Client();
  entry.client.name = record.name();
  entry.client.state = record.pending_approval() ? ClientState::kPending
                                                 : ClientState::kEnrolled;
  entry.client.public_key_sha256 = record.public_key_sha256();
  entry.only_listed_serials = entry.only_listed_serials || anew;
  entry.serials.clear();
  return absl::OkStatus();
}

absl::Status Registry::Apply(const v1::JournalRecord& record) {
  base::MutexLock lock(&mu_);
  switch (record.record_case()) {
    case v1::JournalRecord::kTokenCreated: {
      const v1::TokenCreated& created = record.token_created();
      Token& token = tokens_[created.token_sha256()];
      token.client_name = created.client_name();
      token.expires = absl::FromUnixSeconds(created.expires_unix_seconds());
      return absl::OkStatus();
    }
    case v1::JournalRecord::kClientEnrolled:
      return ApplyEnrolled(record.client_enrolled());
    case v1::JournalRecord::kClientApproved: {
      auto entry = clients_.find(record.client_approved().name());
      if (entry == clients_.end()) {
        return absl::DataLossError("an unknown client was approved");
      }
      entry->second.client.state = ClientState::kEnrolled;
      return absl::OkStatus();
    }
    case v1::JournalRecord::kCertificateIssued: {
      const v1::CertificateIssued& issued = record.certificate_issued();
      Entry& entry = clients_[issued.name()];
      if (entry.client.name.empty()) {
        // A client whose first certificate came from `choir-admin ca issue`.
        entry.client.name = issued.name();
        entry.client.state = ClientState::kEnrolled;
      }
      if (!issued.signing()) {
        entry.client.serial = issued.serial();
        entry.client.certificate_expires =
            absl::FromUnixSeconds(issued.expires_unix_seconds());
      }
      entry.serials.insert(issued.serial());
      return absl::OkStatus();
    }
    case v1::JournalRecord::kClientRevoked: {
      const v1::ClientRevoked& revoked = record.client_revoked();
      Entry& entry = clients_[revoked.name()];
      entry.client.name = revoked.name();
      entry.client.state = ClientState::kRevoked;
      entry.client.revocation_reason = revoked.reason();
      entry.only_listed_serials = true;
      entry.serials.clear();
      return absl::OkStatus();
    }
    default:
      return absl::OkStatus();
  }
}

absl::StatusOr<NewToken> Registry::CreateToken(
    absl::string_view client_name, absl::Duration valid,
    absl::string_view created_by, absl::Time now,
    base::SecureRandom& random) const {
  if (!client_name.empty()) {
    const absl::Status named = CheckName(client_name);
    if (!named.ok()) return named;
  }
  if (valid <= absl::ZeroDuration() || valid > absl::Hours(24 * 366)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a token is valid for more than 0 s and at most 366 days, not ",
        absl::FormatDuration(valid)));
  }
  NewToken out;
  out.token = absl::StrCat("choir-", random.Hex(32));
  out.expires = now + valid;
  v1::TokenCreated* created = out.record.mutable_token_created();
  created->set_token_sha256(base::Sha256Hex(out.token));
  created->set_client_name(std::string(client_name));
  created->set_expires_unix_seconds(absl::ToUnixSeconds(out.expires));
  created->set_created_by(std::string(created_by));
  return out;
}

absl::StatusOr<EnrolDecision> Registry::EnrolAgain(
    const Token& spent, absl::string_view name,
    absl::string_view public_key_sha256) const {
  if (spent.used_by != name || spent.public_key_sha256 != public_key_sha256) {
    return absl::PermissionDeniedError(
        "the token was used already; a token enrols one client once");
  }
  auto client = clients_.find(std::string(name));
  if (client == clients_.end() ||
      client->second.client.state == ClientState::kRevoked) {
    return absl::PermissionDeniedError(
        absl::StrCat("client \"", name, "\" was revoked"));
  }
  if (client->second.client.public_key_sha256 != public_key_sha256) {
    return absl::PermissionDeniedError(
        absl::StrCat("client \"", name, "\" has enrolled anew since"));
  }
  EnrolDecision decision;
  decision.pending_approval =
      client->second.client.state == ClientState::kPending;
  return decision;
}

absl::StatusOr<EnrolDecision> Registry::Enrol(
    absl::string_view name, absl::string_view token,
    absl::string_view public_key_sha256, bool require_approval,
    absl::Time now) const {
  const absl::Status named = CheckName(name);
  if (!named.ok()) return named;
  const std::string token_sha256 = base::Sha256Hex(token);
  base::MutexLock lock(&mu_);
  auto found = tokens_.find(token_sha256);
  if (found == tokens_.end()) {
    return absl::PermissionDeniedError(
        "the token is not known here; ask the operator for a new one");
  }
  const Token& spent = found->second;
  auto client = clients_.find(std::string(name));
  EnrolDecision decision;
  if (!spent.used_by.empty()) {
    return EnrolAgain(spent, name, public_key_sha256);
  }
  if (now >= spent.expires) {
    return absl::PermissionDeniedError(absl::StrCat(
        "the token expired at ",
        absl::FormatTime(absl::RFC3339_sec, spent.expires, absl::UTCTimeZone()),
        "; ask the operator for a new one"));
  }
  if (!spent.client_name.empty() && spent.client_name != name) {
    return absl::PermissionDeniedError(
        "the token was made for a client of another name");
  }
  if (client != clients_.end() && spent.client_name.empty()) {
    return absl::PermissionDeniedError(absl::StrCat(
        "the name \"", name, "\" is ",
        client->second.client.state == ClientState::kRevoked ? "revoked"
                                                             : "taken",
        "; only a token made for this name (choir-admin token create "
        "--client) enrols it anew"));
  }
  decision.pending_approval = require_approval;
  v1::ClientEnrolled* enrolled =
      decision.records.emplace_back().mutable_client_enrolled();
  enrolled->set_name(std::string(name));
  enrolled->set_token_sha256(token_sha256);
  enrolled->set_public_key_sha256(std::string(public_key_sha256));
  enrolled->set_pending_approval(require_approval);
  return decision;
}

absl::StatusOr<std::vector<v1::JournalRecord>> Registry::Approve(
    absl::string_view name, absl::string_view by) const {
  base::MutexLock lock(&mu_);
  auto entry = clients_.find(std::string(name));
  if (entry == clients_.end()) {
    return absl::NotFoundError(
        absl::StrCat("no client \"", name, "\" has asked to enrol"));
  }
  std::vector<v1::JournalRecord> records;
  switch (entry->second.client.state) {
    case ClientState::kRevoked:
      return absl::FailedPreconditionError(absl::StrCat(
          "client \"", name, "\" was revoked; make it a new token"));
    case ClientState::kEnrolled:
      return records;
    case ClientState::kPending:
      break;
  }
  v1::ClientApproved* approved =
      records.emplace_back().mutable_client_approved();
  approved->set_name(std::string(name));
  approved->set_approved_by(std::string(by));
  return records;
}

absl::StatusOr<std::vector<v1::JournalRecord>> Registry::Revoke(
    absl::string_view name, absl::string_view reason,
    absl::string_view by) const {
  const absl::Status named = CheckName(name);
  if (!named.ok()) return named;
  base::MutexLock lock(&mu_);
  std::vector<v1::JournalRecord> records;
  auto entry = clients_.find(std::string(name));
  if (entry != clients_.end() &&
      entry->second.client.state == ClientState::kRevoked) {
    return records;
  }
  v1::ClientRevoked* revoked = records.emplace_back().mutable_client_revoked();
  revoked->set_name(std::string(name));
  revoked->set_reason(std::string(reason));
  revoked->set_revoked_by(std::string(by));
  return records;
}

absl::Status Registry::CheckAgent(absl::string_view name,
                                  absl::string_view serial) const {
  base::MutexLock lock(&mu_);
  auto found = clients_.find(std::string(name));
  if (found == clients_.end()) return absl::OkStatus();
  const Entry& entry = found->second;
  if (entry.client.state == ClientState::kRevoked) {
    return absl::PermissionDeniedError(
        absl::StrCat("client \"", name, "\" was revoked"));
  }
  if (entry.only_listed_serials && !entry.serials.contains(serial)) {
    return absl::PermissionDeniedError(
        absl::StrCat("the certificate of client \"", name,
                     "\" was replaced by a later enrolment or revoked"));
  }
  return absl::OkStatus();
}

std::vector<Client> Registry::clients() const {
  base::MutexLock lock(&mu_);
  std::vector<Client> out;
  out.reserve(clients_.size());
  for (const auto& [name, entry] : clients_) out.push_back(entry.client);
  return out;
}

absl::StatusOr<Client> Registry::client(absl::string_view name) const {
  base::MutexLock lock(&mu_);
  auto found = clients_.find(std::string(name));
  if (found == clients_.end()) {
    return absl::NotFoundError(absl::StrCat("no client \"", name, "\""));
  }
  return found->second.client;
}

}  // namespace choir::registry
