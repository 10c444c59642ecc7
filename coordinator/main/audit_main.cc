// choir-audit: reads a coordinator's or a simulation's store, alone.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/cli.h"
#include "base/command_line.h"
#include "coordinator/audit/export.h"
#include "coordinator/audit/history.h"
#include "coordinator/audit/output.h"
#include "coordinator/audit/verify.h"
#include "coordinator/store/journal_reader.h"

namespace choir::audit {
namespace {

struct Options {
  std::string store;
  bool json = false;
  ShowOptions show;
  std::string out = "-";
  std::string format = "jsonl";
};

// A line on stderr that is redrawn; nothing unless stderr is a terminal.
class ProgressBar {
 public:
  ProgressBar() : on_(isatty(STDERR_FILENO) == 1) {}
  ~ProgressBar() {
    if (drawn_) std::fprintf(stderr, "\r\033[K");
  }
  void Draw(absl::string_view phase, double part) {
    if (!on_) return;
    constexpr int kWidth = 40;
    const int full = static_cast<int>(part * kWidth);
    std::string bar(static_cast<size_t>(full), '#');
    bar.resize(kWidth, '.');
    std::fprintf(stderr, "\rverifying %-8s [%s] %3d %%",
                 std::string(phase).c_str(), bar.c_str(),
                 static_cast<int>(part * 100));
    drawn_ = true;
  }

 private:
  const bool on_;
  bool drawn_ = false;
};

void PrintJson(const nlohmann::ordered_json& json) {
  // Names come from peers: bytes that are no UTF-8 are replaced, not fatal.
  std::cout << json.dump(-1, ' ', false,
                         nlohmann::ordered_json::error_handler_t::replace)
            << "\n";
}

int RunVerify(const Options& options, const std::string& root) {
  absl::StatusOr<VerifyReport> report;
  {
    ProgressBar bar;
    report = Verify(root, [&bar](absl::string_view phase, double part) {
      bar.Draw(phase, part);
    });
  }
  if (!report.ok()) return base::PrintError(report.status(), options.json);
  if (options.json) {
    PrintJson(VerifyJson(*report));
  } else {
    std::cout << VerifyText(*report);
  }
  return report->ok ? base::kExitDone : base::kExitVerificationFailed;
}

// Prints a document or a text, whichever was asked for.
int Print(const Options& options,
          const absl::StatusOr<nlohmann::ordered_json>& json,
          const absl::StatusOr<std::string>& text) {
  if (!json.ok()) return base::PrintError(json.status(), options.json);
  if (!text.ok()) return base::PrintError(text.status(), options.json);
  if (options.json) {
    PrintJson(*json);
  } else {
    std::cout << *text;
  }
  return base::kExitDone;
}

absl::StatusOr<uint64_t> WriteExport(const Options& options,
                                     const std::string& root,
                                     std::ostream& out) {
  if (options.format == "jsonl") return ExportEvents(root, out);
  const auto history = ReadHistory(root);
  if (!history.ok()) return history.status();
  const auto csv = RoundsCsv(*history, "");
  if (!csv.ok()) return csv.status();
  if (!(out << *csv).flush()) {
    return absl::ResourceExhaustedError("cannot write the table");
  }
  return history->events;
}

int RunExport(const Options& options, const std::string& root) {
  if (options.out == "-") {
    const auto events = WriteExport(options, root, std::cout);
    return events.ok() ? base::kExitDone
                       : base::PrintError(events.status(), options.json);
  }
  std::ofstream out(options.out, std::ios::binary | std::ios::trunc);
  if (!out) {
    return base::PrintError(absl::PermissionDeniedError(absl::StrCat(
                                "cannot write to '", options.out, "'")),
                            options.json);
  }
  const auto events = WriteExport(options, root, out);
  if (!events.ok()) return base::PrintError(events.status(), options.json);
  if (options.json) {
    PrintJson({{"events", *events}, {"out", options.out}});
  } else {
    std::cout << *events << " events written to " << options.out << "\n";
  }
  return base::kExitDone;
}

int RunVerb(const std::string& verb, const Options& options) {
  const auto root = store::FindStore(options.store);
  if (!root.ok()) {
    const int code = base::PrintError(root.status(), options.json);
    return absl::IsNotFound(root.status()) ? base::kExitNoStore : code;
  }
  if (verb == "verify") return RunVerify(options, *root);
  if (verb == "export") return RunExport(options, *root);
  const auto history = ReadHistory(*root);
  if (!history.ok()) {
    const absl::Status status(
        history.status().code(),
        absl::StrCat(history.status().message(), "; 'choir-audit verify ",
                     options.store, "' tells more"));
    return base::PrintError(status, options.json);
  }
  if (verb == "rounds") {
    return Print(options, RoundsJson(*history, options.show.job),
                 RoundsText(*history, options.show.job));
  }
  return Print(options, ShowJson(*history, options.show),
               ShowText(*history, options.show));
}

CLI::App* AddVerb(CLI::App& app, const std::string& name,
                  const std::string& help, Options& options) {
  CLI::App* verb = app.add_subcommand(name, help);
  verb->add_option("STORE", options.store,
                   "Folder of the store, or the choir.db in it")
      ->required();
  verb->add_flag("--json", options.json,
                 "One JSON document on stdout, errors too");
  verb->footer(base::kExitCodeHelp);
  return verb;
}

int Main(int argc, char** argv) {
  CLI::App app{
      "Reads the journal of a Choir store, proves it and shows what happened. "
      "Locks and changes nothing; a coordinator may be running.",
      "choir-audit"};
  app.set_version_flag("--version", base::kVersion);
  app.footer(base::kExitCodeHelp);
  app.require_subcommand(1);
  Options options;
  CLI::App* rounds = AddVerb(app, "rounds", "Table of all rounds", options);
  rounds->add_option("--job", options.show.job, "Of this job alone");
  CLI::App* show =
      AddVerb(app, "show", "Everything about the jobs or one round", options);
  show->add_option("--job", options.show.job, "Of this job alone");
  show->add_option("--round", options.show.round,
                   "Cohort, refusals, losses and results of this round")
      ->check(base::AtLeast(1));
  AddVerb(app, "verify",
          "Check the hash chain, every blob, and that each model version "
          "follows from the recorded sums",
          options);
  CLI::App* exported =
      AddVerb(app, "export", "All events as JSON, one a line", options);
  exported->add_option("--out", options.out, "File to write, or - for stdout")
      ->capture_default_str();
  exported
      ->add_option("--format", options.format,
                   "jsonl (events) or csv (table of rounds)")
      ->check(CLI::IsMember({"jsonl", "csv"}));
  if (const absl::optional<int> code =
          base::ParseCommandLine(app, argc, argv)) {
    return *code;
  }
  return RunVerb(app.get_subcommands().front()->get_name(), options);
}

}  // namespace
}  // namespace choir::audit

int main(int argc, char** argv) {
  return choir::base::FinishOutput(choir::audit::Main(argc, argv));
}
