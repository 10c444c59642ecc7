#include "base/cli.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"

namespace choir::base {
namespace {

std::atomic<bool> g_stop{false};
int g_pipe[2] = {-1, -1};

void OnSignal(int) {
  if (g_stop.exchange(true)) _exit(kExitInterrupted);
  const char byte = 1;
  [[maybe_unused]] ssize_t ignored = write(g_pipe[1], &byte, 1);
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

std::string JsonQuote(absl::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      absl::StrAppend(&quoted, "\\", absl::string_view(&c, 1));
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (byte < 0x20) {
      absl::StrAppendFormat(&quoted, "\\u%04x", byte);
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
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

bool StopSignal::requested() { return g_stop; }
int StopSignal::file_descriptor() { return g_pipe[0]; }

}  // namespace choir::base
