// A run as one self-contained web page.
#ifndef CHOIR_SIM_EXPERIMENT_REPORT_H_
#define CHOIR_SIM_EXPERIMENT_REPORT_H_

#include <string>

#include "absl/types/span.h"
#include "sim/experiment/experiment_options.h"
#include "sim/experiment/metrics.h"
#include "sim/experiment/simulation.h"

namespace choir::sim {

// HTML without scripts and without anything loaded from elsewhere: figures,
// curves of loss and participation, a table of rounds (thinned when there are
// many) and the resolved settings. Follows the reader's light or dark setting.
std::string ReportHtml(const ExperimentOptions& options,
                       const RunResult& result,
                       absl::Span<const RoundMetrics> rounds);

}  // namespace choir::sim

#endif  // CHOIR_SIM_EXPERIMENT_REPORT_H_
