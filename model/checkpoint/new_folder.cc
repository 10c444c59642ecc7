#include "model/checkpoint/new_folder.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"

namespace choir::model {

absl::Status CheckNewFolder(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status =
      std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) return absl::OkStatus();
  if (!std::filesystem::is_directory(status)) {
    return absl::AlreadyExistsError(
        absl::StrCat(path, " is a file; name a new folder"));
  }
  CHOIR_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         base::ListDirectory(path));
  if (names.empty()) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(
      path, " is not empty (", names[0],
      names.size() > 1 ? absl::StrCat(" and ", names.size() - 1, " more") : "",
      "); name a new folder, or empty this one"));
}

absl::StatusOr<std::unique_ptr<NewFolder>> NewFolder::Create(
    const std::string& path) {
  CHOIR_RETURN_IF_ERROR(CheckNewFolder(path));
  const bool made = !base::FileExists(path);
  std::unique_ptr<NewFolder> folder(
      new NewFolder(path, base::JoinPath(path, ".partial"), made));
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(folder->partial_));
  return folder;
}

NewFolder::~NewFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(partial_, ignored);
  // Only if it is empty.
  if (made_) std::filesystem::remove(path_, ignored);
}

absl::Status NewFolder::Finish() {
  CHOIR_ASSIGN_OR_RETURN(std::vector<std::string> names,
                         base::ListDirectory(partial_));
  std::partition(names.begin(), names.end(),
                 [](const std::string& name) { return name != "config.json"; });
  for (const std::string& name : names) {
    std::error_code error;
    const std::string from = base::JoinPath(partial_, name);
    std::filesystem::rename(from, base::JoinPath(path_, name), error);
    if (error) {
      return base::ErrnoStatus(error.value(), absl::StrCat("move ", from));
    }
  }
  return base::SyncDirectory(path_);
}

}  // namespace choir::model
