#include "tests/e2e/refusals/raw_peer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/sha256.h"
#include "client/agent/blob_cache.h"
#include "client/rpc/grpc_transport.h"
#include "model/checkpoint/safetensors.h"
#include "proto/codec/flat_update.h"
#include "tests/support/golden.h"

namespace choir::tests {
namespace {

constexpr size_t kChunkBytes = 256 << 10;
constexpr uint64_t kCacheBytes = 64 << 20;

std::string DigestBytes(absl::string_view data) {
  const base::Sha256Digest digest = base::Sha256Of(data);
  return std::string(reinterpret_cast<const char*>(digest.data()),
                     digest.size());
}

}  // namespace

std::unique_ptr<client::Transport> Dial(const Cluster& cluster) {
  client::GrpcTransportOptions options;
  options.address = cluster.address();
  options.ca_certificate_pem = *base::ReadFile(cluster.PathOf("ca/ca.crt"));
  auto transport = client::MakeGrpcTransport(options);
  CHOIR_CHECK(transport.ok());
  return *std::move(transport);
}

absl::StatusOr<v1::EnrollResponse> Enrol(client::Transport& transport,
                                         const std::string& name,
                                         const std::string& token,
                                         const crypto::PrivateKey& key) {
  v1::EnrollRequest request;
  request.set_name(name);
  request.set_token(token);
  request.set_certificate_request_pem(
      *crypto::MakeCertificateRequest(key, name, crypto::Role::kAgent));
  return transport.Enroll(request);
}

std::string NewToken(Cluster& cluster, const std::string& name) {
  const CommandResult token =
      cluster.Admin({"token", "create", "--client", name, "--json"});
  CHOIR_CHECK(token.exit_code == 0);
  return nlohmann::json::parse(token.out)["token"].get<std::string>();
}

std::string ZeroUpdate(const codec::Layout& layout) {
  return codec::EncodeFlatUpdate(
      layout,
      std::vector<float>(static_cast<size_t>(layout.num_elements()), 0.0f));
}

v1::BlobRef RefOf(const std::string& bytes) {
  v1::BlobRef blob;
  blob.set_digest(base::Sha256Hex(bytes));
  blob.set_size(bytes.size());
  return blob;
}

RawPeer::RawPeer(Cluster& cluster, const std::string& name)
    : blobs_(NewTempDir()), transport_(Dial(cluster)) {
  const auto key = crypto::PrivateKey::Generate();
  CHOIR_CHECK(key.ok());
  const auto enrolled = Enrol(*transport_, name, NewToken(cluster, name), *key);
  CHOIR_CHECK(enrolled.ok());
  const auto pem = key->ToPem();
  CHOIR_CHECK(pem.ok());
  CHOIR_CHECK(
      transport_->UseIdentity(enrolled->certificate_pem(), pem->view()).ok());
}

v1::TaskPlan RawPeer::NextTask() {
  while (true) {
    const auto answer = transport_->CheckIn(v1::CheckInRequest());
    CHOIR_CHECK(answer.ok());
    if (answer->has_task()) return answer->task();
  }
}

codec::Layout RawPeer::LayoutOf(const v1::TaskPlan& plan) {
  const base::WallClock clock;
  client::BlobCache cache(blobs_, kCacheBytes, clock);
  const auto path = cache.Fetch(plan.adapter(), *transport_, {});
  CHOIR_CHECK(path.ok());
  const auto file = model::SafetensorsFile::Open(*path);
  CHOIR_CHECK(file.ok());
  std::vector<codec::TensorSpec> specs;
  for (const model::TensorView& tensor : file->tensors()) {
    specs.push_back({tensor.name, tensor.shape});
  }
  const auto layout = codec::Layout::Create(std::move(specs));
  CHOIR_CHECK(layout.ok() && layout->digest() == plan.layout_digest());
  return *layout;
}

absl::StatusOr<v1::UploadStatusResponse> RawPeer::Upload(
    const v1::TaskKey& key, const v1::BlobRef& blob, absl::string_view bytes) {
  v1::UploadStatusRequest question;
  *question.mutable_key() = key;
  *question.mutable_blob() = blob;
  const auto known = transport_->GetUploadStatus(question);
  if (!known.ok()) return known.status();
  // Equal updates have one blob, which may be there already.
  if (known->received_bytes() == blob.size()) return *known;
  const size_t begin = known->received_bytes();
  size_t offset = begin;
  return transport_->Upload(
      [&](v1::UploadChunk* chunk) -> absl::StatusOr<bool> {
        if (offset >= bytes.size()) return false;
        chunk->Clear();
        if (offset == begin) {
          *chunk->mutable_key() = key;
          *chunk->mutable_blob() = blob;
        }
        const absl::string_view data = bytes.substr(offset, kChunkBytes);
        chunk->set_offset(offset);
        chunk->set_data(std::string(data));
        chunk->set_data_sha256(DigestBytes(data));
        offset += data.size();
        return true;
      });
}

absl::StatusOr<v1::UploadStatusResponse> RawPeer::Send(v1::UploadChunk chunk) {
  if (chunk.data_sha256().empty()) {
    chunk.set_data_sha256(DigestBytes(chunk.data()));
  }
  bool sent = false;
  return transport_->Upload([&](v1::UploadChunk* out) -> absl::StatusOr<bool> {
    if (sent) return false;
    *out = chunk;
    sent = true;
    return true;
  });
}

v1::ReportRequest RawPeer::Report(const v1::TaskKey& key,
                                  const v1::BlobRef& update) {
  v1::ReportRequest request;
  *request.mutable_key() = key;
  v1::TrainReport& train = *request.mutable_train();
  *train.mutable_update() = update;
  train.set_num_examples(10);
  train.set_steps(2);
  train.set_tokens(100);
  train.set_mean_loss(2.5);
  return request;
}

}  // namespace choir::tests
