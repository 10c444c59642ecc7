// Text that is wiped from memory when it is no longer needed.
#ifndef CHOIR_PRIVACY_CRYPTO_SECRET_H_
#define CHOIR_PRIVACY_CRYPTO_SECRET_H_

#include <string>
#include <utility>

#include "absl/strings/string_view.h"

namespace choir::crypto {

// Overwrites `text` (OPENSSL_cleanse, which no optimiser removes) and empties
// it.
void Wipe(std::string& text);

// A private key or token in memory. Moving wipes the source; destruction wipes
// the bytes. Whoever copies view() must wipe the copy.
// Threads: one thread at a time per object.
class SecretString {
 public:
  SecretString() = default;
  // Takes the bytes over; `text` should be the only copy.
  explicit SecretString(std::string text) : text_(std::move(text)) {
    Wipe(text);
  }
  SecretString(SecretString&& other) noexcept : text_(std::move(other.text_)) {
    Wipe(other.text_);
  }
  SecretString& operator=(SecretString&& other) noexcept {
    if (this != &other) {
      Wipe(text_);
      text_ = std::move(other.text_);
      Wipe(other.text_);
    }
    return *this;
  }
  SecretString(const SecretString&) = delete;
  SecretString& operator=(const SecretString&) = delete;
  ~SecretString() { Wipe(text_); }

  absl::string_view view() const { return text_; }
  bool empty() const { return text_.empty(); }

 private:
  std::string text_;
};

}  // namespace choir::crypto

#endif  // CHOIR_PRIVACY_CRYPTO_SECRET_H_
