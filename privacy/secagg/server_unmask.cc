#include "privacy/secagg/server_unmask.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "privacy/crypto/key_agreement.h"
#include "privacy/crypto/secret.h"
#include "privacy/secagg/shamir.h"
#include "privacy/secagg/transcript.h"

namespace choir::secagg {
namespace {

// What went wrong, by position, whoever meets it first.
class Errors {
 public:
  void Set(int position, absl::Status status) {
    base::MutexLock lock(&mu_);
    by_position_.emplace(position, std::move(status));
  }
  // The first one; those whose own secrets are lost go to `blamed`.
  absl::Status Take(std::vector<int>& blamed) {
    base::MutexLock lock(&mu_);
    for (const auto& [position, status] : by_position_) {
      if (absl::IsDataLoss(status)) blamed.push_back(position);
    }
    return by_position_.empty() ? absl::OkStatus()
                                : by_position_.begin()->second;
  }

 private:
  base::Mutex mu_;
  std::map<int, absl::Status> by_position_ ABSL_GUARDED_BY(mu_);
};

// Threads that are still at work. Shared with them: the last one touches it
// after the waiting thread has gone on.
class Countdown {
 public:
  explicit Countdown(int count) : left_(count) {}
  void Done() {
    base::MutexLock lock(&mu_);
    --left_;
  }
  void Wait() {
    base::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(
        +[](int* left) { return *left == 0; }, &left_));
  }

 private:
  base::Mutex mu_;
  int left_ ABSL_GUARDED_BY(mu_);
};

// One thread's part of the work.
class Unmasker {
 public:
  // All outlive it.
  Unmasker(const ServerFacts& facts, const Harvest& harvest,
           MaskedVector& vector)
      : facts_(facts), harvest_(harvest), vector_(vector) {}

  // Takes off the masks that `position` has left behind.
  absl::Status Remove(int position) {
    if (!harvest_.sharers[position]) return absl::OkStatus();
    CHOIR_ASSIGN_OR_RETURN(const crypto::SecretString secret,
                           Reconstruct(position));
    return harvest_.survivors[position] ? RemoveSelfMask(position, secret)
                                        : RemovePairMasks(position, secret);
  }
  // At the end: what is still waiting.
  absl::Status Flush() {
    std::vector<MaskedVector::Mask> masks;
    for (const auto& [key, sign] : waiting_) {
      masks.push_back({key.view(), sign});
    }
    absl::Status status = vector_.AddMasks(masks);
    waiting_.clear();
    return status;
  }

 private:
  // Whether `secret` is what the client advertised.
  bool Matches(int position, const crypto::SecretString& secret) const {
    const v1::AdvertiseKeys& keys = facts_.keys[position];
    if (harvest_.survivors[position]) {
      return SelfMaskCommitment(facts_.session_digest, secret.view()) ==
             keys.self_mask_commitment();
    }
    const absl::StatusOr<crypto::X25519Key> key =
        crypto::X25519Key::FromPrivate(secret.view());
    return key.ok() && key->public_key() == keys.mask_public_key();
  }

  // From the first shares; none if they are not what the client advertised.
  absl::StatusOr<absl::optional<crypto::SecretString>> Combine(
      int position, const std::vector<uint32_t>& points,
      const std::vector<absl::string_view>& shares) {
    const size_t threshold = facts_.parameters.threshold;
    const auto first = absl::MakeConstSpan(points).subspan(0, threshold);
    // In the complete graph the points are mostly those of the one before.
    if (!combiner_ || absl::MakeConstSpan(combiner_->points()) != first) {
      CHOIR_ASSIGN_OR_RETURN(combiner_, SecretCombiner::Create(first));
    }
    CHOIR_ASSIGN_OR_RETURN(
        crypto::SecretString secret,
        combiner_->Combine(absl::MakeConstSpan(shares).subspan(0, threshold)));
    if (!Matches(position, secret)) return absl::nullopt;
    return absl::make_optional(std::move(secret));
  }

  // If the first shares do not fit, without those that are wrong. Those are
  // found if twice as many others came beyond the threshold; else by trying,
  // which succeeds if one is wrong and one came too many.
  absl::StatusOr<crypto::SecretString> Reconstruct(int position) {
    const CollectedShares& collected = harvest_.collected[position];
    std::vector<uint32_t> points = collected.points;
    std::vector<absl::string_view> shares;
    for (size_t i = 0; i < points.size(); ++i) {
      shares.push_back(absl::string_view(collected.shares)
                           .substr(i * kSecretBytes, kSecretBytes));
    }
    CHOIR_ASSIGN_OR_RETURN(auto secret, Combine(position, points, shares));
    if (secret) return *std::move(secret);
    const std::vector<size_t> wrong =
        FindWrongShares(points, shares, facts_.parameters.threshold);
    for (auto it = wrong.rbegin(); it != wrong.rend(); ++it) {
      points.erase(points.begin() + *it);
      shares.erase(shares.begin() + *it);
    }
    for (size_t turn = 0; turn < points.size(); ++turn) {
      CHOIR_ASSIGN_OR_RETURN(secret, Combine(position, points, shares));
      if (secret) return *std::move(secret);
      std::rotate(points.begin(), points.begin() + 1, points.end());
      std::rotate(shares.begin(), shares.begin() + 1, shares.end());
    }
    const std::string text = absl::StrCat(
        "the shares of client '", facts_.name(position),
        "' do not give back the ",
        harvest_.survivors[position] ? "seed of its own mask"
                                     : "mask key that it advertised",
        "; it shared wrongly, or its peers sent wrong shares");
    // Without one to spare a single liar can have done it.
    const size_t threshold = facts_.parameters.threshold;
    return collected.points.size() > threshold ? absl::DataLossError(text)
                                               : absl::AbortedError(text);
  }

  absl::Status RemoveSelfMask(int position, const crypto::SecretString& seed) {
    CHOIR_ASSIGN_OR_RETURN(crypto::SecretString key,
                           SelfMaskKey(seed.view(), facts_.context, position));
    waiting_.emplace_back(std::move(key), MaskedVector::Sign::kSubtract);
    return waiting_.size() < kAtOnce ? absl::OkStatus() : Flush();
  }

  // Surviving neighbours have added, or subtracted, their masks with it.
  absl::Status RemovePairMasks(int position,
                               const crypto::SecretString& private_key) {
    CHOIR_ASSIGN_OR_RETURN(const crypto::X25519Key own,
                           crypto::X25519Key::FromPrivate(private_key.view()));
    std::vector<int> peers;
    std::vector<absl::string_view> public_keys;
    for (const int peer : facts_.graph.NeighboursOf(position)) {
      if (!harvest_.survivors[peer]) continue;
      peers.push_back(peer);
      public_keys.push_back(facts_.keys[peer].mask_public_key());
    }
    CHOIR_ASSIGN_OR_RETURN(const std::vector<crypto::SecretString> agreed,
                           own.AgreeWithAll(public_keys));
    for (size_t i = 0; i < peers.size(); ++i) {
      CHOIR_ASSIGN_OR_RETURN(
          crypto::SecretString key,
          PairMaskKey(agreed[i].view(), facts_.context, position, peers[i]));
      waiting_.emplace_back(std::move(key), position < peers[i]
                                                ? MaskedVector::Sign::kSubtract
                                                : MaskedVector::Sign::kAdd);
    }
    return waiting_.size() < kAtOnce ? absl::OkStatus() : Flush();
  }

  const ServerFacts& facts_;
  const Harvest& harvest_;
  MaskedVector& vector_;
  absl::optional<SecretCombiner> combiner_;
  // Keys of masks to be taken off, several of them in one pass.
  static constexpr size_t kAtOnce = 32;
  std::vector<std::pair<crypto::SecretString, MaskedVector::Sign>> waiting_;
};

}  // namespace

absl::Status RemoveMasks(const ServerFacts& facts, Harvest& harvest,
                         base::ThreadPool* pool) {
  const int num_clients = facts.parameters.num_clients;
  const int workers = pool == nullptr ? 1 : pool->num_threads();
  // The first worker adds into the sum itself.
  std::vector<MaskedVector> parts(
      workers - 1,
      MaskedVector(harvest.sum.modulus_bits(), harvest.sum.length()));
  // Those with most work first: who dropped out.
  std::vector<int> order(num_clients);
  for (int i = 0; i < num_clients; ++i) order[i] = i;
  std::stable_partition(order.begin(), order.end(),
                        [&](int i) { return !harvest.survivors[i]; });
  std::atomic<int> next{0};
  Errors errors;
  const auto work = [&](MaskedVector& vector) {
    Unmasker unmasker(facts, harvest, vector);
    for (int i = next++; i < num_clients; i = next++) {
      if (absl::Status status = unmasker.Remove(order[i]); !status.ok()) {
        errors.Set(order[i], std::move(status));
      }
    }
    if (absl::Status status = unmasker.Flush(); !status.ok()) {
      errors.Set(num_clients, std::move(status));
    }
  };
  if (pool == nullptr) {
    work(harvest.sum);
  } else {
    const auto running = std::make_shared<Countdown>(workers);
    for (int i = 0; i < workers; ++i) {
      pool->Add([&, i, running](int) {
        work(i == 0 ? harvest.sum : parts[i - 1]);
        running->Done();
      });
    }
    running->Wait();
  }
  harvest.collected.clear();  // and wiped
  CHOIR_RETURN_IF_ERROR(errors.Take(harvest.blamed));
  for (const MaskedVector& part : parts) harvest.sum.Add(part);
  return absl::OkStatus();
}

}  // namespace choir::secagg
