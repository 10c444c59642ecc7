// Tells a person at a terminal how far a run is.
#ifndef CHOIR_SIM_MAIN_PROGRESS_DISPLAY_H_
#define CHOIR_SIM_MAIN_PROGRESS_DISPLAY_H_

#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "sim/experiment/metrics.h"

namespace choir::sim {

// On a terminal: one line on stderr, written over. Otherwise plain lines, at
// most one a second and the last. Silent with `quiet`.
// Threads: one thread at a time.
class ProgressDisplay {
 public:
  ProgressDisplay(int total_rounds, bool quiet);
  // Ends the line on a terminal.
  ~ProgressDisplay();

  void OnRound(const RoundMetrics& round);
  void OnClient(int done, int total, bool evaluation);

 private:
  void Draw(absl::string_view suffix);

  const int total_rounds_;
  const bool quiet_;
  const bool terminal_;
  const absl::Time begin_;
  absl::Time last_draw_ = absl::InfinitePast();
  int first_round_ = 0;  // rounds done before this run
  RoundMetrics last_;
  double last_heldout_loss_ = std::numeric_limits<double>::quiet_NaN();
  bool drawn_ = false;
};

// "[#####-----]", `width` characters between the brackets.
std::string Bar(int done, int total, int width);

// As many of `parts` as fit into a line of so many columns, from the first on:
// what is cut in two says something else ("43/4" for "43/45").
std::string Figures(const std::vector<std::string>& parts, size_t columns);

// A bar and `figures` on one line of a terminal with so many columns; a narrow
// one loses the bar first, then the end of the figures.
std::string FitLine(int done, int total, absl::string_view figures,
                    size_t columns);

}  // namespace choir::sim

#endif  // CHOIR_SIM_MAIN_PROGRESS_DISPLAY_H_
