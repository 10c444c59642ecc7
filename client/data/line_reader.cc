#include "client/data/line_reader.h"

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/files.h"
#include "base/status_macros.h"

namespace choir::client {

absl::StatusOr<LineReader> LineReader::Open(const std::string& path,
                                            uint64_t max_line_bytes) {
  std::FILE* file = std::fopen(path.c_str(), "rbe");
  if (file == nullptr) {
    return base::ErrnoStatus(errno, absl::StrCat("open ", path));
  }
  return LineReader(file, path, max_line_bytes);
}

std::string LineReader::place() const {
  return absl::StrCat(path_, ":", line_number_);
}

absl::Status LineReader::Fill() {
  begin_ = 0;
  end_ = std::fread(buffer_.data(), 1, buffer_.size(), file_.get());
  if (end_ == 0) {
    if (std::ferror(file_.get())) {
      return base::ErrnoStatus(errno, absl::StrCat("read ", path_));
    }
    at_end_ = true;
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> LineReader::Next(std::string* line) {
  line->clear();
  bool any = false;
  while (true) {
    if (begin_ == end_) {
      if (!at_end_) CHOIR_RETURN_IF_ERROR(Fill());
      if (at_end_) break;
    }
    if (!any) ++line_number_;
    any = true;
    const char* start = buffer_.data() + begin_;
    const void* newline = std::memchr(start, '\n', end_ - begin_);
    const size_t length = newline == nullptr
                              ? end_ - begin_
                              : static_cast<const char*>(newline) - start;
    if (line->size() + length > max_line_bytes_) {
      return absl::ResourceExhaustedError(
          absl::StrCat(place(), ": line is longer than the limit of ",
                       max_line_bytes_, " bytes; split it"));
    }
    line->append(start, length);
    begin_ += length;
    if (newline != nullptr) {
      ++begin_;
      break;
    }
  }
  if (!any) return false;
  if (!line->empty() && line->back() == '\r') line->pop_back();
  if (line_number_ == 1 && line->compare(0, 3, "\xEF\xBB\xBF") == 0) {
    line->erase(0, 3);
  }
  return true;
}

}  // namespace choir::client
