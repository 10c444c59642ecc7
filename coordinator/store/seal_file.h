// The seal: digests of every page of a journal that nobody has open.
//
// The hash chain covers what the journal says; the seal also covers the bytes
// that say nothing (unused space inside pages, SQLite's own bookkeeping), and
// tells where in the file a difference lies.
#ifndef CHOIR_COORDINATOR_STORE_SEAL_FILE_H_
#define CHOIR_COORDINATOR_STORE_SEAL_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/files.h"

namespace choir::store {

inline constexpr uint64_t kSealPageBytes = 4096;

// Writes to `seal_path` the digests of the file `path`.
absl::Status WriteSeal(const std::string& path, const std::string& seal_path,
                       base::Durability durability);

// What differs between the file and its seal, in words that name page and byte
// offsets; empty if nothing does. At most 20 pages are listed.
// Errors: NOT_FOUND without a seal, otherwise what reading the files gives. A
// damaged seal is a difference, not an error.
absl::StatusOr<std::vector<std::string>> CompareWithSeal(
    const std::string& path, const std::string& seal_path);

}  // namespace choir::store

#endif  // CHOIR_COORDINATOR_STORE_SEAL_FILE_H_
