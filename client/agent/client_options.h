// An agent's configuration with every default filled in and checked.
#ifndef CHOIR_CLIENT_AGENT_CLIENT_OPTIONS_H_
#define CHOIR_CLIENT_AGENT_CLIENT_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "choir/v1/config.pb.h"
#include "client/data/dataset.h"
#include "client/session/secure_participation.h"
#include "model/device_kind.h"

namespace choir::client {

struct ClientOptions {
  std::string name;
  std::string coordinator;  // host:port
  std::string server_name;  // empty: the host
  std::string state;
  std::string ca_certificate;
  std::string token_file;  // may be empty
  DataOptions data;
  double holdout = 0.1;
  model::DeviceKind device = model::DeviceKind::kAuto;
  int threads = 1;
  absl::optional<model::WeightFormat> precision;  // no value: as stored
  int64_t memory_mib = 0;                         // 0: no limit
  // Of a mixture of experts, those to hold, ascending; empty: all.
  std::vector<int64_t> experts;
  uint64_t cache_bytes = 16384ull << 20;
  SecurePolicy secure;
};

// INVALID_ARGUMENT names the field by its path, its value and the limit.
absl::StatusOr<ClientOptions> ResolveClient(const v1::ClientConfig& config);

// `config` with every optional field set: what --check prints.
v1::ClientConfig WithDefaults(v1::ClientConfig config);

}  // namespace choir::client

#endif  // CHOIR_CLIENT_AGENT_CLIENT_OPTIONS_H_
