// Logging to stderr, one line per message: time, level, message.
//
// Results of programs go to stdout; logs never do. A message names things and
// limits, never a key, a token, a training example or a model value.
#ifndef CHOIR_BASE_LOG_H_
#define CHOIR_BASE_LOG_H_

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace choir::base {

enum class LogLevel {
  kDebug = 0,
  kInfo = 1,
  kWarning = 2,
  kError = 3,
  kOff = 4
};

// Messages below `level` are dropped. Threads: safe. Default: kInfo.
void SetLogLevel(LogLevel level);
LogLevel GetLogLevel();

// Writes one line. Threads: safe; a line is never torn.
void Log(LogLevel level, absl::string_view message);

template <typename... Args>
void LogDebug(const Args&... args) {
  if (GetLogLevel() <= LogLevel::kDebug) {
    Log(LogLevel::kDebug, absl::StrCat(args...));
  }
}
template <typename... Args>
void LogInfo(const Args&... args) {
  if (GetLogLevel() <= LogLevel::kInfo) {
    Log(LogLevel::kInfo, absl::StrCat(args...));
  }
}
template <typename... Args>
void LogWarning(const Args&... args) {
  Log(LogLevel::kWarning, absl::StrCat(args...));
}
template <typename... Args>
void LogError(const Args&... args) {
  Log(LogLevel::kError, absl::StrCat(args...));
}

}  // namespace choir::base

#endif  // CHOIR_BASE_LOG_H_
