#include "model/export/read_adapter.h"

#include <filesystem>
#include <memory>
#include <system_error>

#include "base/files.h"
#include "base/status_macros.h"
#include "model/export/gguf_lora.h"

namespace choir::model {

absl::StatusOr<PeftAdapter> ReadAdapter(const std::string& path,
                                        const ModelConfig& config) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return ReadPeftFolder(path, config);
  }
  CHOIR_ASSIGN_OR_RETURN(const std::shared_ptr<const base::MappedFile> mapping,
                         base::MappedFile::Open(path));
  return DecodeGgufLora(mapping->bytes(), config, path);
}

}  // namespace choir::model
