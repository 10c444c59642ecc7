#include "coordinator/rpc/work_board.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/codec/task_key.h"

namespace choir::rpc {

std::string TaskText(const v1::TaskKey& key) {
  return absl::StrCat("job ", key.job(), ", round ", key.round(), ", attempt ",
                      key.attempt());
}

void WorkBoard::Leave(const std::string& client, const Task& task,
                      Remains& remains) {
  if (!task.secure) return;
  remains.clients.push_back(client);
  for (const std::string& digest : task.payloads) {
    if (unreported_.contains(digest)) remains.payloads.push_back(digest);
  }
}

WorkBoard::Remains WorkBoard::Give(const std::string& client,
                                   const v1::TaskPlan& plan) {
  Task task;
  task.key = plan.key();
  task.secure = plan.has_secure_session();
  for (const v1::ModelFile& file : plan.base_model()) {
    task.blobs.insert(file.blob().digest());
  }
  task.blobs.insert(plan.adapter().digest());
  Remains remains;
  base::MutexLock lock(&mu_);
  Task& old = tasks_[client];
  if (codec::SameTask(old.key, task.key)) {
    task.payloads = std::move(old.payloads);
    task.closed = old.closed;
  } else {
    Leave(client, old, remains);
  }
  old = std::move(task);
  return remains;
}

WorkBoard::Remains WorkBoard::Done(const std::string& client,
                                   const v1::TaskKey& key) {
  Remains remains;
  base::MutexLock lock(&mu_);
  auto task = tasks_.find(client);
  if (task != tasks_.end() && codec::SameTask(task->second.key, key)) {
    Leave(client, task->second, remains);
    tasks_.erase(task);
  }
  return remains;
}

WorkBoard::Remains WorkBoard::Close(const std::string& job, uint32_t round,
                                    uint32_t attempt) {
  Remains remains;
  base::MutexLock lock(&mu_);
  for (auto& [client, task] : tasks_) {
    const v1::TaskKey& key = task.key;
    if (!task.secure || key.job() != job || key.round() != round ||
        key.attempt() != attempt) {
      continue;
    }
    task.closed = true;
    Leave(client, task, remains);
  }
  return remains;
}

WorkBoard::Remains WorkBoard::Clear() {
  Remains remains;
  base::MutexLock lock(&mu_);
  for (const auto& [client, task] : tasks_) Leave(client, task, remains);
  tasks_.clear();
  return remains;
}

bool WorkBoard::Uploaded(absl::string_view client, const v1::TaskKey& key,
                         const std::string& digest) {
  base::MutexLock lock(&mu_);
  const auto task = tasks_.find(client);
  if (task == tasks_.end() || task->second.closed ||
      !codec::SameTask(task->second.key, key)) {
    return false;
  }
  unreported_.insert(digest);
  return true;
}

void WorkBoard::Unclaimed(const std::string& digest) {
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
    if (!task->second.closed) return absl::OkStatus();
    return absl::AbortedError(
        absl::StrCat("masked vectors are taken no more for ", TaskText(key)));
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
