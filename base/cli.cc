#include "base/cli.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"

namespace choir::base {
namespace {

std::atomic<bool> g_stop{false};
int g_pipe[2] = {-1, -1};

constexpr absl::string_view kToldToStop = "told to stop";
constexpr absl::string_view kEndText = "error: told to stop\n";
constexpr absl::string_view kEndJson =
    "{\"error\":{\"code\":\"CANCELLED\",\"message\":\"told to stop\"}}\n";
// Said by the first signal before it ends the process; empty: it does not.
absl::string_view g_last_words;

void OnSignal(int) {
  if (g_stop.exchange(true)) _exit(kExitInterrupted);
  if (!g_last_words.empty()) {
    const int to = g_last_words == kEndJson ? STDOUT_FILENO : STDERR_FILENO;
    [[maybe_unused]] ssize_t ignored =
        write(to, g_last_words.data(), g_last_words.size());
    _exit(kExitInterrupted);
  }
  const char byte = 1;
  [[maybe_unused]] ssize_t ignored = write(g_pipe[1], &byte, 1);
}

// Bytes of the UTF-8 character that `text` begins with; 0 if it begins with
// something else, overlong forms and surrogates included.
size_t CharacterBytes(absl::string_view text) {
  const auto byte = [text](size_t i) -> uint32_t {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
  };
  const uint32_t first = byte(0);
  if (first < 0x80) return 1;
  const size_t size = first < 0xc2   ? 0
                      : first < 0xe0 ? 2
                      : first < 0xf0 ? 3
                      : first < 0xf5 ? 4
                                     : 0;
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const bool odd =
      (first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f) ||
      (first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f);
  return odd ? 0 : size;
}

}  // namespace

int PrintError(const absl::Status& status, bool json, bool usage) {
  if (json) {
    std::printf("{\"error\":{\"code\":%s,\"message\":%s}}\n",
                JsonQuote(absl::StatusCodeToString(status.code())).c_str(),
                JsonQuote(status.message()).c_str());
  } else {
    std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  }
  return usage ? kExitUsage : kExitFailed;
}

int FinishOutput(int code) {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  const int why = errno;
  std::fprintf(stderr, "error: the result could not be written to stdout%s%s\n",
               why == 0 ? "" : ": ", why == 0 ? "" : std::strerror(why));
  return code == kExitDone ? kExitFailed : code;
}

int PrintUsageError(absl::string_view program, absl::string_view what, int argc,
                    const char* const* argv) {
  bool json = false;
  for (int i = 1; i < argc; ++i) {
    json = json || absl::string_view(argv[i]) == "--json";
  }
  return PrintError(absl::InvalidArgumentError(
                        absl::StrCat(what, "; see ", program, " --help")),
                    json, /*usage=*/true);
}

std::string JsonQuote(absl::string_view text) {
  std::string quoted = "\"";
  while (!text.empty()) {
    const size_t bytes = CharacterBytes(text);
    const unsigned char first = static_cast<unsigned char>(text[0]);
    if (bytes == 0) {
      quoted += "\xef\xbf\xbd";  // U+FFFD
    } else if (first == '"' || first == '\\') {
      absl::StrAppend(&quoted, "\\", text.substr(0, 1));
    } else if (first == '\n') {
      quoted += "\\n";
    } else if (first < 0x20) {
      absl::StrAppendFormat(&quoted, "\\u%04x", first);
    } else {
      absl::StrAppend(&quoted, text.substr(0, bytes));
    }
    text.remove_prefix(bytes == 0 ? 1 : bytes);
  }
  return quoted + "\"";
}

std::string PrintableText(absl::string_view text) {
  std::string printable;
  while (!text.empty()) {
    const size_t bytes = CharacterBytes(text);
    const unsigned char first = static_cast<unsigned char>(text[0]);
    const bool control = first < 0x20 || first == 0x7f ||
                         (first == 0xc2 && bytes == 2 &&
                          static_cast<unsigned char>(text[1]) < 0xa0);
    if (bytes == 0 || control) {
      printable += "\xef\xbf\xbd";  // U+FFFD
    } else {
      absl::StrAppend(&printable, text.substr(0, bytes));
    }
    text.remove_prefix(std::max<size_t>(bytes, 1));
  }
  return printable;
}

void StopSignal::Install() {
  CHOIR_CHECK(pipe2(g_pipe, O_CLOEXEC | O_NONBLOCK) == 0);
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

void StopSignal::InstallToEnd(bool json) {
  g_last_words = json ? kEndJson : kEndText;
  Install();
}

bool StopSignal::requested() { return g_stop; }
absl::Status StopSignal::Check() {
  return g_stop ? absl::CancelledError(kToldToStop) : absl::OkStatus();
}
int StopSignal::file_descriptor() { return g_pipe[0]; }

}  // namespace choir::base
