#include "client/agent/state_dir.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/json_text.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "google/protobuf/util/json_util.h"
#include "nlohmann/json.hpp"

namespace choir::client {
namespace {

constexpr char kStateName[] = "state.json";
constexpr int kStateFormat = 1;

absl::StatusOr<base::ScopedFd> Lock(const std::string& folder) {
  absl::StatusOr<base::ScopedFd> lock =
      base::LockFile(base::JoinPath(folder, "lock"), 0600);
  if (!absl::IsFailedPrecondition(lock.status())) return lock;
  return absl::FailedPreconditionError(absl::StrCat(
      "another agent uses the state folder ", folder,
      "; stop it, or give this agent a folder of its own (state)"));
}

std::string JsonText(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>()
                                                     : std::string();
}

}  // namespace

std::string StateDir::File(absl::string_view name) const {
  return base::JoinPath(path_, name);
}

absl::StatusOr<std::unique_ptr<StateDir>> StateDir::Open(
    const std::string& path) {
  const bool existed = base::FileExists(path);
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(path));
  if (!existed) chmod(path.c_str(), 0700);
  CHOIR_ASSIGN_OR_RETURN(base::ScopedFd lock, Lock(path));
  std::unique_ptr<StateDir> state(new StateDir(path, std::move(lock)));
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(state->blobs_path()));
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(state->models_path()));
  CHOIR_RETURN_IF_ERROR(state->Load());
  return state;
}

absl::Status StateDir::Load() {
  const std::string path = File(kStateName);
  if (!base::FileExists(path)) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(const std::string text,
                         base::ReadFile(path, 1u << 20));
  absl::Status status = Parse(text);
  if (status.ok() && pending_.has_value()) status = CheckUpdate();
  if (!status.ok()) {
    base::LogWarning("unreported work is given up: ", status.message());
    pending_.reset();
    return Write();
  }
  return absl::OkStatus();
}

absl::Status StateDir::Parse(absl::string_view text) {
  CHOIR_ASSIGN_OR_RETURN(const nlohmann::json object,
                         base::ParseJsonObject(text, File(kStateName), {}));
  const auto format = object.find("format");
  if (format == object.end() || !format->is_number_integer() ||
      *format != kStateFormat) {
    return absl::DataLossError(
        absl::StrCat(File(kStateName), ": not of format ", kStateFormat));
  }
  adapter_digest_ = JsonText(object, "adapter");
  secure_session_ = JsonText(object, "secure_session");
  const auto pending = object.find("pending");
  if (pending == object.end()) return absl::OkStatus();
  v1::ReportRequest report;
  if (!google::protobuf::util::JsonStringToMessage(pending->dump(), &report)
           .ok() ||
      report.outcome_case() == v1::ReportRequest::OUTCOME_NOT_SET) {
    return absl::DataLossError(
        absl::StrCat(File(kStateName), ": \"pending\" is not a report"));
  }
  pending_ = std::move(report);
  return absl::OkStatus();
}

absl::Status StateDir::CheckUpdate() const {
  if (!pending_->has_train()) return absl::OkStatus();
  const v1::BlobRef& ref = pending_->train().update();
  CHOIR_ASSIGN_OR_RETURN(const std::string bytes,
                         base::ReadFile(update_path()));
  if (bytes.size() != ref.size() || base::Sha256Hex(bytes) != ref.digest()) {
    return absl::DataLossError(absl::StrCat(
        update_path(), ": not the update that ", kStateName, " names"));
  }
  return absl::OkStatus();
}

absl::Status StateDir::Write() const {
  nlohmann::json object = {{"format", kStateFormat},
                           {"adapter", adapter_digest_}};
  if (!secure_session_.empty()) object["secure_session"] = secure_session_;
  if (pending_.has_value()) {
    std::string text;
    if (!google::protobuf::util::MessageToJsonString(*pending_, &text).ok()) {
      return absl::InternalError("a report cannot be written as JSON");
    }
    object["pending"] = nlohmann::json::parse(text, nullptr, false);
  }
  return base::WriteFileAtomic(
      File(kStateName),
      object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) +
          "\n",
      base::Durability::kPowerLoss, 0600);
}

absl::Status StateDir::SavePending(const v1::ReportRequest& report,
                                   absl::string_view update) {
  // The update first: state.json never names what is not there.
  if (report.has_train()) {
    CHOIR_RETURN_IF_ERROR(base::WriteFileAtomic(
        update_path(), update, base::Durability::kPowerLoss, 0600));
  }
  absl::optional<v1::ReportRequest> before = std::move(pending_);
  pending_ = report;
  const absl::Status status = Write();
  if (!status.ok()) pending_ = std::move(before);
  return status;
}

absl::Status StateDir::ClearPending() {
  absl::optional<v1::ReportRequest> before = std::move(pending_);
  pending_.reset();
  const absl::Status status = Write();
  if (!status.ok()) {
    pending_ = std::move(before);
    return status;
  }
  unlink(update_path().c_str());
  return absl::OkStatus();
}

absl::Status StateDir::SetAdapterDigest(absl::string_view digest) {
  adapter_digest_ = std::string(digest);
  return Write();
}

absl::Status StateDir::SetSecureSession(absl::string_view session) {
  secure_session_ = std::string(session);
  return Write();
}

}  // namespace choir::client
