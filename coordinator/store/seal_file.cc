#include "coordinator/store/seal_file.h"

#include <algorithm>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace choir::store {
namespace {

constexpr size_t kMaxDifferences = 20;
constexpr uint64_t kMaxSealBytes = 1ull << 31;

struct Seal {
  uint64_t bytes = 0;
  std::string file_sha256;
  std::vector<std::string> page_sha256;
};

absl::StatusOr<Seal> SealOf(const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(const auto file, base::RandomAccessFile::Open(path));
  Seal seal;
  seal.bytes = file->size();
  base::Sha256 whole;
  std::string page;
  for (uint64_t at = 0; at < seal.bytes; at += kSealPageBytes) {
    page.resize(std::min(kSealPageBytes, seal.bytes - at));
    CHOIR_RETURN_IF_ERROR(file->ReadAt(at, page.size(), page.data()));
    whole.Update(page);
    seal.page_sha256.push_back(base::Sha256Hex(page));
  }
  seal.file_sha256 = base::ToHex(whole.Finish());
  return seal;
}

std::string RenderSeal(const Seal& seal) {
  std::string text =
      absl::StrCat("choir-seal 1\nbytes ", seal.bytes, "\npage_bytes ",
                   kSealPageBytes, "\nsha256 ", seal.file_sha256, "\n");
  for (const std::string& digest : seal.page_sha256) {
    absl::StrAppend(&text, digest, "\n");
  }
  absl::StrAppend(&text, "checksum ", base::Sha256Hex(text), "\n");
  return text;
}

// False if the text is not exactly what RenderSeal writes.
bool ParseSeal(const std::string& text, Seal& seal) {
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  if (lines.size() < 6) return false;
  absl::string_view bytes = lines[1];
  absl::string_view digest = lines[3];
  if (!absl::ConsumePrefix(&bytes, "bytes ") ||
      !absl::SimpleAtoi(bytes, &seal.bytes) ||
      !absl::ConsumePrefix(&digest, "sha256 ")) {
    return false;
  }
  seal.file_sha256 = std::string(digest);
  // The last two are the checksum and what follows the final line break.
  seal.page_sha256.assign(lines.begin() + 4, lines.end() - 2);
  return RenderSeal(seal) == text;
}

}  // namespace

absl::Status WriteSeal(const std::string& path, const std::string& seal_path,
                       base::Durability durability) {
  CHOIR_ASSIGN_OR_RETURN(const Seal seal, SealOf(path));
  return base::WriteFileAtomic(seal_path, RenderSeal(seal), durability);
}

absl::StatusOr<std::vector<std::string>> CompareWithSeal(
    const std::string& path, const std::string& seal_path) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text,
                         base::ReadFile(seal_path, kMaxSealBytes));
  CHOIR_ASSIGN_OR_RETURN(const Seal actual, SealOf(path));
  Seal sealed;
  if (!ParseSeal(text, sealed)) {
    // The right seal is known if the file still is what it was: then the first
    // byte that differs can be named.
    const std::string right = RenderSeal(actual);
    const size_t at = static_cast<size_t>(
        std::mismatch(text.begin(),
                      text.begin() + std::min(text.size(), right.size()),
                      right.begin())
            .first -
        text.begin());
    return std::vector<std::string>{
        absl::StrCat("the file 'seal' is damaged: its checksum does not fit "
                     "its contents; the first byte that does not fit the "
                     "journal is ",
                     at)};
  }
  std::vector<std::string> differences;
  if (sealed.bytes != actual.bytes) {
    differences.push_back(absl::StrCat("choir.db is ", actual.bytes,
                                       " bytes long, sealed were ",
                                       sealed.bytes));
  }
  const size_t pages =
      std::min(sealed.page_sha256.size(), actual.page_sha256.size());
  for (size_t i = 0; i < pages && differences.size() < kMaxDifferences; ++i) {
    if (sealed.page_sha256[i] == actual.page_sha256[i]) continue;
    const uint64_t offset = i * kSealPageBytes;
    differences.push_back(
        absl::StrCat("page ", i + 1, " of choir.db (bytes ", offset, " to ",
                     std::min(offset + kSealPageBytes, actual.bytes) - 1,
                     ") is not what was sealed"));
  }
  if (differences.empty() && sealed.file_sha256 != actual.file_sha256) {
    differences.push_back("choir.db is not what was sealed");
  }
  return differences;
}

}  // namespace choir::store
