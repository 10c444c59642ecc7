// The head file: which event was the last one, written beside the journal.
//
// A journal that lost its end is a valid, shorter journal; only something that
// remembers how far it went can tell. The file is written after each commit, so
// it may lag behind the journal after a crash, and is never ahead of it.
#ifndef CHOIR_COORDINATOR_STORE_HEAD_FILE_H_
#define CHOIR_COORDINATOR_STORE_HEAD_FILE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/scoped_fd.h"
#include "base/sha256.h"

namespace choir::store {

struct Head {
  uint64_t sequence = 0;    // 0: no event yet
  base::Sha256Digest hash;  // of that event; ChainStart() for none
};

// One line of fixed length; its last field is the SHA-256 of what precedes it.
std::string RenderHead(const Head& head);
// DATA_LOSS unless `bytes` is what RenderHead gives for some head.
absl::StatusOr<Head> ParseHead(absl::string_view bytes);
// NOT_FOUND if there is no file.
absl::StatusOr<Head> ReadHead(const std::string& path);

// The file held open for rewriting in place. Threads: one thread at a time.
class HeadFile {
 public:
  // The file must exist: creating it is WriteFileAtomic(RenderHead(..)).
  static absl::StatusOr<std::unique_ptr<HeadFile>> Open(
      const std::string& path);
  // One pwrite, no sync.
  absl::Status Write(const Head& head);

 private:
  HeadFile(base::ScopedFd fd, std::string path)
      : fd_(std::move(fd)), path_(std::move(path)) {}
  base::ScopedFd fd_;
  std::string path_;
};

}  // namespace choir::store

#endif  // CHOIR_COORDINATOR_STORE_HEAD_FILE_H_
