// Which refusals of peers get into the journal, so that a flood of them cannot
// fill the disk.
#ifndef CHOIR_COORDINATOR_RPC_REFUSAL_LOG_H_
#define CHOIR_COORDINATOR_RPC_REFUSAL_LOG_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "choir/v1/journal.pb.h"

namespace choir::rpc {

// The first refusal of a peer for a kind of reason is always recorded unless
// more than 120 were recorded within this minute; the same peer and kind again
// at most once a minute. Threads: safe. Memory: bounded (4096 peers and kinds).
class RefusalLog {
 public:
  // `record` must not block; it gets what is to be journaled. `clock` outlives
  // the log.
  RefusalLog(const base::Clock& clock,
             std::function<void(v1::PeerRefused)> record);

  // `kind` groups reasons that differ in details only. Texts come from peers:
  // they are cut to 200 bytes of printable ASCII.
  void Refused(absl::string_view peer, absl::string_view method,
               absl::string_view kind, absl::string_view reason);

 private:
  bool ShouldRecord(const std::string& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const base::Clock& clock_;
  const std::function<void(v1::PeerRefused)> record_;
  base::Mutex mu_;
  absl::flat_hash_map<std::string, absl::Time> last_ ABSL_GUARDED_BY(mu_);
  absl::Time minute_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  int in_this_minute_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t dropped_ ABSL_GUARDED_BY(mu_) = 0;
};

// At most `max_bytes` of printable ASCII; '?' for everything else.
std::string PrintableText(absl::string_view text, size_t max_bytes = 200);

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_REFUSAL_LOG_H_
