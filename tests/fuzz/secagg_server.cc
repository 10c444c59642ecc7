// Any answer of one client, in any phase: taken or not, the others' round goes
// on, and what comes out is the sum of those who took part, or an error.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "base/sha256.h"
#include "tests/fuzz/secagg_session.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace choir::secagg;  // NOLINT(build/namespaces): a fuzz target
  static const RecordedRound& round = *new RecordedRound(RecordRound());
  static const World& world = *new World(round.options);
  if (size < 2) return 0;
  // The last one is the advertisement.
  const size_t phase = data[0] % (round.phases.size() + 1);
  const bool alone = data[1] % 2 == 1;
  std::string edits(reinterpret_cast<const char*>(data + 2), size - 2);
  if (phase == round.phases.size()) {
    choir::v1::AdvertiseKeys keys;
    if (!Edit(alone, std::move(edits), round.keys[0], &keys)) return 0;
    if (CheckAdvertisement(world.session, world.name(0), keys, world.verifier())
            .ok()) {
      CHOIR_CHECK(keys.mask_public_key() == round.keys[0].mask_public_key());
    }
    return 0;
  }
  choir::v1::SecureClientMessage message;
  bool other_vector = false;
  std::string payload = round.phases[phase].payloads[0];
  if (data[1] % 4 == 2 && !payload.empty()) {
    payload = edits;
    message = round.phases[phase].answers[0];
    message.mutable_masked()->set_size(payload.size());
    message.mutable_masked()->set_digest(choir::base::Sha256Hex(payload));
    other_vector = true;
  } else if (!Edit(alone, std::move(edits), round.phases[phase].answers[0],
                   &message)) {
    return 0;
  }
  auto server =
      ServerSession::Create(world.session, 0, round.keys, world.verifier());
  CHOIR_CHECK(server.ok());
  for (size_t i = 0; i < round.phases.size(); ++i) {
    const RecordedRound::Phase& now = round.phases[i];
    if (i == phase) {
      (void)server->Receive(world.name(0), message, payload);
    }
    for (int k = 0; k < RecordedRound::kClients; ++k) {
      (void)server->Receive(world.name(k), now.answers[k], now.payloads[k]);
    }
    if (!server->Close().ok()) return 0;
  }
  const auto sum = server->Sum(nullptr);
  if (sum.ok() && !other_vector) {
    CHOIR_CHECK(Difference(*sum, world.PlainSum(server->survivors())).empty());
  }
  return 0;
}
