#include "model/main/export_commands.h"

#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/cli.h"
#include "base/files.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "model/adapter/peft_folder.h"
#include "model/checkpoint/new_folder.h"
#include "model/export/gguf_lora.h"
#include "model/export/merge.h"
#include "model/export/read_adapter.h"

namespace choir::model {
namespace {

using Json = nlohmann::ordered_json;

void Print(const Json& document, bool json, const std::string& text) {
  if (json) {
    std::cout << document.dump(-1, ' ', false, Json::error_handler_t::replace)
              << "\n";
  } else {
    std::cout << text << "\n";
  }
}

absl::StatusOr<std::optional<DType>> ParseDtype(const std::string& name) {
  if (name.empty()) return std::optional<DType>();
  if (name == "f32") return std::optional<DType>(DType::kF32);
  if (name == "f16") return std::optional<DType>(DType::kF16);
  if (name == "bf16") return std::optional<DType>(DType::kBf16);
  return absl::InvalidArgumentError(
      absl::StrCat("--dtype is \"", name, "\"; one of f32, f16, bf16"));
}

// The folder given, or the one that the adapter was trained on.
absl::StatusOr<std::string> ModelFolder(const ExportFlags& flags) {
  if (!flags.model.empty()) return flags.model;
  const std::string path = base::JoinPath(flags.adapter, kAdapterConfigName);
  if (base::FileExists(path)) {
    CHOIR_ASSIGN_OR_RETURN(const std::string text,
                           base::ReadFile(path, base::JsonLimits().max_bytes));
    CHOIR_ASSIGN_OR_RETURN(const AdapterConfigFile file,
                           ParseAdapterConfig(text, path));
    if (!file.base_model.empty()) {
      const std::string config = base::JoinPath(file.base_model, "config.json");
      if (base::FileExists(config)) return file.base_model;
      return absl::InvalidArgumentError(absl::StrCat(
          path, " says that the base model is '", file.base_model,
          "', but there is no ", config, "; give its folder with --model"));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat(flags.adapter,
                   " does not say where its base model is; give the base "
                   "model's folder with --model"));
}

// Nothing that is there is ever written over.
absl::Status WriteGguf(const std::string& out, const ModelConfig& config,
                       const PeftAdapter& adapter, DType dtype) {
  std::error_code error;
  if (std::filesystem::exists(std::filesystem::symlink_status(out, error))) {
    return absl::AlreadyExistsError(
        absl::StrCat(out, " is there already; name a new file"));
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string bytes,
                         EncodeGgufLora(config, adapter, dtype));
  return base::WriteFileAtomic(out, bytes);
}

absl::Status WritePeft(const std::string& out, const PeftAdapter& adapter,
                       DType dtype) {
  CHOIR_ASSIGN_OR_RETURN(const std::unique_ptr<NewFolder> folder,
                         NewFolder::Create(out));
  CHOIR_RETURN_IF_ERROR(WritePeftFolder(folder->partial(), adapter, dtype));
  return folder->Finish();
}

}  // namespace

absl::Status RunMerge(const ExportFlags& flags, bool json) {
  MergeOptions options;
  CHOIR_ASSIGN_OR_RETURN(options.model, ModelFolder(flags));
  options.adapter = flags.adapter;
  options.out = flags.out;
  CHOIR_ASSIGN_OR_RETURN(options.dtype, ParseDtype(flags.dtype));
  options.stop = base::StopSignal::Check;
  CHOIR_ASSIGN_OR_RETURN(const MergeReport report, MergeAdapter(options));
  Print({{"out", flags.out},
         {"tensors", report.tensors},
         {"merged", report.merged},
         {"bytes", report.bytes}},
        json,
        absl::StrFormat("%s: %d tensors, %d of them changed, %.1f MiB",
                        flags.out, report.tensors, report.merged,
                        static_cast<double>(report.bytes) / (1 << 20)));
  return absl::OkStatus();
}

absl::Status RunExport(const ExportFlags& flags, bool json) {
  if (flags.to != "peft" && flags.to != "gguf") {
    return absl::InvalidArgumentError(
        absl::StrCat("--to is \"", flags.to, "\"; one of peft, gguf"));
  }
  CHOIR_ASSIGN_OR_RETURN(const std::optional<DType> wish,
                         ParseDtype(flags.dtype));
  const DType dtype = wish.value_or(DType::kF32);
  CHOIR_ASSIGN_OR_RETURN(const std::string folder, ModelFolder(flags));
  CHOIR_ASSIGN_OR_RETURN(
      const ModelConfig config,
      LoadModelConfig(base::JoinPath(folder, "config.json")));
  CHOIR_ASSIGN_OR_RETURN(const PeftAdapter adapter,
                         ReadAdapter(flags.adapter, config));
  CHOIR_RETURN_IF_ERROR(base::StopSignal::Check());
  CHOIR_RETURN_IF_ERROR(flags.to == "gguf"
                            ? WriteGguf(flags.out, config, adapter, dtype)
                            : WritePeft(flags.out, adapter, dtype));
  const std::string kind(config::AdapterKindName(adapter.options.kind));
  Print({{"format", flags.to},
         {"kind", kind},
         {"tensors", adapter.layout.tensors().size()},
         {"parameters", adapter.layout.num_elements()},
         {"out", flags.out}},
        json,
        absl::StrFormat("%s: %s adapter of %d parameters as %s", flags.out,
                        kind, adapter.layout.num_elements(), flags.to));
  return absl::OkStatus();
}

}  // namespace choir::model
