#include "sim/experiment/report.h"

#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/config/toml_config.h"
#include "sim/experiment/chart.h"

namespace choir::sim {
namespace {

constexpr size_t kMaxTableRows = 200;

constexpr char kStyle[] = R"(
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a;
  --paper: #ffffff; --line: #d0d7de; --a: #0550ae; --b: #b35900; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9da7b3; --paper: #0d1117; --line: #30363d;
    --a: #79c0ff; --b: #ffa657; } }
body { background: var(--paper); color: var(--ink); margin: 2rem auto;
  max-width: 48rem; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
dl { display: grid; gap: .5rem 1rem;
  grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-size: 1.2rem; overflow-wrap: anywhere; }
.long { grid-column: 1 / -1; }
.long dd { font-size: .8rem; font-family: monospace; }
svg { width: 100%; height: auto; } svg text { fill: var(--soft);
  font-size: 12px; } svg .grid { stroke: var(--line); }
svg polyline { fill: none; stroke-width: 2; }
svg line.a, svg polyline.a { stroke: var(--a); stroke-width: 2; }
svg line.b, svg polyline.b { stroke: var(--b); stroke-width: 2;
  stroke-dasharray: 6 3; }
svg circle.a { fill: var(--a); } svg circle.b { fill: var(--b); }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
td { white-space: nowrap; }
th, td { text-align: right; padding: .2rem .5rem;
  border-bottom: 1px solid var(--line); }
pre { border: 1px solid var(--line); padding: 1rem; overflow-x: auto; }
.scroll { overflow-x: auto; }
)";

std::string Figure(double value, const char* format) {
  if (!std::isfinite(value)) return "\u2013";
  return absl::StrFormat("%.*f", format[0] - '0', value);
}

std::string Entry(absl::string_view name, absl::string_view value,
                  absl::string_view css_class = "") {
  return absl::StrCat("<div", css_class.empty() ? "" : " class=\"", css_class,
                      css_class.empty() ? "" : "\"", "><dt>", EscapeHtml(name),
                      "</dt><dd>", EscapeHtml(value), "</dd></div>\n");
}

std::string Figures(const ExperimentOptions& options, const RunResult& result) {
  const engine::Progress& progress = result.progress;
  const double rate = result.training_seconds > 0.0
                          ? result.clients_trained / result.training_seconds
                          : std::nan("");
  return absl::StrCat(
      "<dl>\n",
      Entry("Rounds", absl::StrCat(progress.rounds_committed, " of ",
                                   progress.rounds_total)),
      Entry("Rounds lost", absl::StrCat(progress.rounds_lost)),
      Entry("Held-out loss before", Figure(progress.heldout_loss_before, "4")),
      Entry("Held-out loss after", Figure(progress.heldout_loss, "4")),
      std::isfinite(result.heldout_accuracy)
          ? Entry("Held-out accuracy",
                  absl::StrCat(
                      Figure(100.0 * result.heldout_accuracy_before, "1"),
                      " % to ", Figure(100.0 * result.heldout_accuracy, "1"),
                      " %"))
          : std::string(),
      std::isfinite(result.flops_saved)
          ? Entry("FLOPs saved", Figure(100.0 * result.flops_saved, "1") + " %")
          : std::string(),
      Entry("Clients", absl::StrCat(result.num_clients)),
      Entry("Clients per second", Figure(rate, "2")),
      Entry("Training examples", absl::StrCat(result.train_examples)),
      Entry("Held-out examples", absl::StrCat(result.heldout_examples)),
      Entry("Wall time", Figure(result.wall_seconds, "1") + " s"),
      Entry("Peak memory", Figure(result.peak_rss_mib, "0") + " MiB"),
      Entry("Workers", absl::StrCat(options.workers, " on ", result.device)),
      Entry("Sent up and down",
            Figure((progress.bytes_up + progress.bytes_down) / 1048576.0, "1") +
                " MiB"),
      "</dl>\n<dl>",
      Entry("Adapter", absl::StrCat("sha256:", progress.adapter.digest()),
            "long"),
      "</dl>\n");
}

Series Points(absl::string_view name, absl::string_view style,
              absl::Span<const RoundMetrics> rounds,
              double (*value)(const RoundMetrics&)) {
  Series series{std::string(name), std::string(style), {}};
  for (const RoundMetrics& round : rounds) {
    const double y = value(round);
    if (std::isfinite(y)) series.points.emplace_back(round.round, y);
  }
  return series;
}

std::string Curves(const RunResult& result,
                   absl::Span<const RoundMetrics> rounds) {
  Chart loss{"Loss per predicted token", "round", "nats", false, {}};
  Series heldout = Points("held out", "a", rounds,
                          [](const RoundMetrics& r) { return r.heldout_loss; });
  if (std::isfinite(result.progress.heldout_loss_before)) {
    heldout.points.insert(heldout.points.begin(),
                          {0.0, result.progress.heldout_loss_before});
  }
  loss.series.push_back(std::move(heldout));
  loss.series.push_back(
      Points("training", "b", rounds,
             [](const RoundMetrics& r) { return r.train_loss; }));
  Series accuracy = Points("held out", "a", rounds, [](const RoundMetrics& r) {
    return 100.0 * r.heldout_accuracy;
  });
  std::string accuracy_html;
  if (!accuracy.points.empty()) {
    Chart chart{"Right labels", "round", "%", true, {}};
    chart.series.push_back(std::move(accuracy));
    accuracy_html = absl::StrCat("<h2>Accuracy</h2>\n", ChartSvg(chart));
  }
  Chart clients{"Participation", "round", "clients", true, {}};
  clients.series.push_back(
      Points("selected", "b", rounds,
             [](const RoundMetrics& r) { return double(r.selected); }));
  clients.series.push_back(
      Points("in the sum", "a", rounds,
             [](const RoundMetrics& r) { return double(r.survivors); }));
  return absl::StrCat("<h2>Loss</h2>\n", ChartSvg(loss), accuracy_html,
                      "<h2>Participation</h2>\n", ChartSvg(clients));
}

std::string Table(absl::Span<const RoundMetrics> rounds) {
  std::string html =
      "<div class=\"scroll\"><table><thead><tr><th scope=\"col\">Round</th>"
      "<th scope=\"col\">Training loss</th><th scope=\"col\">Held-out loss"
      "</th><th scope=\"col\">Clients</th><th scope=\"col\">Attempts</th>"
      "<th scope=\"col\">KiB</th><th scope=\"col\">Seconds</th></tr></thead>"
      "<tbody>\n";
  const size_t step = (rounds.size() + kMaxTableRows - 1) / kMaxTableRows;
  for (size_t i = 0; i < rounds.size(); ++i) {
    if (i % step != 0 && i + 1 != rounds.size()) continue;
    const RoundMetrics& round = rounds[i];
    absl::StrAppendFormat(
        &html,
        "<tr><td>%d</td><td>%s</td><td>%s</td><td>%d of %d</td><td>%d</td>"
        "<td>%.0f</td><td>%.2f</td></tr>\n",
        round.round, Figure(round.train_loss, "4"),
        Figure(round.heldout_loss, "4"), round.survivors, round.selected,
        round.attempts, round.bytes / 1024.0, round.seconds);
  }
  absl::StrAppend(&html, "</tbody></table></div>\n");
  if (step > 1) {
    absl::StrAppend(&html, "<p>Every ", step,
                    "th round; metrics.jsonl has all.</p>\n");
  }
  return html;
}

}  // namespace

std::string ReportHtml(const ExperimentOptions& options,
                       const RunResult& result,
                       absl::Span<const RoundMetrics> rounds) {
  const std::string name = EscapeHtml(options.job.name);
  return absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, "
      "initial-scale=1\">\n<title>",
      name, " - Choir</title>\n<style>", kStyle,
      "</style>\n</head>\n<body>\n<main>\n"
      "<h1>",
      name, "</h1>\n",
      result.interrupted
          ? "<p>Interrupted; <code>--resume</code> goes on with it.</p>\n"
          : "",
      Figures(options, result), Curves(result, rounds), "<h2>Rounds</h2>\n",
      Table(rounds), "<h2>Settings</h2>\n<pre tabindex=\"0\">",
      EscapeHtml(config::ToToml(ToProto(options))),
      "</pre>\n</main>\n</body>\n</html>\n");
}

}  // namespace choir::sim
