#include "sim/experiment/summary.h"

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "sim/experiment/metrics.h"
#include "sim/experiment/report.h"

namespace choir::sim {
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

std::string SummaryJson(const ExperimentOptions& options,
                        const RunResult& result, absl::string_view out_dir) {
  const engine::Progress& progress = result.progress;
  const std::string out(out_dir);
  // What is not finite is written as null.
  Json json;
  json["experiment"] = options.job.name;
  json["rounds"] = progress.rounds_committed;
  json["rounds_total"] = progress.rounds_total;
  json["rounds_lost"] = progress.rounds_lost;
  json["finished"] = progress.finished;
  json["interrupted"] = result.interrupted;
  json["resumed"] = result.resumed;
  json["heldout_loss_before"] = progress.heldout_loss_before;
  json["heldout_loss"] = progress.heldout_loss;
  if (std::isfinite(result.heldout_accuracy)) {
    json["heldout_accuracy_before"] = result.heldout_accuracy_before;
    json["heldout_accuracy"] = result.heldout_accuracy;
  }
  if (std::isfinite(result.flops_saved)) {
    json["flops_saved"] = result.flops_saved;
  }
  json["adapter_digest"] =
      progress.adapter.digest().empty()
          ? Json(nullptr)
          : Json(absl::StrCat("sha256:", progress.adapter.digest()));
  json["clients"] = result.num_clients;
  json["train_examples"] = result.train_examples;
  json["heldout_examples"] = result.heldout_examples;
  json["clients_trained"] = result.clients_trained;
  json["clients_lost"] = result.clients_lost;
  json["clients_per_second"] =
      result.training_seconds > 0.0
          ? result.clients_trained / result.training_seconds
          : std::nan("");
  json["training_seconds"] = result.training_seconds;
  json["wall_seconds"] = result.wall_seconds;
  json["peak_rss_mib"] = result.peak_rss_mib;
  json["bytes_up"] = progress.bytes_up;
  json["bytes_down"] = progress.bytes_down;
  json["workers"] = options.workers;
  json["device"] = result.device;
  json["store"] = result.store_dir;
  json["adapter"] = result.adapter_dir;
  json["metrics"] = base::JoinPath(out, kMetricsName);
  json["report"] = base::JoinPath(out, "report.html");
  return json.dump();
}

absl::Status WriteSummary(const ExperimentOptions& options,
                          const RunResult& result, const std::string& out_dir) {
  CHOIR_ASSIGN_OR_RETURN(const std::vector<RoundMetrics> rounds,
                         ReadMetrics(base::JoinPath(out_dir, kMetricsName)));
  CHOIR_RETURN_IF_ERROR(base::WriteFileAtomic(
      base::JoinPath(out_dir, "report.html"),
      ReportHtml(options, result, rounds), base::Durability::kProcessCrash));
  return base::WriteFileAtomic(base::JoinPath(out_dir, "summary.json"),
                               SummaryJson(options, result, out_dir) + "\n",
                               base::Durability::kProcessCrash);
}

}  // namespace choir::sim
