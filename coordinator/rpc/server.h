// The coordinator's network side as one object: TLS port, gate, services and
// job loop over a store.
#ifndef CHOIR_COORDINATOR_RPC_SERVER_H_
#define CHOIR_COORDINATOR_RPC_SERVER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/secure_random.h"
#include "choir/v1/admin.pb.h"
#include "coordinator/rpc/connections.h"
#include "coordinator/rpc/enrolment.h"
#include "coordinator/rpc/job_loop.h"
#include "coordinator/rpc/transfers.h"
#include "coordinator/store/store.h"
#include "privacy/crypto/secret.h"

namespace choir::rpc {

struct ServerOptions {
  // host:port; port 0 lets the system choose.
  std::string listen = "127.0.0.1:0";
  std::string ca_certificate_pem;
  std::string certificate_pem;
  crypto::SecretString private_key_pem;
  // Path; empty: none.
  std::string crl_path;
  EnrolmentOptions enrolment;
  TransferOptions transfers;
  // Fewer if the system gives fewer descriptors.
  ConnectionLimits connections;
  // make_runner empty: runner::JobRunner over the store.
  JobLoopOptions loop;
  runner::RunnerOptions runner;
  // Journaled with CoordinatorStarted; TOML without secrets.
  std::string config_text;
};

// INVALID_ARGUMENT if the coordinator's certificate is not one of its CA for
// the role coordinator, not valid at `now`, or not the private key's.
absl::Status CheckOwnCertificate(const ServerOptions& options, absl::Time now);

// Threads: safe.
class CoordinatorServer {
 public:
  // Reads the journal, begins or resumes jobs, and listens. The references
  // outlive the server. Errors: INVALID_ARGUMENT for certificates that do not
  // fit together or have expired, UNAVAILABLE if the port cannot be had,
  // DATA_LOSS for a broken journal.
  static absl::StatusOr<std::unique_ptr<CoordinatorServer>> Start(
      ServerOptions options, store::Store& store, const base::Clock& clock,
      base::SecureRandom& random);
  // Shuts down without grace.
  virtual ~CoordinatorServer() = default;

  virtual int port() const = 0;
  virtual JobLoop& loop() = 0;
  // What was recorded of all jobs.
  virtual std::vector<v1::JobStatus> jobs() const = 0;

  // Drains: what was decided is finished (an aggregation under way included),
  // waiting clients are sent away, calls in flight get `grace`.
  virtual void Shutdown(absl::Duration grace) = 0;
};

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_SERVER_H_
