#include "sim/experiment/client_pool.h"

#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "client/session/participation.h"

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
  threads_->Add([this, task = std::move(task)](int worker) {
    VirtualResult result = Run(worker, task);
    base::MutexLock lock(&mu_);
    results_.push_back(std::move(result));
  });
}

VirtualResult ClientPool::WaitForResult() {
  CHOIR_CHECK(in_flight_ > 0);
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

VirtualResult ClientPool::Run(int worker, const VirtualTask& task) {
  VirtualResult result;
  result.sequence = task.sequence;
  result.client = task.client;
  *result.report.mutable_key() = task.plan.key();
  const auto work = [&]() -> absl::Status {
    const auto check = [this](int, int) {
      return cancelled_ ? absl::CancelledError("simulation is stopping")
                        : absl::OkStatus();
    };
    CHOIR_RETURN_IF_ERROR(check(0, 0));
    if (trainers_[worker] == nullptr) {
      CHOIR_ASSIGN_OR_RETURN(
          trainers_[worker],
          model::Trainer::Create(base_, options_.job.adapter));
    }
    const auto data = population_.Encoded(
        task.client_index, base_->tokenizer(), options_.job.training);
    CHOIR_ASSIGN_OR_RETURN(
        client::TaskResult done,
        client::RunTask(task.plan, *trainers_[worker], *task.adapter_bytes,
                        *data, clock_, check));
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

}  // namespace choir::sim
