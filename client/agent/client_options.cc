#include "client/agent/client_options.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"
#include "proto/config/job_options.h"

namespace choir::client {
namespace {

constexpr uint32_t kMaxThreads = 1024;
// Of a secure sum.
constexpr uint32_t kLeastClients = 3;
constexpr uint32_t kMostClients = 1000000;
constexpr double kMostCorrupt = 0.9;

absl::Status Required(absl::string_view field, absl::string_view value) {
  if (!value.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, " is required in the client's configuration"));
}

absl::Status CheckSecure(const v1::SecurePolicyConfig& secure) {
  if (secure.min_clients() < kLeastClients ||
      secure.min_clients() > kMostClients) {
    return absl::InvalidArgumentError(
        absl::StrCat("secure_aggregation.min_clients = ", secure.min_clients(),
                     " must be from ", kLeastClients, " to ", kMostClients));
  }
  const double corrupt = secure.min_corrupt_fraction();
  if (!(corrupt >= 0.0 && corrupt <= kMostCorrupt)) {
    return absl::InvalidArgumentError(
        absl::StrCat("secure_aggregation.min_corrupt_fraction = ", corrupt,
                     " must be from 0 to ", kMostCorrupt));
  }
  return absl::OkStatus();
}

absl::Status CheckAddress(absl::string_view address) {
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port == 0 ||
      port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("coordinator = \"", address,
                     "\" must be host:port with a port from 1 to 65535"));
  }
  return absl::OkStatus();
}

// Whether the models that come have them is seen when they do.
absl::StatusOr<std::vector<int64_t>> ExpertsOf(const v1::DeviceConfig& device) {
  std::vector<int64_t> experts(device.experts().begin(),
                               device.experts().end());
  std::sort(experts.begin(), experts.end());
  const auto twice = std::adjacent_find(experts.begin(), experts.end());
  if (twice != experts.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("device.experts names ", *twice,
                     " twice; it lists the experts to hold, each once"));
  }
  return experts;
}

}  // namespace

v1::ClientConfig WithDefaults(v1::ClientConfig config) {
  v1::DataConfig& data = *config.mutable_data();
  if (!data.has_holdout()) data.set_holdout(0.1);
  if (!data.has_max_examples()) data.set_max_examples(0);
  v1::DeviceConfig& device = *config.mutable_device();
  if (!device.has_kind()) device.set_kind("auto");
  if (!device.has_threads()) device.set_threads(1);
  if (!device.has_precision()) device.set_precision("stored");
  if (!device.has_memory_mib()) device.set_memory_mib(0);
  if (!config.has_cache_mib()) config.set_cache_mib(16384);
  v1::SecurePolicyConfig& secure = *config.mutable_secure_aggregation();
  if (!secure.has_required()) secure.set_required(false);
  if (!secure.has_min_clients()) secure.set_min_clients(kLeastClients);
  if (!secure.has_require_confirmation()) {
    secure.set_require_confirmation(false);
  }
  if (!secure.has_one_sum_per_model()) secure.set_one_sum_per_model(false);
  if (!secure.has_min_corrupt_fraction()) secure.set_min_corrupt_fraction(0.0);
  if (!secure.has_open_evaluation()) {
    secure.set_open_evaluation(!secure.required());
  }
  return config;
}

absl::StatusOr<ClientOptions> ResolveClient(const v1::ClientConfig& given) {
  const v1::ClientConfig config = WithDefaults(given);
  CHOIR_RETURN_IF_ERROR(Required("name", config.name()));
  CHOIR_RETURN_IF_ERROR(Required("coordinator", config.coordinator()));
  CHOIR_RETURN_IF_ERROR(Required("state", config.state()));
  CHOIR_RETURN_IF_ERROR(Required("ca_certificate", config.ca_certificate()));
  CHOIR_RETURN_IF_ERROR(Required("data.path", config.data().path()));
  if (!config::IsValidName(config.name())) {
    return absl::InvalidArgumentError(
        absl::StrCat("name = \"", config.name(),
                     "\" must be 1 to 64 letters, digits, "
                     "'-', '_' and '.', not beginning with '.'"));
  }
  CHOIR_RETURN_IF_ERROR(CheckAddress(config.coordinator()));
  const double holdout = config.data().holdout();
  if (!(holdout >= 0.0 && holdout <= 0.9)) {
    return absl::InvalidArgumentError(
        absl::StrCat("data.holdout = ", holdout, " must be from 0 to 0.9"));
  }
  const uint32_t threads = config.device().threads();
  if (threads < 1 || threads > kMaxThreads) {
    return absl::InvalidArgumentError(absl::StrCat(
        "device.threads = ", threads, " must be from 1 to ", kMaxThreads));
  }
  if (config.cache_mib() == 0) {
    return absl::InvalidArgumentError("cache_mib = 0 must be at least 1");
  }
  const v1::SecurePolicyConfig& secure = config.secure_aggregation();
  CHOIR_RETURN_IF_ERROR(CheckSecure(secure));
  ClientOptions options;
  CHOIR_ASSIGN_OR_RETURN(
      options.device,
      model::ParseDeviceKind(config.device().kind(), "device.kind"));
  CHOIR_ASSIGN_OR_RETURN(
      options.precision,
      model::ParsePrecision(config.device().precision(), "device.precision"));
  options.memory_mib = config.device().memory_mib();
  CHOIR_ASSIGN_OR_RETURN(options.experts, ExpertsOf(config.device()));
  options.name = config.name();
  options.coordinator = config.coordinator();
  options.server_name = config.server_name();
  options.state = config.state();
  options.ca_certificate = config.ca_certificate();
  options.token_file = config.token_file();
  options.data.path = config.data().path();
  options.data.where.insert(config.data().where().begin(),
                            config.data().where().end());
  options.data.max_examples = config.data().max_examples();
  options.holdout = holdout;
  options.secure.required = secure.required();
  options.secure.min_clients = static_cast<int>(secure.min_clients());
  options.secure.require_confirmation = secure.require_confirmation();
  options.secure.one_sum_per_model = secure.one_sum_per_model();
  options.secure.min_corrupt_fraction = secure.min_corrupt_fraction();
  options.secure.crl = secure.crl();
  options.secure.open_evaluation = secure.open_evaluation();
  options.threads = static_cast<int>(threads);
  options.cache_bytes = static_cast<uint64_t>(config.cache_mib()) << 20;
  return options;
}

}  // namespace choir::client
