#include "coordinator/runner/update_sum.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <latch>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "privacy/secagg/masked_vector.h"
#include "proto/codec/flat_update.h"

namespace choir::runner {
namespace {

using aggregate::IntegerSum;

// Fewer updates per thread are not worth another sum.
constexpr size_t kMinUpdatesPerThread = 4;

// One thread's share.
struct Part {
  explicit Part(IntegerSum empty) : sum(std::move(empty)) {}
  IntegerSum sum;
  absl::Status status;
  size_t failed_at = 0;  // index of the update that failed
};

absl::Status AddUpdate(const engine::WeightedUpdate& update,
                       const codec::Layout& layout,
                       const config::AggregationOptions& options,
                       const store::BlobStore& blobs, IntegerSum& sum) {
  CHOIR_ASSIGN_OR_RETURN(const std::string bytes,
                         blobs.Read(update.update.digest()));
  CHOIR_ASSIGN_OR_RETURN(
      const std::vector<float> values,
      codec::DecodeFlatUpdate(bytes, layout, options.max_magnitude()));
  return sum.Add(values, update.weight);
}

bool BeginsWith(const store::BlobStore& blobs, absl::string_view digest,
                const char (&expected)[4]) {
  const auto blob = blobs.OpenBlob(digest);
  char magic[sizeof(expected)] = {};
  return blob.ok() && (*blob)->ReadAt(0, sizeof(magic), magic).ok() &&
         std::equal(std::begin(magic), std::end(magic), std::begin(expected));
}

}  // namespace

bool IsUpdateBlob(const store::BlobStore& blobs, absl::string_view digest) {
  return BeginsWith(blobs, digest, codec::kFlatUpdateMagic) ||
         IsMaskedBlob(blobs, digest);
}

bool IsMaskedBlob(const store::BlobStore& blobs, absl::string_view digest) {
  return BeginsWith(blobs, digest, secagg::kMaskedVectorMagic);
}

absl::Status RemoveMaskedIncoming(store::BlobStore& blobs) {
  return blobs
      .RemoveIncoming(absl::string_view(secagg::kMaskedVectorMagic,
                                        sizeof(secagg::kMaskedVectorMagic)))
      .status();
}

absl::StatusOr<IntegerSum> SumUpdates(
    const std::vector<engine::WeightedUpdate>& updates,
    const codec::Layout& layout, const config::AggregationOptions& options,
    const store::BlobStore& blobs, base::ThreadPool* pool) {
  CHOIR_ASSIGN_OR_RETURN(const IntegerSum empty,
                         IntegerSum::Create(layout, options.fixed_point_bits));
  const size_t threads =
      pool == nullptr ? 1 : static_cast<size_t>(pool->num_threads());
  const size_t num_parts = std::max<size_t>(
      1, std::min(threads, updates.size() / kMinUpdatesPerThread));
  std::vector<Part> parts(num_parts, Part(empty));
  std::atomic<size_t> next{0};
  const auto work = [&](Part& part) {
    while (part.status.ok()) {
      const size_t i = next.fetch_add(1);
      if (i >= updates.size()) return;
      part.failed_at = i;
      part.status = AddUpdate(updates[i], layout, options, blobs, part.sum);
    }
  };
  if (num_parts == 1) {
    work(parts[0]);
  } else {
    std::latch running(static_cast<std::ptrdiff_t>(num_parts));
    for (Part& part : parts) {
      pool->Add([&work, &part, &running](int) {
        work(part);
        running.count_down();
      });
    }
    running.wait();
  }
  const Part* first_failure = nullptr;
  for (const Part& part : parts) {
    if (part.status.ok()) continue;
    if (first_failure == nullptr || part.failed_at < first_failure->failed_at) {
      first_failure = &part;
    }
  }
  if (first_failure != nullptr) {
    return absl::Status(
        first_failure->status.code(),
        absl::StrCat("update of '", updates[first_failure->failed_at].client,
                     "': ", first_failure->status.message()));
  }
  for (size_t i = 1; i < parts.size(); ++i) {
    CHOIR_RETURN_IF_ERROR(parts[0].sum.Merge(parts[i].sum));
  }
  return std::move(parts[0].sum);
}

}  // namespace choir::runner
