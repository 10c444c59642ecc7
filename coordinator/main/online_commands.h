// choir-admin token, job, client and model: calls to a running coordinator.
#ifndef CHOIR_COORDINATOR_MAIN_ONLINE_COMMANDS_H_
#define CHOIR_COORDINATOR_MAIN_ONLINE_COMMANDS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "choir/v1/admin.grpc.pb.h"
#include "nlohmann/json.hpp"

namespace choir::coordinator {

struct DialOptions {
  // host:port.
  std::string coordinator;
  std::string ca_certificate;
  std::string certificate;
  std::string private_key;
  // Name expected in the coordinator's certificate, if not the host.
  std::string server_name;
};

// An operator's connection to a coordinator. Every call has a deadline of 30 s
// and returns the answer for --json; errors are the coordinator's.
// Threads: one thread at a time.
class AdminClient {
 public:
  // Reads the PEM files; does not connect yet.
  static absl::StatusOr<AdminClient> Create(const DialOptions& options);

  // `valid` such as "24h"; empty: the coordinator's default.
  absl::StatusOr<nlohmann::json> CreateToken(const std::string& client,
                                             const std::string& valid);
  // A TOML file with a [job] table.
  absl::StatusOr<nlohmann::json> SubmitJob(
      const std::string& path, const std::vector<std::string>& overrides);
  absl::StatusOr<nlohmann::json> ListJobs();
  absl::StatusOr<nlohmann::json> ShowJob(const std::string& job);
  absl::StatusOr<nlohmann::json> StopJob(const std::string& job);
  absl::StatusOr<nlohmann::json> ListClients();
  absl::StatusOr<nlohmann::json> ApproveClient(const std::string& name);
  absl::StatusOr<nlohmann::json> RevokeClient(const std::string& name,
                                              const std::string& reason);
  // Writes a PEFT folder; version -1 is the latest. Each file is checked
  // against its digest before it gets its name.
  absl::StatusOr<nlohmann::json> PullModel(const std::string& job, int version,
                                           const std::string& out);

 private:
  explicit AdminClient(std::unique_ptr<v1::Admin::Stub> stub,
                       std::string coordinator);
  absl::Status Check(const grpc::Status& status) const;
  absl::Status PullFile(const v1::ModelFile& file, const std::string& out);

  std::unique_ptr<v1::Admin::Stub> stub_;
  std::string coordinator_;
};

}  // namespace choir::coordinator

#endif  // CHOIR_COORDINATOR_MAIN_ONLINE_COMMANDS_H_
