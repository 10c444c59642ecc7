#include "tests/bench/secagg/raw_cipher.h"

#include <openssl/evp.h>

#include <algorithm>
#include <vector>

#include "base/check.h"

namespace choir::bench {

int RawAesCtr(size_t bytes, size_t piece) {
  const unsigned char key[32] = {1};
  const unsigned char counter[16] = {};
  std::vector<unsigned char> buffer(piece);
  EVP_CIPHER_CTX* cipher = EVP_CIPHER_CTX_new();
  CHOIR_CHECK(EVP_EncryptInit_ex(cipher, EVP_aes_256_ctr(), nullptr, key,
                                 counter) == 1);
  for (size_t done = 0; done < bytes; done += piece) {
    int size = 0;
    CHOIR_CHECK(EVP_EncryptUpdate(
                    cipher, buffer.data(), &size, buffer.data(),
                    static_cast<int>(std::min(piece, bytes - done))) == 1);
  }
  EVP_CIPHER_CTX_free(cipher);
  return buffer[0];
}

}  // namespace choir::bench
