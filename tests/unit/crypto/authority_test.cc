#include "privacy/crypto/authority.h"

#include <gtest/gtest.h>

namespace choir::crypto {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1800000000);

class AuthorityTest : public testing::Test {
 protected:
  CertificateAuthority NewCa(absl::Duration lifetime = absl::Hours(1000)) {
    return *CertificateAuthority::Create("Test CA", lifetime, kNow, random_);
  }
  std::string Issue(const CertificateAuthority& ca, Role role,
                    absl::Duration lifetime = absl::Hours(10)) {
    const PrivateKey key = *PrivateKey::Generate();
    // The request asks to be a coordinator named "root": nobody listens.
    const std::string request =
        *MakeCertificateRequest(key, "root", Role::kCoordinator);
    IssueOptions options;
    options.name = "anna";
    options.role = role;
    options.lifetime = lifetime;
    if (role == Role::kCoordinator) options.hosts = {"localhost", "127.0.0.1"};
    absl::StatusOr<std::string> pem = ca.Issue(request, options, kNow, random_);
    EXPECT_TRUE(pem.ok()) << pem.status();
    return *pem;
  }
  base::SystemRandom random_;
};

TEST_F(AuthorityTest, IssuesWhatTheOptionsSayAndNotWhatTheRequestSays) {
  const CertificateAuthority ca = NewCa();
  const CertificateInfo info = *ParseCertificate(Issue(ca, Role::kAgent));
  EXPECT_EQ(info.name, "anna");
  EXPECT_EQ(info.role, Role::kAgent);
  EXPECT_EQ(info.not_after, kNow + absl::Hours(10));
  EXPECT_EQ(info.not_before, kNow - absl::Minutes(5));
  EXPECT_FALSE(info.is_ca);
  EXPECT_TRUE(info.alt_names.empty());
  EXPECT_GE(info.serial.size(), 30u);
}

TEST_F(AuthorityTest, CoordinatorsCarryTheirHosts) {
  const CertificateInfo info =
      *ParseCertificate(Issue(NewCa(), Role::kCoordinator));
  EXPECT_EQ(info.alt_names,
            (std::vector<std::string>{"localhost", "127.0.0.1"}));
}

TEST_F(AuthorityTest, RefusesOptionsThatMakeNoSense) {
  const CertificateAuthority ca = NewCa();
  const PrivateKey key = *PrivateKey::Generate();
  const std::string request = *MakeCertificateRequest(key, "a", Role::kAgent);
  const auto code = [&](const IssueOptions& options) {
    return ca.Issue(request, options, kNow, random_).status().code();
  };
  IssueOptions good;
  good.name = "a";
  good.role = Role::kAgent;
  EXPECT_EQ(code(good), absl::StatusCode::kOk);
  IssueOptions bad = good;
  bad.role = Role::kNone;
  EXPECT_EQ(code(bad), absl::StatusCode::kInvalidArgument);
  bad = good;
  bad.hosts = {"example.org"};
  EXPECT_EQ(code(bad), absl::StatusCode::kInvalidArgument);
  bad = good;
  bad.role = Role::kCoordinator;
  EXPECT_EQ(code(bad), absl::StatusCode::kInvalidArgument) << "no host";
  bad.hosts = {"x,DNS:evil.example"};
  EXPECT_EQ(code(bad), absl::StatusCode::kInvalidArgument) << "injection";
  bad = good;
  bad.lifetime = absl::ZeroDuration();
  EXPECT_EQ(code(bad), absl::StatusCode::kInvalidArgument);
}

TEST_F(AuthorityTest, NoCertificateOutlivesItsCa) {
  const CertificateAuthority ca = NewCa(absl::Hours(3));
  EXPECT_EQ(ParseCertificate(Issue(ca, Role::kAgent))->not_after,
            kNow + absl::Hours(3));
}

TEST_F(AuthorityTest, VerifiesItsOwnAndNamesEachProblem) {
  const CertificateAuthority ca = NewCa();
  const CertificateVerifier verifier =
      *CertificateVerifier::Create(ca.certificate_pem());
  const std::string leaf = Issue(ca, Role::kOperator);
  EXPECT_TRUE(verifier.Check(leaf, kNow).ok());
  EXPECT_EQ(verifier.Check(leaf, kNow).info.role, Role::kOperator);
  EXPECT_EQ(verifier.Check(leaf, kNow + absl::Hours(11)).problem,
            CertificateProblem::kExpired);
  EXPECT_EQ(verifier.Check(leaf, kNow - absl::Hours(1)).problem,
            CertificateProblem::kNotYetValid);
  EXPECT_EQ(verifier.Check("nonsense", kNow).problem,
            CertificateProblem::kMalformed);
  // A CA of the same name with another key.
  const CertificateAuthority other = NewCa();
  EXPECT_EQ(verifier.Check(Issue(other, Role::kAgent), kNow).problem,
            CertificateProblem::kUnknownCa);
  EXPECT_EQ(verifier.Check(other.certificate_pem(), kNow).problem,
            CertificateProblem::kUnknownCa);
  EXPECT_EQ(verifier.Check(ca.certificate_pem(), kNow).problem,
            CertificateProblem::kBadRole);
}

TEST_F(AuthorityTest, AChangedCertificateIsNeverAccepted) {
  const CertificateAuthority ca = NewCa();
  const CertificateVerifier verifier =
      *CertificateVerifier::Create(ca.certificate_pem());
  const std::string leaf = Issue(ca, Role::kAgent);
  const size_t begin = leaf.find('\n') + 1;
  const size_t end = leaf.find("\n-----END");
  for (size_t i = begin; i < end; i += 3) {
    if (leaf[i] == '\n' || leaf[i] == '=') continue;
    // The last bits of the letter before the padding encode nothing.
    if (leaf[i + 1] == '=') continue;
    std::string changed = leaf;
    changed[i] = changed[i] == 'Q' ? 'R' : 'Q';
    EXPECT_FALSE(verifier.Check(changed, kNow).ok()) << "letter " << i;
  }
}

TEST_F(AuthorityTest, ALeafCannotActAsACa) {
  const CertificateAuthority ca = NewCa();
  const PrivateKey key = *PrivateKey::Generate();
  EXPECT_EQ(
      CertificateVerifier::Create(Issue(ca, Role::kAgent)).status().code(),
      absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CertificateAuthority::FromPem(Issue(ca, Role::kAgent),
                                          *PrivateKey::Generate())
                .status()
                .code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(AuthorityTest, TheKeyMustBelongToTheCertificate) {
  const CertificateAuthority ca = NewCa();
  EXPECT_EQ(CertificateAuthority::FromPem(ca.certificate_pem(),
                                          *PrivateKey::Generate())
                .status()
                .code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(AuthorityTest, RevocationListsAreSignedAndReadBack) {
  const CertificateAuthority ca = NewCa();
  const std::string serial = ParseCertificate(Issue(ca, Role::kAgent))->serial;
  const std::string pem =
      *ca.SignRevocationList({{serial, kNow}, {"2a", kNow}}, kNow);
  const absl::StatusOr<std::vector<RevokedSerial>> read =
      ParseRevocationList(pem, ca.certificate_pem());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(SerialSet(*read), (absl::flat_hash_set<std::string>{serial, "2a"}));
  EXPECT_EQ((*read)[0].revoked_at, kNow);
  EXPECT_EQ(ParseRevocationList(pem, NewCa().certificate_pem()).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(ParseRevocationList("", ca.certificate_pem()).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ca.SignRevocationList({{"xyz", kNow}}, kNow).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(ParseRevocationList(*ca.SignRevocationList({}, kNow),
                                  ca.certificate_pem())
                  ->empty());
}

}  // namespace
}  // namespace choir::crypto
