// A real TLS server on a free port over a real store, with a manual clock and a
// fake job, and peers of all kinds.
#ifndef CHOIR_TESTS_INTEGRATION_RPC_SERVER_FIXTURE_H_
#define CHOIR_TESTS_INTEGRATION_RPC_SERVER_FIXTURE_H_

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "choir/v1/admin.grpc.pb.h"
#include "choir/v1/coordinator.grpc.pb.h"
#include "coordinator/rpc/server.h"
#include "privacy/crypto/authority.h"
#include "tests/integration/rpc/fake_runner.h"

namespace choir::rpc {

// A certificate and its private key, PEM.
struct Credentials {
  std::string certificate;
  std::string key;
  std::string serial;
};

class ServerTest : public testing::Test {
 protected:
  ServerTest();
  ~ServerTest() override;

  void StartServer();
  void StopServer();

  Credentials Issue(const crypto::CertificateAuthority& ca,
                    const std::string& name, crypto::Role role,
                    absl::Duration lifetime = absl::Hours(24));
  Credentials Agent(const std::string& name) {
    return Issue(ca_, name, crypto::Role::kAgent);
  }
  // `who` null: no certificate.
  std::shared_ptr<grpc::Channel> Dial(const Credentials* who);
  std::unique_ptr<v1::Coordinator::Stub> AgentStub(const Credentials& who) {
    return v1::Coordinator::NewStub(Dial(&who));
  }
  std::unique_ptr<v1::Admin::Stub> AdminStub(const Credentials& who) {
    return v1::Admin::NewStub(Dial(&who));
  }
  static std::unique_ptr<grpc::ClientContext> Context();

  grpc::Status CheckIn(const Credentials& who,
                       v1::CheckInResponse* response = nullptr);
  grpc::Status ListJobs(const Credentials& who);
  std::string CreateToken(const std::string& client = "");
  grpc::Status Submit(const std::string& name);

  // Runs on the loop's thread and waits; also flushes what was posted before.
  void OnLoop(std::function<void()> work);
  // All PeerRefused records, as "peer method reason".
  std::vector<std::string> Refusals();
  void WriteRevocationList(const std::vector<std::string>& serials);
  // Submits job "j" whose task for `client` names `blobs`; the client checks
  // in, so that it may upload and download.
  v1::TaskKey GiveTask(const Credentials& who, const std::string& client,
                       const std::vector<v1::BlobRef>& blobs);

  std::string folder_;
  base::ManualClock clock_;
  base::SystemRandom random_;
  crypto::CertificateAuthority ca_;
  Credentials coordinator_;
  Credentials operator_;
  FakeJobs jobs_;
  bool require_approval_ = false;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<CoordinatorServer> server_;
};

}  // namespace choir::rpc

#endif  // CHOIR_TESTS_INTEGRATION_RPC_SERVER_FIXTURE_H_
