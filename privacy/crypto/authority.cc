#include "privacy/crypto/authority.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "privacy/crypto/openssl_handles.h"
#include "privacy/crypto/signing.h"

namespace choir::crypto {
namespace {

constexpr absl::Duration kBackdate = absl::Minutes(5);
// id-kp-documentSigning (RFC 9336): a purpose that TLS refuses.
constexpr absl::string_view kDocumentSigning = "1.3.6.1.5.5.7.3.36";

absl::Status AddExtension(X509* certificate, X509* issuer, int nid,
                          const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  ExtensionPtr extension(
      X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  if (extension == nullptr ||
      X509_add_ext(certificate, extension.get(), -1) != 1) {
    return OpensslError(absl::StrCat("adding extension ", OBJ_nid2sn(nid)));
  }
  return absl::OkStatus();
}

// Positive, 126 random bits: no two alike, none to be guessed.
absl::Status SetSerial(X509* certificate, base::SecureRandom& random) {
  std::array<uint8_t, 16> bytes;
  random.Fill(absl::MakeSpan(bytes));
  bytes[0] = static_cast<uint8_t>((bytes[0] & 0x3f) | 0x40);
  BignumPtr number(BN_bin2bn(bytes.data(), bytes.size(), nullptr));
  if (number == nullptr ||
      BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) ==
          nullptr) {
    return OpensslError("setting a serial number");
  }
  return absl::OkStatus();
}

// What a root and a leaf have alike; to be signed by the caller.
absl::StatusOr<CertPtr> NewCertificate(X509_NAME* subject, X509_NAME* issuer,
                                       EVP_PKEY* key, absl::Time not_before,
                                       absl::Time not_after,
                                       base::SecureRandom& random) {
  CertPtr certificate(X509_new());
  TimePtr begin = MakeTime(not_before);
  TimePtr end = MakeTime(not_after);
  if (certificate == nullptr || begin == nullptr || end == nullptr ||
      X509_set_version(certificate.get(), X509_VERSION_3) != 1 ||
      X509_set_subject_name(certificate.get(), subject) != 1 ||
      X509_set_issuer_name(certificate.get(), issuer) != 1 ||
      X509_set1_notBefore(certificate.get(), begin.get()) != 1 ||
      X509_set1_notAfter(certificate.get(), end.get()) != 1 ||
      X509_set_pubkey(certificate.get(), key) != 1) {
    return OpensslError("making a certificate");
  }
  CHOIR_RETURN_IF_ERROR(SetSerial(certificate.get(), random));
  return certificate;
}

absl::StatusOr<std::string> CertToPem(X509* certificate) {
  BioPtr bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || PEM_write_bio_X509(bio.get(), certificate) != 1) {
    return OpensslError("writing a certificate");
  }
  return BioText(bio.get());
}

// "DNS:a,IP:b"; INVALID_ARGUMENT for a host that would end its own field.
absl::StatusOr<std::string> AltNameText(const std::vector<std::string>& hosts) {
  std::string text;
  for (const std::string& host : hosts) {
    const bool clean = !host.empty() && host.size() <= 253 &&
                       std::all_of(host.begin(), host.end(), [](char c) {
                         return (c >= 'a' && c <= 'z') ||
                                (c >= 'A' && c <= 'Z') ||
                                (c >= '0' && c <= '9') || c == '.' ||
                                c == '-' || c == '_' || c == ':' || c == '*';
                       });
    if (!clean) {
      return absl::InvalidArgumentError(absl::StrCat(
          "\"", host, "\" is neither a host name nor an IP address"));
    }
    ASN1_OCTET_STRING* address = a2i_IPADDRESS(host.c_str());
    ERR_clear_error();
    absl::StrAppend(&text, text.empty() ? "" : ",",
                    address != nullptr ? "IP:" : "DNS:", host);
    ASN1_OCTET_STRING_free(address);
  }
  return text;
}

absl::Status CheckIssueOptions(const IssueOptions& options) {
  if (options.role == Role::kNone) {
    return absl::InvalidArgumentError("a certificate needs a role");
  }
  if ((options.role == Role::kCoordinator) == options.hosts.empty()) {
    return absl::InvalidArgumentError(
        options.hosts.empty()
            ? "a coordinator's certificate needs at least one host name or IP "
              "address under which clients dial it"
            : "only a coordinator's certificate has host names");
  }
  if (options.lifetime <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        "a certificate's lifetime must be "
        "positive");
  }
  return absl::OkStatus();
}

}  // namespace

struct CertificateAuthority::State {
  CertPtr certificate;
  std::string pem;
  PrivateKey key;
  CertificateInfo info;
};

CertificateAuthority::CertificateAuthority(std::unique_ptr<State> state)
    : state_(std::move(state)) {}
CertificateAuthority::CertificateAuthority(CertificateAuthority&&) noexcept =
    default;
CertificateAuthority& CertificateAuthority::operator=(
    CertificateAuthority&&) noexcept = default;
CertificateAuthority::~CertificateAuthority() = default;

const std::string& CertificateAuthority::certificate_pem() const {
  return state_->pem;
}
const PrivateKey& CertificateAuthority::key() const { return state_->key; }

absl::StatusOr<CertificateAuthority> CertificateAuthority::Create(
    absl::string_view name, absl::Duration lifetime, absl::Time now,
    base::SecureRandom& random) {
  CHOIR_ASSIGN_OR_RETURN(PrivateKey key, PrivateKey::Generate());
  CHOIR_ASSIGN_OR_RETURN(NamePtr subject, MakeName(name, ""));
  EVP_PKEY* handle = key.handle().key.get();
  CHOIR_ASSIGN_OR_RETURN(
      CertPtr certificate,
      NewCertificate(subject.get(), subject.get(), handle, now - kBackdate,
                     now + lifetime, random));
  X509* root = certificate.get();
  CHOIR_RETURN_IF_ERROR(AddExtension(root, root, NID_basic_constraints,
                                     "critical,CA:TRUE,pathlen:0"));
  CHOIR_RETURN_IF_ERROR(
      AddExtension(root, root, NID_key_usage, "critical,keyCertSign,cRLSign"));
  CHOIR_RETURN_IF_ERROR(
      AddExtension(root, root, NID_subject_key_identifier, "hash"));
  if (X509_sign(root, handle, EVP_sha256()) <= 0) {
    return OpensslError("signing the CA's certificate");
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string pem, CertToPem(root));
  return FromPem(pem, std::move(key));
}

absl::StatusOr<CertificateAuthority> CertificateAuthority::FromPem(
    absl::string_view certificate_pem, PrivateKey key) {
  CHOIR_ASSIGN_OR_RETURN(CertPtr certificate, CertFromPem(certificate_pem));
  CHOIR_ASSIGN_OR_RETURN(CertificateInfo info, InfoOf(certificate.get()));
  if (!info.is_ca) {
    return absl::FailedPreconditionError(
        absl::StrCat("the certificate of \"", info.name, "\" is not a CA's"));
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string own, key.PublicKeySha256());
  if (own != info.public_key_sha256) {
    return absl::FailedPreconditionError(
        "the CA's private key does not belong to the CA's certificate");
  }
  CHOIR_ASSIGN_OR_RETURN(std::string pem, CertToPem(certificate.get()));
  auto state = std::make_unique<State>(State{
      std::move(certificate), std::move(pem), std::move(key), std::move(info)});
  return CertificateAuthority(std::move(state));
}

// What distinguishes one leaf from another.
struct CertificateAuthority::Leaf {
  EVP_PKEY* key;
  X509_NAME* subject;
  absl::Duration lifetime;
  std::string extended_key_usage;
  std::string alt_names;
};

absl::StatusOr<std::string> CertificateAuthority::Issue(
    absl::string_view request_pem, const IssueOptions& options, absl::Time now,
    base::SecureRandom& random) const {
  CHOIR_RETURN_IF_ERROR(CheckIssueOptions(options));
  CHOIR_ASSIGN_OR_RETURN(RequestPtr request, RequestFromPem(request_pem));
  CHOIR_ASSIGN_OR_RETURN(NamePtr subject,
                         MakeName(options.name, RoleName(options.role)));
  CHOIR_ASSIGN_OR_RETURN(const std::string alt_names,
                         AltNameText(options.hosts));
  return IssueLeaf(
      {X509_REQ_get0_pubkey(request.get()), subject.get(), options.lifetime,
       options.role == Role::kCoordinator ? "serverAuth,clientAuth"
                                          : "clientAuth",
       alt_names},
      now, random);
}

absl::StatusOr<std::string> CertificateAuthority::IssueSigner(
    absl::string_view request_pem, absl::string_view name,
    absl::Duration lifetime, absl::Time now, base::SecureRandom& random) const {
  if (lifetime <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        "a certificate's lifetime must be "
        "positive");
  }
  CHOIR_ASSIGN_OR_RETURN(RequestPtr request,
                         SigningRequestFromPem(request_pem));
  CHOIR_ASSIGN_OR_RETURN(NamePtr subject, MakeName(name, kSignerUnit));
  return IssueLeaf({X509_REQ_get0_pubkey(request.get()), subject.get(),
                    lifetime, std::string(kDocumentSigning), ""},
                   now, random);
}

absl::StatusOr<std::string> CertificateAuthority::IssueLeaf(
    const Leaf& options, absl::Time now, base::SecureRandom& random) const {
  if (now >= state_->info.not_after) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the CA's own certificate expired at ",
        absl::FormatTime(state_->info.not_after, absl::UTCTimeZone())));
  }
  X509* ca = state_->certificate.get();
  CHOIR_ASSIGN_OR_RETURN(
      CertPtr certificate,
      NewCertificate(options.subject, X509_get_subject_name(ca), options.key,
                     std::max(now - kBackdate, state_->info.not_before),
                     std::min(now + options.lifetime, state_->info.not_after),
                     random));
  X509* leaf = certificate.get();
  CHOIR_RETURN_IF_ERROR(
      AddExtension(leaf, ca, NID_basic_constraints, "critical,CA:FALSE"));
  CHOIR_RETURN_IF_ERROR(
      AddExtension(leaf, ca, NID_key_usage, "critical,digitalSignature"));
  CHOIR_RETURN_IF_ERROR(
      AddExtension(leaf, ca, NID_ext_key_usage, options.extended_key_usage));
  CHOIR_RETURN_IF_ERROR(
      AddExtension(leaf, ca, NID_subject_key_identifier, "hash"));
  CHOIR_RETURN_IF_ERROR(
      AddExtension(leaf, ca, NID_authority_key_identifier, "keyid:always"));
  if (!options.alt_names.empty()) {
    CHOIR_RETURN_IF_ERROR(
        AddExtension(leaf, ca, NID_subject_alt_name, options.alt_names));
  }
  if (X509_sign(leaf, state_->key.handle().key.get(), EVP_sha256()) <= 0) {
    return OpensslError("signing a certificate");
  }
  return CertToPem(leaf);
}

struct CertificateVerifier::State {
  CertPtr certificate;
  CertificateInfo info;
};

CertificateVerifier::CertificateVerifier(std::unique_ptr<State> state)
    : state_(std::move(state)) {}
CertificateVerifier::CertificateVerifier(CertificateVerifier&&) noexcept =
    default;
CertificateVerifier& CertificateVerifier::operator=(
    CertificateVerifier&&) noexcept = default;
CertificateVerifier::~CertificateVerifier() = default;

const CertificateInfo& CertificateVerifier::ca() const { return state_->info; }

absl::StatusOr<CertificateVerifier> CertificateVerifier::Create(
    absl::string_view ca_certificate_pem) {
  CHOIR_ASSIGN_OR_RETURN(CertPtr certificate, CertFromPem(ca_certificate_pem));
  CHOIR_ASSIGN_OR_RETURN(CertificateInfo info, InfoOf(certificate.get()));
  if (!info.is_ca) {
    return absl::InvalidArgumentError(
        absl::StrCat("the certificate of \"", info.name, "\" is not a CA's"));
  }
  return CertificateVerifier(
      std::make_unique<State>(State{std::move(certificate), std::move(info)}));
}

Verdict CertificateVerifier::Check(absl::string_view certificate_pem,
                                   absl::Time now) const {
  Verdict verdict;
  const auto refuse = [&verdict](CertificateProblem problem,
                                 std::string message) {
    verdict.problem = problem;
    verdict.message = std::move(message);
    return verdict;
  };
  absl::StatusOr<CertPtr> leaf = CertFromPem(certificate_pem);
  if (!leaf.ok()) {
    return refuse(CertificateProblem::kMalformed,
                  std::string(leaf.status().message()));
  }
  absl::StatusOr<CertificateInfo> info = InfoOf(leaf->get());
  if (!info.ok()) {
    return refuse(CertificateProblem::kMalformed,
                  std::string(info.status().message()));
  }
  verdict.info = *std::move(info);
  X509* ca = state_->certificate.get();
  const bool ours = X509_check_issued(ca, leaf->get()) == X509_V_OK &&
                    X509_verify(leaf->get(), X509_get0_pubkey(ca)) == 1;
  ERR_clear_error();
  if (!ours) {
    return refuse(CertificateProblem::kUnknownCa,
                  "the certificate was not issued by this coordinator's CA; "
                  "enrol with a token of its operator, or use one made by "
                  "`choir-admin ca issue` with this CA");
  }
  if (verdict.info.role == Role::kNone || verdict.info.is_ca ||
      verdict.info.name.empty()) {
    return refuse(CertificateProblem::kBadRole,
                  "the certificate names no role: its organisational unit "
                  "must be agent, operator or coordinator");
  }
  Verdict validity = CheckValidity(verdict.info, now);
  if (!validity.ok()) return validity;
  return verdict;
}

Verdict CertificateVerifier::CheckValidity(const CertificateInfo& info,
                                           absl::Time now) const {
  Verdict verdict;
  verdict.info = info;
  const auto text = [](absl::Time time) {
    return absl::FormatTime(absl::RFC3339_sec, time, absl::UTCTimeZone());
  };
  if (now > info.not_after || now > state_->info.not_after) {
    verdict.problem = CertificateProblem::kExpired;
    verdict.message =
        absl::StrCat("the certificate expired at ",
                     text(std::min(info.not_after, state_->info.not_after)),
                     "; renew it or enrol again");
  } else if (now < info.not_before || now < state_->info.not_before) {
    verdict.problem = CertificateProblem::kNotYetValid;
    verdict.message =
        absl::StrCat("the certificate is valid only from ",
                     text(std::max(info.not_before, state_->info.not_before)),
                     " on; compare the clocks");
  }
  return verdict;
}

}  // namespace choir::crypto
