// choir-admin's answers for people.
#ifndef CHOIR_COORDINATOR_MAIN_ADMIN_TEXT_H_
#define CHOIR_COORDINATOR_MAIN_ADMIN_TEXT_H_

#include <string>

#include "nlohmann/json.hpp"

namespace choir::coordinator {

// `document` is what --json would print. Lists of jobs and of clients become
// tables, everything else lines "key: value": empty ones are left out, times
// are dates, and a text of several lines comes last.
std::string AdminText(const nlohmann::json& document);

}  // namespace choir::coordinator

#endif  // CHOIR_COORDINATOR_MAIN_ADMIN_TEXT_H_
