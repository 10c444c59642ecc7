#include "client/agent/enrolment.h"

#include <sys/stat.h>

#include <fstream>
#include <memory>

#include "base/files.h"
#include "base/log.h"
#include "client/agent/state_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"
#include "tests/unit/client/fakes.h"

namespace choir::client {
namespace {

using ::testing::HasSubstr;

class EnrolmentTest : public testing::Test {
 protected:
  EnrolmentTest() {
    base::SetLogLevel(base::LogLevel::kOff);
    options_.name = "alice";
    options_.state = tests::NewTempDir();
    options_.token_file = base::JoinPath(tests::NewTempDir(), "token");
    std::ofstream(options_.token_file) << "secret-token\n";
    options_.ca_certificate = base::JoinPath(tests::NewTempDir(), "ca.crt");
    std::ofstream(options_.ca_certificate) << FakeCa().certificate_pem();
    Restart();
  }
  void Restart() {
    enrolment_.reset();
    state_.reset();
    state_ = *StateDir::Open(options_.state);
    enrolment_ = std::make_unique<Enrolment>(options_, *state_, coordinator_,
                                             clock_, random_, sleeper_);
  }

  base::ManualClock clock_{FakeStart()};
  FakeCoordinator coordinator_{FakeCa(), clock_};
  FakeSleeper sleeper_{clock_};
  SeededRandom random_{5};
  ClientOptions options_;
  std::unique_ptr<StateDir> state_;
  std::unique_ptr<Enrolment> enrolment_;
};

TEST_F(EnrolmentTest, EnrolsOnceAndKeepsTheKeyPrivate) {
  ASSERT_TRUE(enrolment_->EnsureEnrolled().ok());
  EXPECT_EQ(coordinator_.enroll_requests.size(), 1u);
  EXPECT_EQ(coordinator_.enroll_requests[0].token(), "secret-token");
  EXPECT_EQ(crypto::ParseCertificate(coordinator_.identity)->name, "alice");
  struct stat info = {};
  ASSERT_EQ(stat(state_->key_path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(stat(state_->signing_key_path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_NE(enrolment_->signer(), nullptr);
  EXPECT_EQ(enrolment_->signer()->name(), "alice");
  const std::string signer = enrolment_->signer()->certificate();
  Restart();
  ASSERT_TRUE(enrolment_->EnsureEnrolled().ok());
  EXPECT_EQ(coordinator_.enroll_requests.size(), 1u);
  ASSERT_NE(enrolment_->signer(), nullptr);
  EXPECT_EQ(enrolment_->signer()->certificate(), signer);
  EXPECT_EQ(coordinator_.signers_issued, 1);
}

TEST_F(EnrolmentTest, ComesByASigningCertificateLater) {
  coordinator_.issues_signers = false;
  ASSERT_TRUE(enrolment_->EnsureEnrolled().ok());
  EXPECT_EQ(enrolment_->signer(), nullptr);
  ASSERT_TRUE(enrolment_->RenewIfDue().ok());
  EXPECT_EQ(enrolment_->signer(), nullptr);
  coordinator_.issues_signers = true;
  ASSERT_TRUE(enrolment_->RenewIfDue().ok());  // not asked every time
  EXPECT_EQ(enrolment_->signer(), nullptr);
  clock_.Advance(absl::Hours(2));
  ASSERT_TRUE(enrolment_->RenewIfDue().ok());
  EXPECT_NE(enrolment_->signer(), nullptr);
  EXPECT_EQ(coordinator_.renewals, 0);
  // Both are renewed in time.
  clock_.Advance(coordinator_.lifetime * 3 / 4);
  ASSERT_TRUE(enrolment_->RenewIfDue().ok());
  EXPECT_EQ(coordinator_.renewals, 1);
  EXPECT_EQ(coordinator_.signers_issued, 2);
  clock_.Advance(coordinator_.lifetime);
  EXPECT_EQ(enrolment_->signer(), nullptr);
}

TEST_F(EnrolmentTest, AsksAgainWithTheSameRequest) {
  coordinator_.approvals_to_wait = 2;
  int lost = 0;
  coordinator_.fault = [&](const std::string&, const std::string& when) {
    return when == "after" && ++lost == 3 ? absl::UnavailableError("lost")
                                          : absl::OkStatus();
  };
  ASSERT_TRUE(enrolment_->EnsureEnrolled().ok());
  ASSERT_EQ(coordinator_.enroll_requests.size(), 4u);
  for (const v1::EnrollRequest& request : coordinator_.enroll_requests) {
    EXPECT_EQ(request.SerializeAsString(),
              coordinator_.enroll_requests[0].SerializeAsString());
  }
}

TEST_F(EnrolmentTest, PassesARefusalOn) {
  coordinator_.token = "another";
  const absl::Status status = enrolment_->EnsureEnrolled();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(status.message(), HasSubstr("token is not valid"));
  EXPECT_THAT(status.message(), testing::Not(HasSubstr("secret-token")));
}

TEST_F(EnrolmentTest, AsksForATokenIfThereIsNone) {
  options_.token_file.clear();
  const absl::Status status = enrolment_->EnsureEnrolled();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("token_file"));
}

TEST_F(EnrolmentTest, RefusesTheStateOfAnotherName) {
  ASSERT_TRUE(enrolment_->EnsureEnrolled().ok());
  options_.name = "bob";
  Restart();
  EXPECT_EQ(enrolment_->EnsureEnrolled().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(EnrolmentTest, RenewsAtTwoThirdsAndRetriesUntilItExpires) {
  coordinator_.lifetime = absl::Hours(30);
  ASSERT_TRUE(enrolment_->EnsureEnrolled().ok());
  clock_.SetTime(FakeStart() + absl::Hours(19));
  ASSERT_TRUE(enrolment_->RenewIfDue().ok());
  EXPECT_EQ(coordinator_.renewals, 0);
  clock_.SetTime(FakeStart() + absl::Hours(21));
  bool lose = true;
  coordinator_.fault = [&](const std::string&, const std::string&) {
    return lose ? absl::UnavailableError("lost") : absl::OkStatus();
  };
  ASSERT_TRUE(enrolment_->RenewIfDue().ok());
  lose = false;
  ASSERT_TRUE(enrolment_->RenewIfDue().ok());
  EXPECT_EQ(coordinator_.renewals, 0) << "no wait after a failure";
  clock_.Advance(absl::Minutes(1));
  const std::string before = coordinator_.identity;
  ASSERT_TRUE(enrolment_->RenewIfDue().ok());
  EXPECT_EQ(coordinator_.renewals, 1);
  EXPECT_NE(coordinator_.identity, before);
  ASSERT_TRUE(enrolment_->RenewIfDue().ok());
  EXPECT_EQ(coordinator_.renewals, 1);
  clock_.Advance(absl::Hours(31));
  EXPECT_EQ(enrolment_->RenewIfDue().code(),
            absl::StatusCode::kUnauthenticated);
}

}  // namespace
}  // namespace choir::client
