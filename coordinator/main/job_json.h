// Jobs and clients as JSON documents, the same in all programs.
#ifndef CHOIR_COORDINATOR_MAIN_JOB_JSON_H_
#define CHOIR_COORDINATOR_MAIN_JOB_JSON_H_

#include "choir/v1/admin.pb.h"
#include "nlohmann/json.hpp"

namespace choir::coordinator {

// Losses that are not known are null; digests carry "sha256:".
nlohmann::json JobJson(const v1::JobStatus& job);
nlohmann::json ClientJson(const v1::ClientStatus& client);

}  // namespace choir::coordinator

#endif  // CHOIR_COORDINATOR_MAIN_JOB_JSON_H_
