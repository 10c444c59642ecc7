#include "coordinator/registry/registry.h"

#include <gtest/gtest.h>

#include "base/sha256.h"

namespace choir::registry {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1800000000);

class RegistryTest : public testing::Test {
 protected:
  void Apply(const std::vector<v1::JournalRecord>& records) {
    for (const v1::JournalRecord& record : records) {
      journal_.push_back(record);
      ASSERT_TRUE(registry_.Apply(record).ok());
    }
  }
  std::string Token(const std::string& name = "",
                    absl::Duration valid = absl::Hours(1)) {
    NewToken token = *registry_.CreateToken(name, valid, "olga", kNow, random_);
    Apply({token.record});
    return token.token;
  }
  absl::StatusOr<EnrolDecision> Enrol(const std::string& name,
                                      const std::string& token,
                                      const std::string& key,
                                      bool approval = false,
                                      absl::Time now = kNow) {
    absl::StatusOr<EnrolDecision> decision =
        registry_.Enrol(name, token, key, approval, now);
    if (decision.ok()) Apply(decision->records);
    return decision;
  }
  void Issued(const std::string& name, const std::string& serial,
              bool signing = false) {
    v1::JournalRecord record;
    record.mutable_certificate_issued()->set_name(name);
    record.mutable_certificate_issued()->set_serial(serial);
    record.mutable_certificate_issued()->set_expires_unix_seconds(5);
    record.mutable_certificate_issued()->set_signing(signing);
    Apply({record});
  }
  absl::StatusCode Code(const absl::StatusOr<EnrolDecision>& decision) {
    return decision.status().code();
  }

  base::SystemRandom random_;
  Registry registry_;
  std::vector<v1::JournalRecord> journal_;
};

constexpr absl::StatusCode kOk = absl::StatusCode::kOk;
constexpr absl::StatusCode kDenied = absl::StatusCode::kPermissionDenied;

TEST_F(RegistryTest, SigningCertificatesEndWithTheirClient) {
  ASSERT_TRUE(Enrol("anna", Token(), "key").ok());
  Issued("anna", "aa");
  Issued("anna", "bb", /*signing=*/true);
  // It is not the one that opens connections.
  EXPECT_EQ(registry_.client("anna")->serial, "aa");
  EXPECT_TRUE(registry_.CheckAgent("anna", "bb").ok());
  Apply(*registry_.Revoke("anna", "lost", "olga"));
  EXPECT_FALSE(registry_.CheckAgent("anna", "bb").ok());
  // A new enrolment does not bring the old one back.
  const NewToken token =
      *registry_.CreateToken("anna", absl::Hours(1), "olga", kNow, random_);
  Apply({token.record});
  ASSERT_TRUE(Enrol("anna", token.token, "key 2").ok());
  Issued("anna", "cc", /*signing=*/true);
  EXPECT_FALSE(registry_.CheckAgent("anna", "bb").ok());
  EXPECT_TRUE(registry_.CheckAgent("anna", "cc").ok());
}

TEST_F(RegistryTest, TheRecordOfATokenHoldsItsDigestOnly) {
  const NewToken token =
      *registry_.CreateToken("", absl::Hours(1), "olga", kNow, random_);
  EXPECT_EQ(token.record.token_created().token_sha256(),
            base::Sha256Hex(token.token));
  EXPECT_EQ(token.record.SerializeAsString().find(token.token),
            std::string::npos);
  EXPECT_GE(token.token.size(), 64u);
  EXPECT_EQ(token.expires, kNow + absl::Hours(1));
}

TEST_F(RegistryTest, TokensMustExpireWithinAYear) {
  for (const absl::Duration valid :
       {absl::ZeroDuration(), absl::Seconds(-1), absl::Hours(24 * 367),
        absl::InfiniteDuration()}) {
    EXPECT_EQ(
        registry_.CreateToken("", valid, "o", kNow, random_).status().code(),
        absl::StatusCode::kInvalidArgument)
        << valid;
  }
}

TEST_F(RegistryTest, ATokenEnrolsOneClientOnceAndRepeatsAreHarmless) {
  const std::string token = Token();
  ASSERT_EQ(Code(Enrol("anna", token, "k1")), kOk);
  absl::StatusOr<EnrolDecision> again = Enrol("anna", token, "k1");
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(again->records.empty());
  EXPECT_EQ(Code(Enrol("anna", token, "k2")), kDenied);
  const absl::StatusOr<EnrolDecision> other = Enrol("berta", token, "k1");
  EXPECT_EQ(Code(other), kDenied);
  EXPECT_NE(other.status().message().find("used already"), std::string::npos);
}

TEST_F(RegistryTest, UnknownAndExpiredTokensAreRefused) {
  EXPECT_EQ(Code(Enrol("anna", "choir-1234", "k")), kDenied);
  const std::string token = Token("", absl::Hours(1));
  EXPECT_EQ(Code(Enrol("anna", token, "k", false, kNow + absl::Hours(1))),
            kDenied);
  EXPECT_EQ(Code(Enrol("anna", token, "k", false,
                       kNow + absl::Hours(1) - absl::Seconds(1))),
            kOk);
}

TEST_F(RegistryTest, ABoundTokenServesItsNameOnly) {
  const std::string token = Token("anna");
  EXPECT_EQ(Code(Enrol("berta", token, "k")), kDenied);
  EXPECT_EQ(Code(Enrol("anna", token, "k")), kOk);
}

TEST_F(RegistryTest, ATakenNameNeedsATokenMadeForIt) {
  ASSERT_EQ(Code(Enrol("anna", Token(), "k1")), kOk);
  Issued("anna", "a1");
  EXPECT_EQ(Code(Enrol("anna", Token(), "k2")), kDenied);
  ASSERT_EQ(Code(Enrol("anna", Token("anna"), "k2")), kOk);
  // The old certificate counts no more, the new one does.
  EXPECT_EQ(registry_.CheckAgent("anna", "a1").code(), kDenied);
  Issued("anna", "a2");
  EXPECT_TRUE(registry_.CheckAgent("anna", "a2").ok());
}

TEST_F(RegistryTest, NamesAreChecked) {
  for (const char* name : {"", "../x", "a b", ".hidden"}) {
    EXPECT_EQ(Code(Enrol(name, Token(), "k")),
              absl::StatusCode::kInvalidArgument)
        << name;
  }
}

TEST_F(RegistryTest, ApprovalLetsAPendingClientIn) {
  const std::string token = Token();
  absl::StatusOr<EnrolDecision> decision = Enrol("anna", token, "k", true);
  ASSERT_TRUE(decision.ok());
  EXPECT_TRUE(decision->pending_approval);
  EXPECT_TRUE(Enrol("anna", token, "k", true)->pending_approval);
  EXPECT_EQ(registry_.Approve("berta", "olga").status().code(),
            absl::StatusCode::kNotFound);
  Apply(*registry_.Approve("anna", "olga"));
  EXPECT_FALSE(Enrol("anna", token, "k", true)->pending_approval);
  EXPECT_TRUE(registry_.Approve("anna", "olga")->empty());
}

TEST_F(RegistryTest, ARevokedClientStaysOutUntilATokenIsMadeForIt) {
  const std::string token = Token();
  ASSERT_EQ(Code(Enrol("anna", token, "k")), kOk);
  Issued("anna", "a1");
  EXPECT_TRUE(registry_.CheckAgent("anna", "a1").ok());
  Apply(*registry_.Revoke("anna", "lost", "olga"));
  EXPECT_EQ(registry_.CheckAgent("anna", "a1").code(), kDenied);
  EXPECT_EQ(Code(Enrol("anna", token, "k")), kDenied);
  EXPECT_EQ(Code(Enrol("anna", Token(), "k")), kDenied);
  EXPECT_EQ(registry_.Approve("anna", "olga").status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(registry_.Revoke("anna", "again", "olga")->empty());
  ASSERT_EQ(Code(Enrol("anna", Token("anna"), "k2")), kOk);
  EXPECT_EQ(registry_.CheckAgent("anna", "a1").code(), kDenied);
}

TEST_F(RegistryTest, ClientsWithACertificateFromElsewhereCanBeRevokedToo) {
  EXPECT_TRUE(registry_.CheckAgent("carla", "c1").ok());
  Apply(*registry_.Revoke("carla", "", "olga"));
  EXPECT_EQ(registry_.CheckAgent("carla", "c1").code(), kDenied);
}

TEST_F(RegistryTest, ReplayGivesTheSameState) {
  const std::string token = Token("anna");
  ASSERT_EQ(Code(Enrol("anna", token, "k", true)), kOk);
  Apply(*registry_.Approve("anna", "olga"));
  Issued("anna", "a1");
  ASSERT_EQ(Code(Enrol("berta", Token(), "k2")), kOk);
  Apply(*registry_.Revoke("berta", "lost", "olga"));
  Registry copy;
  for (const v1::JournalRecord& record : journal_) {
    ASSERT_TRUE(copy.Apply(record).ok());
  }
  ASSERT_EQ(copy.clients().size(), 2u);
  EXPECT_EQ(copy.client("anna")->state, ClientState::kEnrolled);
  EXPECT_EQ(copy.client("anna")->serial, "a1");
  EXPECT_EQ(copy.client("berta")->state, ClientState::kRevoked);
  EXPECT_EQ(copy.client("berta")->revocation_reason, "lost");
  EXPECT_EQ(copy.Enrol("zoe", token, "k9", false, kNow).status().code(),
            kDenied);
}

TEST_F(RegistryTest, ARecordThatCannotFollowIsDataLoss) {
  v1::JournalRecord record;
  record.mutable_client_enrolled()->set_name("x");
  record.mutable_client_enrolled()->set_token_sha256("never");
  EXPECT_EQ(registry_.Apply(record).code(), absl::StatusCode::kDataLoss);
  record.Clear();
  record.mutable_client_approved()->set_name("x");
  EXPECT_EQ(registry_.Apply(record).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace choir::registry
