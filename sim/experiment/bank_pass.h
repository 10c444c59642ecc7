// Virtual clients of one round trained in one pass over the shared base.
#ifndef CHOIR_SIM_EXPERIMENT_BANK_PASS_H_
#define CHOIR_SIM_EXPERIMENT_BANK_PASS_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "choir/v1/coordinator.pb.h"
#include "client/session/participation.h"
#include "model/training/trainer.h"

namespace choir::sim {

// Trains the clients' adapters together first; then each client's own code runs
// with a trainer that hands out its result. Whatever cannot be trained so (a
// plan that is refused, a client whose loss explodes) is left to be done by
// that client alone, where it is reported as ever.
// Threads: one at a time.
class BankPass {
 public:
  // `trainer` outlives the pass.
  explicit BankPass(model::Trainer& trainer);
  ~BankPass();

  void Add(const v1::TaskPlan& plan, absl::string_view adapter_bytes,
           std::shared_ptr<const client::LocalData> data);
  // Calls Trainer::TrainBank for the clients added.
  void Train(const model::ProgressFn& progress);
  // For the client added as number `index`: a trainer that has its result, or
  // the one given.
  model::Trainer& TrainerOf(size_t index);

 private:
  class Trained;
  struct Client {
    uint64_t seed = 0;
    std::vector<float> start, values;
    config::TrainingOptions training;
    std::shared_ptr<const client::LocalData> data;  // in use until trained
    std::unique_ptr<Trained> trained;
    bool fits = false;
  };

  model::Trainer& trainer_;
  std::vector<Client> clients_;
};

}  // namespace choir::sim

#endif  // CHOIR_SIM_EXPERIMENT_BANK_PASS_H_
