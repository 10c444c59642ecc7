// Verdicts and tables of rounds.
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "coordinator/audit/output.h"

namespace choir::audit {
namespace {

using Json = nlohmann::ordered_json;

absl::optional<double> HeldoutLoss(const JobHistory& job,
                                   const Attempt& attempt) {
  const auto it = job.heldout_loss.find(attempt.round);
  if (attempt.state != "committed" || it == job.heldout_loss.end()) {
    return absl::nullopt;
  }
  return it->second;
}

Json RoundJson(const JobHistory& job, const Attempt& attempt) {
  const bool committed = attempt.state == "committed";
  const auto heldout = HeldoutLoss(job, attempt);
  Json row;
  row["job"] = attempt.job;
  row["round"] = attempt.round;
  row["state"] = attempt.state;
  row["attempt"] = attempt.attempt;
  row["selected"] = attempt.selected;
  row["survivors"] = attempt.survivors.size();
  row["refused"] = attempt.CountParts("refused");
  row["lost"] = attempt.CountParts("lost");
  row["bytes_up"] = attempt.bytes_up;
  row["bytes_down"] = job.BytesDown(attempt);
  row["seconds"] = attempt.seconds();
  row["train_loss"] = committed ? Json(attempt.mean_train_loss) : Json(nullptr);
  row["heldout_loss"] = heldout.has_value() ? Json(*heldout) : Json(nullptr);
  const auto accuracy = job.heldout_accuracy.find(attempt.round);
  row["heldout_accuracy"] = committed && accuracy != job.heldout_accuracy.end()
                                ? Json(accuracy->second)
                                : Json(nullptr);
  const absl::optional<double> saved = attempt.flops_saved();
  row["flops_saved"] = saved.has_value() ? Json(*saved) : Json(nullptr);
  // No privacy mechanism ran, so there is no finite epsilon to give.
  row["epsilon"] = nullptr;
  return row;
}

}  // namespace

Json VerifyJson(const VerifyReport& report) {
  Json json;
  json["ok"] = report.ok;
  json["events"] = report.events;
  json["rounds"] = report.rounds;
  json["blobs"] = report.blobs;
  json["sealed"] = report.sealed;
  if (report.ok) return json;
  json["first_bad_event"] =
      report.first_bad_event > 0 ? Json(report.first_bad_event) : Json(nullptr);
  json["reason"] = report.reason;
  json["findings"] = Json::array();
  for (const Finding& finding : report.findings) {
    Json one;
    one["event"] = finding.event > 0 ? Json(finding.event) : Json(nullptr);
    one["where"] = finding.where;
    one["what"] = finding.what;
    json["findings"].push_back(std::move(one));
  }
  return json;
}

std::string VerifyText(const VerifyReport& report) {
  std::string text;
  const std::string counts = absl::StrCat(
      report.events, " events, ", report.rounds, " rounds, ", report.blobs,
      " blobs, ", report.sealed ? "sealed" : "not sealed");
  if (report.ok) return absl::StrCat("ok: ", counts, "\n");
  absl::StrAppend(&text, "FAILED: ", report.reason, "\n");
  if (report.first_bad_event > 0) {
    absl::StrAppend(&text, "first bad event: ", report.first_bad_event, "\n");
  }
  absl::StrAppend(&text, "read: ", counts, "\n");
  if (report.findings.size() < 2) return text;
  absl::StrAppend(&text, "findings:\n");
  constexpr size_t kShown = 20;
  for (size_t i = 0; i < report.findings.size() && i < kShown; ++i) {
    absl::StrAppend(&text, "  ", report.findings[i].what, "\n");
  }
  if (report.findings.size() > kShown) {
    absl::StrAppend(&text, "  and more; --json lists them\n");
  }
  return text;
}

absl::StatusOr<Json> RoundsJson(const History& history,
                                const std::string& job) {
  CHOIR_ASSIGN_OR_RETURN(const auto jobs, history.Select(job));
  Json json;
  json["rounds"] = Json::array();
  for (const JobHistory* one : jobs) {
    for (const Attempt* attempt : one->rounds()) {
      json["rounds"].push_back(RoundJson(*one, *attempt));
    }
  }
  return json;
}

absl::StatusOr<std::string> RoundsText(const History& history,
                                       const std::string& job) {
  CHOIR_ASSIGN_OR_RETURN(const auto jobs, history.Select(job));
  std::string text = absl::StrFormat(
      "%-16s %6s %-9s %4s %8s %9s %7s %5s %12s %12s %9s %10s %10s\n", "job",
      "round", "state", "try", "selected", "survivors", "refused", "lost",
      "bytes up", "bytes down", "seconds", "train loss", "held-out");
  for (const JobHistory* one : jobs) {
    for (const Attempt* attempt : one->rounds()) {
      const auto heldout = HeldoutLoss(*one, *attempt);
      absl::StrAppendFormat(
          &text,
          "%-16s %6d %-9s %4d %8d %9d %7d %5d %12d %12d %9.3f %10s %10s\n",
          attempt->job, attempt->round, attempt->state, attempt->attempt,
          attempt->selected, attempt->survivors.size(),
          attempt->CountParts("refused"), attempt->CountParts("lost"),
          attempt->bytes_up, one->BytesDown(*attempt), attempt->seconds(),
          attempt->state == "committed"
              ? absl::StrFormat("%.4f", attempt->mean_train_loss)
              : "-",
          heldout.has_value() ? absl::StrFormat("%.4f", *heldout) : "-");
    }
  }
  return text;
}

absl::StatusOr<std::string> RoundsCsv(const History& history,
                                      const std::string& job) {
  CHOIR_ASSIGN_OR_RETURN(const Json json, RoundsJson(history, job));
  std::string text =
      "job,round,state,attempt,selected,survivors,refused,lost,bytes_up,"
      "bytes_down,seconds,train_loss,heldout_loss,heldout_accuracy,"
      "flops_saved,epsilon\n";
  for (const Json& row : json["rounds"]) {
    std::string line;
    for (const auto& [key, value] : row.items()) {
      if (!line.empty()) line += ",";
      // Names of jobs have no commas or quotes (config::IsValidName).
      if (value.is_string()) {
        line += value.get<std::string>();
      } else if (!value.is_null()) {
        line += value.dump();
      }
    }
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

}  // namespace choir::audit
