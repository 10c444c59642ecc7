// Shares that were handed out do not stay behind in memory: whatever a session
// frees, whether it comes to its sum or ends before, is looked at for them.
//
// Everything in a World follows from its seed, so that a first run tells the
// shares that will be revealed in the second, which is watched from its begin
// to its end.
#include <malloc.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "privacy/secagg/shamir.h"
#include "tests/support/secagg_world.h"

namespace {

constexpr int kMostMarks = 256;
unsigned char marks[kMostMarks][choir::secagg::kSecretBytes];
int num_marks = 0;
bool watching = false;
int leaks = 0;

void LookAt(void* block) {
  if (!watching || block == nullptr) return;
  const size_t size = malloc_usable_size(block);
  for (int i = 0; i < num_marks; ++i) {
    if (memmem(block, size, marks[i], sizeof(marks[i])) != nullptr) ++leaks;
  }
}

}  // namespace

// Blocks begin as zeros: what somebody else left in them is not ours.
__attribute__((noinline)) void* operator new(size_t size) {
  void* block = std::calloc(1, size == 0 ? 1 : size);
  if (block == nullptr) std::abort();
  return block;
}
__attribute__((noinline)) void operator delete(void* block) noexcept {
  LookAt(block);
  std::free(block);
}
__attribute__((noinline)) void operator delete(void* block, size_t) noexcept {
  LookAt(block);
  std::free(block);
}

namespace choir::secagg {
namespace {

void Mark(const std::string& share) {
  ASSERT_EQ(share.size(), size_t{kSecretBytes});
  ASSERT_LT(num_marks, kMostMarks);
  std::memcpy(marks[num_marks++], share.data(), share.size());
}

// One client drops out before it masks, so that shares of both kinds come.
std::vector<Fate> OneDropsOut() { return {Fate::kStays, Fate::kNoMasked}; }

WorldOptions Options() {
  WorldOptions options;
  options.clients = 6;
  options.dropout_fraction = 0.2;
  return options;
}

// Runs up to the unmask phase.
Federation Begin(World& world) {
  Federation federation = Advertise(world);
  while (federation.server->phase() != Phase::kUnmask) {
    EXPECT_TRUE(AnswerPhase(world, federation, OneDropsOut()).ok());
    EXPECT_TRUE(federation.server->Close().ok());
  }
  return federation;
}

class WipeTest : public ::testing::Test {
 protected:
  WipeTest() {
    num_marks = 0;
    leaks = 0;
    World world(Options());
    Federation federation = Begin(world);
    for (int i = 0; i < world.size(); ++i) {
      const auto message = federation.server->MessageFor(world.name(i));
      if (!message) continue;
      const auto step = federation.clients[i].Handle(*message);
      for (const auto& share : step->message.unmask().shares()) {
        Mark(share.has_self_mask() ? share.self_mask() : share.mask_key());
      }
    }
  }
  ~WipeTest() override { watching = false; }
};

TEST_F(WipeTest, TheWatchSeesWhatIsNotWiped) {
  ASSERT_EQ(num_marks, 5 * 6);
  std::string share(reinterpret_cast<const char*>(marks[7]), kSecretBytes);
  watching = true;
  { const std::string copy = share; }
  EXPECT_EQ(leaks, 1);
  crypto::Wipe(share);
  share = std::string();
  watching = false;
  EXPECT_EQ(leaks, 1);
}

TEST_F(WipeTest, NothingIsLeftOfARoundThatGivesItsSum) {
  watching = true;
  {
    World world(Options());
    Federation federation = Begin(world);
    ASSERT_TRUE(AnswerPhase(world, federation, OneDropsOut()).ok());
    ASSERT_TRUE(federation.server->Close().ok());
    ASSERT_TRUE(federation.server->Sum(nullptr).ok());
    // Said again, and over.
    v1::SecureServerMessage done;
    done.mutable_done();
    for (ClientSession& client : federation.clients) client.Handle(done);
  }
  watching = false;
  EXPECT_EQ(leaks, 0);
}

TEST_F(WipeTest, NothingIsLeftOfARoundThatIsGivenUpWhileUnmasking) {
  watching = true;
  {
    World world(Options());
    Federation federation = Begin(world);
    std::vector<Fate> fates = OneDropsOut();
    fates.resize(6, Fate::kNoUnmask);
    ASSERT_TRUE(AnswerPhase(world, federation, fates).ok());
    ASSERT_TRUE(absl::IsAborted(federation.server->Close()));
    ASSERT_EQ(federation.server->phase(), Phase::kFailed);
  }
  {
    // Or without a word: the coordinator stops.
    World world(Options());
    Federation federation = Begin(world);
    ASSERT_TRUE(AnswerPhase(world, federation, OneDropsOut()).ok());
  }
  watching = false;
  EXPECT_EQ(leaks, 0);
}

}  // namespace
}  // namespace choir::secagg
