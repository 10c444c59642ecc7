#include "privacy/secagg/shamir.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "base/sim_random.h"
#include "gtest/gtest.h"

namespace choir::secagg {
namespace {

// Reproducible, for tests only.
class TestRandom final : public base::SecureRandom {
 public:
  explicit TestRandom(uint64_t seed) : random_(seed) {}
  void Fill(absl::Span<uint8_t> out) override {
    for (uint8_t& byte : out) byte = static_cast<uint8_t>(random_.Below(256));
  }

 private:
  base::SimRandom random_;
};

FieldElement Random(base::SimRandom& random) {
  return {random.NextUint64(), random.NextUint64()};
}

FieldElement Plus(FieldElement a, FieldElement b) {
  return {a.low ^ b.low, a.high ^ b.high};
}

// Shift and add, one bit at a time.
FieldElement Slow(FieldElement a, FieldElement b) {
  FieldElement out;
  for (int i = 0; i < 128; ++i) {
    const uint64_t word = i < 64 ? b.low : b.high;
    if ((word >> (i % 64)) & 1) out = Plus(out, a);
    const bool carry = a.high >> 63;
    a = {a.low << 1, a.high << 1 | a.low >> 63};
    if (carry) a.low ^= 0x87;
  }
  return out;
}

TEST(FieldTest, IsAField) {
  base::SimRandom random(1);
  const FieldElement one{1, 0};
  for (int i = 0; i < 200; ++i) {
    const FieldElement a = Random(random);
    const FieldElement b = Random(random);
    const FieldElement c = Random(random);
    EXPECT_EQ(FieldMultiply(a, b), Slow(a, b));
    EXPECT_EQ(FieldMultiply(a, b), FieldMultiply(b, a));
    EXPECT_EQ(FieldMultiply(FieldMultiply(a, b), c),
              FieldMultiply(a, FieldMultiply(b, c)));
    EXPECT_EQ(FieldMultiply(a, Plus(b, c)),
              Plus(FieldMultiply(a, b), FieldMultiply(a, c)));
    EXPECT_EQ(FieldMultiply(a, one), a);
    EXPECT_EQ(FieldMultiply(a, FieldInverse(a)), one);
  }
  // x^127 * x = x^7 + x^2 + x + 1.
  EXPECT_EQ(FieldMultiply({0, uint64_t{1} << 63}, {2, 0}),
            (FieldElement{0x87, 0}));
  EXPECT_EQ(FieldInverse({0, 0}), (FieldElement{0, 0}));
}

std::vector<absl::string_view> Views(
    const std::vector<crypto::SecretString>& shares,
    const std::vector<int>& which) {
  std::vector<absl::string_view> out;
  for (const int i : which) out.push_back(shares[i].view());
  return out;
}

std::string Reconstructed(const std::vector<crypto::SecretString>& shares,
                          const std::vector<uint32_t>& points,
                          const std::vector<int>& which) {
  std::vector<uint32_t> chosen;
  for (const int i : which) chosen.push_back(points[i]);
  const auto combiner = SecretCombiner::Create(chosen);
  EXPECT_TRUE(combiner.ok()) << combiner.status();
  const auto secret = combiner->Combine(Views(shares, which));
  EXPECT_TRUE(secret.ok()) << secret.status();
  return std::string(secret->view());
}

TEST(ShamirTest, EverySetOfThresholdSharesReconstructs) {
  TestRandom random(7);
  for (int n = 1; n <= 7; ++n) {
    std::vector<uint32_t> points(n);
    std::iota(points.begin(), points.end(), 1);
    for (int t = 1; t <= n; ++t) {
      std::string secret(kSecretBytes, '\0');
      random.Fill(absl::MakeSpan(reinterpret_cast<uint8_t*>(secret.data()),
                                 secret.size()));
      const auto shares = SplitSecret(secret, points, t, random);
      ASSERT_TRUE(shares.ok()) << shares.status();
      for (int set = 1; set < 1 << n; ++set) {
        if (__builtin_popcount(set) != t) continue;
        std::vector<int> which;
        for (int i = 0; i < n; ++i) {
          if ((set >> i) & 1) which.push_back(i);
        }
        EXPECT_EQ(Reconstructed(*shares, points, which), secret);
      }
    }
  }
}

TEST(ShamirTest, LargeThresholdsAndPoints) {
  TestRandom random(8);
  base::SimRandom order(9);
  std::vector<uint32_t> points(300);
  for (size_t i = 0; i < points.size(); ++i) {
    points[i] = static_cast<uint32_t>(1 + 3331 * i);
  }
  const std::string secret = "an example secret of 32 bytes...";
  const auto shares = SplitSecret(secret, points, 201, random);
  ASSERT_TRUE(shares.ok());
  std::vector<int> which(points.size());
  std::iota(which.begin(), which.end(), 0);
  order.Shuffle(which);
  which.resize(201);
  EXPECT_EQ(Reconstructed(*shares, points, which), secret);
  // One less gives something else.
  which.pop_back();
  EXPECT_NE(Reconstructed(*shares, points, which), secret);
}

// With t - 1 shares every secret is as likely as any other: the shares of two
// very different secrets have the same distribution, and each byte is uniform.
TEST(ShamirTest, FewerSharesTellNothing) {
  TestRandom random(10);
  const std::vector<uint32_t> points = {1, 2, 3, 4, 5};
  for (const char fill : {'\0', '\xff', 'a'}) {
    const std::string secret(kSecretBytes, fill);
    std::vector<int> counts(256);
    constexpr int kRuns = 4000;
    for (int run = 0; run < kRuns; ++run) {
      const auto shares = SplitSecret(secret, points, 3, random);
      ASSERT_TRUE(shares.ok());
      // Two of three: one byte of each, and of what they would give together.
      const std::string guess = Reconstructed(*shares, points, {1, 4});
      for (const absl::string_view text :
           {(*shares)[1].view(), (*shares)[4].view(),
            absl::string_view(guess)}) {
        ++counts[static_cast<uint8_t>(text[run % kSecretBytes])];
      }
    }
    const double expected = 3.0 * kRuns / 256;
    double chi_square = 0;
    for (const int count : counts) {
      chi_square += (count - expected) * (count - expected) / expected;
    }
    // 255 degrees of freedom: mean 255, deviation 22.6; 5 deviations.
    EXPECT_LT(chi_square, 255 + 5 * 22.6) << "secret of " << int(fill);
    EXPECT_GT(chi_square, 255 - 5 * 22.6) << "secret of " << int(fill);
  }
}

// Up to half of the shares beyond the threshold may be wrong, in either half of
// the secret, wherever they are.
TEST(CorrectionTest, FindsTheWrongSharesAndNoOthers) {
  TestRandom random(12);
  base::SimRandom choice(13);
  for (int run = 0; run < 300; ++run) {
    const int n = 1 + static_cast<int>(choice.Below(40));
    const int t = 1 + static_cast<int>(choice.Below(n));
    std::vector<uint32_t> points(n);
    std::iota(points.begin(), points.end(), 1 + choice.Below(1000));
    choice.Shuffle(points);
    const std::string secret = "an example secret of 32 bytes...";
    const auto shares = *SplitSecret(secret, points, t, random);
    std::vector<std::string> came;
    for (const auto& share : shares) came.emplace_back(share.view());
    std::vector<int> order(n);
    std::iota(order.begin(), order.end(), 0);
    choice.Shuffle(order);
    const int liars = static_cast<int>(choice.Below((n - t) / 2 + 1));
    std::vector<size_t> expected(order.begin(), order.begin() + liars);
    std::sort(expected.begin(), expected.end());
    for (const size_t i : expected) {
      came[i][choice.Below(kSecretBytes)] ^= 1 + choice.Below(255);
    }
    const std::vector<absl::string_view> views(came.begin(), came.end());
    EXPECT_EQ(FindWrongShares(points, views, t), expected)
        << n << " shares, " << t << " needed";
  }
}

TEST(CorrectionTest, SharesOfNothingHaveNoWrongOnes) {
  TestRandom random(14);
  std::vector<uint32_t> points(20);
  std::iota(points.begin(), points.end(), 1);
  for (const size_t t : {1u, 2u, 7u, 19u, 20u}) {
    std::vector<std::string> came(20, std::string(kSecretBytes, '\0'));
    std::vector<absl::string_view> views(came.begin(), came.end());
    EXPECT_TRUE(FindWrongShares(points, views, t).empty()) << t;
    for (std::string& share : came) {
      random.Fill(absl::MakeSpan(reinterpret_cast<uint8_t*>(share.data()),
                                 share.size()));
    }
    // Whatever it says, enough are left to be tried.
    EXPECT_LE(FindWrongShares(points, views, t).size(), 20 - t) << t;
  }
}

TEST(ShamirTest, RefusesWhatMakesNoSense) {
  TestRandom random(11);
  const std::string secret(kSecretBytes, 's');
  const auto code = [&](absl::string_view text, std::vector<uint32_t> points,
                        int t) {
    return SplitSecret(text, points, t, random).status().code();
  };
  const auto kBad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code(secret, {1, 2}, 2), absl::StatusCode::kOk);
  EXPECT_EQ(code("short", {1, 2}, 2), kBad);
  EXPECT_EQ(code(secret, {1, 2}, 3), kBad);
  EXPECT_EQ(code(secret, {1, 2}, 0), kBad);
  EXPECT_EQ(code(secret, {0, 2}, 2), kBad);
  EXPECT_EQ(code(secret, {2, 2}, 2), kBad);
  EXPECT_EQ(code(secret, {}, 0), kBad);
  EXPECT_FALSE(SecretCombiner::Create({}).ok());
  EXPECT_FALSE(SecretCombiner::Create({3, 1, 3}).ok());
  EXPECT_FALSE(SecretCombiner::Create({0, 1}).ok());
  const auto combiner = SecretCombiner::Create({1, 2});
  ASSERT_TRUE(combiner.ok());
  EXPECT_FALSE(combiner->Combine({secret}).ok());
  EXPECT_FALSE(combiner->Combine({secret, "short"}).ok());
}

}  // namespace
}  // namespace choir::secagg
