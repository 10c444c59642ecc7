#include "model/main/adapted_model.h"

#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/compute.h"
#include "model/export/read_adapter.h"
#include "model/loaded_adapter.h"
#include "model/torch/guard.h"

namespace choir::model {
namespace {

constexpr int kMostThreads = 1024;

}  // namespace

void PrintJson(const Json& json) {
  // Text that is cut inside a character is shown with replacement characters.
  std::cout << json.dump(-1, ' ', false, Json::error_handler_t::replace)
            << "\n";
}

absl::Status CheckThreads(int threads) {
  if (threads >= 1 && threads <= kMostThreads) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--threads is ", threads, "; give a number from 1 to ", kMostThreads));
}

absl::StatusOr<Adapted> LoadAdapted(const CommonOptions& common,
                                    bool with_tokenizer) {
  CHOIR_RETURN_IF_ERROR(CheckThreads(common.threads));
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
  const Decoder& decoder = adapted.model->decoder();
  adapted.score = decoder.weights().score;
  if (common.adapter.empty()) return adapted;
  CHOIR_ASSIGN_OR_RETURN(const PeftAdapter adapter,
                         ReadAdapter(common.adapter, decoder.config()));
  return TorchGuard("binding the adapter", [&]() -> absl::StatusOr<Adapted> {
    adapted.lora = BindForUse(adapter, decoder);
    const at::Tensor score = ScoreOf(adapter, decoder);
    if (score.defined()) adapted.score = score;
    return adapted;
  });
}

absl::Status CheckLanguageModel(const Adapted& adapted) {
  if (!adapted.is_classifier()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "the model is a classifier: it has no head for the next token; evaluate "
      "it on --data with \"text\" and \"label\"");
}

}  // namespace choir::model
