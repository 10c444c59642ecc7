// All jobs a coordinator ever had, and where each stands: a fold over the
// journal's records.
#ifndef CHOIR_COORDINATOR_RPC_JOB_TABLE_H_
#define CHOIR_COORDINATOR_RPC_JOB_TABLE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "base/mutex.h"
#include "choir/v1/admin.pb.h"
#include "choir/v1/journal.pb.h"

namespace choir::rpc {

// Threads: safe. Memory: one blob reference per model version.
class JobTable {
 public:
  JobTable() = default;

  // Ignores records of other kinds. DATA_LOSS for a record of a job that was
  // never submitted.
  absl::Status Apply(const v1::JournalRecord& record);

  bool Contains(absl::string_view job) const;
  // The resolved configuration of the oldest job that is not finished.
  absl::optional<v1::JobConfig> Next() const;
  // Jobs that are not finished and older than `job`.
  uint32_t Ahead(absl::string_view job) const;
  // True if the job is done, failed or stopped.
  bool Finished(absl::string_view job) const;

  // From the records alone: available_clients and waiting_for are left empty.
  // NOT_FOUND names the jobs there are.
  absl::StatusOr<v1::JobStatus> Status(absl::string_view job) const;
  // In order of submission.
  std::vector<v1::JobStatus> All() const;

  // The PEFT folder of a version (-1: the latest). NOT_FOUND for no such job or
  // version, FAILED_PRECONDITION before the job's first version exists.
  absl::StatusOr<v1::GetModelResponse> Model(absl::string_view job,
                                             int32_t version) const;
  // True for what belongs to some version or base model: operators may
  // download it.
  bool IsModelBlob(absl::string_view digest) const;

 private:
  struct Entry {
    v1::JobConfig config;
    v1::JobStatus status;
    v1::JobStarted started;
    // adapters[v] is version v.
    std::vector<v1::BlobRef> adapters;
    // Of the evaluation in progress or just over: right labels so far.
    absl::optional<uint64_t> correct;
  };

  absl::StatusOr<Entry*> Find(absl::string_view job)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status ApplySubmitted(const v1::JobSubmitted& record)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status ApplyStarted(const v1::JobStarted& record)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status ApplyCommitted(const v1::RoundCommitted& record)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status ApplyEvaluated(const v1::EvaluationFinished& record)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CountBytes(const std::string& job, uint64_t up, uint64_t down)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status ApplyFinished(const v1::JobFinished& record)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable base::Mutex mu_;
  std::map<std::string, Entry> jobs_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> order_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<std::string> model_blobs_ ABSL_GUARDED_BY(mu_);
};

// True for "done", "failed" and "stopped".
bool IsFinalState(absl::string_view state);

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_JOB_TABLE_H_
