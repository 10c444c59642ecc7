// A whole session of many clients in one process, timed phase by phase, and the
// coordinator's part of it once more without the clients'.
#ifndef CHOIR_TESTS_BENCH_SECAGG_RECORDED_SESSION_H_
#define CHOIR_TESTS_BENCH_SECAGG_RECORDED_SESSION_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/support/secagg_world.h"

namespace choir::secagg {

// What clients sent, in the order of phases, so that the coordinator's work can
// be repeated without theirs. Vectors stay in files.
struct Recording {
  std::vector<v1::AdvertiseKeys> keys;
  struct Answer {
    std::string client;
    v1::SecureClientMessage message;
    std::string payload_path;
  };
  std::map<Phase, std::vector<Answer>> answers;
};

inline constexpr std::array<Phase, 4> kPhases = {
    Phase::kShareKeys, Phase::kMaskedInput, Phase::kConfirm, Phase::kUnmask};

// One client's bytes, and all clients' and the coordinator's time, by phase.
struct Figures {
  double advertise_client = 0, advertise_server = 0;
  std::map<Phase, double> client, server;
  double sum = 0;
  std::map<std::string, double> up, down;  // means per client that stayed
  int degree = 0, threshold = 0, stayed = 0;
  size_t keys_bytes = 0;
};

// Every tenth client falls silent after sharing.
inline bool Silent(int i) { return i % 10 == 3; }

// All cores.
int Threads();

// Runs the session with vectors of `words` zeros and appends to `recording`.
// `folder`: for the vectors; empty: they are not recorded.
Figures RunRecorded(World& world, const std::string& folder,
                    Recording* recording, uint64_t words);

// Seconds to take all vectors in, to remove the masks (on the wall and of the
// processor), and the bytes of memory that all of it added.
struct Replay {
  double receive = 0, sum = 0, sum_processor = 0;
  uint64_t peak = 0;
};

Replay ReplayServer(const World& world, const Recording& recording);

}  // namespace choir::secagg

#endif  // CHOIR_TESTS_BENCH_SECAGG_RECORDED_SESSION_H_
