#include "model/main/adapted_model.h"

#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/loaded_adapter.h"

namespace choir::model {

void PrintJson(const Json& json) {
  // Text that is cut inside a character is shown with replacement characters.
  std::cout << json.dump(-1, ' ', false, Json::error_handler_t::replace)
            << "\n";
}

absl::StatusOr<Adapted> LoadAdapted(const CommonOptions& common,
                                    bool with_tokenizer) {
  if (common.threads < 1 || common.threads > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("--threads is ", common.threads, "; 1 to 1024"));
  }
  ConfigureCompute(common.threads);
  LoadOptions options;
  CHOIR_ASSIGN_OR_RETURN(options.device,
                         ParseDeviceKind(common.device, "--device"));
  CHOIR_ASSIGN_OR_RETURN(options.precision,
                         ParsePrecision(common.precision, "--precision"));
  options.experts = common.experts;
  Adapted adapted;
  CHOIR_ASSIGN_OR_RETURN(
      adapted.model,
      LoadedModel::LoadFolder(common.model, options, with_tokenizer));
  if (!common.adapter.empty()) {
    CHOIR_ASSIGN_OR_RETURN(
        adapted.lora, LoadAdapter(common.adapter, adapted.model->decoder()));
  }
  return adapted;
}

}  // namespace choir::model
