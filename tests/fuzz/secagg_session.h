// One honest round of three clients, recorded, for the fuzz targets of secure
// aggregation: what everybody said in each phase.
#ifndef CHOIR_TESTS_FUZZ_SECAGG_SESSION_H_
#define CHOIR_TESTS_FUZZ_SECAGG_SESSION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/secagg_world.h"

namespace choir::secagg {

struct RecordedRound {
  static constexpr int kClients = 3;
  WorldOptions options;
  std::vector<v1::AdvertiseKeys> keys;
  // By phase, in order, then by client.
  struct Phase {
    std::vector<v1::SecureServerMessage> told;
    std::vector<v1::SecureClientMessage> answers;
    std::vector<std::string> payloads;
  };
  std::vector<Phase> phases;
};

inline RecordedRound RecordRound() {
  RecordedRound round;
  round.options.clients = RecordedRound::kClients;
  round.options.corrupt_fraction = 0;
  round.options.dropout_fraction = 0;
  round.options.length = 3;
  World world(round.options);
  Federation federation = Advertise(world);
  round.keys = federation.keys;
  ServerSession& server = *federation.server;
  while (server.phase() != Phase::kDone) {
    RecordedRound::Phase phase;
    for (int i = 0; i < RecordedRound::kClients; ++i) {
      phase.told.push_back(*server.MessageFor(world.name(i)));
      const auto step = federation.clients[i].Handle(phase.told.back());
      phase.answers.push_back(step->message);
      phase.payloads.push_back(step->payload);
      (void)server.Receive(world.name(i), step->message, step->payload);
    }
    (void)server.Close();
    round.phases.push_back(std::move(phase));
  }
  return round;
}

// `message` with some of its bytes changed as `edits` say (two bytes of place,
// one of exclusive or), or made of `edits` alone.
template <typename Message>
bool Edit(bool alone, std::string edits, const Message& message, Message* out) {
  if (alone) return out->ParseFromString(edits);
  std::string bytes = message.SerializeAsString();
  for (size_t i = 0; i + 3 <= edits.size() && !bytes.empty(); i += 3) {
    const size_t at = (static_cast<uint8_t>(edits[i]) << 8 |
                       static_cast<uint8_t>(edits[i + 1])) %
                      bytes.size();
    bytes[at] = static_cast<char>(bytes[at] ^ edits[i + 2]);
  }
  return out->ParseFromString(bytes);
}

}  // namespace choir::secagg

#endif  // CHOIR_TESTS_FUZZ_SECAGG_SESSION_H_
