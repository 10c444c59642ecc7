// What every Choir program does alike on its command line.
#ifndef CHOIR_BASE_CLI_H_
#define CHOIR_BASE_CLI_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/exit_codes.h"

namespace choir::base {

inline constexpr char kVersion[] = "0.1.0";

// Prints `status` the way users asked for: with `json`, one document
// {"error":{"code":"INVALID_ARGUMENT","message":"..."}} on stdout; otherwise
// "error: ..." on stderr. Returns the exit code that fits the status:
// INVALID_ARGUMENT and NOT_FOUND of configuration are kExitUsage only if
// `usage`; everything else is kExitFailed.
int PrintError(const absl::Status& status, bool json, bool usage = false);

// To be called last: pushes out what waits for stdout. If it could not be
// written (the disk is full, say), says so on stderr and returns kExitFailed
// where `code` is kExitDone: half a result must not look like a whole one.
int FinishOutput(int code);

// A command line that cannot be understood: `what` and where to read more,
// through PrintError(). The arguments themselves are searched for --json: the
// parser may have stopped before it. Returns kExitUsage.
int PrintUsageError(absl::string_view program, absl::string_view what, int argc,
                    const char* const* argv);

// `text` as a JSON string literal, quotes included; bytes that are not UTF-8
// become U+FFFD.
std::string JsonQuote(absl::string_view text);

// `text` for a terminal: control characters, and bytes that are not UTF-8,
// become U+FFFD.
std::string PrintableText(absl::string_view text);

// Stops a program gracefully. Install() makes the first SIGTERM or SIGINT set
// the flag and the second end the process at once with kExitInterrupted.
class StopSignal {
 public:
  static void Install();
  // For a program that would leave nothing half-done: the first signal already
  // ends it, with the error "told to stop" as PrintError() prints it.
  static void InstallToEnd(bool json);
  static bool requested();
  // CANCELLED as soon as the flag is set.
  static absl::Status Check();
  // Readable when the flag is set: for poll() and the like.
  static int file_descriptor();
};

}  // namespace choir::base

#endif  // CHOIR_BASE_CLI_H_
