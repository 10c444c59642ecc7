// Known answers of the primitives.
#include "absl/strings/escaping.h"
#include "gtest/gtest.h"
#include "privacy/crypto/key_agreement.h"
#include "privacy/crypto/symmetric.h"
#include "tests/support/hex.h"

namespace choir::crypto {
namespace {

std::string Hex(absl::string_view bytes) {
  return absl::BytesToHexString(bytes);
}
using tests::FromHex;
constexpr auto kBad = absl::StatusCode::kInvalidArgument;

// RFC 7748, 6.1.
TEST(X25519Test, KnownAnswer) {
  const auto a = X25519Key::FromPrivate(FromHex(
      "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"));
  const auto b = X25519Key::FromPrivate(FromHex(
      "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(Hex(a->public_key()),
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
  const std::string shared =
      "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";
  EXPECT_EQ(Hex(a->Agree(b->public_key())->view()), shared);
  EXPECT_EQ(Hex(b->Agree(a->public_key())->view()), shared);
}

TEST(X25519Test, ThousandsOfRandomAgreementsAreOpensslsOwn) {
  base::SystemRandom random;
  for (int round = 0; round < 100; ++round) {
    const auto key = X25519Key::Generate(random);
    std::vector<std::string> points(40, std::string(32, '\0'));
    for (std::string& point : points) {
      random.Fill(absl::MakeSpan(reinterpret_cast<uint8_t*>(point.data()), 32));
    }
    const std::vector<absl::string_view> views(points.begin(), points.end());
    const auto all = key->AgreeWithAll(views);
    ASSERT_TRUE(all.ok()) << all.status();
    for (size_t i = 0; i < points.size(); ++i) {
      ASSERT_EQ((*all)[i].view(), key->Agree(points[i])->view());
    }
  }
}

// Many at once give what each gives alone, whatever their number; points that
// are not reduced, and the base point, among them.
TEST(X25519Test, AgreesWithManyAsWithEach) {
  base::SystemRandom random;
  const auto key = X25519Key::Generate(random);
  std::vector<std::string> points;
  std::vector<absl::string_view> views;
  for (int i = 0; i < 45; ++i) {
    std::string point(32, '\0');
    random.Fill(absl::MakeSpan(reinterpret_cast<uint8_t*>(point.data()), 32));
    if (i == 3) point = std::string(32, '\xff');
    if (i == 4) point = "\x09" + std::string(31, '\0');
    if (i == 5) point = "\xf0" + std::string(30, '\xff') + "\x7f";
    points.push_back(std::move(point));
  }
  for (const std::string& point : points) views.push_back(point);
  for (size_t count = 0; count <= points.size(); ++count) {
    const auto all =
        key->AgreeWithAll(absl::MakeConstSpan(views).subspan(0, count));
    ASSERT_TRUE(all.ok()) << all.status();
    ASSERT_EQ(all->size(), count);
    for (size_t i = 0; i < count; ++i) {
      EXPECT_EQ((*all)[i].view(), key->Agree(points[i])->view()) << i;
    }
  }
  const std::string zero(32, '\0');
  views[20] = zero;
  EXPECT_EQ(key->AgreeWithAll(views).status().code(), kBad);
  views[20] = "short";
  EXPECT_EQ(key->AgreeWithAll(views).status().code(), kBad);
}

// The points of low order, in every encoding that there is.
std::vector<std::string> PointsOfLowOrder() {
  std::vector<std::string> points;
  for (const absl::string_view point :
       {"0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        // Of order 8.
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"}) {
    // The highest bit does not count.
    for (const char bit : {'\0', '\x80'}) {
      points.push_back(FromHex(point));
      points.back().back() = static_cast<char>(points.back().back() | bit);
    }
  }
  return points;
}

TEST(X25519Test, RefusesPointsOfLowOrder) {
  base::SystemRandom random;
  const auto key = X25519Key::Generate(random);
  ASSERT_TRUE(key.ok());
  for (const std::string& point : PointsOfLowOrder()) {
    EXPECT_EQ(key->Agree(point).status().code(), kBad) << Hex(point);
    EXPECT_TRUE(HasLowOrder(point)) << Hex(point);
  }
  EXPECT_FALSE(HasLowOrder(key->public_key()));
  EXPECT_EQ(key->Agree("short").status().code(), kBad);
  EXPECT_EQ(X25519Key::FromPrivate("short").status().code(), kBad);
}

// Eight at a time: what is refused, and what is not reduced, in each lane,
// while the others hold ordinary points; with private keys of few and of all
// bits.
TEST(X25519Test, EdgesInEveryLaneAreAsInOpenssl) {
  base::SystemRandom random;
  std::vector<X25519Key> keys;
  for (const char fill : {'\0', '\xff', '\x55'}) {
    keys.push_back(*X25519Key::FromPrivate(std::string(32, fill)));
  }
  keys.push_back(*X25519Key::Generate(random));
  // p - 1 + i for i = 0..20 (p = 2^255 - 19), with and without the highest bit.
  std::vector<std::string> edges = PointsOfLowOrder();
  for (int i = 0; i <= 19; ++i) {
    for (const char top : {'\x7f', '\xff'}) {
      edges.push_back(std::string(1, static_cast<char>(0xec + i)) +
                      std::string(30, '\xff') + std::string(1, top));
    }
  }
  for (int i = 0; i < 20; ++i) {
    edges.push_back(std::string(1, static_cast<char>(i)) +
                    std::string(30, '\0') + (i % 2 ? '\0' : '\x80'));
  }
  for (const X25519Key& key : keys) {
    for (const std::string& edge : edges) {
      const auto alone = key.Agree(edge);
      for (size_t lane = 0; lane < 8; ++lane) {
        std::vector<absl::string_view> points(8, keys.back().public_key());
        points[lane] = edge;
        const auto all = key.AgreeWithAll(points);
        ASSERT_EQ(all.ok(), alone.ok()) << Hex(edge) << " in lane " << lane;
        if (!all.ok()) continue;
        for (size_t i = 0; i < 8; ++i) {
          ASSERT_EQ((*all)[i].view(),
                    i == lane ? alone->view() : key.Agree(points[i])->view())
              << Hex(edge) << " in lane " << lane;
        }
      }
    }
  }
}

TEST(X25519Test, GeneratedKeysAgree) {
  base::SystemRandom random;
  const auto a = X25519Key::Generate(random);
  const auto b = X25519Key::Generate(random);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_NE(a->public_key(), b->public_key());
  EXPECT_EQ(a->Agree(b->public_key())->view(),
            b->Agree(a->public_key())->view());
  // What is shared of a private key gives the same public key back.
  EXPECT_EQ(X25519Key::FromPrivate(a->private_key())->public_key(),
            a->public_key());
}

// RFC 5869, A.1 and A.3 (no salt, no info).
TEST(HkdfTest, KnownAnswers) {
  const std::string secret(22, '\x0b');
  EXPECT_EQ(Hex(HkdfSha256(secret, FromHex("000102030405060708090a0b0c"),
                           FromHex("f0f1f2f3f4f5f6f7f8f9"), 42)
                    ->view()),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
            "34007208d5b887185865");
  EXPECT_EQ(Hex(HkdfSha256(secret, "", "", 42)->view()),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
            "9d201395faa4b61a96c8");
  EXPECT_EQ(HkdfSha256(secret, "", "", 0).status().code(), kBad);
  EXPECT_EQ(HkdfSha256(secret, "", "", 8161).status().code(), kBad);
}

const std::string kKey =
    FromHex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");

TEST(AesCtrTest, KnownAnswer) {
  auto stream = AesCtrStream::Create(kKey);
  ASSERT_TRUE(stream.ok());
  std::string out(32, 'x');
  uint8_t* bytes = reinterpret_cast<uint8_t*>(out.data());
  stream->Next(absl::MakeSpan(bytes, 32));
  EXPECT_EQ(Hex(out),
            "f29000b62a499fd0a9f39a6add2e7780f05d76ae4ab99fe5a6f69b3148c2363d");
  // In pieces it is the same stream.
  auto pieces = AesCtrStream::Create(kKey);
  std::string again(32, '\0');
  bytes = reinterpret_cast<uint8_t*>(again.data());
  pieces->Next(absl::MakeSpan(bytes, 5));
  pieces->Next(absl::MakeSpan(bytes + 5, 20));
  pieces->Xor(absl::MakeSpan(bytes + 25, 7));
  EXPECT_EQ(again, out);
  EXPECT_EQ(AesCtrStream::Create("short").status().code(), kBad);
}

// McGrew and Viega, "The Galois/Counter Mode of Operation", test case 16.
TEST(SealTest, KnownAnswer) {
  const auto sealed = SealWithNonce(
      FromHex(
          "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"),
      FromHex("cafebabefacedbaddecaf888"),
      FromHex("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
      FromHex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
              "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"));
  ASSERT_TRUE(sealed.ok());
  EXPECT_EQ(Hex(*sealed),
            "cafebabefacedbaddecaf888"
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
            "76fc6ece0f4e1768cddf8853bb2d551b");
}

TEST(SealTest, OpensOnlyWhatWasSealedForThis) {
  base::SystemRandom random;
  const auto sealed = Seal(kKey, "from 1 to 2", "a share", random);
  ASSERT_TRUE(sealed.ok());
  EXPECT_EQ(sealed->size(), 7 + kSealOverhead);
  EXPECT_EQ(Open(kKey, "from 1 to 2", *sealed)->view(), "a share");
  const auto kLost = absl::StatusCode::kDataLoss;
  EXPECT_EQ(Open(kKey, "from 1 to 3", *sealed).status().code(), kLost);
  EXPECT_EQ(Open(kKey, "", *sealed).status().code(), kLost);
  EXPECT_EQ(Open(std::string(32, 'k'), "from 1 to 2", *sealed).status().code(),
            kLost);
  for (size_t i = 0; i < sealed->size(); ++i) {
    std::string changed = *sealed;
    changed[i] ^= 1;
    EXPECT_EQ(Open(kKey, "from 1 to 2", changed).status().code(), kLost);
    EXPECT_FALSE(Open(kKey, "from 1 to 2", sealed->substr(0, i)).ok());
  }
  // Two times the same text looks different.
  EXPECT_NE(*Seal(kKey, "from 1 to 2", "a share", random), *sealed);
  // An empty text can be sealed, too.
  const auto empty = Seal(kKey, "c", "", random);
  ASSERT_TRUE(empty.ok());
  EXPECT_TRUE(Open(kKey, "c", *empty)->view().empty());
  EXPECT_FALSE(Open(kKey, "d", *empty).ok());
  EXPECT_EQ(Seal("short", "", "", random).status().code(), kBad);
}

}  // namespace
}  // namespace choir::crypto
