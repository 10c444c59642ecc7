// A digest has one spelling in the journal: a client that names its masked
// vector otherwise is refused, and the auditor has nothing to complain of.
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "coordinator/audit/verify.h"
#include "gtest/gtest.h"
#include "tests/integration/runner/secure_runner_fixture.h"

namespace choir::runner {
namespace {

class DigestSpellingTest : public SecureRunnerTest {};

TEST_F(DigestSpellingTest, OtherSpellingsAreRefusedAndNeverReachTheJournal) {
  int refused = 0;
  {
    auto fleet = Fleet(Job(2, 5, 5));
    fleet->tamper = [&](const std::string& client,
                        v1::SecureExchangeRequest& request,
                        std::string& payload) {
      if (client != "c102" || !request.message().has_masked()) return;
      ASSERT_TRUE(store_->blobs().Put(payload).ok());
      const std::string& digest = request.message().masked().digest();
      for (const std::string& other :
           {absl::AsciiStrToUpper(digest), absl::StrCat("sha256:", digest)}) {
        v1::SecureExchangeRequest wrong = request;
        wrong.mutable_message()->mutable_masked()->set_digest(other);
        const auto answer = fleet->runner().PostSecure(client, wrong);
        EXPECT_TRUE(absl::IsInvalidArgument(answer.status()))
            << answer.status();
        ++refused;
      }
    };
    const absl::Status ran = fleet->Run();
    ASSERT_TRUE(ran.ok()) << ran;
    const std::vector<v1::RoundCommitted> rounds = Committed(*fleet);
    ASSERT_EQ(rounds.size(), 2u);
    for (const v1::RoundCommitted& round : rounds) {
      EXPECT_EQ(round.attempt(), 1u);
      EXPECT_EQ(round.survivors_size(), 5) << "it did it right afterwards";
    }
    for (const v1::JournalRecord& record : fleet->records()) {
      for (const auto& client : record.secure_phase_closed().clients()) {
        EXPECT_TRUE(store::IsDigestText(client.digest())) << client.digest();
      }
    }
  }
  EXPECT_EQ(refused, 4);
  const std::string root = store_->root();
  ASSERT_TRUE(store_->Close().ok());
  const auto report = audit::Verify(root);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->ok) << report->reason;
}

}  // namespace
}  // namespace choir::runner
