#include "coordinator/main/admin_text.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace choir::coordinator {
namespace {

using Json = nlohmann::json;
using Row = std::vector<std::string>;

std::string Date(int64_t unix_seconds) {
  if (unix_seconds == 0) return "-";
  return absl::FormatTime("%Y-%m-%d %H:%M UTC",
                          absl::FromUnixSeconds(unix_seconds),
                          absl::UTCTimeZone());
}

std::string Loss(const Json& value) {
  return value.is_number() ? absl::StrFormat("%.4f", value.get<double>()) : "-";
}

std::string Losses(const Json& before, const Json& now) {
  if (!before.is_number() && !now.is_number()) return "-";
  return absl::StrCat(Loss(before), " -> ", Loss(now));
}

std::string TextOrDash(const Json& value) {
  const std::string text = value.get<std::string>();
  return text.empty() ? "-" : text;
}

// Columns two spaces apart; the last one is not filled up.
std::string Table(const std::vector<Row>& rows) {
  std::vector<size_t> widths(rows.front().size(), 0);
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      absl::StrAppend(&line, i == 0 ? "" : "  ", row[i],
                      std::string(widths[i] - row[i].size(), ' '));
    }
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

std::string Jobs(const Json& jobs) {
  if (jobs.empty()) return "no jobs\n";
  std::vector<Row> rows = {{"job", "state", "rounds", "lost", "held-out loss",
                            "clients", "waiting for, or reason"}};
  for (const Json& job : jobs) {
    const std::string reason = job["reason"].get<std::string>();
    rows.push_back({job["job"].get<std::string>(),
                    job["state"].get<std::string>(),
                    absl::StrCat(job["rounds_committed"].get<uint64_t>(), "/",
                                 job["rounds_total"].get<uint64_t>()),
                    job["rounds_lost"].dump(),
                    Losses(job["heldout_loss_before"], job["heldout_loss"]),
                    job["available_clients"].dump(),
                    reason.empty() ? TextOrDash(job["waiting_for"]) : reason});
  }
  return Table(rows);
}

std::string Clients(const Json& clients) {
  if (clients.empty()) return "no clients\n";
  std::vector<Row> rows = {{"client", "state", "connected", "device", "MiB",
                            "trains", "evaluates", "certificate until"}};
  for (const Json& client : clients) {
    rows.push_back(
        {client["name"].get<std::string>(), client["state"].get<std::string>(),
         client["connected"].get<bool>() ? "yes" : "no",
         TextOrDash(client["device"]), client["memory_mib"].dump(),
         client["trains"].get<bool>() ? "yes" : "no",
         client["evaluates"].get<bool>() ? "yes" : "no",
         Date(client["certificate_expires_unix_seconds"].get<int64_t>())});
  }
  return Table(rows);
}

// Empty if there is nothing to say.
std::string Line(absl::string_view key, const Json& value) {
  if (value.is_null()) return "";
  constexpr absl::string_view kSeconds = "_unix_seconds";
  if (value.is_number_integer() && absl::EndsWith(key, kSeconds)) {
    if (value.get<int64_t>() == 0) return "";
    key.remove_suffix(kSeconds.size());
    return absl::StrCat(key, ": ", Date(value.get<int64_t>()), "\n");
  }
  const std::string text =
      value.is_string() ? value.get<std::string>() : value.dump();
  return text.empty() ? "" : absl::StrCat(key, ": ", text, "\n");
}

}  // namespace

std::string AdminText(const Json& document) {
  std::string text;
  std::string long_texts;
  for (const auto& [key, value] : document.items()) {
    if (value.is_array() && key == "jobs") {
      text += Jobs(value);
    } else if (value.is_array() && key == "clients") {
      text += Clients(value);
    } else if (value.is_array()) {
      for (const Json& element : value) {
        absl::StrAppend(&text, "\n", AdminText(element));
      }
    } else if (value.is_string() &&
               absl::StrContains(value.get<std::string>(), "\n")) {
      absl::StrAppend(&long_texts, key, ":\n");
      const std::string lines = value.get<std::string>();
      for (absl::string_view line : absl::StrSplit(lines, '\n')) {
        absl::StrAppend(&long_texts, line.empty() ? "" : "  ", line, "\n");
      }
      while (absl::EndsWith(long_texts, "\n\n")) long_texts.pop_back();
    } else {
      text += Line(key, value);
    }
  }
  return absl::StrCat(text, long_texts);
}

}  // namespace choir::coordinator
