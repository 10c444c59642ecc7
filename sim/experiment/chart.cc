#include "sim/experiment/chart.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace choir::sim {
namespace {

constexpr double kWidth = 720, kHeight = 300;
constexpr double kLeft = 64, kRight = 16, kTop = 16, kBottom = 48;
constexpr size_t kMaxPoints = 600;

struct Axes {
  double x_min, x_max, y_min, y_max, x_step, y_step;
  double X(double x) const {
    return kLeft + (x - x_min) / (x_max - x_min) * (kWidth - kLeft - kRight);
  }
  double Y(double y) const {
    return kHeight - kBottom -
           (y - y_min) / (y_max - y_min) * (kHeight - kTop - kBottom);
  }
};

Axes FitAxes(const Chart& chart) {
  bool any = false;
  Axes axes = {0, 1, 0, 1, 0, 0};
  for (const Series& series : chart.series) {
    for (const auto& [x, y] : series.points) {
      axes.x_min = any ? std::min(axes.x_min, x) : x;
      axes.x_max = any ? std::max(axes.x_max, x) : x;
      axes.y_min = any ? std::min(axes.y_min, y) : y;
      axes.y_max = any ? std::max(axes.y_max, y) : y;
      any = true;
    }
  }
  if (chart.from_zero) axes.y_min = std::min(0.0, axes.y_min);
  if (axes.x_max <= axes.x_min) axes.x_max = axes.x_min + 1;
  if (axes.y_max <= axes.y_min) {
    axes.y_max = axes.y_min + std::max(1e-3, std::abs(axes.y_min) * 0.1);
  }
  axes.x_step = std::max(1.0, NiceStep(axes.x_max - axes.x_min, 8));
  axes.y_step = NiceStep(axes.y_max - axes.y_min, 5);
  if (chart.from_zero) axes.y_step = std::max(1.0, axes.y_step);
  axes.y_min = std::floor(axes.y_min / axes.y_step) * axes.y_step;
  axes.y_max = std::ceil(axes.y_max / axes.y_step) * axes.y_step;
  return axes;
}

std::string Grid(const Axes& axes) {
  std::string svg;
  const int decimals =
      std::clamp(static_cast<int>(-std::floor(std::log10(axes.y_step))), 0, 6);
  for (double y = axes.y_min; y <= axes.y_max + axes.y_step / 2;
       y += axes.y_step) {
    absl::StrAppendFormat(
        &svg,
        "<line class=\"grid\" x1=\"%g\" x2=\"%g\" y1=\"%.1f\" "
        "y2=\"%.1f\"/><text x=\"%g\" y=\"%.1f\" "
        "text-anchor=\"end\">%.*f</text>\n",
        kLeft, kWidth - kRight, axes.Y(y), axes.Y(y), kLeft - 8, axes.Y(y) + 4,
        decimals, y);
  }
  for (double x = std::ceil(axes.x_min / axes.x_step) * axes.x_step;
       x <= axes.x_max + 1e-9; x += axes.x_step) {
    absl::StrAppendFormat(
        &svg, "<text x=\"%.1f\" y=\"%g\" text-anchor=\"middle\">%g</text>\n",
        axes.X(x), kHeight - kBottom + 18, x);
  }
  return svg;
}

std::string Line(const Series& series, const Axes& axes) {
  const size_t count = series.points.size();
  if (count == 0) return "";
  const size_t kept = std::min(count, kMaxPoints);
  std::string points;
  for (size_t i = 0; i < kept; ++i) {
    const size_t at = kept == 1 ? 0 : i * (count - 1) / (kept - 1);
    absl::StrAppendFormat(&points, "%s%.1f,%.1f", points.empty() ? "" : " ",
                          axes.X(series.points[at].first),
                          axes.Y(series.points[at].second));
  }
  std::string svg = absl::StrFormat("<polyline class=\"%s\" points=\"%s\"/>\n",
                                    series.style, points);
  if (count <= 40) {
    for (const auto& [x, y] : series.points) {
      absl::StrAppendFormat(
          &svg,
          "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\">"
          "<title>%s, %g: %.6g</title></circle>\n",
          series.style, axes.X(x), axes.Y(y), EscapeHtml(series.name), x, y);
    }
  }
  return svg;
}

std::string Legend(const Chart& chart) {
  std::string svg;
  double x = kLeft + 8;
  for (const Series& series : chart.series) {
    absl::StrAppendFormat(
        &svg,
        "<line class=\"%s\" x1=\"%g\" x2=\"%g\" y1=\"%g\" y2=\"%g\"/>"
        "<text x=\"%g\" y=\"%g\">%s</text>\n",
        series.style, x, x + 24, kHeight - 8, kHeight - 8, x + 30, kHeight - 4,
        EscapeHtml(series.name));
    x += 60 + 8.0 * series.name.size();
  }
  return svg;
}

std::string Describe(const Chart& chart) {
  std::string text;
  for (const Series& series : chart.series) {
    if (series.points.empty()) {
      absl::StrAppend(&text, series.name, ": no figures. ");
      continue;
    }
    absl::StrAppendFormat(
        &text, "%s: %.4g at %g, %.4g at %g. ", series.name,
        series.points.front().second, series.points.front().first,
        series.points.back().second, series.points.back().first);
  }
  return text;
}

}  // namespace

double NiceStep(double range, int most) {
  const double rough = range / most;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * (1 - 1e-9)) return factor * power;
  }
  return 10.0 * power;
}

std::string EscapeHtml(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"},
                                    {"<", "&lt;"},
                                    {">", "&gt;"},
                                    {"\"", "&quot;"},
                                    {"'", "&#39;"}});
}

std::string ChartSvg(const Chart& chart) {
  const Axes axes = FitAxes(chart);
  std::string svg = absl::StrFormat(
      "<svg role=\"img\" viewBox=\"0 0 %g %g\" aria-label=\"%s\">\n"
      "<title>%s</title><desc>%s</desc>\n",
      kWidth, kHeight, EscapeHtml(chart.title), EscapeHtml(chart.title),
      EscapeHtml(Describe(chart)));
  absl::StrAppend(&svg, Grid(axes));
  for (const Series& series : chart.series) {
    absl::StrAppend(&svg, Line(series, axes));
  }
  absl::StrAppendFormat(
      &svg,
      "<text x=\"%g\" y=\"%g\" text-anchor=\"end\">%s</text>\n"
      "<text transform=\"rotate(-90)\" x=\"%g\" y=\"14\" "
      "text-anchor=\"middle\">%s</text>\n",
      kWidth - kRight, kHeight - 4, EscapeHtml(chart.x_label),
      -(kTop + kHeight - kBottom) / 2, EscapeHtml(chart.y_label));
  absl::StrAppend(&svg, Legend(chart), "</svg>\n");
  return svg;
}

}  // namespace choir::sim
