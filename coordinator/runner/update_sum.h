// Sums the updates of a round out of the blob store.
#ifndef CHOIR_COORDINATOR_RUNNER_UPDATE_SUM_H_
#define CHOIR_COORDINATOR_RUNNER_UPDATE_SUM_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/thread_pool.h"
#include "coordinator/aggregate/integer_sum.h"
#include "coordinator/engine/engine.h"
#include "coordinator/store/blob_store.h"
#include "proto/codec/layout.h"
#include "proto/config/job_options.h"

namespace choir::runner {

// Reads, checks and adds one update after the other. With a pool, its threads
// share the updates; the result is the same to the last bit.
//
// Memory: per thread one sum (8 bytes per parameter) and one update, however
// many updates there are.
// Errors: those of the store and of the decoder for the first update, in the
// order given, that cannot be added; RESOURCE_EXHAUSTED if the sum could
// overflow.
// Threads: blocks until done; not to be called on a thread of `pool`, which may
// be null.
absl::StatusOr<aggregate::IntegerSum> SumUpdates(
    const std::vector<engine::WeightedUpdate>& updates,
    const codec::Layout& layout, const config::AggregationOptions& options,
    const store::BlobStore& blobs, base::ThreadPool* pool);

// Whether the blob is there and begins as an update does. Asked before a blob
// is removed that a peer named: it may have named any blob of the store.
// Masked vectors of secure aggregation are updates too.
bool IsUpdateBlob(const store::BlobStore& blobs, absl::string_view digest);
bool IsMaskedBlob(const store::BlobStore& blobs, absl::string_view digest);
// Drops masked vectors that have come in part, of sessions that went with the
// process before.
absl::Status RemoveMaskedIncoming(store::BlobStore& blobs);

}  // namespace choir::runner

#endif  // CHOIR_COORDINATOR_RUNNER_UPDATE_SUM_H_
