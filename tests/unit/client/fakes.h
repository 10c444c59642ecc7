// Stand-ins for the network, time and the model.
#ifndef CHOIR_TESTS_UNIT_CLIENT_FAKES_H_
#define CHOIR_TESTS_UNIT_CLIENT_FAKES_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/secure_random.h"
#include "base/sha256.h"
#include "base/sim_random.h"
#include "client/agent/sleeper.h"
#include "client/agent/task_runner.h"
#include "client/transport.h"
#include "privacy/crypto/authority.h"
#include "privacy/crypto/identity.h"
#include "privacy/crypto/signing.h"

namespace choir::client {

class SeededRandom final : public base::SecureRandom {
 public:
  explicit SeededRandom(uint64_t seed) : random_(seed) {}
  void Fill(absl::Span<uint8_t> out) override {
    for (uint8_t& byte : out) byte = random_.Below(256);
  }

 private:
  base::SimRandom random_;
};

// When tests begin, and a certificate authority of that time.
inline absl::Time FakeStart() { return absl::FromUnixSeconds(1800000000); }
inline const crypto::CertificateAuthority& FakeCa() {
  static const auto& ca = *new crypto::CertificateAuthority([] {
    SeededRandom random(1);
    return *crypto::CertificateAuthority::Create("test", absl::Hours(90000),
                                                 FakeStart(), random);
  }());
  return ca;
}

// Moves a manual clock instead of waiting. Stops after `max_sleeps`, so that a
// broken agent fails its test instead of hanging.
class FakeSleeper final : public Sleeper {
 public:
  explicit FakeSleeper(base::ManualClock& clock) : clock_(clock) {}
  void Sleep(absl::Duration duration) override {
    slept_.push_back(duration);
    clock_.Advance(duration);
    if (slept_.size() >= max_sleeps || (stop_when && stop_when())) stop = true;
  }
  bool stopping() const override { return stop; }
  const std::vector<absl::Duration>& slept() const { return slept_; }

  bool stop = false;
  std::function<bool()> stop_when;
  size_t max_sleeps = 500;

 private:
  base::ManualClock& clock_;
  std::vector<absl::Duration> slept_;
};

inline v1::BlobRef RefOf(const std::string& bytes) {
  v1::BlobRef ref;
  ref.set_digest(base::Sha256Hex(bytes));
  ref.set_size(bytes.size());
  return ref;
}

// A coordinator in memory that keeps the protocol, with a hook before and
// after the effect of each call that may lose it.
class FakeCoordinator final : public Transport {
 public:
  // Called as fault(call, "before") and fault(call, "after").
  using Fault = std::function<absl::Status(const std::string& call,
                                           const std::string& when)>;

  FakeCoordinator(const crypto::CertificateAuthority& ca,
                  const base::ManualClock& clock)
      : ca_(ca), clock_(clock) {}

  absl::Status UseIdentity(absl::string_view certificate,
                           absl::string_view key) override {
    identity = std::string(certificate);
    return absl::OkStatus();
  }

  absl::StatusOr<v1::EnrollResponse> Enroll(
      const v1::EnrollRequest& request) override {
    v1::EnrollResponse response;
    const absl::Status status = Around("Enroll", [&]() -> absl::Status {
      enroll_requests.push_back(request);
      if (request.token() != token) {
        return absl::PermissionDeniedError("token is not valid");
      }
      if (approvals_to_wait > 0) {
        --approvals_to_wait;
        response.set_pending_approval(true);
        return absl::OkStatus();
      }
      const absl::Status issued = Issue(request.certificate_request_pem(),
                                        response.mutable_certificate_pem());
      if (!issued.ok()) return issued;
      return IssueSigner(request.signing_request_pem(),
                         response.mutable_signing_certificate_pem());
    });
    if (!status.ok()) return status;
    return response;
  }

  absl::StatusOr<v1::RenewCertificateResponse> RenewCertificate(
      const v1::RenewCertificateRequest& request) override {
    v1::RenewCertificateResponse response;
    const absl::Status status = Around("RenewCertificate", [&] {
      if (request.certificate_request_pem().empty()) {
        return IssueSigner(request.signing_request_pem(),
                           response.mutable_signing_certificate_pem());
      }
      ++renewals;
      return Issue(request.certificate_request_pem(),
                   response.mutable_certificate_pem());
    });
    if (!status.ok()) return status;
    return response;
  }

  absl::StatusOr<v1::CheckInResponse> CheckIn(
      const v1::CheckInRequest& request) override {
    v1::CheckInResponse response;
    const absl::Status status = Around("CheckIn", [&] {
      while (!plans.empty() && done.count(KeyText(plans.front().key())) > 0) {
        plans.pop_front();
      }
      if (plans.empty()) {
        response.set_retry_after_ms(1000);
      } else {
        *response.mutable_task() = plans.front();
        board = KeyText(plans.front().key());
      }
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    return response;
  }

  absl::Status Download(const v1::DownloadRequest& request,
                        const ChunkSink& sink) override {
    return Around("Download", [&]() -> absl::Status {
      download_offsets.push_back(request.offset());
      if (use_board && board.empty()) {
        return absl::PermissionDeniedError("your task names no such blob");
      }
      const auto found = blobs.find(request.digest());
      if (found == blobs.end()) return absl::NotFoundError("no such blob");
      std::string bytes = found->second;
      if (damage_downloads > 0) {
        --damage_downloads;
        bytes.back() ^= 1;
      }
      for (uint64_t at = request.offset(); at < bytes.size();) {
        const auto data =
            std::make_shared<const std::string>(bytes.substr(at, chunk_bytes));
        // In two parts, as a connection may leave it.
        const absl::string_view text(*data);
        DownloadedChunk chunk;
        chunk.offset = at;
        chunk.total_size = bytes.size();
        chunk.data = {text.substr(0, 1), text.substr(1)};
        chunk.owner = data;
        at += data->size();
        absl::Status status = sink(std::move(chunk));
        if (status.ok()) status = Trouble("DownloadChunk", "after");
        if (!status.ok()) return status;
      }
      return absl::OkStatus();
    });
  }

  absl::StatusOr<v1::UploadStatusResponse> GetUploadStatus(
      const v1::UploadStatusRequest& request) override {
    v1::UploadStatusResponse response;
    const auto effect = [&]() -> absl::Status {
      if (KeyText(request.key()) != board) {
        return absl::AbortedError("you have no such task; check in again");
      }
      response.set_received_bytes(uploads[request.blob().digest()].size());
      return upload_refusal;
    };
    const absl::Status status = Around("GetUploadStatus", effect);
    if (!status.ok()) return status;
    return response;
  }

  absl::StatusOr<v1::UploadStatusResponse> Upload(
      const ChunkSource& source) override {
    v1::UploadStatusResponse response;
    const absl::Status status = Around("Upload", [&]() -> absl::Status {
      v1::UploadChunk chunk;
      std::string digest;
      while (true) {
        const absl::StatusOr<bool> more = source(&chunk);
        if (!more.ok()) return more.status();
        if (!*more) break;
        if (chunk.has_key()) {
          digest = chunk.blob().digest();
          if (KeyText(chunk.key()) != board) {
            return absl::AbortedError("you have no such task");
          }
        }
        std::string& upload = uploads[digest];
        const base::Sha256Digest hash = base::Sha256Of(chunk.data());
        if (chunk.data_sha256() != std::string(hash.begin(), hash.end())) {
          return absl::DataLossError("chunk has a wrong digest");
        }
        if (chunk.offset() != upload.size()) {
          return absl::OutOfRangeError("chunk at a wrong offset");
        }
        upload += chunk.data();
        const absl::Status status = Trouble("UploadChunk", "after");
        if (!status.ok()) return status;
      }
      response.set_received_bytes(uploads[digest].size());
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    return response;
  }

  absl::StatusOr<v1::ReportResponse> Report(
      const v1::ReportRequest& request) override {
    v1::ReportResponse response;
    const absl::Status status = Around("Report", [&]() -> absl::Status {
      if (request.has_train()) {
        const v1::BlobRef& blob = request.train().update();
        if (RefOf(uploads[blob.digest()]).digest() != blob.digest() &&
            done.count(KeyText(request.key())) == 0) {
          return absl::FailedPreconditionError("update is not there");
        }
      }
      ++reports;
      board.clear();
      if (done.insert(KeyText(request.key())).second) {
        accepted.push_back(request);
      }
      response.set_verdict(verdict);
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    return response;
  }

  absl::StatusOr<v1::SecureExchangeResponse> SecureExchange(
      const v1::SecureExchangeRequest& request) override {
    v1::SecureExchangeResponse response;
    const absl::Status status = Around("SecureExchange", [&]() -> absl::Status {
      exchanges.push_back(request);
      if (!on_exchange) return absl::AbortedError("there is no such round");
      return on_exchange(request, &response);
    });
    if (!status.ok()) return status;
    return response;
  }

  void Cancel() override {}

  static std::string KeyText(const v1::TaskKey& key) {
    return absl::StrCat(key.job(), "/", key.round(), "/", key.attempt(), "/",
                        static_cast<int>(key.kind()));
  }

  // What a coordinator forgets when it is killed: who has which task.
  void Restart() { board.clear(); }

  Fault fault;
  std::string board;
  bool use_board = true;
  std::string token = "secret-token";
  int approvals_to_wait = 0;
  int renewals = 0;
  int damage_downloads = 0;
  size_t chunk_bytes = 100;
  absl::Duration lifetime = absl::Hours(720);
  absl::Status upload_refusal;
  v1::ReportResponse::Verdict verdict = v1::ReportResponse::ACCEPTED;
  std::deque<v1::TaskPlan> plans;
  std::map<std::string, std::string> blobs;
  std::map<std::string, std::string> uploads;
  std::set<std::string> done;
  // First reports only, in order.
  std::vector<v1::ReportRequest> accepted;
  int reports = 0;
  std::vector<uint64_t> download_offsets;
  std::vector<v1::EnrollRequest> enroll_requests;
  std::string identity;
  // What SecureExchange says.
  std::function<absl::Status(const v1::SecureExchangeRequest&,
                             v1::SecureExchangeResponse*)>
      on_exchange;
  std::vector<v1::SecureExchangeRequest> exchanges;
  // Signing certificates asked for while the coordinator knows them.
  bool issues_signers = true;
  int signers_issued = 0;

 private:
  absl::Status Trouble(const std::string& call, const std::string& when) {
    return fault ? fault(call, when) : absl::OkStatus();
  }
  template <typename Effect>
  absl::Status Around(const std::string& call, const Effect& effect) {
    absl::Status status = Trouble(call, "before");
    if (status.ok()) status = effect();
    if (status.ok()) status = Trouble(call, "after");
    return status;
  }
  absl::Status IssueSigner(const std::string& request,
                           std::string* certificate) {
    if (!issues_signers || request.empty()) return absl::OkStatus();
    const auto name = crypto::SigningRequestName(request);
    if (!name.ok()) return name.status();
    const auto issued =
        ca_.IssueSigner(request, *name, lifetime, clock_.Now(), random_);
    if (!issued.ok()) return issued.status();
    ++signers_issued;
    *certificate = *issued;
    return absl::OkStatus();
  }
  absl::Status Issue(const std::string& request, std::string* certificate) {
    const auto info = crypto::ParseCertificateRequest(request);
    if (!info.ok()) return info.status();
    crypto::IssueOptions options;
    options.name = info->name;
    options.role = crypto::Role::kAgent;
    options.lifetime = lifetime;
    const auto issued = ca_.Issue(request, options, clock_.Now(), random_);
    if (!issued.ok()) return issued.status();
    *certificate = *issued;
    return absl::OkStatus();
  }

  const crypto::CertificateAuthority& ca_;
  const base::ManualClock& clock_;
  SeededRandom random_{7};
};

// "Trains" to an update that depends on the plan alone.
class FakeRunner final : public TaskRunner {
 public:
  v1::Capabilities capabilities() const override { return {}; }
  absl::StatusOr<TaskResult> Run(const v1::TaskPlan& plan,
                                 const std::string& folder,
                                 absl::string_view digest,
                                 absl::string_view adapter,
                                 const model::ProgressFn& progress) override {
    ++runs;
    folders.push_back(folder);
    adapters.push_back(std::string(adapter));
    const absl::Status status = on_run ? on_run(progress) : absl::OkStatus();
    if (!status.ok()) return status;
    TaskResult result;
    if (plan.key().kind() == v1::TASK_KIND_EVALUATE) {
      *result.report.mutable_key() = plan.key();
      result.report.mutable_evaluation()->set_tokens(11);
      return result;
    }
    *result.report.mutable_key() = plan.key();
    if (plan.has_secure_session()) {
      result.secure_update = SecureUpdateOf(plan);
      result.report.mutable_train()->set_num_examples(num_examples);
      result.report.mutable_train()->set_mean_loss(2.0);
      return result;
    }
    result.update_bytes = UpdateOf(plan);
    *result.report.mutable_train()->mutable_update() =
        RefOf(result.update_bytes);
    result.report.mutable_train()->set_num_examples(5);
    return result;
  }
  static std::vector<float> SecureUpdateOf(const v1::TaskPlan& plan) {
    base::SimRandom random(plan.seed());
    std::vector<float> update(300);
    for (float& x : update) x = static_cast<float>(random.Normal());
    return update;
  }
  static std::string UpdateOf(const v1::TaskPlan& plan) {
    std::string bytes;
    base::SimRandom random(plan.seed());
    // Over one chunk of the agent (256 KiB), so that uploads can break off.
    while (bytes.size() < 600000) bytes += static_cast<char>(random.Below(256));
    return bytes;
  }

  int runs = 0;
  // Of secure updates.
  uint64_t num_examples = 5;
  std::vector<std::string> folders;
  std::vector<std::string> adapters;
  std::function<absl::Status(const model::ProgressFn&)> on_run;
};

}  // namespace choir::client

#endif  // CHOIR_TESTS_UNIT_CLIENT_FAKES_H_
