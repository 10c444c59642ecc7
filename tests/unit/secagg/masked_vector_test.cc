#include "privacy/secagg/masked_vector.h"

#include <vector>

#include "absl/strings/escaping.h"
#include "base/sim_random.h"
#include "gtest/gtest.h"
#include "tests/support/hex.h"

namespace choir::secagg {
namespace {

const std::string kKey = tests::FromHex(
    "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");

TEST(MaskedVectorTest, MasksAreTheCiphersWords) {
  // The first 32 bytes of AES-256-CTR with this key and a zero counter:
  // f29000b6 2a499fd0 a9f39a6a dd2e7780 ...
  MaskedVector narrow(32, 4);
  ASSERT_TRUE(narrow.AddMask(kKey, MaskedVector::Sign::kAdd).ok());
  EXPECT_EQ(narrow[0], 0xb60090f2u);
  EXPECT_EQ(narrow[1], 0xd09f492au);
  EXPECT_EQ(narrow[3], 0x80772eddu);
  MaskedVector wide(64, 2);
  ASSERT_TRUE(wide.AddMask(kKey, MaskedVector::Sign::kAdd).ok());
  EXPECT_EQ(wide[0], 0xd09f492ab60090f2u);
  // Narrower moduli take the same words.
  MaskedVector bits20(20, 1);
  ASSERT_TRUE(bits20.AddMask(kKey, MaskedVector::Sign::kAdd).ok());
  EXPECT_EQ(bits20[0], 0xb60090f2u & 0xfffff);
}

TEST(MaskedVectorTest, SubtractingAMaskUndoesAdding) {
  for (const int bits : {8, 20, 32, 33, 42, 64}) {
    // Longer than the buffer, and not a multiple of it.
    MaskedVector vector(bits, 5003);
    for (uint64_t i = 0; i < vector.length(); ++i) vector.Set(i, i * i);
    MaskedVector masked = vector;
    ASSERT_TRUE(masked.AddMask(kKey, MaskedVector::Sign::kAdd).ok());
    EXPECT_NE(masked.Encode(), vector.Encode());
    ASSERT_TRUE(masked.AddMask(kKey, MaskedVector::Sign::kSubtract).ok());
    EXPECT_EQ(masked.Encode(), vector.Encode());
  }
}

TEST(MaskedVectorTest, RefusesKeysOfAnotherSize) {
  MaskedVector vector(32, 4);
  EXPECT_FALSE(vector.AddMask("short", MaskedVector::Sign::kAdd).ok());
}

TEST(MaskedVectorTest, SignedValues) {
  MaskedVector vector(12, 4);
  vector.Set(0, 2047);
  vector.Set(1, 2048);
  vector.Set(2, static_cast<uint64_t>(-1));
  vector.Set(3, static_cast<uint64_t>(-2048));
  EXPECT_EQ(vector.Signed(0), 2047);
  EXPECT_EQ(vector.Signed(1), -2048);
  EXPECT_EQ(vector.Signed(2), -1);
  EXPECT_EQ(vector.Signed(3), -2048);
  EXPECT_EQ(vector[2], 4095u);
}

TEST(MaskedVectorTest, EncodesWithoutGaps) {
  MaskedVector vector(12, 3);
  vector.Set(0, 0xabc);
  vector.Set(1, 0x123);
  vector.Set(2, 0xfff);
  EXPECT_EQ(absl::BytesToHexString(vector.Encode()),
            "43485631"          // CHV1
            "0c000000"          // 12 bits
            "0300000000000000"  // 3 elements
            "bc3a12ff0f");
  EXPECT_EQ(vector.Encode().size(), EncodedMaskedBytes(12, 3));
}

TEST(MaskedVectorTest, EveryWidthDecodesToItself) {
  base::SimRandom random(3);
  for (int bits = kMinModulusBits; bits <= kMaxModulusBits; ++bits) {
    for (const uint64_t length : {0, 1, 2, 7, 8, 9, 63, 64, 65, 1000}) {
      MaskedVector vector(bits, length);
      for (uint64_t i = 0; i < length; ++i) vector.Set(i, random.NextUint64());
      const std::string bytes = vector.Encode();
      ASSERT_EQ(bytes.size(), EncodedMaskedBytes(bits, length));
      const auto back = MaskedVector::Decode(bytes);
      ASSERT_TRUE(back.ok()) << back.status();
      for (uint64_t i = 0; i < length; ++i) ASSERT_EQ((*back)[i], vector[i]);
      MaskedVector twice = vector;
      ASSERT_TRUE(twice.AddEncoded(bytes).ok());
      MaskedVector sum = vector;
      sum.Add(vector);
      ASSERT_EQ(twice.Encode(), sum.Encode());
    }
  }
}

TEST(MaskedVectorTest, RefusesOtherBytes) {
  MaskedVector vector(12, 3);
  vector.Set(2, 0xfff);
  const std::string good = vector.Encode();
  const auto refused = [&vector](const std::string& bytes) {
    const std::string before = vector.Encode();
    const absl::Status status = vector.AddEncoded(bytes);
    EXPECT_EQ(vector.Encode(), before);
    return status.code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused(""));
  EXPECT_TRUE(refused(good.substr(0, 15)));
  EXPECT_TRUE(refused(good.substr(0, good.size() - 1)));
  EXPECT_TRUE(refused(good + "x"));
  std::string bad = good;
  bad[0] = 'X';
  EXPECT_TRUE(refused(bad));
  bad = good;
  bad.back() = '\x1f';  // a bit beyond the last element
  EXPECT_TRUE(refused(bad));
  bad = good;
  bad[4] = 65;
  EXPECT_TRUE(refused(bad));
  bad = good;
  for (int i = 8; i < 16; ++i) bad[i] = '\xff';  // a length that overflows
  EXPECT_TRUE(refused(bad));
  EXPECT_TRUE(refused(MaskedVector(13, 3).Encode()));
  EXPECT_TRUE(refused(MaskedVector(12, 4).Encode()));
}

// Several masks in one pass are the masks one by one.
TEST(MaskedVectorTest, ManyMasksAtOnceAreTheSameOnesInTurn) {
  for (const int bits : {20, 32, 33, 64}) {
    for (const uint64_t length : {1, 7, 2047, 2048, 5003}) {
      for (size_t count = 0; count <= 9; ++count) {
        std::vector<std::string> keys;
        std::vector<MaskedVector::Mask> masks;
        for (size_t i = 0; i < count; ++i) {
          keys.emplace_back(32, static_cast<char>('a' + i));
        }
        MaskedVector together(bits, length), in_turn(bits, length);
        for (size_t i = 0; i < count; ++i) {
          const auto sign = i % 3 == 1 ? MaskedVector::Sign::kSubtract
                                       : MaskedVector::Sign::kAdd;
          masks.push_back({keys[i], sign});
          ASSERT_TRUE(in_turn.AddMask(keys[i], sign).ok());
        }
        ASSERT_TRUE(together.AddMasks(masks).ok());
        EXPECT_EQ(together.Encode(), in_turn.Encode())
            << bits << " bits, " << length << " elements, " << count;
      }
    }
  }
  MaskedVector vector(20, 5);
  const MaskedVector::Mask bad{"short", MaskedVector::Sign::kAdd};
  EXPECT_FALSE(vector.AddMasks({bad, bad, bad, bad}).ok());
}

}  // namespace
}  // namespace choir::secagg
