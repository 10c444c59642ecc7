// Real processes for end-to-end tests: start, wait, kill.
#ifndef CHOIR_TESTS_SUPPORT_PROCESS_H_
#define CHOIR_TESTS_SUPPORT_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace choir::tests {

// A child process; killed (SIGKILL) and reaped by the destructor if it still
// runs. Threads: one thread at a time.
class Process {
 public:
  // Runs `arguments[0]` with stdout and stderr appended to `log_file` (both
  // dropped if empty). Ends the test program if it cannot be started.
  static std::unique_ptr<Process> Start(
      const std::vector<std::string>& arguments, const std::string& log_file);
  ~Process();

  pid_t pid() const { return pid_; }
  void Signal(int signal_number);
  // True once it has ended; never blocks.
  bool Ended();
  // Blocks until it has ended or `timeout` passes; false on timeout.
  bool Wait(absl::Duration timeout);
  // Once ended: the exit code, or 128 + the signal's number.
  int exit_code() const { return exit_code_; }

 private:
  explicit Process(pid_t pid) : pid_(pid) {}
  void Reaped(int status);

  pid_t pid_;
  bool ended_ = false;
  int exit_code_ = -1;
};

struct CommandResult {
  int exit_code = -1;
  std::string out;  // stdout
  std::string err;  // stderr
};

// Runs a command to its end.
CommandResult RunCommand(const std::vector<std::string>& arguments,
                         absl::Duration timeout = absl::Seconds(120));

// Blocks until `path` has `least_bytes` (a port file: any); false on timeout,
// or as soon as `process` (may be null) has ended.
bool WaitForFile(const std::string& path, absl::Duration timeout,
                 Process* process = nullptr, uint64_t least_bytes = 1);

}  // namespace choir::tests

#endif  // CHOIR_TESTS_SUPPORT_PROCESS_H_
