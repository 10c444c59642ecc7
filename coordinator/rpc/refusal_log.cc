#include "coordinator/rpc/refusal_log.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"

namespace choir::rpc {
namespace {

constexpr absl::Duration kQuietPeriod = absl::Minutes(1);
constexpr int kMostPerMinute = 120;
constexpr size_t kMostRemembered = 4096;

}  // namespace

std::string PrintableText(absl::string_view text, size_t max_bytes) {
  std::string out(text.substr(0, max_bytes));
  for (char& c : out) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  return out;
}

RefusalLog::RefusalLog(const base::Clock& clock,
                       std::function<void(v1::PeerRefused)> record)
    : clock_(clock), record_(std::move(record)) {}

bool RefusalLog::ShouldRecord(const std::string& key) {
  const absl::Time now = clock_.Now();
  if (now >= minute_ + kQuietPeriod || now < minute_) {
    if (dropped_ > 0) {
      base::LogWarning(dropped_, " more refusals were not recorded");
    }
    minute_ = now;
    in_this_minute_ = 0;
    dropped_ = 0;
    // What is older than a period may be recorded again anyway.
    for (auto it = last_.begin(); it != last_.end();) {
      if (now >= it->second + kQuietPeriod || now < it->second) {
        last_.erase(it++);
      } else {
        ++it;
      }
    }
  }
  auto seen = last_.find(key);
  const bool repeated = seen != last_.end() && now >= seen->second &&
                        now < seen->second + kQuietPeriod;
  if (repeated || in_this_minute_ >= kMostPerMinute) {
    ++dropped_;
    return false;
  }
  ++in_this_minute_;
  if (last_.size() < kMostRemembered) last_[key] = now;
  return true;
}

void RefusalLog::Refused(absl::string_view peer, absl::string_view method,
                         absl::string_view kind, absl::string_view reason) {
  v1::PeerRefused refused;
  refused.set_peer(PrintableText(peer));
  refused.set_method(PrintableText(method));
  refused.set_reason(PrintableText(reason));
  {
    base::MutexLock lock(&mu_);
    if (!ShouldRecord(absl::StrCat(refused.peer(), "\n", kind))) return;
  }
  base::LogWarning("refused ", refused.peer(), " ", refused.method(), ": ",
                   refused.reason());
  record_(std::move(refused));
}

}  // namespace choir::rpc
