// Peers that may not do what they ask for, against a real coordinator: what the
// peer is told, what the journal keeps, and that the coordinator goes on.
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/exit_codes.h"
#include "base/files.h"
#include "base/secure_random.h"
#include "privacy/crypto/authority.h"
#include "tests/e2e/refusals/audited.h"
#include "tests/e2e/refusals/raw_peer.h"
#include "tests/support/golden.h"

namespace choir::tests {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class AccessRefusals : public AuditedTest {
 protected:
  // The error of `choir-admin job list` with another's certificate.
  static std::string ListAs(const std::string& ca_folder,
                            const std::string& name) {
    return OneError(
        RunProgram("choir-admin", AdminAs(ca_folder, name, {"job", "list"})),
        base::kExitFailed);
  }
  static void MakeOtherCa() {
    const std::string dir = cluster().PathOf("other");
    if (base::FileExists(dir + "/ca.crt")) return;
    ASSERT_EQ(RunProgram("choir-admin", {"ca", "init", "--dir", dir}).exit_code,
              0);
    ASSERT_EQ(RunProgram("choir-admin", {"ca", "issue", "--dir", dir, "--role",
                                         "operator", "--name", "mallory"})
                  .exit_code,
              0);
  }
};

TEST_F(AccessRefusals, CertificateOfAnotherCa) {
  MakeOtherCa();
  EXPECT_THAT(ListAs("other", "mallory"),
              AllOf(HasSubstr("not issued by this coordinator's CA"),
                    HasSubstr("choir-admin ca issue")));
  // The name in the certificate means nothing: the address is what is known.
  EXPECT_THAT(PeerRefusals(cluster()),
              Contains(AllOf(StartsWith("ipv4:127.0.0.1 "),
                             HasSubstr("/choir.v1.Admin/ListJobs"),
                             HasSubstr("not issued by this coordinator's"))));
}

TEST_F(AccessRefusals, CoordinatorOfAnotherCaIsNotTrusted) {
  MakeOtherCa();
  std::vector<std::string> command = AdminAs("ca", "operator", {"job", "list"});
  for (std::string& argument : command) {
    if (argument == cluster().PathOf("ca/ca.crt")) {
      argument = cluster().PathOf("other/ca.crt");
    }
  }
  EXPECT_THAT(OneError(RunProgram("choir-admin", command), base::kExitFailed),
              AllOf(HasSubstr(cluster().address()),
                    HasSubstr("its certificate is not of the CA in --ca")));
}

TEST_F(AccessRefusals, KeyOfAnotherCertificate) {
  Issue("operator", "olga");
  std::vector<std::string> command = AdminAs("ca", "olga", {"job", "list"});
  command.back() = cluster().PathOf("ca/operator.key");
  EXPECT_THAT(OneError(RunProgram("choir-admin", command), base::kExitUsage),
              AllOf(HasSubstr("operator.key (--key) is not the private key of"),
                    HasSubstr("olga.crt (--cert)")));
}

TEST_F(AccessRefusals, ExpiredCertificate) {
  const auto ca = crypto::CertificateAuthority::FromPem(
      *base::ReadFile(cluster().PathOf("ca/ca.crt")),
      *crypto::PrivateKey::ReadFile(cluster().PathOf("ca/ca.key")));
  ASSERT_TRUE(ca.ok()) << ca.status();
  const crypto::PrivateKey key = *crypto::PrivateKey::Generate();
  crypto::IssueOptions issue;
  issue.name = "late";
  issue.role = crypto::Role::kOperator;
  issue.lifetime = absl::Hours(1);
  base::SystemRandom random;
  // An hour's certificate, made a minute more than an hour ago.
  const auto pem =
      ca->Issue(*crypto::MakeCertificateRequest(key, issue.name, issue.role),
                issue, absl::Now() - absl::Minutes(61), random);
  ASSERT_TRUE(pem.ok()) << pem.status();
  ASSERT_TRUE(
      base::WriteFileAtomic(cluster().PathOf("ca/late.crt"), *pem).ok());
  ASSERT_TRUE(key.WriteFile(cluster().PathOf("ca/late.key")).ok());

  EXPECT_THAT(ListAs("ca", "late"),
              AllOf(HasSubstr("the certificate expired at 20"),
                    HasSubstr("renew it or enrol again")));
  EXPECT_THAT(PeerRefusals(cluster()),
              Contains(AllOf(StartsWith("late /choir.v1.Admin/ListJobs: "),
                             HasSubstr("expired at 20"))));
}

TEST_F(AccessRefusals, CertificateOnTheRevocationList) {
  Issue("operator", "left");
  ASSERT_EQ(RunProgram("choir-admin", AdminAs("ca", "left", {"job", "list"}))
                .exit_code,
            0);
  ASSERT_EQ(RunProgram("choir-admin",
                       {"ca", "revoke", "--dir", cluster().PathOf("ca"),
                        "--cert", cluster().PathOf("ca/left.crt")})
                .exit_code,
            0);
  EXPECT_THAT(ListAs("ca", "left"), HasSubstr("was revoked"));
  EXPECT_THAT(PeerRefusals(cluster()),
              Contains(AllOf(StartsWith("left /choir.v1.Admin/ListJobs: "),
                             HasSubstr("was revoked"))));
}

TEST_F(AccessRefusals, RevokedClient) {
  RawPeer peer(cluster(), "dora");
  ASSERT_EQ(cluster()
                .Admin({"client", "revoke", "dora", "--reason", "stolen"})
                .exit_code,
            0);
  const auto answer = peer.transport().CheckIn(v1::CheckInRequest());
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(answer.status().message()),
              HasSubstr("client \"dora\" was revoked"));
  EXPECT_THAT(PeerRefusals(cluster()),
              Contains(StartsWith("dora /choir.v1.Coordinator/CheckIn: client "
                                  "\"dora\" was revoked")));
}

TEST_F(AccessRefusals, ReusedToken) {
  const std::string token = NewToken(cluster(), "emil");
  auto transport = Dial(cluster());
  ASSERT_TRUE(
      Enrol(*transport, "emil", token, *crypto::PrivateKey::Generate()).ok());
  const auto again =
      Enrol(*transport, "emil", token, *crypto::PrivateKey::Generate());
  EXPECT_EQ(again.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(again.status().message()),
              AllOf(HasSubstr("the token was used already"),
                    HasSubstr("a token enrols one client once")));
  const std::vector<std::string> refusals = PeerRefusals(cluster());
  EXPECT_THAT(refusals,
              Contains(AllOf(HasSubstr(" /choir.v1.Coordinator/Enroll: "),
                             HasSubstr("the token was used already"))));
  // Neither the journal nor the log tells a token.
  for (const std::string& refusal : refusals) {
    EXPECT_THAT(refusal, Not(HasSubstr(token)));
  }
  EXPECT_THAT(cluster().Logs(), Not(HasSubstr(token)));
}

TEST_F(AccessRefusals, AgentCallingOperatorMethods) {
  Issue("agent", "spy");
  EXPECT_THAT(ListAs("ca", "spy"),
              AllOf(HasSubstr("role \"agent\" may not call this"),
                    HasSubstr("it needs role \"operator\"")));
  EXPECT_THAT(
      OneErrorDocument(
          RunProgram("choir-admin",
                     AdminAs("ca", "spy", {"token", "create", "--json"})),
          base::kExitFailed),
      HasSubstr("role \"agent\" may not call this"));
  EXPECT_THAT(PeerRefusals(cluster()),
              Contains(StartsWith("spy /choir.v1.Admin/ListJobs: role "
                                  "\"agent\" may not call this")));
}

TEST_F(AccessRefusals, WithoutACertificate) {
  const auto answer = Dial(cluster())->CheckIn(v1::CheckInRequest());
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(answer.status().message()), HasSubstr("enrol first"));
  EXPECT_THAT(PeerRefusals(cluster()),
              Contains(AllOf(HasSubstr("/choir.v1.Coordinator/CheckIn"),
                             HasSubstr("needs a client certificate"))));
}

TEST_F(AccessRefusals, RequestOverTheLimit) {
  RawPeer peer(cluster(), "frida");
  v1::CheckInRequest request;
  request.mutable_capabilities()->set_device(std::string(100000, 'x'));
  const auto answer = peer.transport().CheckIn(request);
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(answer.status().message()),
              AllOf(HasSubstr("a request of 1000"),
                    HasSubstr("at most 65536 are taken")));
  EXPECT_THAT(PeerRefusals(cluster()),
              Contains(AllOf(StartsWith("frida /choir.v1.Coordinator/CheckIn"),
                             HasSubstr("at most 65536 are taken"))));
}

}  // namespace
}  // namespace choir::tests
