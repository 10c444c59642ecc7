// choir-admin ca ...: a certificate authority in a folder, without a network.
#ifndef CHOIR_COORDINATOR_MAIN_CA_COMMANDS_H_
#define CHOIR_COORDINATOR_MAIN_CA_COMMANDS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/secure_random.h"
#include "nlohmann/json.hpp"

namespace choir::coordinator {

struct CaInitOptions {
  std::string directory;
  std::string name = "Choir CA";
  int days = 3650;
};

struct CaIssueOptions {
  std::string directory;
  std::string role;
  std::string name;
  std::vector<std::string> hosts;
  int days = 365;
};

struct CaRevokeOptions {
  std::string directory;
  // Exactly one of the two.
  std::string serial;
  std::string certificate;
};

// Each returns what it did, for --json. Nothing that exists is overwritten
// (ALREADY_EXISTS), except crl.pem by revoking.

// Writes ca.crt, ca.key (mode 0600) and an empty crl.pem.
absl::StatusOr<nlohmann::json> RunCaInit(const CaInitOptions& options,
                                         const base::Clock& clock,
                                         base::SecureRandom& random);
// Writes NAME.crt and NAME.key (mode 0600) into the folder.
absl::StatusOr<nlohmann::json> RunCaIssue(const CaIssueOptions& options,
                                          const base::Clock& clock,
                                          base::SecureRandom& random);
// Adds to crl.pem. Revoking twice is no error.
absl::StatusOr<nlohmann::json> RunCaRevoke(const CaRevokeOptions& options,
                                           const base::Clock& clock);

}  // namespace choir::coordinator

#endif  // CHOIR_COORDINATOR_MAIN_CA_COMMANDS_H_
