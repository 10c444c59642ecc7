#include "coordinator/audit/verify.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/files.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "coordinator/audit/grammar.h"
#include "coordinator/audit/step_check.h"
#include "coordinator/store/blob_incoming.h"
#include "coordinator/store/journal_reader.h"
#include "coordinator/store/seal_file.h"

namespace choir::audit {
namespace {

constexpr uint64_t kReadBytes = 1 << 20;
constexpr uint64_t kProgressEvery = 1024;
constexpr uint64_t kMaxBlobBytes = 1ull << 36;

// One verification. Threads: one.
class Verifier {
 public:
  Verifier(std::string root, const ProgressFunction& progress)
      : root_(std::move(root)), progress_(progress) {}

  absl::StatusOr<VerifyReport> Run();

 private:
  void Find(uint64_t event, std::string where, std::string what) {
    findings_.push_back({event, std::move(where), std::move(what)});
  }
  void Progress(absl::string_view phase, double part) {
    if (progress_) progress_(phase, part);
  }
  bool Full() const { return findings_.size() >= kMaxFindings; }

  void CheckSeal();
  void CheckJournal(const store::JournalReader& reader);
  void CheckHead(const store::JournalReader& reader, uint64_t last,
                 const base::Sha256Digest& hash_at_head);
  void CheckBlobFiles();
  void CheckBlobFile(const std::string& digest, const std::string& path);
  void CheckBlobUses();
  void CheckSteps();
  absl::StatusOr<std::string> ReadBlob(const std::string& digest) const;
  uint64_t FirstUse(const std::string& digest) const;

  const std::string root_;
  const ProgressFunction& progress_;
  Grammar grammar_;
  std::vector<Finding> findings_;
  uint64_t events_ = 0;
  bool sealed_ = false;
  // Digests of the files that are what their names say, with their sizes.
  std::map<std::string, uint64_t> good_blobs_;
  std::set<std::string> bad_blobs_;
};

void Verifier::CheckSeal() {
  const auto differences = store::CompareWithSeal(
      base::JoinPath(root_, "choir.db"), base::JoinPath(root_, "seal"));
  if (absl::IsNotFound(differences.status())) return;  // open, or crashed
  if (!differences.ok()) {
    Find(0, "seal", std::string(differences.status().message()));
    return;
  }
  sealed_ = true;
  for (const std::string& difference : *differences) {
    Find(0, "choir.db", difference);
  }
}

void Verifier::CheckHead(const store::JournalReader& reader, uint64_t last,
                         const base::Sha256Digest& hash_at_head) {
  const absl::StatusOr<store::Head>& head = reader.head();
  if (!head.ok()) {
    Find(0, "head",
         absl::IsNotFound(head.status())
             ? "the file 'head' is gone: a shortened journal could "
               "not be told from a whole one"
             : std::string(head.status().message()));
    return;
  }
  const std::string problem =
      store::ChainVerifier::CompareHead(*head, last, hash_at_head);
  if (!problem.empty()) {
    Find(std::min(head->sequence, last + 1), "head", problem);
    return;
  }
  // A clean end leaves no commit unrecorded.
  if (sealed_ && head->sequence != last) {
    Find(head->sequence + 1, "head",
         absl::StrCat("the journal goes on to event ", last,
                      ", the file 'head' of the sealed store only to ",
                      head->sequence));
  }
}

void Verifier::CheckJournal(const store::JournalReader& reader) {
  store::ChainVerifier chain;
  const uint64_t anchor = reader.head().ok() ? reader.head()->sequence : 0;
  base::Sha256Digest hash_at_anchor = store::ChainStart();
  const uint64_t last = std::max<uint64_t>(1, reader.last_sequence());
  const absl::Status read =
      reader.ForEachRow([&](const store::JournalRow& row) -> absl::Status {
        ++events_;
        const std::string where = absl::StrCat("event ", row.sequence);
        const std::string problem = chain.Next(row);
        if (!problem.empty()) Find(row.sequence, where, problem);
        if (row.sequence == anchor) hash_at_anchor = chain.last_hash();
        const auto entry = store::DecodeEntry(row);
        if (!entry.ok()) {
          Find(row.sequence, where, std::string(entry.status().message()));
        } else {
          grammar_.Next(*entry, findings_);
        }
        if (events_ % kProgressEvery == 0) {
          Progress("events",
                   static_cast<double>(events_) / static_cast<double>(last));
        }
        return Full() ? absl::CancelledError("enough") : absl::OkStatus();
      });
  if (absl::IsCancelled(read)) return;
  if (!read.ok()) {
    Find(chain.last_sequence() + 1, "choir.db",
         absl::StrCat("after event ", chain.last_sequence(), ": ",
                      read.message()));
    return;
  }
  CheckHead(reader, chain.last_sequence(), hash_at_anchor);
  const auto problems = reader.IntegrityProblems();
  if (!problems.ok()) {
    Find(0, "choir.db", std::string(problems.status().message()));
    return;
  }
  for (const std::string& problem : *problems) Find(0, "choir.db", problem);
}

uint64_t Verifier::FirstUse(const std::string& digest) const {
  for (const BlobUse& use : grammar_.blob_uses()) {
    if (use.digest == digest) return use.event;
  }
  return 0;
}

void Verifier::CheckBlobFile(const std::string& digest,
                             const std::string& path) {
  const auto file = base::RandomAccessFile::Open(path);
  if (absl::IsNotFound(file.status())) return;  // removed while we looked
  base::Sha256 hash;
  absl::Status status = file.status();
  std::string buffer;
  for (uint64_t at = 0; status.ok() && at < (*file)->size();
       at += buffer.size()) {
    buffer.resize(std::min(kReadBytes, (*file)->size() - at));
    status = (*file)->ReadAt(at, buffer.size(), buffer.data());
    hash.Update(buffer);
  }
  const std::string actual = base::ToHex(hash.Finish());
  if (status.ok() && actual == digest) {
    good_blobs_[digest] = (*file)->size();
    return;
  }
  bad_blobs_.insert(digest);
  const uint64_t event = FirstUse(digest);
  std::string what = absl::StrCat("blob ", digest, " is damaged");
  if (!status.ok()) {
    absl::StrAppend(&what, ": ", status.message());
  } else {
    absl::StrAppend(&what, ": its bytes have the digest ", actual);
  }
  if (event > 0) absl::StrAppend(&what, "; event ", event, " names it");
  Find(event, absl::StrCat("blob ", digest), std::move(what));
}

void Verifier::CheckBlobFiles() {
  const std::string blobs = base::JoinPath(root_, "blobs");
  const auto folders = base::ListDirectory(blobs);
  if (!folders.ok()) {
    Find(0, "blobs", std::string(folders.status().message()));
    return;
  }
  double done = 0.0;
  for (const std::string& folder : *folders) {
    const std::string path = base::JoinPath(blobs, folder);
    const auto names = base::ListDirectory(path);
    if (!names.ok()) {
      Find(0, absl::StrCat("blobs/", folder),
           absl::StrCat("blobs/", folder, " is not a folder of blobs"));
      continue;
    }
    for (const std::string& name : *names) {
      const std::string digest = folder + name;
      const auto parsed = base::DigestFromHex(digest);
      if (folder.size() != 2 || !parsed.ok() ||
          base::ToHex(*parsed) != digest) {
        Find(0, absl::StrCat("blobs/", folder, "/", name),
             absl::StrCat("blobs/", folder, "/", name, " is not a blob"));
        continue;
      }
      if (!Full()) CheckBlobFile(digest, base::JoinPath(path, name));
    }
    done += 1.0;
    Progress("blobs", done / static_cast<double>(folders->size()));
  }
}

void Verifier::CheckBlobUses() {
  std::set<std::string> reported;
  for (const BlobUse& use : grammar_.blob_uses()) {
    if (bad_blobs_.count(use.digest) > 0 || Full()) continue;
    const auto it = good_blobs_.find(use.digest);
    if (it == good_blobs_.end()) {
      // It may have come after the files were listed, if somebody is writing.
      const auto late = base::FileSize(store::BlobPath(root_, use.digest));
      if (use.may_be_absent || (use.digest.size() == 64 && late.ok()) ||
          !reported.insert(use.digest).second) {
        continue;
      }
      Find(use.event, absl::StrCat("event ", use.event),
           absl::StrCat("event ", use.event, ": the ", use.what, ", blob ",
                        use.digest, ", is not in the store"));
    } else if (it->second != use.size) {
      Find(use.event, absl::StrCat("event ", use.event),
           absl::StrCat("event ", use.event, ": the ", use.what, ", blob ",
                        use.digest, ", is recorded with ", use.size,
                        " bytes and has ", it->second));
    }
  }
}

absl::StatusOr<std::string> Verifier::ReadBlob(
    const std::string& digest) const {
  const auto parsed = base::DigestFromHex(digest);
  if (!parsed.ok()) return absl::NotFoundError("no digest");
  CHOIR_ASSIGN_OR_RETURN(
      std::string bytes,
      base::ReadFile(store::BlobPath(root_, base::ToHex(*parsed)),
                     kMaxBlobBytes));
  if (base::Sha256Of(bytes) != *parsed) {
    return absl::DataLossError(absl::StrCat("blob ", digest, " is damaged"));
  }
  return bytes;
}

void Verifier::CheckSteps() {
  const std::vector<Step>& steps = grammar_.steps();
  const BlobReader read = [this](const std::string& digest) {
    return ReadBlob(digest);
  };
  for (size_t i = 0; i < steps.size() && !Full(); ++i) {
    for (const std::string& problem : CheckStep(steps[i], read)) {
      Find(steps[i].event, absl::StrCat("event ", steps[i].event),
           absl::StrCat("event ", steps[i].event, ": ", problem));
    }
    Progress("rounds",
             static_cast<double>(i + 1) / static_cast<double>(steps.size()));
  }
}

absl::StatusOr<VerifyReport> Verifier::Run() {
  Progress("journal", 0.0);
  CheckSeal();
  const auto reader = store::JournalReader::Open(root_);
  if (absl::IsNotFound(reader.status()) ||
      absl::IsPermissionDenied(reader.status())) {
    return reader.status();
  }
  if (!reader.ok()) {
    Find(0, "choir.db", std::string(reader.status().message()));
  } else {
    CheckJournal(**reader);
    CheckBlobFiles();
    CheckBlobUses();
    CheckSteps();
  }
  VerifyReport report;
  report.ok = findings_.empty();
  report.events = events_;
  report.rounds = grammar_.rounds_committed();
  report.blobs = good_blobs_.size() + bad_blobs_.size();
  report.sealed = sealed_;
  for (const Finding& finding : findings_) {
    if (report.reason.empty()) report.reason = finding.what;
    if (finding.event > 0 && (report.first_bad_event == 0 ||
                              finding.event < report.first_bad_event)) {
      report.first_bad_event = finding.event;
      report.reason = finding.what;
    }
  }
  if (findings_.size() > kMaxFindings) findings_.resize(kMaxFindings);
  report.findings = std::move(findings_);
  return report;
}

bool HasLog(const std::string& root) {
  const auto size = base::FileSize(base::JoinPath(root, "choir.db-wal"));
  return size.ok() && *size > 0;
}

}  // namespace

absl::StatusOr<VerifyReport> Verify(const std::string& root,
                                    const ProgressFunction& progress) {
  const bool had_log = HasLog(root);
  CHOIR_ASSIGN_OR_RETURN(VerifyReport report, Verifier(root, progress).Run());
  // A coordinator that starts or stops meanwhile moves its file under us.
  if (!report.ok && had_log != HasLog(root)) {
    return Verifier(root, progress).Run();
  }
  return report;
}

}  // namespace choir::audit
