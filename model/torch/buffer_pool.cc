#include "model/torch/buffer_pool.h"

#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "base/check.h"

namespace choir::model {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kSmallest = 256 << 10;

}  // namespace

BufferPool::~BufferPool() {
  base::MutexLock lock(&mutex_);
  ReturnToSystem(0);
}

void* BufferPool::TakeKept(size_t bytes) {
  // An eighth more than is needed is better than new pages.
  const auto it = kept_.lower_bound(bytes);
  if (it == kept_.end() || it->first > bytes + bytes / 8) return nullptr;
  void* buffer = it->second.back();
  it->second.pop_back();
  usage_.kept -= it->first;
  if (it->second.empty()) kept_.erase(it);
  return buffer;
}

void BufferPool::ReturnToSystem(size_t most_kept) {
  while (usage_.kept > most_kept) {
    const auto largest = std::prev(kept_.end());
    void* buffer = largest->second.back();
    munmap(buffer, largest->first);
    usage_.kept -= largest->first;
    sizes_.erase(buffer);
    largest->second.pop_back();
    if (largest->second.empty()) kept_.erase(largest);
  }
}

void* BufferPool::Take(size_t bytes) {
  const size_t size = (bytes + kPage - 1) / kPage * kPage;
  base::MutexLock lock(&mutex_);
  void* buffer = TakeKept(size);
  if (buffer == nullptr) {
    const size_t used = usage_.used + size;
    ReturnToSystem(usage_.most_used > used ? usage_.most_used - used : 0);
    buffer = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) return nullptr;
    sizes_[buffer] = size;
  }
  usage_.used += sizes_[buffer];
  usage_.most_used = std::max(usage_.most_used, usage_.used);
  return buffer;
}

bool BufferPool::Give(void* buffer) {
  base::MutexLock lock(&mutex_);
  const auto it = sizes_.find(buffer);
  if (it == sizes_.end()) return false;
  usage_.used -= it->second;
  usage_.kept += it->second;
  kept_[it->second].push_back(buffer);
  return true;
}

BufferPool::Usage BufferPool::usage() const {
  base::MutexLock lock(&mutex_);
  return usage_;
}

namespace {

// Lives as long as the process: tensors may outlast every other object.
BufferPool& ProcessPool() {
  static auto* pool = new BufferPool;
  return *pool;
}

c10::Allocator& Heap() {
  static c10::Allocator* const heap = c10::GetCPUAllocator();
  return *heap;
}

void Free(void* memory) {
  const bool page = reinterpret_cast<uintptr_t>(memory) % kPage == 0;
  if (page && ProcessPool().Give(memory)) return;
  Heap().raw_deleter()(memory);
}

class PoolAllocator final : public c10::Allocator {
 public:
  // LibTorch declares it const up to 2.3, and not const since: one of the two
  // overrides.
  at::DataPtr allocate(size_t bytes) const { return Allocate(bytes); }
  at::DataPtr allocate(size_t bytes) { return Allocate(bytes); }
  // Since LibTorch 2.2.
  void copy_data(void* to, const void* from, size_t bytes) const {
    std::memcpy(to, from, bytes);
  }
  // Libraries under LibTorch (oneDNN) ask for bare memory: all of it has to go
  // the same way back.
  at::DeleterFnPtr raw_deleter() const override { return &Free; }

 private:
  static at::DataPtr Allocate(size_t bytes) {
    if (bytes < kSmallest) {
      at::DataPtr small = Heap().allocate(bytes);
      CHOIR_CHECK(small.compare_exchange_deleter(Heap().raw_deleter(), &Free));
      return small;
    }
    void* buffer = ProcessPool().Take(bytes);
    TORCH_CHECK(buffer != nullptr, "not enough memory: ", bytes,
                " bytes for a tensor");
    return {buffer, buffer, &Free, at::Device(at::DeviceType::CPU)};
  }
};

}  // namespace

void PoolLargeTensors() {
// AddressSanitizer sees what runs over a tensor's end in the heap alone.
#ifndef __SANITIZE_ADDRESS__
  static const bool once = [] {
    Heap();  // what was there before
    c10::SetCPUAllocator(new PoolAllocator, /*priority=*/1);
    return true;
  }();
  (void)once;
#endif
}

}  // namespace choir::model
