#include "privacy/crypto/openssl_handles.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>

#include <ctime>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace choir::crypto {

void Wipe(std::string& text) {
  // A moved-from string may still hold its bytes in its inline buffer.
  text.resize(text.capacity());
  OPENSSL_cleanse(text.data(), text.size());
  text.clear();
}

absl::Status OpensslError(absl::string_view what) {
  const unsigned long code = ERR_get_error();  // NOLINT(runtime/int): its type
  ERR_clear_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  return absl::InternalError(
      absl::StrCat(what, ": ", reason == nullptr ? "unknown reason" : reason));
}

BioPtr ReadOnlyBio(absl::string_view text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

std::string BioText(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);  // NOLINT(runtime/int)
  if (size <= 0) return "";
  return std::string(data, static_cast<size_t>(size));
}

absl::StatusOr<std::string> SpkiSha256(EVP_PKEY* key) {
  unsigned char* der = nullptr;
  const int size = i2d_PUBKEY(key, &der);
  if (size <= 0) return OpensslError("encoding a public key");
  std::string hex =
      base::Sha256Hex(absl::string_view(reinterpret_cast<char*>(der), size));
  OPENSSL_free(der);
  return hex;
}

bool IsP256(EVP_PKEY* key) {
  if (key == nullptr || EVP_PKEY_get_base_id(key) != EVP_PKEY_EC) return false;
  char group[64] = {};
  size_t length = 0;
  if (EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_GROUP_NAME, group,
                                     sizeof(group), &length) != 1) {
    ERR_clear_error();
    return false;
  }
  const absl::string_view name(group, length);
  return name == "prime256v1" || name == "P-256";
}

std::string NameField(const X509_NAME* name, int nid) {
  const int index = X509_NAME_get_index_by_NID(name, nid, -1);
  if (index < 0) return "";
  // A second field of the same kind makes the name ambiguous.
  if (X509_NAME_get_index_by_NID(name, nid, index) >= 0) return "";
  unsigned char* utf8 = nullptr;
  const int size = ASN1_STRING_to_UTF8(
      &utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, index)));
  if (size < 0) {
    ERR_clear_error();
    return "";
  }
  std::string text(reinterpret_cast<char*>(utf8), static_cast<size_t>(size));
  OPENSSL_free(utf8);
  return text;
}

absl::StatusOr<NamePtr> MakeName(absl::string_view name,
                                 absl::string_view unit) {
  if (name.empty() || name.size() > 64) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a name in a certificate has 1 to 64 characters, not ", name.size()));
  }
  for (const char c : name) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) {
      return absl::InvalidArgumentError(
          "a name in a certificate has printable ASCII characters only");
    }
  }
  NamePtr out(X509_NAME_new());
  const auto add = [&out](const char* field, absl::string_view text) {
    return X509_NAME_add_entry_by_txt(
               out.get(), field, MBSTRING_UTF8,
               reinterpret_cast<const unsigned char*>(text.data()),
               static_cast<int>(text.size()), -1, 0) == 1;
  };
  if (out == nullptr || !add("CN", name) ||
      (!unit.empty() && !add("OU", unit))) {
    return OpensslError("making a certificate's name");
  }
  return out;
}

absl::StatusOr<CertPtr> CertFromPem(absl::string_view pem) {
  if (pem.size() > (1u << 20)) {
    return absl::InvalidArgumentError("a certificate of more than 1 MiB");
  }
  BioPtr bio = ReadOnlyBio(pem);
  CertPtr cert(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (cert == nullptr) {
    return absl::InvalidArgumentError("not a certificate in PEM form");
  }
  return cert;
}

bool IsEd25519(EVP_PKEY* key) {
  return key != nullptr && EVP_PKEY_get_base_id(key) == EVP_PKEY_ED25519;
}

namespace {

// A request signed with its own key, of the kind that `is_right` tells.
absl::StatusOr<RequestPtr> CheckedRequest(absl::string_view pem,
                                          bool (*is_right)(EVP_PKEY*),
                                          absl::string_view kind) {
  if (pem.size() > (16u << 10)) {
    return absl::InvalidArgumentError(
        "a certificate request of more than 16 KiB");
  }
  BioPtr bio = ReadOnlyBio(pem);
  RequestPtr request(
      PEM_read_bio_X509_REQ(bio.get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (request == nullptr) {
    return absl::InvalidArgumentError("not a certificate request in PEM form");
  }
  EVP_PKEY* key = X509_REQ_get0_pubkey(request.get());
  if (!is_right(key)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the key of a certificate request must be ", kind));
  }
  if (X509_REQ_verify(request.get(), key) != 1) {
    ERR_clear_error();
    return absl::InvalidArgumentError(
        "the certificate request is not signed with its own key");
  }
  return request;
}

}  // namespace

absl::StatusOr<RequestPtr> RequestFromPem(absl::string_view pem) {
  return CheckedRequest(pem, IsP256, "P-256");
}

absl::StatusOr<RequestPtr> SigningRequestFromPem(absl::string_view pem) {
  return CheckedRequest(pem, IsEd25519, "Ed25519");
}

std::string SerialText(const ASN1_INTEGER* serial) {
  BignumPtr number(ASN1_INTEGER_to_BN(serial, nullptr));
  if (number == nullptr) return "";
  char* hex = BN_bn2hex(number.get());
  if (hex == nullptr) return "";
  std::string text = absl::AsciiStrToLower(hex);
  OPENSSL_free(hex);
  const size_t digits = text.find_first_not_of('0');
  return digits == std::string::npos ? "0" : text.substr(digits);
}

absl::Time TimeOf(const ASN1_TIME* time) {
  std::tm parts = {};
  if (ASN1_TIME_to_tm(time, &parts) != 1) {
    ERR_clear_error();
    return absl::InfinitePast();
  }
  return absl::FromTM(parts, absl::UTCTimeZone());
}

TimePtr MakeTime(absl::Time time) {
  return TimePtr(ASN1_TIME_adj(nullptr, absl::ToTimeT(time), 0, 0));
}

namespace {

std::vector<std::string> AltNames(X509* certificate) {
  std::vector<std::string> out;
  GeneralNamesPtr names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get());
       ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type == GEN_DNS) {
      out.emplace_back(
          reinterpret_cast<const char*>(ASN1_STRING_get0_data(name->d.dNSName)),
          static_cast<size_t>(ASN1_STRING_length(name->d.dNSName)));
    } else if (name->type == GEN_IPADD) {
      const unsigned char* b = ASN1_STRING_get0_data(name->d.iPAddress);
      const int size = ASN1_STRING_length(name->d.iPAddress);
      if (size == 4) {
        out.push_back(absl::StrCat(b[0], ".", b[1], ".", b[2], ".", b[3]));
      } else if (size == 16) {
        std::string text;
        for (int k = 0; k < 16; k += 2) {
          absl::StrAppend(&text, k == 0 ? "" : ":",
                          absl::Hex(b[k] * 256 + b[k + 1]));
        }
        out.push_back(text);
      }
    }
  }
  ERR_clear_error();
  return out;
}

}  // namespace

absl::StatusOr<CertificateInfo> InfoOf(X509* certificate) {
  CertificateInfo info;
  const X509_NAME* subject = X509_get_subject_name(certificate);
  info.name = NameField(subject, NID_commonName);
  info.role = RoleFromName(NameField(subject, NID_organizationalUnitName));
  info.serial = SerialText(X509_get0_serialNumber(certificate));
  info.not_before = TimeOf(X509_get0_notBefore(certificate));
  info.not_after = TimeOf(X509_get0_notAfter(certificate));
  info.alt_names = AltNames(certificate);
  info.is_ca = X509_check_ca(certificate) > 0;
  EVP_PKEY* key = X509_get0_pubkey(certificate);
  if (key == nullptr) {
    ERR_clear_error();
    return absl::InvalidArgumentError("a certificate without a readable key");
  }
  CHOIR_ASSIGN_OR_RETURN(info.public_key_sha256, SpkiSha256(key));
  unsigned char* der = nullptr;
  const int size = i2d_X509(certificate, &der);
  if (size <= 0) return OpensslError("encoding a certificate");
  info.fingerprint =
      base::Sha256Hex(absl::string_view(reinterpret_cast<char*>(der), size));
  OPENSSL_free(der);
  return info;
}

}  // namespace choir::crypto
