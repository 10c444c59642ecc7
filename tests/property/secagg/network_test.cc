// A round of 24 clients over a network that spoils one message: it is lost, or
// comes twice, or a phase late, or with a flipped bit. Whichever message it is,
// the round ends with the sum of those who took part, and costs one client at
// most.
#include <atomic>
#include <deque>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "gtest/gtest.h"
#include "tests/support/secagg_world.h"

namespace choir::secagg {
namespace {

enum class Fault { kDrop, kDuplicate, kDelay, kCorrupt };
constexpr const char* kFaultNames[] = {"dropped", "duplicated", "delayed",
                                       "corrupted"};

// What goes over the wire. `payload` is the upload that precedes a MaskedInput.
struct Packet {
  int client = 0;
  bool to_server = false;
  std::string bytes;
  std::string payload;
};

class Network {
 public:
  // The fault is done to the message with this number.
  Network(int clients, int victim_message, Fault fault)
      : victim_message_(victim_message), fault_(fault) {
    WorldOptions options;
    options.clients = clients;
    options.seed = 4;
    options.dropout_fraction = 0.2;
    options.length = 3;
    world_ = std::make_unique<World>(options);
  }

  // Runs the round. Empty if all is well, or what went wrong.
  std::string Run() {
    for (int i = 0; i < world_->size(); ++i) {
      clients_.push_back(world_->Client(i));
      const ClientStep step = clients_.back().Start();
      Send({i, true, step.message.SerializeAsString(), ""});
    }
    Deliver();
    EndPhase();
    auto server =
        ServerSession::Create(world_->session, 0, keys_, world_->verifier());
    if (!server.ok()) return std::string(server.status().message());
    server_ = std::make_unique<ServerSession>(*std::move(server));
    while (true) {
      for (int i = 0; i < world_->size(); ++i) {
        const auto message = server_->MessageFor(world_->name(i));
        if (message) Send({i, false, message->SerializeAsString(), ""});
      }
      Deliver();
      if (server_->phase() == Phase::kDone) break;
      if (absl::Status status = server_->Close(); !status.ok()) {
        return std::string(status.message());
      }
      EndPhase();
    }
    const auto sum = server_->Sum(nullptr);
    if (!sum.ok()) return std::string(sum.status().message());
    const auto survivors = server_->survivors();
    if (static_cast<int>(survivors.size()) < world_->size() - 1) {
      return absl::StrCat("only ", survivors.size(), " survivors");
    }
    return Difference(*sum, world_->PlainSum(survivors));
  }

  int sent() const { return sent_; }

 private:
  void Send(Packet packet) {
    if (sent_++ != victim_message_) {
      queue_.push_back(std::move(packet));
      return;
    }
    switch (fault_) {
      case Fault::kDrop:
        return;
      case Fault::kDuplicate:
        queue_.push_back(packet);
        queue_.push_back(std::move(packet));
        return;
      case Fault::kDelay:
        late_.push_back(std::move(packet));
        return;
      case Fault::kCorrupt: {
        intact_ = packet;
        std::string& bytes =
            packet.payload.empty() ? packet.bytes : packet.payload;
        // Somewhere, another place for each message.
        const size_t at = (31 * static_cast<size_t>(sent_) + 7) % bytes.size();
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << (sent_ % 8)));
        queue_.push_back(std::move(packet));
        return;
      }
    }
  }

  void Deliver() {
    while (!queue_.empty()) {
      const Packet packet = std::move(queue_.front());
      queue_.pop_front();
      if (packet.to_server) {
        ToServer(packet);
      } else {
        ToClient(packet);
      }
    }
  }

  // What is late arrives after the phase has been closed.
  void EndPhase() {
    for (Packet& packet : late_) queue_.push_back(std::move(packet));
    late_.clear();
    Deliver();
  }

  // A client whose message makes no sense is asked once more.
  void Again(const Packet& packet) {
    if (!intact_ || intact_->client != packet.client) return;
    const Packet intact = *std::move(intact_);
    intact_.reset();
    ToServer(intact);
  }

  void ToServer(const Packet& packet) {
    v1::SecureClientMessage message;
    if (!message.ParseFromString(packet.bytes)) return Again(packet);
    const std::string& name = world_->name(packet.client);
    if (server_ == nullptr) {
      if (!message.has_advertise() ||
          !CheckAdvertisement(world_->session, name, message.advertise(),
                              world_->verifier())
               .ok()) {
        return Again(packet);
      }
      for (const v1::AdvertiseKeys& keys : keys_) {
        if (keys.client() == name) return;  // twice
      }
      keys_.push_back(message.advertise());
      return;
    }
    // Vectors come by way of a store that takes nothing under a wrong digest.
    if (!packet.payload.empty() &&
        base::Sha256Hex(packet.payload) != message.masked().digest()) {
      return Again(packet);
    }
    if (absl::IsInvalidArgument(
            server_->Receive(name, message, packet.payload))) {
      Again(packet);
    }
  }

  void ToClient(const Packet& packet) {
    v1::SecureServerMessage message;
    if (!message.ParseFromString(packet.bytes)) {
      // It asks again.
      if (intact_) {
        const Packet intact = *std::move(intact_);
        intact_.reset();
        ToClient(intact);
      }
      return;
    }
    const auto step = clients_[packet.client].Handle(message);
    if (step) {
      Send({packet.client, true, step->message.SerializeAsString(),
            step->payload});
    }
  }

  std::unique_ptr<World> world_;
  std::vector<ClientSession> clients_;
  std::vector<v1::AdvertiseKeys> keys_;
  std::unique_ptr<ServerSession> server_;
  std::deque<Packet> queue_;
  std::vector<Packet> late_;
  absl::optional<Packet> intact_;
  int victim_message_;
  Fault fault_;
  int sent_ = 0;
};

// Each message of a round, spoiled in one way; on two threads.
void SpoilEach(Fault fault, int clients, int stride) {
  Network calm(clients, -1, fault);
  ASSERT_EQ(calm.Run(), "");
  const int messages = calm.sent();
  // Five of the coordinator to each client, five of each client.
  ASSERT_EQ(messages, 10 * clients);
  std::atomic<int> next{0};
  std::vector<std::string> wrong(messages);
  const auto work = [&] {
    for (int i = next += stride; i - stride < messages; i = next += stride) {
      Network network(clients, i - stride, fault);
      wrong[i - stride] = network.Run();
    }
  };
  std::thread other(work);
  work();
  other.join();
  for (int i = 0; i < messages; ++i) {
    EXPECT_EQ(wrong[i], "") << "message " << i << " of " << messages << " "
                            << kFaultNames[static_cast<int>(fault)];
  }
}

TEST(NetworkTest, AnyMessageMayBeDropped) { SpoilEach(Fault::kDrop, 24, 1); }
TEST(NetworkTest, AnyMessageMayComeTwice) {
  SpoilEach(Fault::kDuplicate, 24, 1);
}
TEST(NetworkTest, AnyMessageMayBeLate) { SpoilEach(Fault::kDelay, 24, 1); }
TEST(NetworkTest, AnyMessageMayBeDamaged) { SpoilEach(Fault::kCorrupt, 24, 1); }

}  // namespace
}  // namespace choir::secagg
