// Any message of the coordinator, in any state of a client: an answer or a
// refusal; a refusal ends the session, and secrets go out only for the
// survivors that were confirmed.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "tests/fuzz/secagg_session.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace choir::secagg;  // NOLINT(build/namespaces): a fuzz target
  static const RecordedRound& round = *new RecordedRound(RecordRound());
  if (size < 2) return 0;
  const size_t phase = data[0] % round.phases.size();
  const std::string edits(reinterpret_cast<const char*>(data + 2), size - 2);
  choir::v1::SecureServerMessage message;
  if (!Edit(data[1] % 2 == 1, edits, round.phases[phase].told[0], &message)) {
    return 0;
  }
  // Always the same client with the same secrets.
  static World& world = *new World(round.options);
  world.history(0).ForgetAll();
  SeededRandom random(world.ClientSeed(0));
  ClientSession honest(world.session, world.expectations(), world.Input(0),
                       world.Environment(0, random));
  CHOIR_CHECK(!honest.Start().refused());
  for (size_t i = 0; i < phase; ++i) {
    const auto step = honest.Handle(round.phases[i].told[0]);
    CHOIR_CHECK(step && !step->refused());
  }
  const auto step = honest.Handle(message);
  if (!step) return 0;
  CHOIR_CHECK(step->refused() == honest.finished());
  if (step->message.has_unmask()) {
    CHOIR_CHECK(message.unmask().survivors().survivors() ==
                round.phases[phase].told[0].unmask().survivors().survivors());
  }
  if (!step->refused()) {
    const auto again = honest.Handle(message);
    CHOIR_CHECK(again && again->message.SerializeAsString() ==
                             step->message.SerializeAsString());
  }
  return 0;
}
