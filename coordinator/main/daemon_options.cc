#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "coordinator/main/daemon.h"
#include "proto/config/toml_config.h"

namespace choir::coordinator {
namespace {

constexpr absl::Duration kLeastLifetime = absl::Hours(1);
constexpr absl::Duration kMostLongPoll = absl::Minutes(4);

absl::Status Required(absl::string_view value, absl::string_view field) {
  if (!value.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is required"));
}

absl::StatusOr<uint64_t> Count(bool set, uint64_t value, uint64_t otherwise,
                               uint64_t least, uint64_t most,
                               absl::string_view field) {
  if (!set) return otherwise;
  if (value < least || value > most) {
    return absl::InvalidArgumentError(absl::StrCat(
        field, " is ", value, "; it must be ", least, " to ", most));
  }
  return value;
}

absl::Status CheckListen(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(listen.substr(colon + 1), &port) || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("listen is \"", listen,
                     "\"; it must be host:port, such as "
                     "\"0.0.0.0:7443\""));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DaemonOptions> ResolveCoordinator(
    const v1::CoordinatorConfig& config) {
  DaemonOptions out;
  out.listen = config.has_listen() ? config.listen() : "127.0.0.1:7443";
  CHOIR_RETURN_IF_ERROR(CheckListen(out.listen));
  out.store = config.store();
  CHOIR_RETURN_IF_ERROR(Required(out.store, "store"));
  out.ca_certificate = config.tls().ca_certificate();
  CHOIR_RETURN_IF_ERROR(Required(out.ca_certificate, "tls.ca_certificate"));
  out.certificate = config.tls().certificate();
  CHOIR_RETURN_IF_ERROR(Required(out.certificate, "tls.certificate"));
  out.private_key = config.tls().private_key();
  CHOIR_RETURN_IF_ERROR(Required(out.private_key, "tls.private_key"));
  out.crl = config.tls().crl();
  const v1::EnrolmentConfig& enrolment = config.enrolment();
  out.ca_private_key = enrolment.ca_private_key();
  CHOIR_ASSIGN_OR_RETURN(
      out.certificate_lifetime,
      config::ParsePositiveDuration(enrolment.has_certificate_lifetime()
                                        ? enrolment.certificate_lifetime()
                                        : "720h",
                                    "enrolment.certificate_lifetime"));
  // Certificates begin five minutes early; shorter ones would be renewed at
  // every check-in.
  if (out.certificate_lifetime < kLeastLifetime) {
    return absl::InvalidArgumentError(absl::StrCat(
        "enrolment.certificate_lifetime is ",
        absl::FormatDuration(out.certificate_lifetime),
        "; it must be at least ", absl::FormatDuration(kLeastLifetime)));
  }
  out.require_approval = enrolment.require_approval();
  const v1::LimitsConfig& limits = config.limits();
  CHOIR_ASSIGN_OR_RETURN(
      const uint64_t update_mib,
      Count(limits.has_max_update_mib(), limits.max_update_mib(), 1024, 1,
            1u << 20, "limits.max_update_mib"));
  out.max_update_bytes = update_mib << 20;
  CHOIR_ASSIGN_OR_RETURN(
      out.long_poll, config::ParsePositiveDuration(
                         limits.has_long_poll() ? limits.long_poll() : "20s",
                         "limits.long_poll"));
  // Agents give up a check-in after five minutes.
  if (out.long_poll > kMostLongPoll) {
    return absl::InvalidArgumentError(absl::StrCat(
        "limits.long_poll is ", absl::FormatDuration(out.long_poll),
        "; it must be at most ", absl::FormatDuration(kMostLongPoll)));
  }
  // Agents send chunks of 256 KiB and take messages of up to 8 MiB.
  CHOIR_ASSIGN_OR_RETURN(const uint64_t chunk_kib,
                         Count(limits.has_chunk_kib(), limits.chunk_kib(), 256,
                               256, 4096, "limits.chunk_kib"));
  out.chunk_bytes = chunk_kib << 10;
  out.port_file = config.port_file();
  out.keep_updates = config.keep_updates();
  out.exit_when_idle = config.exit_when_idle();
  return out;
}

v1::CoordinatorConfig ToProto(const DaemonOptions& options) {
  v1::CoordinatorConfig config;
  config.set_listen(options.listen);
  config.set_store(options.store);
  v1::ServerTlsConfig* tls = config.mutable_tls();
  tls->set_ca_certificate(options.ca_certificate);
  tls->set_certificate(options.certificate);
  tls->set_private_key(options.private_key);
  tls->set_crl(options.crl);
  v1::EnrolmentConfig* enrolment = config.mutable_enrolment();
  enrolment->set_ca_private_key(options.ca_private_key);
  enrolment->set_certificate_lifetime(
      absl::FormatDuration(options.certificate_lifetime));
  enrolment->set_require_approval(options.require_approval);
  v1::LimitsConfig* limits = config.mutable_limits();
  limits->set_max_update_mib(
      static_cast<uint32_t>(options.max_update_bytes >> 20));
  limits->set_long_poll(absl::FormatDuration(options.long_poll));
  limits->set_chunk_kib(static_cast<uint32_t>(options.chunk_bytes >> 10));
  config.set_port_file(options.port_file);
  config.set_keep_updates(options.keep_updates);
  config.set_exit_when_idle(options.exit_when_idle);
  return config;
}

}  // namespace choir::coordinator
