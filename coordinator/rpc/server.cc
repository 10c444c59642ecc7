#include "coordinator/rpc/server.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/security/server_credentials.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/cli.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "coordinator/rpc/admin_service.h"
#include "coordinator/rpc/agent_service.h"
#include "coordinator/rpc/connections.h"
#include "coordinator/rpc/front.h"
#include "coordinator/rpc/listener.h"
#include "coordinator/rpc/registered_peers.h"
#include "coordinator/runner/update_sum.h"

namespace choir::rpc {
namespace {

// Calls of one connection at a time; agents have one or two.
constexpr int kMostStreams = 16;
constexpr int kHandshakeTimeoutMs = 20000;
// What a call may send before anybody waits for it.
constexpr int kStreamWindowBytes = 1 << 20;
// Descriptors that are not connections; the rest is two for each.
constexpr int kOtherDescriptors = 256;

std::shared_ptr<grpc::ServerCredentials> TlsCredentials(
    const ServerOptions& options) {
  // gRPC asks for a certificate and lets TLS prove that the peer holds its key;
  // whether the certificate is any good is the gate's business.
  grpc::SslServerCredentialsOptions tls(
      GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_BUT_DONT_VERIFY);
  tls.pem_root_certs = options.ca_certificate_pem;
  tls.pem_key_cert_pairs.push_back(
      {std::string(options.private_key_pem.view()), options.certificate_pem});
  std::shared_ptr<grpc::ServerCredentials> credentials =
      grpc::SslServerCredentials(tls);
  crypto::Wipe(tls.pem_key_cert_pairs[0].private_key);
  return credentials;
}

class ServerImpl final : public CoordinatorServer {
 public:
  ServerImpl(ServerOptions options, store::Store& store,
             const base::Clock& clock, base::SecureRandom& random)
      : options_(std::move(options)),
        store_(store),
        clock_(clock),
        forward_(clock),
        random_(random),
        pool_(std::max(
            1, static_cast<int>(std::thread::hardware_concurrency()))) {}

  ~ServerImpl() override { Shutdown(absl::ZeroDuration()); }

  absl::Status Open() {
    CHOIR_RETURN_IF_ERROR(CheckOwnCertificate(options_, clock_.Now()));
    CHOIR_RETURN_IF_ERROR(
        store_.journal().ForEach([this](const store::JournalEntry& entry) {
          NoteUpdates(entry.record);
          CHOIR_RETURN_IF_ERROR(registry_.Apply(entry.record));
          return jobs_.Apply(entry.record);
        }));
    if (options_.loop.make_runner == nullptr) {
      options_.loop.make_runner = [this](const config::JobOptions& job,
                                         runner::RunnerHooks hooks) {
        return runner::JobRunner::Start(job, options_.runner, store_, forward_,
                                        &pool_, std::move(hooks));
      };
    }
    options_.loop.keep_updates = options_.runner.keep_updates;
    CHOIR_RETURN_IF_ERROR(FindUnreported());
    loop_ = std::make_unique<JobLoop>(options_.loop, store_, registry_, jobs_,
                                      board_, forward_);
    refusals_ =
        std::make_unique<RefusalLog>(clock_, [this](v1::PeerRefused refused) {
          v1::JournalRecord record;
          *record.mutable_peer_refused() = std::move(refused);
          loop_->Post([this, record = std::move(record)] {
            loop_->Record({record}).IgnoreError();  // logged there
          });
        });
    CHOIR_ASSIGN_OR_RETURN(
        gate_, Gate::Create({options_.ca_certificate_pem, options_.crl_path},
                            registry_, clock_, *refusals_));
    CHOIR_ASSIGN_OR_RETURN(
        peers_,
        RegisteredPeers::Create(options_.ca_certificate_pem, clock_, *gate_));
    options_.runner.verifier = peers_.get();
    options_.runner.random = &random_;
    enrolment_ = std::make_unique<Enrolment>(
        std::move(options_.enrolment), registry_, *loop_, clock_, random_);
    uploads_ = std::make_unique<Uploads>(options_.transfers, store_.blobs(),
                                         board_, *gate_);
    loop_->set_abandon_upload(
        [this](const std::string& client) { uploads_->Abandon(client); });
    const uint64_t chunk = options_.transfers.chunk_bytes;
    agents_ = std::make_unique<AgentService>(
        *gate_, *loop_, *enrolment_, *uploads_, board_, store_.blobs(), chunk);
    admin_ = std::make_unique<AdminService>(
        *loop_, registry_, jobs_, store_.blobs(), clock_, random_, chunk);
    BoundConnections();
    front_ = std::make_unique<Front>(*gate_, *connections_);
    agents_->AddTo(*front_);
    admin_->AddTo(*front_);
    v1::JournalRecord started;
    started.mutable_coordinator_started()->set_software_version(base::kVersion);
    started.mutable_coordinator_started()->set_config(options_.config_text);
    CHOIR_RETURN_IF_ERROR(store_.journal().Append({started}));
    return Listen();
  }

  int port() const override { return listener_->port(); }
  JobLoop& loop() override { return *loop_; }
  std::vector<v1::JobStatus> jobs() const override { return jobs_.All(); }

  void Shutdown(absl::Duration grace) override {
    // First the loop: it answers the calls that wait for it.
    if (loop_ != nullptr) loop_->Stop();
    if (listener_ != nullptr) listener_->Stop();
    if (server_ != nullptr) {
      server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
      server_.reset();
    }
  }

 private:
  // Which updates somebody looks after: their job's runner, or the operator who
  // had them kept. A finished job has no runner any more: if a crash came
  // before the updates of its last round were removed, nobody does.
  void NoteUpdates(const v1::JournalRecord& record) {
    if (record.has_round_started()) {
      last_round_[record.round_started().job()].clear();
    } else if (record.has_update_accepted()) {
      const v1::UpdateAccepted& update = record.update_accepted();
      accepted_.insert(update.report().update().digest());
      last_round_[update.key().job()].push_back(
          update.report().update().digest());
    } else if (record.has_job_finished()) {
      for (const auto& digest : last_round_[record.job_finished().job()]) {
        accepted_.erase(digest);
      }
      last_round_.erase(record.job_finished().job());
    }
  }

  // Updates that had arrived, and that nobody looks after, when the last run
  // ended.
  absl::Status FindUnreported() {
    CHOIR_ASSIGN_OR_RETURN(const std::vector<std::string> digests,
                           store_.blobs().List());
    for (const std::string& digest : digests) {
      if (accepted_.contains(digest) || jobs_.IsModelBlob(digest)) continue;
      if (runner::IsMaskedBlob(store_.blobs(), digest)) {
        // Its session went with the process before.
        CHOIR_RETURN_IF_ERROR(store_.blobs().Remove(digest));
      } else if (runner::IsUpdateBlob(store_.blobs(), digest)) {
        board_.Unclaimed(digest);
      }
    }
    accepted_.clear();
    last_round_.clear();
    return runner::RemoveMaskedIncoming(store_.blobs());
  }

  void BoundConnections() {
    ConnectionLimits limits = options_.connections;
    const int descriptors =
        RaiseDescriptorLimit(2 * limits.most + kOtherDescriptors);
    limits.most = std::clamp((descriptors - kOtherDescriptors) / 2, 1,
                             std::max(1, limits.most));
    if (limits.most < options_.connections.most) {
      base::LogInfo("the system's limit of ", descriptors,
                    " descriptors (ulimit -n) leaves room for ", limits.most,
                    " connections");
    }
    connections_ = std::make_unique<Connections>(limits, forward_);
  }

  absl::Status Listen() {
    CHOIR_ASSIGN_OR_RETURN(listener_,
                           Listener::Bind(options_.listen, *connections_));
    grpc::ServerBuilder builder;
    acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
        grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
        TlsCredentials(options_));
    builder.RegisterCallbackGenericService(front_.get());
    // gRPC compares a message's size with a limit only when all of it is in
    // memory; and it tells nobody. Connections and MessageStream do.
    builder.SetMaxReceiveMessageSize(-1);
    SetArguments(builder);
    // The loop must run before the first call comes in.
    loop_->Start();
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) {
      return absl::UnavailableError(
          "cannot serve: the certificate or its key is not usable");
    }
    // Only what it names: the key is gRPC's now.
    options_.private_key_pem = crypto::SecretString();
    listener_->Start({[this](int listener_fd, int fd) {
                        grpc::experimental::ExternalConnectionAcceptor::
                            NewConnectionParameters parameters;
                        parameters.listener_fd = listener_fd;
                        parameters.fd = fd;
                        acceptor_->HandleNewConnection(&parameters);
                      },
                      [this](const std::string& peer, const absl::Status& why) {
                        refusals_->Refused(peer, "connect", "connections",
                                           why.message());
                      }});
    return absl::OkStatus();
  }

  static void SetArguments(grpc::ServerBuilder& builder) {
    // Packed messages would grow in memory: they stay packed, and nobody can
    // decode them.
    builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMostStreams);
    builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS,
                               kHandshakeTimeoutMs);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES,
                               kStreamWindowBytes);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(
        GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  }

  ServerOptions options_;
  store::Store& store_;
  const base::Clock& clock_;
  // Of deadlines and waits; certificates and tokens go by clock_.
  const base::ForwardClock forward_;
  base::SecureRandom& random_;
  base::ThreadPool pool_;
  registry::Registry registry_;
  JobTable jobs_;
  WorkBoard board_;
  // While starting, see NoteUpdates(): all of these updates, and those of each
  // job's last round.
  absl::flat_hash_set<std::string> accepted_;
  absl::flat_hash_map<std::string, std::vector<std::string>> last_round_;
  std::unique_ptr<JobLoop> loop_;
  std::unique_ptr<RefusalLog> refusals_;
  std::unique_ptr<Gate> gate_;
  std::unique_ptr<RegisteredPeers> peers_;
  std::unique_ptr<Enrolment> enrolment_;
  std::unique_ptr<Uploads> uploads_;
  std::unique_ptr<AgentService> agents_;
  std::unique_ptr<AdminService> admin_;
  std::unique_ptr<Connections> connections_;
  std::unique_ptr<Front> front_;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::Status CheckOwnCertificate(const ServerOptions& options, absl::Time now) {
  CHOIR_ASSIGN_OR_RETURN(
      const crypto::CertificateVerifier verifier,
      crypto::CertificateVerifier::Create(options.ca_certificate_pem));
  const crypto::Verdict verdict = verifier.Check(options.certificate_pem, now);
  if (!verdict.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the coordinator's own certificate: ", verdict.message));
  }
  if (verdict.info.role != crypto::Role::kCoordinator) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the certificate of \"", verdict.info.name, "\" has role \"",
        crypto::RoleName(verdict.info.role),
        "\"; make one with `choir-admin ca issue --role coordinator`"));
  }
  CHOIR_ASSIGN_OR_RETURN(
      const crypto::PrivateKey key,
      crypto::PrivateKey::FromPem(options.private_key_pem.view()));
  CHOIR_ASSIGN_OR_RETURN(const std::string public_key, key.PublicKeySha256());
  if (public_key != verdict.info.public_key_sha256) {
    return absl::InvalidArgumentError(
        "the coordinator's private key does not belong to its certificate");
  }
  if (verdict.info.not_after < now + absl::Hours(24 * 14)) {
    base::LogWarning(
        "the coordinator's certificate expires at ",
        absl::FormatTime(verdict.info.not_after, absl::UTCTimeZone()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(
    ServerOptions options, store::Store& store, const base::Clock& clock,
    base::SecureRandom& random) {
  auto server =
      std::make_unique<ServerImpl>(std::move(options), store, clock, random);
  CHOIR_RETURN_IF_ERROR(server->Open());
  return server;
}

}  // namespace choir::rpc
