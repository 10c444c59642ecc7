// Worker threads on which virtual clients do their tasks.
#ifndef CHOIR_SIM_EXPERIMENT_CLIENT_POOL_H_
#define CHOIR_SIM_EXPERIMENT_CLIENT_POOL_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/thread_pool.h"
#include "choir/v1/coordinator.pb.h"
#include "coordinator/store/blob_store.h"
#include "model/training/trainer.h"
#include "proto/config/job_options.h"
#include "sim/experiment/population.h"
#include "sim/experiment/secure_clients.h"

namespace choir::sim {

// One virtual client's task, and what became of it.
struct VirtualTask {
  uint64_t sequence = 0;
  std::string client;
  size_t client_index = 0;
  v1::TaskPlan plan;
  // Shared by all tasks that begin from the same version.
  std::shared_ptr<const std::string> adapter_bytes;
  // When the client drops out of a secure round (RunOptions::drop_phase).
  absl::optional<int> silent_from;
};
struct VirtualResult {
  uint64_t sequence = 0;
  std::string client;
  // CANCELLED after Cancel(); otherwise an error is one of the simulation
  // (disk full, a broken base model), not of the client.
  absl::Status status;
  v1::ReportRequest report;
  // Of a training task in a secure round, instead of the report: the session in
  // which the update is handed over, and what the client has downloaded.
  absl::optional<secagg::ClientSession> session;
  uint64_t bytes_downloaded = 0;
  absl::optional<int> silent_from;
};

struct ClientPoolOptions {
  int workers = 1;
  // Above 1, training tasks wait until so many are together, or nothing else
  // is under way, and are trained in one pass.
  int clients_per_pass = 1;
  config::JobOptions job;
  // Needed if the job's updates are summed in secret; outlives the pool.
  SecureClients* secure = nullptr;
};

// Each worker owns one Trainer, made when it is first needed; all share the
// base model. An update is in the blob store before its result is handed out.
//
// Threads: one thread at a time outside; the destructor cancels and joins.
class ClientPool {
 public:
  // `population`, `blobs` and `clock` outlive the pool.
  ClientPool(ClientPoolOptions options,
             std::shared_ptr<const model::BaseModel> base,
             const Population& population, store::BlobStore& blobs,
             const base::Clock& clock);
  ~ClientPool();

  void Add(VirtualTask task);
  // Blocks until a task added before is done; at least one must be under way.
  VirtualResult WaitForResult();
  // Tasks added whose results were not handed out.
  int in_flight() const { return in_flight_; }
  // Tasks that keep every worker busy.
  int capacity() const {
    return 2 * options_.workers * options_.clients_per_pass;
  }
  // Makes running tasks end at their next step.
  void Cancel() { cancelled_ = true; }

 private:
  void Dispatch(std::vector<VirtualTask> tasks);
  // Hands the waiting tasks to a worker.
  void DispatchWaiting();
  absl::Status Prepare(int worker);
  VirtualResult Run(int worker, const VirtualTask& task,
                    model::Trainer& trainer);
  std::vector<VirtualResult> RunTasks(int worker,
                                      const std::vector<VirtualTask>& tasks);
  model::ProgressFn StopCheck() const;

  const ClientPoolOptions options_;
  const std::shared_ptr<const model::BaseModel> base_;
  const Population& population_;
  store::BlobStore& blobs_;
  const base::Clock& clock_;
  int in_flight_ = 0;
  // Training tasks of one version that wait for company; those that do not
  // wait are in_flight_ less these.
  std::vector<VirtualTask> waiting_;
  std::atomic<bool> cancelled_{false};
  // Entry w is touched by worker w alone.
  std::vector<std::unique_ptr<model::Trainer>> trainers_;

  base::Mutex mu_;
  std::deque<VirtualResult> results_ ABSL_GUARDED_BY(mu_);
  // Last: its threads use everything above.
  std::unique_ptr<base::ThreadPool> threads_;
};

}  // namespace choir::sim

#endif  // CHOIR_SIM_EXPERIMENT_CLIENT_POOL_H_
