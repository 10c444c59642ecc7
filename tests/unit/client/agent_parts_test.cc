// Backoff, blob cache, state folder, configuration, model folder, enrolment.
#include <sys/stat.h>

#include <fstream>
#include <memory>

#include "base/files.h"
#include "base/log.h"
#include "client/agent/backoff.h"
#include "client/agent/blob_cache.h"
#include "client/agent/client_options.h"
#include "client/agent/enrolment.h"
#include "client/agent/model_folder.h"
#include "client/agent/retry.h"
#include "client/agent/state_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/golden.h"
#include "tests/unit/client/fakes.h"

namespace choir::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::Time Start() { return absl::FromUnixSeconds(1800000000); }

crypto::CertificateAuthority MakeCa() {
  SeededRandom random(1);
  return *crypto::CertificateAuthority::Create("test", absl::Hours(90000),
                                               Start(), random);
}

TEST(BackoffTest, StaysBetweenHalfAndWholeOfAGrowingCeiling) {
  SeededRandom random(3);
  Backoff backoff({.initial = absl::Seconds(1), .max = absl::Seconds(10)},
                  random);
  const double ceilings[] = {1, 2, 4, 8, 10, 10, 10};
  double spread = 0;
  for (const double ceiling : ceilings) {
    const double wait = absl::ToDoubleSeconds(backoff.Next());
    EXPECT_GE(wait, ceiling / 2);
    EXPECT_LE(wait, ceiling);
    spread += std::abs(wait - ceiling * 0.75);
  }
  EXPECT_GT(spread, 0.1) << "no jitter";
  backoff.Reset();
  EXPECT_LE(backoff.Next(), absl::Seconds(1));
}

TEST(RetryTest, SortsErrors) {
  EXPECT_EQ(KindOf(absl::UnavailableError("")), ErrorKind::kTransient);
  EXPECT_EQ(KindOf(absl::InternalError("")), ErrorKind::kTransient);
  EXPECT_EQ(KindOf(absl::AbortedError("")), ErrorKind::kTask);
  EXPECT_EQ(KindOf(absl::ResourceExhaustedError("")), ErrorKind::kTask);
  EXPECT_EQ(KindOf(absl::UnauthenticatedError("")), ErrorKind::kFatal);
}

class BlobCacheTest : public testing::Test {
 protected:
  BlobCacheTest() : clock_(Start()), ca_(MakeCa()), coordinator_(ca_, clock_) {
    base::SetLogLevel(base::LogLevel::kError);
    coordinator_.use_board = false;
  }
  v1::BlobRef Put(const std::string& bytes) {
    const v1::BlobRef ref = RefOf(bytes);
    coordinator_.blobs[ref.digest()] = bytes;
    return ref;
  }
  bool Cached(const v1::BlobRef& ref) const {
    return base::FileExists(base::JoinPath(folder_, ref.digest()));
  }
  absl::StatusOr<std::string> Fetch(const v1::BlobRef& ref,
                                    std::set<std::string> keep = {}) {
    clock_.Advance(absl::Seconds(1));
    return cache_->Fetch(ref, coordinator_, keep);
  }
  void Reopen(uint64_t max_bytes) {
    cache_ = std::make_unique<BlobCache>(folder_, max_bytes, clock_);
  }

  const std::string folder_ = tests::NewTempDir();
  base::ManualClock clock_;
  crypto::CertificateAuthority ca_;
  FakeCoordinator coordinator_;
  std::unique_ptr<BlobCache> cache_ =
      std::make_unique<BlobCache>(folder_, 1000, clock_);
};

TEST_F(BlobCacheTest, DownloadsOnce) {
  const v1::BlobRef ref = Put(std::string(250, 'x'));
  for (int i = 0; i < 3; ++i) {
    const auto path = Fetch(ref);
    ASSERT_TRUE(path.ok()) << path.status();
    EXPECT_EQ(*base::ReadFile(*path), std::string(250, 'x'));
    if (i == 1) Reopen(1000);
  }
  EXPECT_THAT(coordinator_.download_offsets, ElementsAre(0));
}

TEST_F(BlobCacheTest, ResumesWhereADownloadBrokeOff) {
  const v1::BlobRef ref = Put(std::string(350, 'x'));
  int chunks = 0;
  coordinator_.fault = [&](const std::string& call, const std::string&) {
    return call == "DownloadChunk" && ++chunks == 2
               ? absl::UnavailableError("lost")
               : absl::OkStatus();
  };
  EXPECT_EQ(Fetch(ref).status().code(), absl::StatusCode::kUnavailable);
  Reopen(1000);  // as after a kill
  EXPECT_TRUE(Fetch(ref).ok());
  EXPECT_THAT(coordinator_.download_offsets, ElementsAre(0, 200));
  EXPECT_EQ(coordinator_.blobs[ref.digest()].size(), 350u);
}

TEST_F(BlobCacheTest, ThrowsDamageAwayAndStartsAfresh) {
  const v1::BlobRef ref = Put(std::string(250, 'x'));
  coordinator_.damage_downloads = 1;
  EXPECT_EQ(Fetch(ref).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(Cached(ref));
  EXPECT_TRUE(Fetch(ref).ok());
  EXPECT_THAT(coordinator_.download_offsets, ElementsAre(0, 0));
}

TEST_F(BlobCacheTest, FindsDamageOnDisk) {
  const v1::BlobRef ref = Put(std::string(250, 'x'));
  ASSERT_TRUE(Fetch(ref).ok());
  std::ofstream(base::JoinPath(folder_, ref.digest())) << std::string(250, 'y');
  Reopen(1000);
  const auto path = Fetch(ref);
  ASSERT_TRUE(path.ok());
  EXPECT_EQ(*base::ReadFile(*path), std::string(250, 'x'));
}

TEST_F(BlobCacheTest, RemovesTheLeastRecentlyUsed) {
  const v1::BlobRef a = Put(std::string(400, 'a'));
  const v1::BlobRef b = Put(std::string(400, 'b'));
  const v1::BlobRef c = Put(std::string(400, 'c'));
  ASSERT_TRUE(Fetch(a).ok());
  ASSERT_TRUE(Fetch(b).ok());
  ASSERT_TRUE(Fetch(a).ok());
  ASSERT_TRUE(Fetch(c).ok());
  EXPECT_TRUE(Cached(a));
  EXPECT_FALSE(Cached(b));
  EXPECT_TRUE(Cached(c));
  // `a` is older now, but in use.
  ASSERT_TRUE(Fetch(b, {a.digest()}).ok());
  EXPECT_TRUE(Cached(a));
  EXPECT_FALSE(Cached(c));
}

TEST_F(BlobCacheTest, RefusesWhatDoesNotFit) {
  const v1::BlobRef a = Put(std::string(600, 'a'));
  const v1::BlobRef b = Put(std::string(600, 'b'));
  ASSERT_TRUE(Fetch(a).ok());
  const auto result = Fetch(b, {a.digest(), b.digest()});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(result.status().message(), HasSubstr("cache_mib"));
}

TEST_F(BlobCacheTest, RefusesDigestsThatAreNoFileNames) {
  v1::BlobRef ref = Put("x");
  for (const std::string& bad :
       {std::string("../../etc/passwd"), std::string(""),
        "sha256:" + ref.digest(), std::string(64, 'A')}) {
    ref.set_digest(bad);
    EXPECT_EQ(Fetch(ref).status().code(), absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

v1::ReportRequest TrainReport(const std::string& update) {
  v1::ReportRequest report;
  report.mutable_key()->set_job("j");
  *report.mutable_train()->mutable_update() = RefOf(update);
  report.mutable_train()->set_mean_loss(0.1);
  return report;
}

TEST(StateDirTest, KeepsPendingWorkAndAdmitsOneAgent) {
  const std::string path = base::JoinPath(tests::NewTempDir(), "state");
  auto state = StateDir::Open(path);
  ASSERT_TRUE(state.ok()) << state.status();
  struct stat info = {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  const auto second = StateDir::Open(path);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(second.status().message(), HasSubstr("another agent"));

  const v1::ReportRequest report = TrainReport("bytes");
  ASSERT_TRUE((*state)->SavePending(report, "bytes").ok());
  ASSERT_TRUE((*state)->SetAdapterDigest("abc").ok());
  state->reset();
  state = StateDir::Open(path);
  ASSERT_TRUE(state.ok() && (*state)->pending().has_value());
  EXPECT_EQ((*state)->pending()->SerializeAsString(),
            report.SerializeAsString());
  EXPECT_EQ((*state)->adapter_digest(), "abc");
  ASSERT_TRUE((*state)->ClearPending().ok());
  state->reset();
  state = StateDir::Open(path);
  EXPECT_FALSE((*state)->pending().has_value());
}

TEST(StateDirTest, GivesDamagedWorkUp) {
  base::SetLogLevel(base::LogLevel::kError);
  const std::string path = tests::NewTempDir();
  for (const char* file : {"state.json", "pending.update"}) {
    auto state = StateDir::Open(path);
    ASSERT_TRUE((*state)->SavePending(TrainReport("bytes"), "bytes").ok());
    state->reset();
    std::ofstream(base::JoinPath(path, file)) << "{";
    state = StateDir::Open(path);
    ASSERT_TRUE(state.ok()) << state.status();
    EXPECT_FALSE((*state)->pending().has_value()) << file;
  }
}

TEST(ModelFolderTest, LinksFilesAndForgetsOtherModels) {
  const std::string state = tests::NewTempDir();
  const std::string models = base::JoinPath(state, "models");
  const std::string blobs = base::JoinPath(state, "blobs");
  ASSERT_TRUE(base::MakeDirectories(models).ok());
  ASSERT_TRUE(base::MakeDirectories(blobs).ok());
  ASSERT_TRUE(base::WriteFileAtomic(
                  base::JoinPath(blobs, RefOf("data").digest()), "data")
                  .ok());
  ASSERT_TRUE(base::MakeDirectories(base::JoinPath(models, "old")).ok());
  v1::TaskPlan plan;
  v1::ModelFile* file = plan.add_base_model();
  file->set_name("config.json");
  *file->mutable_blob() = RefOf("data");
  for (int i = 0; i < 2; ++i) {
    const auto folder = LinkModelFolder(models, plan.base_model());
    ASSERT_TRUE(folder.ok()) << folder.status();
    EXPECT_EQ(*base::ReadFile(base::JoinPath(*folder, "config.json")), "data");
  }
  EXPECT_FALSE(base::FileExists(base::JoinPath(models, "old")));
  for (const char* bad : {"", "..", ".x", "a/b", "a\\b", "a b"}) {
    plan.mutable_base_model(0)->set_name(bad);
    EXPECT_FALSE(CheckModelFiles(plan.base_model()).ok()) << bad;
  }
  EXPECT_FALSE(CheckModelFiles({}).ok());
}

v1::ClientConfig GoodConfig() {
  v1::ClientConfig config;
  config.set_name("alice");
  config.set_coordinator("localhost:7443");
  config.set_state("/s");
  config.set_ca_certificate("/ca.pem");
  config.mutable_data()->set_path("/d.jsonl");
  return config;
}

TEST(ClientOptionsTest, FillsDefaultsAndNamesTheField) {
  const auto options = ResolveClient(GoodConfig());
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->holdout, 0.1);
  EXPECT_EQ(options->threads, 1);
  EXPECT_EQ(options->cache_bytes, 16384ull << 20);
  const auto refusal = [](auto&& change) {
    v1::ClientConfig config = GoodConfig();
    change(config);
    return std::string(ResolveClient(config).status().message());
  };
  using C = v1::ClientConfig;
  EXPECT_THAT(refusal([](C& c) { c.clear_name(); }), HasSubstr("name"));
  EXPECT_THAT(refusal([](C& c) { c.set_name("a/b"); }), HasSubstr("a/b"));
  EXPECT_THAT(refusal([](C& c) { c.set_coordinator("host"); }),
              HasSubstr("host:port"));
  EXPECT_THAT(refusal([](C& c) { c.set_coordinator("h:0"); }),
              HasSubstr("host:port"));
  EXPECT_THAT(refusal([](C& c) { c.mutable_data()->set_holdout(0.95); }),
              HasSubstr("data.holdout"));
  EXPECT_THAT(refusal([](C& c) { c.mutable_data()->set_holdout(NAN); }),
              HasSubstr("data.holdout"));
  EXPECT_THAT(refusal([](C& c) { c.mutable_device()->set_threads(0); }),
              HasSubstr("device.threads"));
  EXPECT_THAT(refusal([](C& c) { c.mutable_device()->set_kind("tpu"); }),
              HasSubstr("device.kind"));
  EXPECT_THAT(refusal([](C& c) { c.set_cache_mib(0); }),
              HasSubstr("cache_mib"));
}

class EnrolmentTest : public testing::Test {
 protected:
  EnrolmentTest()
      : clock_(Start()), ca_(MakeCa()), coordinator_(ca_, clock_),
        sleeper_(clock_) {
    base::SetLogLevel(base::LogLevel::kOff);
    options_.name = "alice";
    options_.state = tests::NewTempDir();
    options_.token_file = base::JoinPath(tests::NewTempDir(), "token");
    std::ofstream(options_.token_file) << "secret-token\n";
    options_.ca_certificate = base::JoinPath(tests::NewTempDir(), "ca.crt");
    std::ofstream(options_.ca_certificate) << ca_.certificate_pem();
    Restart();
  }
  void Restart() {
    enrolment_.reset();
    state_.reset();
    state_ = *StateDir::Open(options_.state);
    enrolment_ = std::make_unique<Enrolment>(options_, *state_, coordinator_,
                                             clock_, random_, sleeper_);
  }

  base::ManualClock clock_;
  crypto::CertificateAuthority ca_;
  FakeCoordinator coordinator_;
  FakeSleeper sleeper_;
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
  clock_.SetTime(Start() + absl::Hours(19));
  ASSERT_TRUE(enrolment_->RenewIfDue().ok());
  EXPECT_EQ(coordinator_.renewals, 0);
  clock_.SetTime(Start() + absl::Hours(21));
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
