#include "privacy/crypto/identity.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>

#include "base/files.h"

namespace choir::crypto {
namespace {

std::string TempFolder() {
  std::string path = testing::TempDir() + "choir-crypto-XXXXXX";
  return ::mkdtemp(path.data());
}

TEST(IdentityTest, RolesHaveNamesAndNothingElseIsARole) {
  for (const Role role : {Role::kAgent, Role::kOperator, Role::kCoordinator}) {
    EXPECT_EQ(RoleFromName(RoleName(role)), role);
  }
  EXPECT_EQ(RoleFromName("none"), Role::kNone);
  EXPECT_EQ(RoleFromName("Agent"), Role::kNone);
  EXPECT_EQ(RoleFromName(""), Role::kNone);
}

TEST(IdentityTest, AKeySurvivesItsFileAndOnlyItsOwnerMayReadIt) {
  const std::string path = TempFolder() + "/k.key";
  const PrivateKey key = *PrivateKey::Generate();
  ASSERT_TRUE(key.WriteFile(path).ok());
  struct stat file = {};
  ASSERT_EQ(::stat(path.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600u);
  absl::StatusOr<PrivateKey> read = PrivateKey::ReadFile(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read->PublicKeySha256(), *key.PublicKeySha256());

  ASSERT_EQ(::chmod(path.c_str(), 0640), 0);
  read = PrivateKey::ReadFile(path);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(read.status().message().find("chmod 600"), std::string::npos);
}

TEST(IdentityTest, TwoKeysDiffer) {
  EXPECT_NE(*PrivateKey::Generate()->PublicKeySha256(),
            *PrivateKey::Generate()->PublicKeySha256());
}

TEST(IdentityTest, BrokenKeysAreRefused) {
  for (const char* text :
       {"", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n"}) {
    EXPECT_EQ(PrivateKey::FromPem(text).status().code(),
              absl::StatusCode::kInvalidArgument)
        << text;
  }
}

TEST(IdentityTest, ARequestCarriesNameRoleAndKey) {
  const PrivateKey key = *PrivateKey::Generate();
  const std::string pem = *MakeCertificateRequest(key, "anna", Role::kAgent);
  const absl::StatusOr<RequestInfo> info = ParseCertificateRequest(pem);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->name, "anna");
  EXPECT_EQ(info->role, Role::kAgent);
  EXPECT_EQ(info->public_key_sha256, *key.PublicKeySha256());
}

TEST(IdentityTest, ARequestThatWasChangedIsRefused) {
  const PrivateKey key = *PrivateKey::Generate();
  const std::string pem = *MakeCertificateRequest(key, "anna", Role::kAgent);
  int accepted = 0;
  // Each letter of the body, replaced by another letter of base64.
  const size_t begin = pem.find('\n') + 1;
  const size_t end = pem.find("\n-----END");
  for (size_t i = begin; i < end; i += 7) {
    if (pem[i] == '\n' || pem[i] == '=') continue;
    std::string changed = pem;
    changed[i] = changed[i] == 'A' ? 'B' : 'A';
    if (ParseCertificateRequest(changed).ok()) ++accepted;
  }
  EXPECT_EQ(accepted, 0);
}

TEST(IdentityTest, NamesThatAreTooLongOrNotPrintableAreRefused) {
  const PrivateKey key = *PrivateKey::Generate();
  for (const std::string& name :
       {std::string(), std::string(65, 'a'), std::string("a\nb")}) {
    EXPECT_EQ(MakeCertificateRequest(key, name, Role::kAgent).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(IdentityTest, OversizedRequestsAreRefusedBeforeParsing) {
  EXPECT_EQ(ParseCertificateRequest(std::string(1 << 20, 'x')).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(SecretStringTest, MovingLeavesNothingBehind) {
  SecretString a(std::string(100, 's'));
  const SecretString b(std::move(a));
  EXPECT_TRUE(a.empty());  // NOLINT(bugprone-use-after-move): that is the point
  EXPECT_EQ(b.view(), std::string(100, 's'));
}

}  // namespace
}  // namespace choir::crypto
