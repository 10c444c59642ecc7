#include "coordinator/rpc/work_board.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/task_key.h"

namespace choir::rpc {

std::string TaskText(const v1::TaskKey& key) {
  return absl::StrCat("job ", key.job(), ", round ", key.round(), ", attempt ",
                      key.attempt());
}

void WorkBoard::Give(const std::string& client, const v1::TaskPlan& plan) {
  Task task;
  task.key = plan.key();
  for (const v1::ModelFile& file : plan.base_model()) {
    task.blobs.insert(file.blob().digest());
  }
  task.blobs.insert(plan.adapter().digest());
  base::MutexLock lock(&mu_);
  Task& old = tasks_[client];
  if (codec::SameTask(old.key, task.key)) {
    task.payloads = std::move(old.payloads);
  }
  old = std::move(task);
}

void WorkBoard::Done(const std::string& client, const v1::TaskKey& key) {
  base::MutexLock lock(&mu_);
  auto task = tasks_.find(client);
  if (task != tasks_.end() && codec::SameTask(task->second.key, key)) {
    tasks_.erase(task);
  }
}

void WorkBoard::Clear() {
  base::MutexLock lock(&mu_);
  tasks_.clear();
}

void WorkBoard::Uploaded(const std::string& digest) {
  base::MutexLock lock(&mu_);
  unreported_.insert(digest);
}

void WorkBoard::Reported(const std::string& digest) {
  base::MutexLock lock(&mu_);
  unreported_.erase(digest);
}

absl::flat_hash_set<std::string> WorkBoard::TakeUnreported() {
  base::MutexLock lock(&mu_);
  return std::exchange(unreported_, {});
}

absl::Status WorkBoard::CheckUpload(absl::string_view client,
                                    const v1::TaskKey& key) const {
  base::MutexLock lock(&mu_);
  auto task = tasks_.find(client);
  if (key.kind() == v1::TASK_KIND_TRAIN && task != tasks_.end() &&
      codec::SameTask(task->second.key, key)) {
    return absl::OkStatus();
  }
  return absl::AbortedError(absl::StrCat("you have no training task for ",
                                         TaskText(key), "; check in again"));
}

absl::Status WorkBoard::CountPayload(absl::string_view client,
                                     absl::string_view digest) {
  base::MutexLock lock(&mu_);
  auto task = tasks_.find(client);
  if (task == tasks_.end() || task->second.payloads.contains(digest)) {
    return absl::OkStatus();
  }
  if (task->second.payloads.size() >= kMaxPayloads) {
    return absl::ResourceExhaustedError(
        absl::StrCat("you have sent ", kMaxPayloads, " different updates for ",
                     TaskText(task->second.key), "; no more are taken"));
  }
  task->second.payloads.emplace(digest);
  return absl::OkStatus();
}

bool WorkBoard::HasPayload(absl::string_view client, const v1::TaskKey& key,
                           absl::string_view digest) const {
  base::MutexLock lock(&mu_);
  auto task = tasks_.find(client);
  return task != tasks_.end() && codec::SameTask(task->second.key, key) &&
         task->second.payloads.contains(digest);
}

absl::optional<v1::TaskKey> WorkBoard::TaskOf(absl::string_view client) const {
  base::MutexLock lock(&mu_);
  auto task = tasks_.find(client);
  if (task == tasks_.end()) return absl::nullopt;
  return task->second.key;
}

absl::Status WorkBoard::CheckDownload(absl::string_view client,
                                      absl::string_view digest) const {
  base::MutexLock lock(&mu_);
  auto task = tasks_.find(client);
  if (task != tasks_.end() && task->second.blobs.contains(digest)) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(
      "your task does not name this blob; check in again");
}

}  // namespace choir::rpc
