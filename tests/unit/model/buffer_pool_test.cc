#include "model/torch/buffer_pool.h"

#include <cstring>
#include <thread>
#include <vector>

#include "base/sim_random.h"
#include "gtest/gtest.h"
#include "model/torch/compat.h"

namespace choir::model {
namespace {

constexpr size_t kMib = 1 << 20;

TEST(BufferPoolTest, GivesTheSameBufferForTheSameSizeAgain) {
  BufferPool pool;
  void* first = pool.Take(kMib);
  ASSERT_NE(first, nullptr);
  pool.Give(first);
  EXPECT_EQ(pool.Take(kMib), first);
  pool.Give(first);
  EXPECT_EQ(pool.usage().used, 0u);
  EXPECT_EQ(pool.usage().kept, kMib);
}

TEST(BufferPoolTest, ALittleLessFitsAndMuchLessDoesNot) {
  BufferPool pool;
  void* large = pool.Take(8 * kMib);
  pool.Give(large);
  void* seven_eighths = pool.Take(7 * kMib + kMib / 2);
  EXPECT_EQ(seven_eighths, large);
  pool.Give(seven_eighths);
  void* half = pool.Take(4 * kMib);
  EXPECT_NE(half, large);
  pool.Give(half);
}

TEST(BufferPoolTest, NeverHoldsMoreThanWasOnceUsed) {
  BufferPool pool;
  base::SimRandom random(7);
  std::vector<void*> taken;
  for (int i = 0; i < 2000; ++i) {
    if (taken.size() < 12 && random.Below(2) == 0) {
      const size_t bytes = 4096 * (1 + random.Below(40));
      void* buffer = pool.Take(bytes);
      std::memset(buffer, 1, bytes);
      taken.push_back(buffer);
    } else if (!taken.empty()) {
      const size_t at = random.Below(taken.size());
      pool.Give(taken[at]);
      taken.erase(taken.begin() + static_cast<std::ptrdiff_t>(at));
    }
    const BufferPool::Usage usage = pool.usage();
    ASSERT_LE(usage.used + usage.kept, usage.most_used);
  }
  for (void* buffer : taken) pool.Give(buffer);
  EXPECT_EQ(pool.usage().used, 0u);
}

TEST(BufferPoolTest, BuffersInUseDoNotOverlap) {
  BufferPool pool;
  const auto work = [&pool](unsigned char mark) {
    for (int i = 0; i < 200; ++i) {
      const size_t bytes = 4096 * (1 + i % 7);
      auto* buffer = static_cast<unsigned char*>(pool.Take(bytes));
      std::memset(buffer, mark, bytes);
      for (size_t b = 0; b < bytes; b += 512) ASSERT_EQ(buffer[b], mark);
      pool.Give(buffer);
    }
  };
  std::thread other(work, 1);
  work(2);
  other.join();
}

TEST(BufferPoolTest, ServesLargeTensors) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer watches the heap's tensors instead";
#endif
  PoolLargeTensors();
  const at::Tensor first = at::ones({1 << 20}, at::kFloat);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first.data_ptr()) % 4096, 0u);
  const void* at = first.data_ptr();
  at::Tensor gone = at::empty({1 << 20}, at::kFloat);
  const void* freed = gone.data_ptr();
  gone = at::Tensor();
  EXPECT_EQ(at::empty({1 << 20}, at::kFloat).data_ptr(), freed);
  EXPECT_NE(freed, at);
  EXPECT_EQ(first.sum().item<float>(), 1 << 20);
}

// oneDNN asks LibTorch's allocator for bare memory and gives it back.
TEST(BufferPoolTest, ServesBareMemoryAndOneDnn) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "AddressSanitizer watches the heap's tensors instead";
#endif
  PoolLargeTensors();
  for (const size_t bytes : {size_t{0}, size_t{100}, 4 * kMib}) {
    c10::Allocator* allocator = at::getCPUAllocator();
    void* memory = allocator->raw_allocate(bytes);
    if (bytes > 0) std::memset(memory, 1, bytes);
    allocator->raw_deallocate(memory);
  }
  for (const int64_t rows : {2, 4096}) {
    const at::Tensor x =
        at::full({rows, 256}, 0.5f, at::kFloat).set_requires_grad(true);
    const at::Tensor y = at::gelu(x);
    EXPECT_NEAR(y.max().item<float>(), 0.34573123f, 1e-6f);
    torch::autograd::backward({y.sum()}, {});
    EXPECT_NEAR(x.grad().max().item<float>(), 0.8674951f, 1e-5f);
  }
}

}  // namespace
}  // namespace choir::model
