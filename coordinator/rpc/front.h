// Where every call comes in: finds the method, asks the gate about the peer,
// and only then reads what the peer sends.
#ifndef CHOIR_COORDINATOR_RPC_FRONT_H_
#define CHOIR_COORDINATOR_RPC_FRONT_H_

#include <grpcpp/generic/async_generic_service.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "coordinator/rpc/connections.h"
#include "coordinator/rpc/gate.h"
#include "coordinator/rpc/message_stream.h"

namespace choir::rpc {

// Largest request of a unary call that peers of the agent role or none send.
inline constexpr uint64_t kMaxUnaryBytes = 64u << 10;
// Largest request of an operator (a job's configuration).
inline constexpr uint64_t kMaxAdminBytes = 1u << 20;

struct MethodRules {
  Access access = Access::kOperators;
  uint64_t max_message_bytes = kMaxUnaryBytes;
  std::string remedy;
};

// Threads: methods are added before the server starts; then safe.
class Front final : public grpc::CallbackGenericService {
 public:
  using Opener = std::function<std::shared_ptr<MessageStream>(CallInfo info)>;

  // The references outlive the calls.
  Front(Gate& gate, Connections& connections)
      : gate_(gate), connections_(connections) {}

  // `method` is "/service/Method".
  void Add(const std::string& method, MethodRules rules, Opener opener);

  template <typename Request, typename Response>
  void AddUnary(const std::string& method, MethodRules rules,
                typename UnaryCall<Request, Response>::Handler handler) {
    Add(method, std::move(rules),
        [handler = std::move(handler)](CallInfo info) {
          return std::make_shared<UnaryCall<Request, Response>>(std::move(info),
                                                                handler);
        });
  }

  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override;

 private:
  struct Method {
    MethodRules rules;
    Opener opener;
  };

  Gate& gate_;
  Connections& connections_;
  absl::flat_hash_map<std::string, Method> methods_;
};

}  // namespace choir::rpc

#endif  // CHOIR_COORDINATOR_RPC_FRONT_H_
