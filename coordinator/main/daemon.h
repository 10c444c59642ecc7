// The coordinator daemon: configuration in, a running server until a signal or
// until idle.
#ifndef CHOIR_COORDINATOR_MAIN_DAEMON_H_
#define CHOIR_COORDINATOR_MAIN_DAEMON_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "choir/v1/config.pb.h"

namespace choir::coordinator {

// CoordinatorConfig with defaults filled in and every value checked.
struct DaemonOptions {
  std::string listen;
  std::string store;
  std::string ca_certificate;
  std::string certificate;
  std::string private_key;
  std::string crl;
  std::string ca_private_key;
  absl::Duration certificate_lifetime;
  bool require_approval = false;
  uint64_t max_update_bytes = 0;
  absl::Duration long_poll;
  uint64_t chunk_bytes = 0;
  std::string port_file;
  bool keep_updates = false;
  bool exit_when_idle = false;
};

// INVALID_ARGUMENT names the field by its path, its value and the limit.
absl::StatusOr<DaemonOptions> ResolveCoordinator(
    const v1::CoordinatorConfig& config);
// The inverse, with every field set.
v1::CoordinatorConfig ToProto(const DaemonOptions& options);

struct DaemonRun {
  DaemonOptions options;
  // Submitted at the start unless the store knows a job of the same name.
  std::vector<v1::JobConfig> jobs;
  bool json = false;
};

// Serves until StopSignal or, with exit_when_idle, until all jobs are over.
// Returns the process's exit code (base/exit_codes.h).
int RunDaemon(DaemonRun run);

// Reads what the options name, without serving: certificates, keys, CRL.
absl::Status CheckFiles(const DaemonOptions& options);

}  // namespace choir::coordinator

#endif  // CHOIR_COORDINATOR_MAIN_DAEMON_H_
