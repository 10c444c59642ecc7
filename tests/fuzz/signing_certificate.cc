// Any bytes: no signing certificate (the fuzzer has no CA key), and no crash;
// nor as sealed text, request or PEM.
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "base/check.h"
#include "base/secure_random.h"
#include "privacy/crypto/authority.h"
#include "privacy/crypto/signing.h"
#include "privacy/crypto/symmetric.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace crypto = choir::crypto;
  static const crypto::SigningCertificateVerifier& verifier =
      *new crypto::SigningCertificateVerifier([] {
        choir::base::SystemRandom random;
        const auto ca = crypto::CertificateAuthority::Create(
            "fuzz", absl::Hours(1), absl::UnixEpoch(), random);
        return *crypto::SigningCertificateVerifier::Create(
            ca->certificate_pem());
      }());
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  CHOIR_CHECK(!verifier.Check(bytes).ok());
  CHOIR_CHECK(!crypto::Open(std::string(32, 'k'), "context", bytes).ok());
  (void)crypto::SigningRequestName(bytes);
  (void)crypto::SigningKey::FromPem(bytes);
  const auto der = crypto::CertificateDer(bytes);
  if (der.ok()) CHOIR_CHECK(crypto::CertificatePem(*der).ok());
  return 0;
}
