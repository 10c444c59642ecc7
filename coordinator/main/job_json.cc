#include "coordinator/main/job_json.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"

namespace choir::coordinator {
namespace {

nlohmann::json NumberOrNull(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json();
}

}  // namespace

nlohmann::json JobJson(const v1::JobStatus& job) {
  nlohmann::json out = {
      {"job", job.job()},
      {"state", job.state()},
      {"reason", job.reason()},
      {"rounds_committed", job.rounds_committed()},
      {"rounds_total", job.rounds_total()},
      {"rounds_lost", job.rounds_lost()},
      {"heldout_loss_before", NumberOrNull(job.heldout_loss_before())},
      {"heldout_loss", NumberOrNull(job.heldout_loss())},
      {"heldout_accuracy", NumberOrNull(job.heldout_accuracy())},
      {"adapter_digest", job.adapter_digest().empty()
                             ? std::string()
                             : absl::StrCat("sha256:", job.adapter_digest())},
      {"available_clients", job.available_clients()},
      {"waiting_for", job.waiting_for()},
      {"bytes_up", job.bytes_up()},
      {"bytes_down", job.bytes_down()}};
  if (!job.config().empty()) out["config"] = job.config();
  return out;
}

nlohmann::json ClientJson(const v1::ClientStatus& client) {
  const v1::Capabilities& can = client.capabilities();
  return {{"name", client.name()},
          {"state", client.state()},
          {"certificate_serial", client.certificate_serial()},
          {"certificate_expires_unix_seconds",
           client.certificate_expires_unix_seconds()},
          {"connected", client.connected()},
          {"software_version", can.software_version()},
          {"device", can.device()},
          {"memory_mib", can.memory_mib()},
          {"trains", can.trains()},
          {"evaluates", can.evaluates()}};
}

}  // namespace choir::coordinator
