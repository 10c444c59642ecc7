// 1,000 clients once.
#include "base/sim_random.h"
#include "gtest/gtest.h"
#include "tests/support/secagg_world.h"

namespace choir::secagg {
namespace {

TEST(ThousandClientsTest, TheSumIsThePlainSumWithATenthDroppedOut) {
  WorldOptions options;
  options.clients = 1000;
  options.modulus_bits = 32;
  options.length = 64;
  World world(options);
  std::vector<Fate> fates(1000, Fate::kStays);
  for (int i = 0; i < 100; ++i) fates[i] = static_cast<Fate>(1 + i % 4);
  base::SimRandom random(5);
  random.Shuffle(fates);
  base::ThreadPool pool(2);
  const RoundResult result = RunRound(world, fates, &pool);
  ASSERT_TRUE(result.status.ok()) << result.status;
  EXPECT_EQ(result.survivors.size(), 950u);
  EXPECT_EQ(Difference(*result.sum, world.PlainSum(result.survivors)), "");
}

}  // namespace
}  // namespace choir::secagg
