// Model distribution over loopback with mutual TLS, against bare gRPC streaming
// with the same TLS in the same run; and the coordinator's peak memory while 8
// agents download 256 MiB each.
//
// Compared are equals: chunks that arrive and are let go, and files that are
// written and whose digest is known in the end. Exit 1 unless both reach 70 %
// of bare streaming and memory stays below 2 * payload + 64 MiB.
//
// Both ends share the machine's cores, so that processor time decides; it is
// printed for both ends together, and other work disturbs it less than speed.
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/files.h"
#include "base/process.h"
#include "base/sha256.h"
#include "client/agent/blob_cache.h"
#include "client/rpc/grpc_transport.h"
#include "model/checkpoint/safetensors.h"
#include "privacy/crypto/identity.h"
#include "tests/bench/transfer/bare_stream.h"
#include "tests/support/cluster.h"
#include "tests/support/golden.h"
#include "tests/support/measure.h"

namespace choir::bench {
namespace {

constexpr int kAgents = 8;
constexpr int kPairs = 5;
constexpr double kLeastRatio = 0.7;
constexpr uint64_t kHidden = 512;
constexpr uint64_t kVocabulary = 131072;
constexpr uint64_t kPayload = kVocabulary * kHidden * 4;  // 256 MiB
constexpr double kMib = 1024.0 * 1024.0;

// A Llama-shaped folder whose embedding alone has 256 MiB.
std::string MakeBigModel() {
  const std::string dir = tests::NewTempDir();
  const std::string micro = tests::SourceDir() + "/tests/data/micro-llama/";
  nlohmann::json config =
      nlohmann::json::parse(*base::ReadFile(micro + "config.json"));
  config["vocab_size"] = kVocabulary;
  config["hidden_size"] = kHidden;
  config["num_hidden_layers"] = 1;
  config["num_attention_heads"] = 8;
  config["num_key_value_heads"] = 8;
  config["intermediate_size"] = 8;
  config.erase("head_dim");
  CHOIR_CHECK(base::WriteFileAtomic(dir + "/config.json", config.dump()).ok());
  CHOIR_CHECK(base::WriteFileAtomic(dir + "/tokenizer.json",
                                    *base::ReadFile(micro + "tokenizer.json"))
                  .ok());
  const std::vector<std::pair<std::string, std::vector<int64_t>>> shapes = {
      {"model.embed_tokens.weight", {kVocabulary, kHidden}},
      {"model.norm.weight", {kHidden}},
      {"model.layers.0.input_layernorm.weight", {kHidden}},
      {"model.layers.0.post_attention_layernorm.weight", {kHidden}},
      {"model.layers.0.self_attn.q_proj.weight", {kHidden, kHidden}},
      {"model.layers.0.self_attn.k_proj.weight", {kHidden, kHidden}},
      {"model.layers.0.self_attn.v_proj.weight", {kHidden, kHidden}},
      {"model.layers.0.self_attn.o_proj.weight", {kHidden, kHidden}},
      {"model.layers.0.mlp.gate_proj.weight", {8, kHidden}},
      {"model.layers.0.mlp.up_proj.weight", {8, kHidden}},
      {"model.layers.0.mlp.down_proj.weight", {kHidden, 8}}};
  const std::string zeros(kPayload, '\0');
  std::vector<model::TensorView> tensors;
  for (const auto& [name, shape] : shapes) {
    uint64_t bytes = 4;
    for (const int64_t dimension : shape) bytes *= dimension;
    model::TensorView tensor;
    tensor.name = name;
    tensor.dtype = model::DType::kF32;
    tensor.shape = shape;
    tensor.bytes = absl::string_view(zeros).substr(0, bytes);
    tensors.push_back(tensor);
  }
  CHOIR_CHECK(base::WriteFileAtomic(dir + "/model.safetensors",
                                    model::EncodeSafetensors(tensors),
                                    base::Durability::kProcessCrash)
                  .ok());
  return dir;
}

// Processor time that a process has used so far, in seconds.
double ProcessorSeconds(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string word;
  // The name, second, is in brackets and has no space here.
  for (int i = 0; i < 13; ++i) file >> word;
  double user = 0.0;
  double system = 0.0;
  file >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

class Bench {
 public:
  Bench() : model_(MakeBigModel()) {
    cluster_.StartCoordinator();
    std::string port = *base::ReadFile(cluster_.PathOf("port"));
    address_ = absl::StrCat("127.0.0.1:", std::stoi(port));
    cluster_.Submit(
        absl::StrCat("name = \"big\"\n[model]\nbase = \"", model_,
                     "\"\n[rounds]\ncount = 1\ncohort_size = ", kAgents,
                     "\ndeadline = \"30m\"\n[evaluation]\n"
                     "every = 0\n"));
    const std::string file = model_ + "/model.safetensors";
    CHOIR_CHECK(base::FileSize(file).ok());
    blob_.set_size(*base::FileSize(file));
    base::Sha256 hasher;
    hasher.Update((*base::MappedFile::Open(file))->bytes());
    blob_.set_digest(base::ToHex(hasher.Finish()));
    while (cluster_.ShowJob("big").state != "running") {
      absl::SleepFor(absl::Milliseconds(20));
    }
    for (int i = 0; i < kAgents; ++i) transports_.push_back(Enrol(i));
    TakeTasks();
    bare_ = tests::Process::Start(
        {"/proc/self/exe", "--serve-bare", cluster_.dir()}, "");
    CHOIR_CHECK(tests::WaitForFile(cluster_.PathOf("bare-port"),
                                   absl::Seconds(30), bare_.get()));
  }

  // MiB/s of one agent's connection.
  double Stream() {
    v1::DownloadRequest request;
    request.set_digest(blob_.digest());
    uint64_t received = 0;
    const double used_before = UsedByChoir();
    const absl::Time start = absl::Now();
    const absl::Status status = transports_[0]->Download(
        request, [&received](const client::DownloadedChunk& chunk) {
          received += chunk.size();
          return absl::OkStatus();
        });
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
    choir_seconds_ += UsedByChoir() - used_before;
    CHOIR_CHECK(status.ok() && received == blob_.size());
    return static_cast<double>(received) / kMib / seconds;
  }

  // MiB/s of `agents` downloads at once, to files and digests.
  double Files(int agents) {
    std::vector<std::string> folders;
    for (int i = 0; i < agents; ++i) folders.push_back(tests::NewTempDir());
    const double used_before = UsedByChoir();
    const absl::Time start = absl::Now();
    std::vector<std::thread> threads;
    for (int i = 0; i < agents; ++i) {
      threads.emplace_back([this, i, &folders] {
        client::BlobCache cache(folders[i], 2 * kPayload, clock_);
        const auto path = cache.Fetch(blob_, *transports_[i], {});
        if (!path.ok()) {
          std::fprintf(stderr, "download: %s\n",
                       path.status().ToString().c_str());
        }
        CHOIR_CHECK(path.ok());
      });
    }
    for (std::thread& thread : threads) thread.join();
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
    choir_seconds_ += UsedByChoir() - used_before;
    for (const std::string& folder : folders) {
      std::remove((folder + "/" + blob_.digest()).c_str());
    }
    return agents * static_cast<double>(blob_.size()) / kMib / seconds;
  }

  // MiB/s of a bare client, a program of its own as the server is: "stream" or
  // "file".
  double Bare(const std::string& what) {
    const tests::CommandResult result = tests::RunCommand(
        {"/proc/self/exe", "--read-bare", cluster_.dir(), what});
    CHOIR_CHECK(result.exit_code == 0);
    BareRead read;
    CHOIR_CHECK(std::sscanf(result.out.c_str(), "%lf %lf", &read.seconds,
                            &read.processor_seconds) == 2);
    bare_clients_seconds_ += read.processor_seconds;
    return kPayload / kMib / read.seconds;
  }

  // Processor time of both ends for all transfers so far.
  double ChoirProcessorSeconds() const { return choir_seconds_; }
  double BareProcessorSeconds() {
    return bare_clients_seconds_ + ProcessorSeconds(bare_->pid());
  }

  double CoordinatorPeakMib() {
    return tests::MemoryBytes("VmHWM", cluster_.coordinator()->pid()) /
           1048576.0;
  }

 private:
  // The agents are in this process.
  double UsedByChoir() {
    return UsedSeconds() + ProcessorSeconds(cluster_.coordinator()->pid());
  }

  // Only the files of its task are an agent's to download.
  void TakeTasks() {
    std::vector<std::thread> threads;
    for (const auto& transport : transports_) {
      threads.emplace_back([&transport] {
        while (true) {
          const auto answer = transport->CheckIn(v1::CheckInRequest());
          CHOIR_CHECK(answer.ok());
          if (answer->has_task()) return;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  std::unique_ptr<client::Transport> Enrol(int index) {
    const std::string name = absl::StrCat("agent-", index);
    const tests::CommandResult token =
        cluster_.Admin({"token", "create", "--client", name, "--json"});
    const auto key = crypto::PrivateKey::Generate();
    CHOIR_CHECK(key.ok());
    client::GrpcTransportOptions options;
    options.address = address_;
    options.ca_certificate_pem = *base::ReadFile(cluster_.PathOf("ca/ca.crt"));
    auto transport = client::MakeGrpcTransport(options);
    CHOIR_CHECK(transport.ok());
    v1::EnrollRequest request;
    request.set_name(name);
    request.set_token(
        nlohmann::json::parse(token.out)["token"].get<std::string>());
    request.set_certificate_request_pem(
        *crypto::MakeCertificateRequest(*key, name, crypto::Role::kAgent));
    const auto enrolled = (*transport)->Enroll(request);
    CHOIR_CHECK(enrolled.ok());
    const auto key_pem = key->ToPem();
    CHOIR_CHECK(key_pem.ok());
    CHOIR_CHECK((*transport)
                    ->UseIdentity(enrolled->certificate_pem(), key_pem->view())
                    .ok());
    return std::move(*transport);
  }

  std::string model_;
  tests::Cluster cluster_;
  std::string address_;
  v1::BlobRef blob_;
  base::WallClock clock_;
  std::vector<std::unique_ptr<client::Transport>> transports_;
  std::unique_ptr<tests::Process> bare_;
  double choir_seconds_ = 0.0;
  double bare_clients_seconds_ = 0.0;
};

// Medians of pairs that are measured in turn; mean processor seconds of one.
struct Comparison {
  double choir = 0.0;
  double bare = 0.0;
  double ratio = 0.0;
  double choir_seconds = 0.0;
  double bare_seconds = 0.0;
};
Comparison Compare(Bench& bench, const std::function<double()>& choir,
                   const std::function<double()>& bare) {
  std::vector<double> ours, theirs, ratios;
  bare();
  choir();
  Comparison result;
  for (int pair = 0; pair < kPairs; ++pair) {
    const double before_bare = bench.BareProcessorSeconds();
    theirs.push_back(bare());
    result.bare_seconds += bench.BareProcessorSeconds() - before_bare;
    const double before_choir = bench.ChoirProcessorSeconds();
    ours.push_back(choir());
    result.choir_seconds += bench.ChoirProcessorSeconds() - before_choir;
    ratios.push_back(ours.back() / theirs.back());
  }
  result.choir = tests::Median(ours);
  result.bare = tests::Median(theirs);
  result.ratio = tests::Median(ratios);
  result.choir_seconds /= kPairs;
  result.bare_seconds /= kPairs;
  return result;
}

int Run() {
  Bench bench;
  const Comparison stream = Compare(
      bench, [&] { return bench.Stream(); },
      [&] { return bench.Bare("stream"); });
  const Comparison file = Compare(
      bench, [&] { return bench.Files(1); },
      [&] { return bench.Bare("file"); });
  const double eight = bench.Files(kAgents);
  const double peak = bench.CoordinatorPeakMib();
  const double limit = 2 * kPayload / kMib + 64;
  std::printf("payload 256 MiB, mutual TLS, medians of %d pairs, MiB/s:\n",
              kPairs);
  for (const auto& [name, pair] :
       {std::pair("stream", stream), std::pair("file + SHA-256", file)}) {
    std::printf(
        "  %-15s choir %5.0f, bare gRPC %5.0f, ratio %.2f; processor seconds "
        "%.2f, %.2f, ratio %.2f\n",
        name, pair.choir, pair.bare, pair.ratio, pair.choir_seconds,
        pair.bare_seconds, pair.bare_seconds / pair.choir_seconds);
  }
  std::printf(
      "  file + SHA-256 against a bare stream that does neither: %.2f, by "
      "processor time %.2f\n"
      "8 agents at once: %.0f MiB/s, coordinator peak memory %.0f MiB (limit "
      "%.0f)\n",
      file.choir / stream.bare, stream.bare_seconds / file.choir_seconds, eight,
      peak, limit);
  const bool good =
      stream.ratio >= kLeastRatio && file.ratio >= kLeastRatio && peak < limit;
  if (!good) std::printf("below what is promised\n");
  return good ? 0 : 1;
}

}  // namespace
}  // namespace choir::bench

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() == 2 && arguments[0] == "--serve-bare") {
    const std::string& dir = arguments[1];
    return choir::bench::ServeBareStream(
        {dir + "/ca/ca.crt", dir + "/ca/coordinator.crt",
         dir + "/ca/coordinator.key"},
        choir::bench::kPayload, 1 << 20, dir + "/bare-port");
  }
  if (arguments.size() == 3 && arguments[0] == "--read-bare") {
    const std::string& dir = arguments[1];
    const choir::bench::BareRead read = choir::bench::ReadBareStream(
        {dir + "/ca/ca.crt", dir + "/ca/operator.crt",
         dir + "/ca/operator.key"},
        absl::StrCat("127.0.0.1:", *choir::base::ReadFile(dir + "/bare-port")),
        choir::bench::kPayload, arguments[2] == "file" ? dir + "/bare" : "");
    std::printf("%.6f %.6f\n", read.seconds, read.processor_seconds);
    return 0;
  }
  choir::base::PrepareProcess();  // as an agent does
  return choir::bench::Run();
}
