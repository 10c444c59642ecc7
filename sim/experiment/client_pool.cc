#include "sim/experiment/client_pool.h"

#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "client/session/participation.h"
#include "model/compute.h"
#include "sim/experiment/bank_pass.h"

namespace choir::sim {

ClientPool::ClientPool(ClientPoolOptions options,
                       std::shared_ptr<const model::BaseModel> base,
                       const Population& population, store::BlobStore& blobs,
                       const base::Clock& clock)
    : options_(std::move(options)),
      base_(std::move(base)),
      population_(population),
      blobs_(blobs),
      clock_(clock),
      trainers_(options_.workers),
      threads_(std::make_unique<base::ThreadPool>(
          options_.workers, [](int) { model::PrepareTrainingThread(); })) {}

ClientPool::~ClientPool() {
  Cancel();
  threads_.reset();
}

void ClientPool::Add(VirtualTask task) {
  ++in_flight_;
  if (options_.clients_per_pass == 1 ||
      task.plan.key().kind() != v1::TASK_KIND_TRAIN) {
    std::vector<VirtualTask> alone;
    alone.push_back(std::move(task));
    Dispatch(std::move(alone));
    return;
  }
  if (!waiting_.empty() &&
      waiting_.front().adapter_bytes != task.adapter_bytes) {
    DispatchWaiting();
  }
  waiting_.push_back(std::move(task));
  if (static_cast<int>(waiting_.size()) == options_.clients_per_pass) {
    DispatchWaiting();
  }
}

void ClientPool::DispatchWaiting() {
  std::vector<VirtualTask> tasks;
  std::swap(tasks, waiting_);
  Dispatch(std::move(tasks));
}

void ClientPool::Dispatch(std::vector<VirtualTask> tasks) {
  threads_->Add([this, tasks = std::move(tasks)](int worker) {
    std::vector<VirtualResult> results = RunTasks(worker, tasks);
    base::MutexLock lock(&mu_);
    for (VirtualResult& result : results) {
      results_.push_back(std::move(result));
    }
  });
}

VirtualResult ClientPool::WaitForResult() {
  CHOIR_CHECK(in_flight_ > 0);
  // Company that cannot come any more is not waited for.
  if (in_flight_ == static_cast<int>(waiting_.size())) DispatchWaiting();
  base::MutexLock lock(&mu_);
  const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return !results_.empty();
  };
  mu_.Await(absl::Condition(&ready));
  VirtualResult result = std::move(results_.front());
  results_.pop_front();
  --in_flight_;
  return result;
}

model::ProgressFn ClientPool::StopCheck() const {
  return [this](int, int) {
    return cancelled_ ? absl::CancelledError("simulation is stopping")
                      : absl::OkStatus();
  };
}

absl::Status ClientPool::Prepare(int worker) {
  CHOIR_RETURN_IF_ERROR(StopCheck()(0, 0));
  if (trainers_[worker] != nullptr) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(trainers_[worker],
                         model::Trainer::Create(base_, options_.job.adapter));
  return absl::OkStatus();
}

VirtualResult ClientPool::Run(int worker, const VirtualTask& task,
                              model::Trainer& trainer) {
  VirtualResult result;
  result.sequence = task.sequence;
  result.client = task.client;
  *result.report.mutable_key() = task.plan.key();
  const auto work = [&]() -> absl::Status {
    const auto data = population_.Encoded(task.client_index, base_->tokenizer(),
                                          options_.job.training);
    CHOIR_ASSIGN_OR_RETURN(
        client::TaskResult done,
        client::RunTask(task.plan, trainer, *task.adapter_bytes, *data, clock_,
                        StopCheck()));
    if (done.report.has_train() && task.plan.has_secure_session()) {
      absl::StatusOr<secagg::ClientSession> session =
          options_.secure->Join(task.client, task.plan, done);
      result.bytes_downloaded = task.adapter_bytes->size();
      result.silent_from = task.silent_from;
      if (session.ok()) {
        result.session = *std::move(session);
        return absl::OkStatus();
      }
      done.report = client::MakeFailureReport(task.plan.key(),
                                              session.status().message());
    }
    result.report = std::move(done.report);
    if (result.report.has_train()) {
      CHOIR_RETURN_IF_ERROR(blobs_.Put(done.update_bytes).status());
      result.report.mutable_train()->set_bytes_downloaded(
          task.adapter_bytes->size());
    } else if (result.report.has_evaluation()) {
      result.report.mutable_evaluation()->set_bytes_downloaded(
          task.adapter_bytes->size());
    }
    return absl::OkStatus();
  };
  result.status = work();
  return result;
}

std::vector<VirtualResult> ClientPool::RunTasks(
    int worker, const std::vector<VirtualTask>& tasks) {
  std::vector<VirtualResult> results;
  const absl::Status ready = Prepare(worker);
  if (!ready.ok()) {
    for (const VirtualTask& task : tasks) {
      VirtualResult& result = results.emplace_back();
      result.sequence = task.sequence;
      result.client = task.client;
      result.status = ready;
    }
    return results;
  }
  model::Trainer& trainer = *trainers_[worker];
  BankPass pass(trainer);
  if (tasks.size() > 1) {
    for (const VirtualTask& task : tasks) {
      pass.Add(task.plan, *task.adapter_bytes,
               population_.Encoded(task.client_index, base_->tokenizer(),
                                   options_.job.training));
    }
    pass.Train(StopCheck());
  }
  for (const VirtualTask& task : tasks) {
    results.push_back(Run(worker, task, pass.TrainerOf(results.size())));
  }
  return results;
}

}  // namespace choir::sim
