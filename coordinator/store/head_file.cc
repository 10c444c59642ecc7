#include "coordinator/store/head_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/status_macros.h"

namespace choir::store {

std::string RenderHead(const Head& head) {
  const std::string facts = absl::StrFormat(
      "choir-head 1 %020d %s ", head.sequence, base::ToHex(head.hash));
  return absl::StrCat(facts, base::Sha256Hex(facts), "\n");
}

absl::StatusOr<Head> ParseHead(absl::string_view bytes) {
  const absl::Status damaged = absl::DataLossError(
      "the file 'head' is damaged: its checksum does not fit its contents");
  const std::vector<std::string> fields = absl::StrSplit(bytes, ' ');
  Head head;
  if (fields.size() != 5 || !absl::SimpleAtoi(fields[2], &head.sequence)) {
    return damaged;
  }
  const auto hash = base::DigestFromHex(fields[3]);
  if (!hash.ok()) return damaged;
  head.hash = *hash;
  // Comparing with the one right rendering leaves no bit unchecked.
  if (RenderHead(head) != std::string(bytes)) return damaged;
  return head;
}

absl::StatusOr<Head> ReadHead(const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(const std::string bytes,
                         base::ReadFile(path, 1 << 20));
  return ParseHead(bytes);
}

absl::StatusOr<std::unique_ptr<HeadFile>> HeadFile::Open(
    const std::string& path) {
  base::ScopedFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.is_open()) {
    return base::ErrnoStatus(errno, absl::StrCat("open ", path));
  }
  return std::unique_ptr<HeadFile>(new HeadFile(std::move(fd), path));
}

absl::Status HeadFile::Write(const Head& head) {
  const std::string bytes = RenderHead(head);
  const ssize_t written = pwrite(fd_.get(), bytes.data(), bytes.size(), 0);
  if (written != static_cast<ssize_t>(bytes.size())) {
    return base::ErrnoStatus(written < 0 ? errno : ENOSPC,
                             absl::StrCat("write ", path_));
  }
  return absl::OkStatus();
}

}  // namespace choir::store
