#include "privacy/secagg/identities.h"

#include <cstdio>

#include "base/files.h"
#include "gtest/gtest.h"
#include "privacy/crypto/authority.h"
#include "privacy/secagg/used_keys.h"

namespace choir::secagg {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1800000000);

class IdentitiesTest : public testing::Test {
 protected:
  IdentitiesTest()
      : ca_(*crypto::CertificateAuthority::Create("CA", absl::Hours(1000), kNow,
                                                  random_)) {}
  absl::StatusOr<std::unique_ptr<CertifiedSigner>> Signer(
      const std::string& name) {
    crypto::SigningKey key = *crypto::SigningKey::Generate(random_);
    const std::string pem =
        *ca_.IssueSigner(*crypto::MakeSigningRequest(key, name), name,
                         absl::Hours(10), kNow, random_);
    return CertifiedSigner::Create(std::move(key), pem, ca_.certificate_pem());
  }

  base::SystemRandom random_;
  base::ManualClock clock_{kNow};
  crypto::CertificateAuthority ca_;
};

TEST_F(IdentitiesTest, PeersAreWhoTheirCertificateSays) {
  const auto anna = Signer("anna");
  ASSERT_TRUE(anna.ok()) << anna.status();
  const auto peers = CertifiedPeers::Create(ca_.certificate_pem(), clock_);
  ASSERT_TRUE(peers.ok());
  const auto denied = [&](absl::string_view name, absl::string_view der) {
    return absl::IsPermissionDenied((*peers)->PublicKeyOf(name, der).status());
  };
  const std::string& der = (*anna)->certificate();
  for (int i = 0; i < 2; ++i) {  // fresh, then remembered
    const auto key = (*peers)->PublicKeyOf("anna", der);
    ASSERT_TRUE(key.ok()) << key.status();
    EXPECT_TRUE(crypto::SignatureIsValid(*key, "text", *(*anna)->Sign("text")));
    EXPECT_TRUE(denied("berta", der));
    EXPECT_TRUE(denied("anna", "nonsense"));
  }
  (*peers)->SetRevoked({(*anna)->info().serial});
  EXPECT_TRUE(denied("anna", der));
  (*peers)->SetRevoked({});
  EXPECT_FALSE(denied("anna", der));
  clock_.Advance(absl::Hours(11));
  EXPECT_TRUE(denied("anna", der));
}

TEST_F(IdentitiesTest, SignersHaveTheCertificatesKey) {
  const auto pem = crypto::CertificatePem((*Signer("anna"))->certificate());
  EXPECT_EQ(CertifiedSigner::Create(*crypto::SigningKey::Generate(random_),
                                    *pem, ca_.certificate_pem())
                .status()
                .code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(RecentHistoryTest, RemembersAllOrNone) {
  RecentHistory history(3);
  EXPECT_TRUE(history.Remember("a").ok());
  EXPECT_TRUE(absl::IsAlreadyExists(history.Remember("a")));
  EXPECT_TRUE(absl::IsAlreadyExists(history.RememberAll({"b", "a"})));
  EXPECT_TRUE(absl::IsAlreadyExists(history.RememberAll({"b", "b"})));
  EXPECT_TRUE(history.RememberAll({"b", "c"}).ok());
  EXPECT_TRUE(history.Remember("d").ok());
  EXPECT_TRUE(history.Remember("a").ok());  // forgotten by now
  EXPECT_TRUE(absl::IsAlreadyExists(history.Remember("d")));
  EXPECT_TRUE(history.Remembers("d"));
  EXPECT_FALSE(history.Remembers("e"));
}

TEST(FileHistoryTest, RemembersAcrossRestarts) {
  const std::string path = testing::TempDir() + "/history";
  std::remove(path.c_str());
  {
    const auto history = FileHistory::Open(path);
    ASSERT_TRUE(history.ok()) << history.status();
    EXPECT_TRUE((*history)->Remember("a").ok());
    EXPECT_TRUE((*history)->RememberAll({"b", "c"}).ok());
    EXPECT_TRUE(absl::IsAlreadyExists((*history)->RememberAll({"d", "a"})));
  }
  // A crash amid an entry.
  std::string bytes = *base::ReadFile(path);
  EXPECT_EQ(bytes.size(), 48u);
  ASSERT_TRUE(base::WriteFileAtomic(path, bytes + "torn").ok());
  for (int i = 0; i < 2; ++i) {
    const auto history = FileHistory::Open(path);
    ASSERT_TRUE(history.ok());
    EXPECT_FALSE((*history)->Remembers("d"));
    for (const char* token : {"a", "b", "c"}) {
      EXPECT_TRUE((*history)->Remembers(token));
      EXPECT_TRUE(absl::IsAlreadyExists((*history)->Remember(token)));
    }
    EXPECT_TRUE((*history)->Remember("new" + std::to_string(i)).ok());
  }
  EXPECT_EQ(base::ReadFile(path)->size(), 5 * 16u);
}

TEST(FileHistoryTest, ForgetsTheOldestAndStaysSmall) {
  const std::string path = testing::TempDir() + "/small_history";
  std::remove(path.c_str());
  for (int start = 0; start < 100; start += 10) {
    const auto history = FileHistory::Open(path, 8);
    ASSERT_TRUE(history.ok());
    for (int i = start; i < start + 10; ++i) {
      EXPECT_TRUE((*history)->Remember(std::to_string(i)).ok());
      for (int j = std::max(0, i - 7); j <= i; ++j) {
        EXPECT_FALSE((*history)->Remember(std::to_string(j)).ok()) << j;
      }
      EXPECT_LE((*history)->size(), 16u);
      EXPECT_EQ(*base::FileSize(path), 16 * (*history)->size());
    }
  }
}

// Neighbours' keys come by the hundred in each session: they must not make a
// device forget what it has taken part in.
TEST(DeviceHistoryTest, KeysNeverPushOutSessionsAndSums) {
  const std::string sessions = testing::TempDir() + "/device_sessions";
  const std::string keys = testing::TempDir() + "/device_keys";
  std::remove(sessions.c_str());
  std::remove(keys.c_str());
  {
    const auto history = DeviceHistory::Open(sessions, keys, 8);
    ASSERT_TRUE(history.ok()) << history.status();
    ASSERT_TRUE((*history)->RememberForGood({"session", "sum"}).ok());
    EXPECT_TRUE((*history)->Remember("first key").ok());
    for (int i = 0; i < 100; ++i) {
      ASSERT_TRUE((*history)
                      ->RememberAll({"key " + std::to_string(i),
                                     "more " + std::to_string(i)})
                      .ok());
    }
    EXPECT_FALSE((*history)->Remembers("first key"));
    EXPECT_TRUE((*history)->Remembers("key 99"));
  }
  const auto history = DeviceHistory::Open(sessions, keys, 8);
  ASSERT_TRUE(history.ok());
  for (const char* token : {"session", "sum"}) {
    EXPECT_TRUE((*history)->RemembersForGood(token));
    EXPECT_TRUE(absl::IsAlreadyExists((*history)->RememberForGood({token})));
  }
  EXPECT_FALSE((*history)->RemembersForGood("key 99"));
  EXPECT_EQ(*base::FileSize(sessions), 32);
}

TEST(UsedKeysTest, RemembersTheLast) {
  UsedKeys keys(3);
  EXPECT_FALSE(keys.Contains("a"));
  for (const char* key : {"a", "b", "a", "c"}) keys.Insert(key);
  EXPECT_EQ(keys.size(), 3u);
  EXPECT_TRUE(keys.Contains("a"));
  keys.Insert("d");
  EXPECT_EQ(keys.size(), 3u);
  EXPECT_FALSE(keys.Contains("a"));
  for (const char* key : {"b", "c", "d"}) EXPECT_TRUE(keys.Contains(key));
}

}  // namespace
}  // namespace choir::secagg
