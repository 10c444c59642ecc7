// Exit codes of all programs; the same list stands in every --help.
#ifndef CHOIR_BASE_EXIT_CODES_H_
#define CHOIR_BASE_EXIT_CODES_H_

namespace choir::base {

enum ExitCode : int {
  kExitDone = 0,
  kExitFailed = 1,
  kExitUsage = 2,
  kExitRoundsLost = 3,
  kExitVerificationFailed = 4,
  kExitNoStore = 10,
  kExitStoreLocked = 11,
  kExitBudgetSpent = 12,
  kExitInterrupted = 130,
};

inline constexpr char kExitCodeHelp[] =
    "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 finished with "
    "rounds lost, 4 verification failed, 10 no store, 11 store locked, 12 "
    "privacy budget spent, 130 interrupted.";

}  // namespace choir::base

#endif  // CHOIR_BASE_EXIT_CODES_H_
