#include "sim/experiment/metrics.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace choir::sim {
namespace {

using Json = nlohmann::ordered_json;

double NumberOrNan(const Json& line, const char* key) {
  const auto found = line.find(key);
  return found != line.end() && found->is_number()
             ? found->get<double>()
             : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

std::string ToJsonLine(const RoundMetrics& metrics) {
  // What is not finite is written as null.
  Json line;
  line["round"] = metrics.round;
  line["train_loss"] = metrics.train_loss;
  line["heldout_loss"] = metrics.heldout_loss;
  // Only where there are such figures.
  if (std::isfinite(metrics.heldout_accuracy)) {
    line["heldout_accuracy"] = metrics.heldout_accuracy;
  }
  if (std::isfinite(metrics.flops_saved)) {
    line["flops_saved"] = metrics.flops_saved;
  }
  line["selected"] = metrics.selected;
  line["survivors"] = metrics.survivors;
  line["attempts"] = metrics.attempts;
  line["bytes"] = metrics.bytes;
  line["seconds"] = metrics.seconds;
  line["clients_per_second"] = metrics.clients_per_second;
  return line.dump();
}

absl::StatusOr<std::vector<RoundMetrics>> ReadMetrics(const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text, base::ReadFile(path));
  std::vector<RoundMetrics> rounds;
  for (const absl::string_view raw : absl::StrSplit(text, '\n')) {
    if (raw.empty()) continue;
    const Json line = Json::parse(raw.begin(), raw.end(), nullptr, false);
    const auto count = [&line](const char* key) -> uint64_t {
      const double value = NumberOrNan(line, key);
      return value >= 0.0 && value < 1e18 ? static_cast<uint64_t>(value) : 0;
    };
    if (!line.is_object() || count("round") == 0) {
      return absl::DataLossError(absl::StrCat(
          path, ": line ", rounds.size() + 1, " is not a round's figures"));
    }
    RoundMetrics round;
    round.round = static_cast<uint32_t>(count("round"));
    round.train_loss = NumberOrNan(line, "train_loss");
    round.heldout_loss = NumberOrNan(line, "heldout_loss");
    round.heldout_accuracy = NumberOrNan(line, "heldout_accuracy");
    round.flops_saved = NumberOrNan(line, "flops_saved");
    round.selected = static_cast<uint32_t>(count("selected"));
    round.survivors = static_cast<uint32_t>(count("survivors"));
    round.attempts = static_cast<uint32_t>(count("attempts"));
    round.bytes = count("bytes");
    round.seconds = NumberOrNan(line, "seconds");
    round.clients_per_second = NumberOrNan(line, "clients_per_second");
    rounds.push_back(round);
  }
  return rounds;
}

absl::StatusOr<std::unique_ptr<MetricsLog>> MetricsLog::Create(
    const std::string& path,
    std::function<void(const RoundMetrics&)> on_round) {
  std::FILE* file = std::fopen(path.c_str(), "we");
  if (file == nullptr) {
    return base::ErrnoStatus(errno, absl::StrCat("create ", path));
  }
  return std::unique_ptr<MetricsLog>(
      new MetricsLog(file, path, std::move(on_round)));
}

MetricsLog::~MetricsLog() {
  if (file_ != nullptr) std::fclose(file_);
}

void MetricsLog::Add(const v1::JournalRecord& record, absl::Time time) {
  if (record.has_round_started()) {
    Flush();
    current_ = RoundMetrics();
    round_flops_ = Flops();
    current_.round = record.round_started().round();
    current_.attempts = record.round_started().attempt();
    current_.selected = record.round_started().cohort_size();
    begin_ = time;
  } else if (record.has_update_accepted()) {
    round_flops_.dense += record.update_accepted().report().dense_flops();
    round_flops_.done += record.update_accepted().report().done_flops();
  } else if (record.has_round_committed()) {
    const v1::RoundCommitted& committed = record.round_committed();
    current_.train_loss = committed.mean_train_loss();
    current_.survivors = committed.survivors_size();
    current_.bytes = committed.bytes_up() + committed.bytes_down();
    current_.seconds = std::max(0.0, absl::ToDoubleSeconds(time - begin_));
    current_.clients_per_second =
        current_.seconds > 0.0 ? current_.survivors / current_.seconds : 0.0;
    clients_trained_ += current_.survivors;
    training_seconds_ += current_.seconds;
    current_.flops_saved = round_flops_.saved();
    all_flops_.dense += round_flops_.dense;
    all_flops_.done += round_flops_.done;
    waiting_ = true;
  } else if (record.has_client_lost()) {
    ++clients_lost_;
  } else if (record.has_evaluation_started()) {
    classifies_ = false;
    correct_ = 0;
  } else if (record.has_evaluation_accepted()) {
    const v1::EvaluationReport& report = record.evaluation_accepted().report();
    classifies_ |= report.has_correct();
    correct_ += report.correct();
  } else if (record.has_evaluation_finished()) {
    const v1::EvaluationFinished& finished = record.evaluation_finished();
    if (finished.tokens() == 0) return;
    heldout_accuracy_ = classifies_ ? static_cast<double>(correct_) /
                                          static_cast<double>(finished.tokens())
                                    : std::nan("");
    if (finished.version() == 0) heldout_accuracy_before_ = heldout_accuracy_;
    if (waiting_ && finished.version() == current_.round) {
      current_.heldout_loss = finished.loss_sum() / finished.tokens();
      current_.heldout_accuracy = heldout_accuracy_;
      Flush();
    }
  } else if (record.has_job_finished()) {
    Flush();
  }
}

double MetricsLog::Flops::saved() const {
  return dense > 0.0 ? 1.0 - done / dense : std::nan("");
}

void MetricsLog::Resume(absl::Time now) { begin_ = now; }

void MetricsLog::Flush() {
  if (!waiting_) return;
  waiting_ = false;
  const std::string line = ToJsonLine(current_) + "\n";
  if (std::fputs(line.c_str(), file_) < 0 || std::fflush(file_) != 0) {
    failed_ = true;
  }
  if (on_round_) on_round_(current_);
}

absl::Status MetricsLog::Finish() {
  Flush();
  if (file_ == nullptr) return absl::OkStatus();
  const bool closed = std::fclose(std::exchange(file_, nullptr)) == 0;
  if (failed_ || !closed) {
    return absl::ResourceExhaustedError(
        absl::StrCat("could not write all of ", path_, "; is the disk full?"));
  }
  return absl::OkStatus();
}

}  // namespace choir::sim
