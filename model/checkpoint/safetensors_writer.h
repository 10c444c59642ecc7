// Writes a safetensors file tensor by tensor, for models larger than memory.
#ifndef CHOIR_MODEL_CHECKPOINT_SAFETENSORS_WRITER_H_
#define CHOIR_MODEL_CHECKPOINT_SAFETENSORS_WRITER_H_

#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/checkpoint/safetensors.h"

namespace choir::model {

// Asked again and again during long work; a status that is not OK ends it, and
// is what it returns.
using StopFn = std::function<absl::Status()>;

// The header comes first in the file but is known last, so the tensors gather
// in PATH.data; Finish() writes header and tensors to PATH.new and renames it
// to PATH, which is thus never seen half-written. Dropped without Finish(), it
// leaves nothing behind.
// Threads: one thread at a time.
class SafetensorsWriter {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, StopFn stop = nullptr);
  ~SafetensorsWriter();

  // Appends one tensor; names must differ, the bytes must fit the shape. A
  // tensor can be given in pieces: Begin, then Append until it is full.
  absl::Status Add(const TensorView& tensor);
  absl::Status Begin(absl::string_view name, DType dtype,
                     std::vector<int64_t> shape);
  absl::Status Append(absl::string_view bytes);

  // The file depends on the tensors and their order alone.
  absl::Status Finish(const std::map<std::string, std::string>& metadata = {
                          {"format", "pt"}});

 private:
  struct Entry {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
    uint64_t begin, end;
  };
  SafetensorsWriter(std::string path, std::FILE* data, StopFn stop)
      : path_(std::move(path)), data_(data), stop_(std::move(stop)) {}
  std::string Header(const std::map<std::string, std::string>& metadata) const;
  absl::Status CopyData(std::FILE* out);

  const std::string path_;
  std::FILE* data_;
  const StopFn stop_;  // null: never
  uint64_t written_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_SAFETENSORS_WRITER_H_
