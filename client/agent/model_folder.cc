#include "client/agent/model_folder.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <map>
#include <set>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/files.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace choir::client {
namespace {

constexpr int kMaxModelFiles = 1000;
constexpr size_t kMaxNameBytes = 128;

bool IsPlainName(absl::string_view name) {
  if (name.empty() || name.size() > kMaxNameBytes || name[0] == '.') {
    return false;
  }
  for (const char c : name) {
    if (!absl::ascii_isalnum(c) && c != '-' && c != '_' && c != '.') {
      return false;
    }
  }
  return true;
}

}  // namespace

absl::Status CheckModelFiles(const ModelFiles& files) {
  if (files.empty() || files.size() > kMaxModelFiles) {
    return absl::InvalidArgumentError(
        absl::StrCat("the base model has ", files.size(), " files; 1 to ",
                     kMaxModelFiles, " are allowed"));
  }
  std::set<std::string> names;
  for (const v1::ModelFile& file : files) {
    if (!IsPlainName(file.name())) {
      return absl::InvalidArgumentError(
          "the base model has a file whose name is not a plain file name");
    }
    if (!names.insert(file.name()).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("the base model names ", file.name(), " twice"));
    }
  }
  return absl::OkStatus();
}

std::string BaseModelDigest(const ModelFiles& files) {
  std::map<std::string, std::string> sorted;
  for (const v1::ModelFile& file : files) {
    sorted[file.name()] = file.blob().digest();
  }
  std::string text;
  for (const auto& [name, digest] : sorted) {
    absl::StrAppend(&text, name, " ", digest, "\n");
  }
  return base::Sha256Hex(text);
}

absl::StatusOr<std::string> LinkModelFolder(const std::string& models,
                                            const ModelFiles& files) {
  CHOIR_RETURN_IF_ERROR(CheckModelFiles(files));
  const std::string digest = BaseModelDigest(files);
  CHOIR_ASSIGN_OR_RETURN(const std::vector<std::string> others,
                         base::ListDirectory(models));
  for (const std::string& other : others) {
    if (other == digest) continue;
    std::error_code ignored;
    std::filesystem::remove_all(base::JoinPath(models, other), ignored);
  }
  const std::string folder = base::JoinPath(models, digest);
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(folder));
  for (const v1::ModelFile& file : files) {
    const std::string target =
        absl::StrCat("../../blobs/", file.blob().digest());
    const std::string link = base::JoinPath(folder, file.name());
    if (symlink(target.c_str(), link.c_str()) != 0 && errno != EEXIST) {
      return base::ErrnoStatus(errno, absl::StrCat("link ", link));
    }
  }
  return folder;
}

}  // namespace choir::client
