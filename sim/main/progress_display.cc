#include "sim/main/progress_display.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace choir::sim {
namespace {

constexpr int kBarWidth = 24;
constexpr int kLeastBarWidth = 6;  // shorter ones tell nothing
constexpr size_t kBarFrom = 60;    // columns in which the bar always stays
constexpr absl::Duration kRedraw = absl::Milliseconds(100);
constexpr absl::Duration kBetweenLines = absl::Seconds(1);

std::string Loss(double value) {
  return std::isfinite(value) ? absl::StrFormat("%.4f", value) : "-";
}

// Characters in a line of the terminal on stderr.
size_t TerminalWidth() {
  winsize size = {};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0;
  return known && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

std::string Bar(int done, int total, int width) {
  const int filled =
      total <= 0 ? 0
                 : std::clamp(static_cast<int>(int64_t{width} * done / total),
                              0, width);
  return absl::StrCat("[", std::string(filled, '#'),
                      std::string(width - filled, '-'), "]");
}

std::string Figures(const std::vector<std::string>& parts, size_t columns) {
  const size_t room = columns > 1 ? columns - 1 : 0;
  std::string line;
  for (const std::string& part : parts) {
    if (part.empty()) continue;
    const std::string longer =
        absl::StrCat(line, line.empty() ? " " : "  ", part);
    if (longer.size() > room) break;
    line = longer;
  }
  return line;
}

std::string FitLine(int done, int total, absl::string_view figures,
                    size_t columns) {
  // The last column stays free: some terminals wrap once it is written.
  const size_t room = columns > 1 ? columns - 1 : 0;
  const size_t left = room > figures.size() ? room - figures.size() : 0;
  const int width =
      static_cast<int>(std::min<size_t>(kBarWidth, left > 2 ? left - 2 : 0));
  std::string line = width < kLeastBarWidth ? "" : Bar(done, total, width);
  absl::StrAppend(&line, figures);
  if (line.size() > room) line.resize(room);
  return line;
}

ProgressDisplay::ProgressDisplay(int total_rounds, bool quiet)
    : total_rounds_(total_rounds),
      quiet_(quiet),
      terminal_(isatty(STDERR_FILENO) == 1),
      begin_(absl::Now()) {}

ProgressDisplay::~ProgressDisplay() {
  if (terminal_ && drawn_) std::fputc('\n', stderr);
}

void ProgressDisplay::OnRound(const RoundMetrics& round) {
  if (last_.round == 0) first_round_ = static_cast<int>(round.round) - 1;
  last_ = round;
  if (std::isfinite(round.heldout_loss)) {
    last_heldout_loss_ = round.heldout_loss;
  }
  if (quiet_) return;
  if (terminal_) {
    Draw("");
    return;
  }
  const bool last = static_cast<int>(round.round) == total_rounds_;
  if (!last && absl::Now() < last_draw_ + kBetweenLines) return;
  last_draw_ = absl::Now();
  std::fprintf(stderr,
               "round %u of %d: train loss %s, held-out loss %s, %u of %u "
               "clients, %.2f clients/s\n",
               round.round, total_rounds_, Loss(round.train_loss).c_str(),
               Loss(round.heldout_loss).c_str(), round.survivors,
               round.selected, round.clients_per_second);
}

void ProgressDisplay::OnClient(int done, int total, bool evaluation) {
  if (quiet_ || !terminal_ || absl::Now() < last_draw_ + kRedraw) return;
  Draw(absl::StrFormat("%s %d/%d", evaluation ? "evaluating" : "training", done,
                       total));
}

void ProgressDisplay::Draw(absl::string_view suffix) {
  last_draw_ = absl::Now();
  drawn_ = true;
  const int done = static_cast<int>(last_.round);
  std::string eta = "--:--";
  if (done > first_round_) {
    const int64_t left =
        absl::ToInt64Seconds((absl::Now() - begin_) / (done - first_round_) *
                             (total_rounds_ - done));
    eta = absl::StrFormat("%02d:%02d", left / 60, left % 60);
  }
  const size_t columns = TerminalWidth();
  const std::string figures =
      Figures({absl::StrFormat("%d/%d", done, total_rounds_),
               absl::StrCat("loss ", Loss(last_.train_loss)),
               absl::StrCat("held-out ", Loss(last_heldout_loss_)),
               absl::StrCat("ETA ", eta), std::string(suffix),
               absl::StrFormat("%.1f clients/s", last_.clients_per_second)},
              columns >= kBarFrom ? columns - kLeastBarWidth - 2 : columns);
  std::fprintf(stderr, "\r\033[K%s",
               FitLine(done, total_rounds_, figures, columns).c_str());
  std::fflush(stderr);
}

}  // namespace choir::sim
