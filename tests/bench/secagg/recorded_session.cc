#include "tests/bench/secagg/recorded_session.h"

#include <malloc.h>

#include <algorithm>
#include <fstream>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/files.h"
#include "tests/support/measure.h"

namespace choir::secagg {
namespace {

std::string ReadAll(const std::string& path) {
  auto bytes = base::ReadFile(path);
  CHOIR_CHECK(bytes.ok());
  return *std::move(bytes);
}

}  // namespace

int Threads() {
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

Figures RunRecorded(World& world, const std::string& folder,
                    Recording* recording, uint64_t words) {
  Figures figures;
  std::vector<ClientSession> clients;
  for (int i = 0; i < world.size(); ++i) {
    clients.push_back(world.Client(i, MaskedVector(32, words)));
    ClientStep step;
    figures.advertise_client +=
        tests::ThreadSeconds([&] { step = clients[i].Start(); });
    figures.advertise_server += tests::ThreadSeconds([&] {
      CHOIR_CHECK(CheckAdvertisement(world.session, world.name(i),
                                     step.message.advertise(), world.verifier())
                      .ok());
    });
    figures.keys_bytes = step.message.advertise().ByteSizeLong();
    if (!Silent(i)) figures.up["advertise"] += step.message.ByteSizeLong();
    recording->keys.push_back(step.message.advertise());
  }
  auto server = ServerSession::Create(world.session, 0, recording->keys,
                                      world.verifier());
  CHOIR_CHECK(server.ok());
  figures.degree = server->parameters().degree;
  figures.threshold = server->parameters().threshold;
  for (const Phase phase : kPhases) {
    if (server->phase() != phase) continue;
    const std::string name(PhaseName(phase));
    for (int i = 0; i < world.size(); ++i) {
      if (Silent(i) && phase != Phase::kShareKeys) continue;
      v1::SecureServerMessage message;
      figures.server[phase] += tests::ThreadSeconds(
          [&] { message = *server->MessageFor(world.name(i)); });
      absl::optional<ClientStep> step;
      figures.client[phase] +=
          tests::ThreadSeconds([&] { step = clients[i].Handle(message); });
      CHOIR_CHECK(step && !step->refused());
      if (!Silent(i)) {
        figures.down[name] += message.ByteSizeLong();
        figures.up[name] += step->message.ByteSizeLong() + step->payload.size();
      }
      figures.server[phase] += tests::ThreadSeconds([&] {
        CHOIR_CHECK(
            server->Receive(world.name(i), step->message, step->payload).ok());
      });
      Recording::Answer answer{world.name(i), step->message, ""};
      if (!step->payload.empty() && !folder.empty()) {
        answer.payload_path = absl::StrCat(folder, "/", i);
        std::ofstream(answer.payload_path, std::ios::binary) << step->payload;
      }
      recording->answers[phase].push_back(std::move(answer));
    }
    figures.server[phase] +=
        tests::ThreadSeconds([&] { CHOIR_CHECK(server->Close().ok()); });
  }
  for (int i = 0; i < world.size(); ++i) figures.stayed += !Silent(i);
  for (auto* sums : {&figures.up, &figures.down}) {
    for (auto& [name, bytes] : *sums) bytes /= figures.stayed;
  }
  base::ThreadPool pool(Threads());
  figures.sum = tests::WallSeconds([&] {
    const auto sum = server->Sum(&pool);
    CHOIR_CHECK(sum.ok());
    for (uint64_t k = 0; k < words; ++k) CHOIR_CHECK((*sum)[k] == 0);
  });
  return figures;
}

Replay ReplayServer(const World& world, const Recording& recording) {
  Replay replay;
  base::ThreadPool pool(Threads());
  malloc_trim(0);  // what the clients have left behind is not to be used again
  tests::ResetPeakMemory();
  const uint64_t before = tests::MemoryBytes("VmRSS");
  auto server = *ServerSession::Create(world.session, 0, recording.keys,
                                       world.verifier());
  for (const Phase phase : kPhases) {
    for (const Recording::Answer& answer : recording.answers.at(phase)) {
      const std::string payload =
          answer.payload_path.empty() ? "" : ReadAll(answer.payload_path);
      const double seconds = tests::ThreadSeconds([&] {
        CHOIR_CHECK(
            server.Receive(answer.client, answer.message, payload).ok());
      });
      if (phase == Phase::kMaskedInput) replay.receive += seconds;
    }
    CHOIR_CHECK(server.Close().ok());
  }
  replay.sum = tests::WallSeconds([&] {
    replay.sum_processor =
        tests::ProcessSeconds([&] { CHOIR_CHECK(server.Sum(&pool).ok()); });
  });
  replay.peak = tests::MemoryBytes("VmHWM") - before;
  return replay;
}

}  // namespace choir::secagg
