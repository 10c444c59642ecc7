// Several clients' adapters trained in one forward and backward pass.
#ifndef CHOIR_MODEL_TRAINING_BANK_TRAINER_H_
#define CHOIR_MODEL_TRAINING_BANK_TRAINER_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/loaded_model.h"
#include "model/training/trainer.h"

namespace choir::model {

// Why these settings cannot share a pass: INVALID_ARGUMENT, or OK. What can:
// LoRA and frozen A in float32, on dense models, with next-token objectives,
// without sparsity.
absl::Status CheckSharedPass(const LoadedModel& base,
                             const config::AdapterOptions& adapter,
                             const config::TrainingOptions& training);

// Trains every member as Trainer::Train() would, in as many steps as the
// longest of them has; members with fewer leave earlier. Each has its own
// order of examples, dropout, optimiser and clipping. The results are those of
// training one after another up to float32 rounding (sums in another order),
// not bit for bit.
//
// `layout` is AdapterLayout()'s and CheckSharedPass() has said OK.
// Errors: as Trainer::TrainBank().
absl::StatusOr<std::vector<TrainResult>> TrainInOnePass(
    const LoadedModel& base, const config::AdapterOptions& adapter,
    const codec::Layout& layout, absl::Span<const BankMember> members,
    const config::TrainingOptions& training, const ProgressFn& progress);

}  // namespace choir::model

#endif  // CHOIR_MODEL_TRAINING_BANK_TRAINER_H_
