// Bytes of the hexadecimal digits in which known answers are written down.
#ifndef CHOIR_TESTS_SUPPORT_HEX_H_
#define CHOIR_TESTS_SUPPORT_HEX_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace choir::tests {

// `hex` has an even number of digits; anything else than digits throws.
inline std::string FromHex(absl::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    const std::string digits(hex.substr(i, 2));
    bytes.push_back(static_cast<char>(std::stoi(digits, nullptr, 16)));
  }
  return bytes;
}

}  // namespace choir::tests

#endif  // CHOIR_TESTS_SUPPORT_HEX_H_
