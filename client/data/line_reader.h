// Lines of a text file, one at a time, in bounded memory.
#ifndef CHOIR_CLIENT_DATA_LINE_READER_H_
#define CHOIR_CLIENT_DATA_LINE_READER_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace choir::client {

// Takes off a byte order mark at the start and a '\r' at the end of each line.
// Threads: one thread at a time.
class LineReader {
 public:
  static absl::StatusOr<LineReader> Open(const std::string& path,
                                         uint64_t max_line_bytes);

  // False at the end of the file. RESOURCE_EXHAUSTED, with file:line, for a
  // line that is too long.
  absl::StatusOr<bool> Next(std::string* line);
  // Number, from 1, of the line that Next() gave last.
  uint64_t line_number() const { return line_number_; }
  // "path:line", for messages.
  std::string place() const;

 private:
  struct CloseFile {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  LineReader(std::FILE* file, std::string path, uint64_t max_line_bytes)
      : file_(file),
        path_(std::move(path)),
        max_line_bytes_(max_line_bytes),
        buffer_(1 << 16) {}
  absl::Status Fill();

  std::unique_ptr<std::FILE, CloseFile> file_;
  std::string path_;
  uint64_t max_line_bytes_;
  std::vector<char> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
  bool at_end_ = false;
  uint64_t line_number_ = 0;
};

}  // namespace choir::client

#endif  // CHOIR_CLIENT_DATA_LINE_READER_H_
