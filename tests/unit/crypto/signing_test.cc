#include "privacy/crypto/signing.h"

#include <sys/stat.h>

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "privacy/crypto/identity.h"
#include "tests/support/hex.h"

namespace choir::crypto {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1800000000);

using tests::FromHex;

// RFC 8032, 7.1, tests 1 and 2.
TEST(SigningKeyTest, KnownAnswers) {
  const auto first = SigningKey::FromPrivate(FromHex(
      "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"));
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(absl::BytesToHexString(*first->PublicKey()),
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
  EXPECT_EQ(absl::BytesToHexString(*first->Sign("")),
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b");
  const auto second = SigningKey::FromPrivate(FromHex(
      "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"));
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(absl::BytesToHexString(*second->Sign("r")),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00");
}

class SigningTest : public testing::Test {
 protected:
  SigningTest()
      : ca_(*CertificateAuthority::Create("CA", absl::Hours(1000), kNow,
                                          random_)),
        verifier_(*SigningCertificateVerifier::Create(ca_.certificate_pem())) {}
  std::string Issue(const CertificateAuthority& ca, const SigningKey& key) {
    const auto pem = ca.IssueSigner(*MakeSigningRequest(key, "anna"), "anna",
                                    absl::Hours(10), kNow, random_);
    EXPECT_TRUE(pem.ok()) << pem.status();
    return *pem;
  }

  base::SystemRandom random_;
  CertificateAuthority ca_;
  SigningCertificateVerifier verifier_;
};

TEST_F(SigningTest, SignaturesAreOfOneTextAndOneKey) {
  const SigningKey key = *SigningKey::Generate(random_);
  const SigningKey other = *SigningKey::Generate(random_);
  const std::string signature = *key.Sign("text");
  EXPECT_TRUE(SignatureIsValid(*key.PublicKey(), "text", signature));
  EXPECT_FALSE(SignatureIsValid(*key.PublicKey(), "texts", signature));
  EXPECT_FALSE(SignatureIsValid(*other.PublicKey(), "text", signature));
  EXPECT_FALSE(SignatureIsValid("short", "text", signature));
  EXPECT_FALSE(SignatureIsValid(*key.PublicKey(), "text", "short"));
  std::string changed = signature;
  changed[40] ^= 1;
  EXPECT_FALSE(SignatureIsValid(*key.PublicKey(), "text", changed));
}

TEST_F(SigningTest, KeysSurviveTheirFileWhichOnlyTheOwnerReads) {
  const SigningKey key = *SigningKey::Generate(random_);
  const std::string path = testing::TempDir() + "/signing.key";
  ASSERT_TRUE(key.WriteFile(path).ok());
  struct stat file = {};
  ASSERT_EQ(::stat(path.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
  const auto back = SigningKey::ReadFile(path);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back->PublicKey(), *key.PublicKey());
  ASSERT_EQ(::chmod(path.c_str(), 0644), 0);
  EXPECT_EQ(SigningKey::ReadFile(path).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(SigningKey::ReadFile(path + ".missing").ok());
  // A P-256 key is no signing key, and the other way round.
  EXPECT_FALSE(
      SigningKey::FromPem(PrivateKey::Generate()->ToPem()->view()).ok());
  EXPECT_FALSE(PrivateKey::FromPem(key.ToPem()->view()).ok());
}

TEST_F(SigningTest, CertificatesBindNameAndKey) {
  const SigningKey key = *SigningKey::Generate(random_);
  const std::string pem = Issue(ca_, key);
  const std::string der = *CertificateDer(pem);
  const auto info = verifier_.Check(der);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->name, "anna");
  EXPECT_EQ(info->public_key, *key.PublicKey());
  EXPECT_EQ(info->not_after, kNow + absl::Hours(10));
  EXPECT_GE(info->serial.size(), 30u);
  EXPECT_EQ(*CertificatePem(der), pem);
  EXPECT_TRUE(SigningCertificateVerifier::CheckTime(*info, kNow).ok());
  EXPECT_EQ(SigningCertificateVerifier::CheckTime(*info, kNow + absl::Hours(11))
                .code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_FALSE(
      SigningCertificateVerifier::CheckTime(*info, kNow - absl::Hours(1)).ok());
}

TEST_F(SigningTest, RefusesEveryOtherCertificate) {
  const SigningKey key = *SigningKey::Generate(random_);
  const auto refused = [this](absl::string_view der) {
    return verifier_.Check(der).status().code() ==
           absl::StatusCode::kPermissionDenied;
  };
  const std::string good = *CertificateDer(Issue(ca_, key));
  EXPECT_FALSE(refused(good));
  EXPECT_TRUE(refused(""));
  EXPECT_TRUE(refused("nonsense"));
  EXPECT_TRUE(refused(good + "x"));
  std::string changed = good;
  changed[changed.size() / 2] ^= 1;
  EXPECT_TRUE(refused(changed));
  // Another CA of the same name.
  const auto other =
      CertificateAuthority::Create("CA", absl::Hours(1000), kNow, random_);
  EXPECT_TRUE(refused(*CertificateDer(Issue(*other, key))));
  EXPECT_TRUE(refused(*CertificateDer(ca_.certificate_pem())));
  // An agent's certificate for connections.
  IssueOptions options;
  options.name = "anna";
  options.role = Role::kAgent;
  const auto tls = ca_.Issue(
      *MakeCertificateRequest(*PrivateKey::Generate(), "anna", Role::kAgent),
      options, kNow, random_);
  ASSERT_TRUE(tls.ok());
  EXPECT_TRUE(refused(*CertificateDer(*tls)));
}

TEST_F(SigningTest, OpensNoConnection) {
  const std::string pem = Issue(ca_, *SigningKey::Generate(random_));
  const auto verifier = CertificateVerifier::Create(ca_.certificate_pem());
  EXPECT_EQ(verifier->Check(pem, kNow).problem, CertificateProblem::kBadRole);
}

TEST_F(SigningTest, RequestsAreForTheirOwnKey) {
  const SigningKey key = *SigningKey::Generate(random_);
  const std::string request = *MakeSigningRequest(key, "anna");
  EXPECT_EQ(*SigningRequestName(request), "anna");
  const std::string p256 =
      *MakeCertificateRequest(*PrivateKey::Generate(), "anna", Role::kAgent);
  EXPECT_THAT(std::string(SigningRequestName(p256).status().message()),
              testing::HasSubstr("Ed25519"));
  EXPECT_FALSE(ParseCertificateRequest(request).ok());
  EXPECT_FALSE(
      ca_.IssueSigner(p256, "anna", absl::Hours(1), kNow, random_).ok());
  EXPECT_FALSE(
      ca_.IssueSigner(request, "", absl::Hours(1), kNow, random_).ok());
  EXPECT_FALSE(
      ca_.IssueSigner(request, "anna", absl::ZeroDuration(), kNow, random_)
          .ok());
  EXPECT_FALSE(ca_.IssueSigner(request, "anna", absl::Hours(1),
                               kNow + absl::Hours(2000), random_)
                   .ok());
}

}  // namespace
}  // namespace choir::crypto
