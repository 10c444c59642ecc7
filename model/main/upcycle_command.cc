#include "model/main/upcycle_command.h"

#include <iostream>

#include "absl/strings/str_format.h"
#include "base/cli.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace choir::model {

absl::Status RunUpcycle(const UpcycleFlags& flags, bool json) {
  CHOIR_RETURN_IF_ERROR(UpcycleFolder(flags.model, flags.out, flags.options,
                                      base::StopSignal::Check));
  CHOIR_ASSIGN_OR_RETURN(
      const ModelConfig config,
      LoadModelConfig(base::JoinPath(flags.out, "config.json")));
  if (json) {
    const nlohmann::ordered_json document = {
        {"out", flags.out},
        {"family", std::string(FamilyName(config.family))},
        {"experts", config.moe.num_experts},
        {"experts_per_token", config.moe.experts_per_token},
        {"parameters", config.num_parameters()},
        {"active_parameters", config.num_active_parameters()}};
    std::cout << document.dump() << "\n";
  } else {
    std::cout << absl::StrFormat(
        "%s: %s of %d experts, %d for each token; %d parameters, of which a "
        "token passes %d\n",
        flags.out, std::string(FamilyName(config.family)),
        config.moe.num_experts, config.moe.experts_per_token,
        config.num_parameters(), config.num_active_parameters());
  }
  return absl::OkStatus();
}

}  // namespace choir::model
