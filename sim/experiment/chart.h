// Line charts as inline SVG, readable without scripts, fonts or network.
#ifndef CHOIR_SIM_EXPERIMENT_CHART_H_
#define CHOIR_SIM_EXPERIMENT_CHART_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace choir::sim {

struct Series {
  std::string name;
  // CSS class of its line: "a" (solid) or "b" (dashed), so that the two differ
  // without colour.
  std::string style;
  std::vector<std::pair<double, double>> points;  // x ascending, finite
};

struct Chart {
  std::string title;
  std::string x_label;
  std::string y_label;
  // For counts: the y axis begins at 0 instead of near the smallest value, and
  // its grid falls on whole numbers.
  bool from_zero = false;
  std::vector<Series> series;
};

// An <svg> element with title and description for screen readers. Series with
// more than 600 points are thinned (first and last stay).
std::string ChartSvg(const Chart& chart);

// `text` safe inside HTML text and quoted attributes.
std::string EscapeHtml(absl::string_view text);

// A step of 1, 2 or 5 times a power of ten that divides `range` into at most
// `most` parts.
double NiceStep(double range, int most);

}  // namespace choir::sim

#endif  // CHOIR_SIM_EXPERIMENT_CHART_H_
