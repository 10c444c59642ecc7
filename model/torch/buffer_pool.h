// Memory of large CPU tensors. A training step asks for the same few sizes
// again and again; a general heap leaves gaps between them, and one that gives
// each back at once pays for every page anew.
#ifndef CHOIR_MODEL_TORCH_BUFFER_POOL_H_
#define CHOIR_MODEL_TORCH_BUFFER_POOL_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"

namespace choir::model {

// Hands out whole pages and keeps what comes back for the next request of that
// size or a little less, but never holds more, used and kept together, than was
// once used at the same time. Threads: safe.
class BufferPool {
 public:
  BufferPool() = default;
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  // At least `bytes` (above 0), on a page boundary, not cleared. Null if the
  // system has no more memory.
  void* Take(size_t bytes);
  // Takes back what Take() of this pool gave. False if it did not.
  bool Give(void* buffer);

  struct Usage {
    size_t used = 0;  // bytes, whole pages
    size_t kept = 0;
    size_t most_used = 0;  // at the same time
  };
  Usage usage() const;

 private:
  void* TakeKept(size_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReturnToSystem(size_t most_kept) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable base::Mutex mutex_;
  Usage usage_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<void*, size_t> sizes_ ABSL_GUARDED_BY(mutex_);
  std::map<size_t, std::vector<void*>> kept_ ABSL_GUARDED_BY(mutex_);
};

// From now on LibTorch's CPU tensors of 256 KiB and more live in one BufferPool
// of this process; smaller ones stay in the heap. Call again as often as you
// like.
void PoolLargeTensors();

}  // namespace choir::model

#endif  // CHOIR_MODEL_TORCH_BUFFER_POOL_H_
