// Brings a job's base model and its first adapter into the blob store.
#ifndef CHOIR_COORDINATOR_RUNNER_BASE_MODEL_H_
#define CHOIR_COORDINATOR_RUNNER_BASE_MODEL_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "choir/v1/journal.pb.h"
#include "coordinator/store/blob_store.h"
#include "proto/codec/layout.h"
#include "proto/config/job_options.h"

namespace choir::runner {

// Copies the files of the Hugging Face folder options.base_model that a client
// needs, and makes version 0 of the adapter. Repeating it costs a look.
//
// Errors: INVALID_ARGUMENT naming the folder or file: no folder, no
// config.json, tokenizer or *.safetensors, a file that cannot be parsed; what
// model::CheckJobFits() refuses: target modules that the model does not have,
// training that it cannot take. Those of the store (RESOURCE_EXHAUSTED).
absl::StatusOr<v1::JobStarted> ImportBaseModel(
    const config::JobOptions& options, store::BlobStore& blobs);

// The adapter's layout, from the config.json among facts.base_model.
// DATA_LOSS if it is not the layout that `facts` names.
absl::StatusOr<codec::Layout> LayoutOfJob(const config::JobOptions& options,
                                          const v1::JobStarted& facts,
                                          const store::BlobStore& blobs);

}  // namespace choir::runner

#endif  // CHOIR_COORDINATOR_RUNNER_BASE_MODEL_H_
