#include "coordinator/main/ca_commands.h"

#include "base/clock.h"
#include "base/files.h"
#include "gtest/gtest.h"
#include "privacy/crypto/signing.h"
#include "privacy/secagg/identities.h"
#include "tests/support/golden.h"

namespace choir::coordinator {
namespace {

class CaCommandsTest : public testing::Test {
 protected:
  CaCommandsTest() {
    CaInitOptions init;
    init.directory = dir_;
    init.days = 100;
    EXPECT_TRUE(RunCaInit(init, clock_, random_).ok());
  }
  absl::StatusOr<nlohmann::json> Issue(const std::string& role) {
    CaIssueOptions options;
    options.directory = dir_;
    options.role = role;
    options.name = role + "-1";
    options.days = 10;
    if (role == "coordinator") options.hosts = {"localhost"};
    return RunCaIssue(options, clock_, random_);
  }

  const std::string dir_ = tests::NewTempDir();
  base::WallClock clock_;
  base::SystemRandom random_;
};

TEST_F(CaCommandsTest, AgentsGetAKeyToSignWith) {
  const auto out = Issue("agent");
  ASSERT_TRUE(out.ok()) << out.status();
  auto key = crypto::SigningKey::ReadFile((*out)["signing_private_key"]);
  ASSERT_TRUE(key.ok()) << key.status();
  const auto signer = secagg::CertifiedSigner::Create(
      *std::move(key), *base::ReadFile((*out)["signing_certificate"]),
      *base::ReadFile(base::JoinPath(dir_, "ca.crt")));
  ASSERT_TRUE(signer.ok()) << signer.status();
  EXPECT_EQ((*signer)->name(), "agent-1");
  EXPECT_EQ((*signer)->info().serial,
            (*out)["signing_serial"].get<std::string>());
  EXPECT_NE((*out)["serial"], (*out)["signing_serial"]);
  // Nothing is overwritten.
  EXPECT_EQ(Issue("agent").status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(CaCommandsTest, OthersSignNothing) {
  for (const char* role : {"operator", "coordinator"}) {
    const auto out = Issue(role);
    ASSERT_TRUE(out.ok()) << out.status();
    EXPECT_FALSE(out->contains("signing_certificate")) << role;
  }
}

}  // namespace
}  // namespace choir::coordinator
