// What a run came to, as one JSON document.
#ifndef CHOIR_SIM_EXPERIMENT_SUMMARY_H_
#define CHOIR_SIM_EXPERIMENT_SUMMARY_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sim/experiment/experiment_options.h"
#include "sim/experiment/simulation.h"

namespace choir::sim {

// The document of `choir-sim run --json`; also written to summary.json.
// Figures that do not exist (no evaluation) are null.
std::string SummaryJson(const ExperimentOptions& options,
                        const RunResult& result, absl::string_view out_dir);

// Writes summary.json and report.html into out_dir, from `result` and
// metrics.jsonl there.
absl::Status WriteSummary(const ExperimentOptions& options,
                          const RunResult& result, const std::string& out_dir);

}  // namespace choir::sim

#endif  // CHOIR_SIM_EXPERIMENT_SUMMARY_H_
