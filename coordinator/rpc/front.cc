#include "coordinator/rpc/front.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/rpc/refusal_log.h"

namespace choir::rpc {
namespace {

// The certificate the peer showed in the TLS handshake, and its address.
PeerEvidence EvidenceOf(const grpc::CallbackServerContext& context) {
  PeerEvidence evidence;
  evidence.address = context.peer();
  const auto certificates =
      context.auth_context()->FindPropertyValues("x509_pem_cert");
  if (!certificates.empty()) {
    evidence.certificate_pem =
        std::string(certificates[0].data(), certificates[0].size());
  }
  return evidence;
}

}  // namespace

void Front::Add(const std::string& method, MethodRules rules, Opener opener) {
  const bool added =
      methods_.emplace(method, Method{std::move(rules), std::move(opener)})
          .second;
  CHOIR_CHECK(added);
}

grpc::ServerGenericBidiReactor* Front::CreateReactor(
    grpc::GenericCallbackServerContext* context) {
  const auto method = methods_.find(context->method());
  if (method == methods_.end()) {
    return RefuseCall(absl::UnimplementedError(
        absl::StrCat("this coordinator knows no method ",
                     PrintableText(context->method()))));
  }
  const auto& [rules, opener] = method->second;
  const PeerEvidence evidence = EvidenceOf(*context);
  absl::StatusOr<PeerIdentity> peer =
      gate_.Authenticate(evidence, method->first, rules.access);
  if (!peer.ok()) return RefuseCall(peer.status());
  if (rules.access != Access::kAnybody) connections_.Proven(evidence.address);
  return MessageStream::Begin(
      opener({gate_, connections_, *std::move(peer), evidence.address,
              method->first, rules.max_message_bytes, rules.remedy}));
}

}  // namespace choir::rpc
