// Everything about a job or a round.
#include <google/protobuf/util/json_util.h>

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "coordinator/audit/output.h"
#include "privacy/secagg/parameters.h"

namespace choir::audit {
namespace {

using Json = nlohmann::ordered_json;

std::string TimeText(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", time, absl::UTCTimeZone());
}

Json MessageJson(const google::protobuf::Message& message) {
  std::string text;
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options)
           .ok()) {
    return nullptr;
  }
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

Json PartJson(const Part& part) {
  Json json;
  json["client"] = part.client;
  json["outcome"] = part.outcome;
  if (!part.reason.empty()) json["reason"] = part.reason;
  if (part.train.has_value()) {
    json["weight"] = part.weight;
    json["examples"] = part.train->num_examples();
    json["steps"] = part.train->steps();
    json["tokens"] = part.train->tokens();
    json["mean_loss"] = part.train->mean_loss();
    json["seconds"] = part.train->seconds();
    json["update_norm_l2"] = part.train->update_norm_l2();
    json["clipped"] = part.train->clipped();
    if (part.train->dense_flops() > 0.0) {
      json["dense_flops"] = part.train->dense_flops();
      json["done_flops"] = part.train->done_flops();
    }
    json["update"] = part.train->update().digest();
    json["bytes_up"] = part.train->update().size();
    json["bytes_down"] = part.train->bytes_downloaded();
  }
  return json;
}

// What the coordinator saw in a phase: who answered, how much, and nothing of
// what.
// What a group that was drawn at random from a cohort withstands, in figures.
void AddRisk(const v1::SecurePhaseClosed& phase,
             const v1::SecureAssumptions& assumptions, int clients,
             Json& json) {
  const auto parameters = secagg::ChooseParameters(clients, assumptions);
  if (!parameters.ok()) return;
  const secagg::GroupRisk risk =
      secagg::RiskOfGroup(*parameters, assumptions, phase.clients_size());
  json["chance_of_more_corrupt"] = risk.more_than_assumed;
  if (risk.enough_to_unmask.has_value()) {
    json["chance_to_unmask_one"] = *risk.enough_to_unmask;
  }
}

Json PhaseJson(const v1::SecurePhaseClosed& phase,
               const v1::SecureSession& session) {
  Json json;
  json["phase"] = phase.phase();
  json["seconds"] = phase.seconds();
  json["answers"] = phase.clients_size();
  uint64_t bytes = 0;
  for (const auto& client : phase.clients()) bytes += client.bytes();
  json["bytes"] = bytes;
  json["dropped"] = Json::array();
  for (const std::string& client : phase.dropped()) {
    json["dropped"].push_back(client);
  }
  json["groups"] = Json::array();
  for (const auto& group : phase.groups()) {
    Json one;
    one["group"] = group.group();
    one["clients"] = group.clients();
    one["neighbours"] = group.degree();
    one["threshold"] = group.threshold();
    if (!group.lost().empty()) one["lost"] = group.lost();
    for (const std::string& client : group.blamed()) {
      one["blamed"].push_back(client);
    }
    if (group.group() > 0 && group.lost().empty() &&
        phase.phase() == "advertise_keys") {
      AddRisk(phase, session.assumptions(), static_cast<int>(group.clients()),
              one);
    }
    json["groups"].push_back(std::move(one));
  }
  json["clients"] = Json::array();
  for (const auto& client : phase.clients()) {
    Json one;
    one["client"] = client.client();
    one["group"] = client.group();
    one["bytes"] = client.bytes();
    one["digest"] = client.digest();
    json["clients"].push_back(std::move(one));
  }
  return json;
}

// The assumptions on which the coordinator saw nothing but the sum.
Json SessionJson(const v1::SecureSession& session) {
  const v1::SecureAssumptions& assumed = session.assumptions();
  Json json;
  json["session"] = absl::BytesToHexString(session.session_id());
  json["adversary"] = assumed.adversary() == v1::SecureAssumptions::CURIOUS
                          ? "curious"
                          : "semi_malicious";
  json["corrupt_fraction"] = assumed.corrupt_fraction();
  json["dropout_fraction"] = assumed.dropout_fraction();
  json["min_clients"] = assumed.min_clients();
  json["max_clients"] = session.max_clients();
  json["modulus_bits"] = session.modulus_bits();
  json["length"] = session.length();
  json["model_digest"] = session.model_digest();
  json["config_digest"] = session.config_digest();
  return json;
}

Json AttemptJson(const Attempt& attempt) {
  Json json;
  json["job"] = attempt.job;
  json["round"] = attempt.round;
  json["attempt"] = attempt.attempt;
  json["state"] = attempt.state;
  if (!attempt.reason.empty()) json["reason"] = attempt.reason;
  json["started"] = TimeText(attempt.started);
  json["seconds"] = attempt.seconds();
  json["available"] = attempt.available;
  json["clients"] = Json::array();
  for (const Part& part : attempt.parts) {
    json["clients"].push_back(PartJson(part));
  }
  json["survivors"] = attempt.survivors;
  json["bytes_up"] = attempt.bytes_up;
  json["bytes_down"] = attempt.bytes_down;
  if (attempt.committed.has_value()) {
    const v1::RoundCommitted& committed = *attempt.committed;
    json["total_weight"] = committed.total_weight();
    json["mean_train_loss"] = committed.mean_train_loss();
    json["adapter_before"] = committed.adapter_before().digest();
    json["aggregate"] = committed.aggregate().digest();
    json["adapter"] = committed.adapter().digest();
    json["server_state"] = committed.server_state().digest();
    if (committed.has_secure_session()) {
      json["rounding_error_l2"] = committed.rounding_error_l2();
    }
    for (const v1::BlobRef& group : committed.group_aggregates()) {
      json["group_aggregates"].push_back(group.digest());
    }
  }
  if (attempt.session.has_value()) {
    json["secure"] = SessionJson(*attempt.session);
    json["phases"] = Json::array();
    for (const v1::SecurePhaseClosed& phase : attempt.phases) {
      json["phases"].push_back(PhaseJson(phase, *attempt.session));
    }
    for (const v1::ClientBlamed& blamed : attempt.blamed) {
      Json one;
      one["client"] = blamed.client();
      one["named_by"] = Json::array();
      for (const std::string& accuser : blamed.accusers()) {
        one["named_by"].push_back(accuser);
      }
      json["blamed"].push_back(std::move(one));
    }
  }
  return json;
}

Json JobJson(const JobHistory& job) {
  Json json;
  json["job"] = job.name;
  json["state"] = job.state;
  if (!job.reason.empty()) json["reason"] = job.reason;
  int committed = 0;
  int lost = 0;
  for (const Attempt& attempt : job.attempts) {
    committed += attempt.state == "committed" ? 1 : 0;
    lost += attempt.state == "lost" ? 1 : 0;
  }
  json["rounds_committed"] = committed;
  json["attempts_lost"] = lost;
  if (job.submitted.has_value()) {
    json["submitted_by"] = job.submitted->submitted_by();
    json["config"] = MessageJson(job.submitted->config());
  }
  if (job.started.has_value()) {
    json["parameters"] = job.started->num_parameters();
    json["layout"] = job.started->layout_digest();
    json["adapter"] = job.started->adapter().digest();
    json["base_model"] = Json::object();
    for (const v1::ModelFile& file : job.started->base_model()) {
      json["base_model"][file.name()] = file.blob().digest();
    }
  }
  json["evaluations"] = Json::array();
  for (const Evaluation& one : job.evaluations) {
    Json row;
    row["version"] = one.version;
    row["state"] = one.finished ? "finished" : "running";
    row["asked"] = one.asked;
    row["clients"] = one.clients;
    row["tokens"] = one.tokens;
    row["mean_loss"] =
        one.tokens > 0 ? Json(one.loss_sum / static_cast<double>(one.tokens))
                       : Json(nullptr);
    if (one.correct.has_value()) row["accuracy"] = one.accuracy();
    json["evaluations"].push_back(std::move(row));
  }
  return json;
}

absl::StatusOr<Json> RoundDocument(const std::vector<const JobHistory*>& jobs,
                                   const ShowOptions& options) {
  Json json;
  json["attempts"] = Json::array();
  for (const JobHistory* job : jobs) {
    for (const Attempt& attempt : job->attempts) {
      if (attempt.round == options.round) {
        json["attempts"].push_back(AttemptJson(attempt));
      }
    }
  }
  if (json["attempts"].empty()) {
    return absl::NotFoundError(absl::StrCat(
        "the store knows no round ", options.round,
        options.job.empty() ? "" : absl::StrCat(" of job '", options.job, "'"),
        "; 'choir-audit rounds STORE' lists those it knows"));
  }
  return json;
}

// Nested objects as indented "name: value" lines.
void AppendLines(const Json& json, int indent, std::string& text) {
  const std::string space(static_cast<size_t>(indent), ' ');
  for (const auto& [key, value] : json.items()) {
    const std::string name = json.is_array() ? "-" : absl::StrCat(key, ":");
    if (value.is_structured() && !value.empty()) {
      absl::StrAppend(&text, space, name, "\n");
      AppendLines(value, indent + 2, text);
    } else if (value.is_string()) {
      absl::StrAppend(&text, space, name, " ", value.get<std::string>(), "\n");
    } else if (value.is_structured()) {
      absl::StrAppend(&text, space, name, " none\n");
    } else {
      absl::StrAppend(&text, space, name, " ", value.dump(), "\n");
    }
  }
}

}  // namespace

absl::StatusOr<Json> ShowJson(const History& history,
                              const ShowOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const auto jobs, history.Select(options.job));
  if (options.round > 0) return RoundDocument(jobs, options);
  Json json;
  json["events"] = history.events;
  json["records"] = history.records_by_kind;
  json["jobs"] = Json::array();
  for (const JobHistory* job : jobs) json["jobs"].push_back(JobJson(*job));
  json["refusals"] = Json::array();
  for (const Refusal& refusal : history.refusals) {
    Json row;
    row["event"] = refusal.sequence;
    row["time"] = TimeText(refusal.time);
    row["peer"] = refusal.refused.peer();
    row["method"] = refusal.refused.method();
    row["reason"] = refusal.refused.reason();
    json["refusals"].push_back(std::move(row));
  }
  return json;
}

absl::StatusOr<std::string> ShowText(const History& history,
                                     const ShowOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const Json json, ShowJson(history, options));
  std::string text;
  AppendLines(json, 0, text);
  return text;
}

}  // namespace choir::audit
