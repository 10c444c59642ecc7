#include "tests/support/process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/time/clock.h"
#include "base/check.h"
#include "base/files.h"
#include "tests/support/golden.h"

extern char** environ;

namespace choir::tests {
namespace {

// How often a condition of another process is looked at.
constexpr absl::Duration kPoll = absl::Milliseconds(5);

pid_t Spawn(const std::vector<std::string>& arguments, const std::string& out,
            const std::string& err) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  constexpr int kFlags = O_WRONLY | O_CREAT | O_APPEND;
  posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), kFlags, 0644);
  if (out == err) {
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
  } else {
    posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), kFlags, 0644);
  }
  pid_t pid = -1;
  const int failed =
      posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    std::fprintf(stderr, "cannot start %s\n", argv[0]);
    CHOIR_CHECK(failed == 0);
  }
  return pid;
}

}  // namespace

std::unique_ptr<Process> Process::Start(
    const std::vector<std::string>& arguments, const std::string& log_file) {
  const std::string log = log_file.empty() ? "/dev/null" : log_file;
  return std::unique_ptr<Process>(new Process(Spawn(arguments, log, log)));
}

Process::~Process() {
  if (Ended()) return;
  Signal(SIGKILL);
  Wait(absl::InfiniteDuration());
}

void Process::Signal(int signal_number) {
  if (!ended_) kill(pid_, signal_number);
}

void Process::Reaped(int status) {
  ended_ = true;
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

bool Process::Ended() {
  int status = 0;
  if (!ended_ && waitpid(pid_, &status, WNOHANG) == pid_) Reaped(status);
  return ended_;
}

bool Process::Wait(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!Ended()) {
    if (absl::Now() >= deadline) return false;
    absl::SleepFor(kPoll);
  }
  return true;
}

CommandResult RunCommand(const std::vector<std::string>& arguments,
                         absl::Duration timeout) {
  const std::string dir = NewTempDir();
  const std::string out = base::JoinPath(dir, "out");
  const std::string err = base::JoinPath(dir, "err");
  const pid_t pid = Spawn(arguments, out, err);
  CommandResult result;
  const absl::Time deadline = absl::Now() + timeout;
  int status = 0;
  while (waitpid(pid, &status, WNOHANG) != pid) {
    if (absl::Now() >= deadline) kill(pid, SIGKILL);
    absl::SleepFor(kPoll);
  }
  result.exit_code =
      WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = base::ReadFile(out).value_or("");
  result.err = base::ReadFile(err).value_or("");
  return result;
}

bool WaitForFile(const std::string& path, absl::Duration timeout,
                 Process* process, uint64_t least_bytes) {
  const absl::Time deadline = absl::Now() + timeout;
  while (base::FileSize(path).value_or(0) < least_bytes) {
    if (process != nullptr && process->Ended()) return false;
    if (absl::Now() >= deadline) return false;
    absl::SleepFor(kPoll);
  }
  return true;
}

}  // namespace choir::tests
