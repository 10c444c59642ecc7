// Hugging Face safetensors files: a little-endian uint64 with the header's
// size, a JSON header, then the tensors' bytes.
//
// Source: https://github.com/huggingface/safetensors, "Format".
#ifndef CHOIR_MODEL_CHECKPOINT_SAFETENSORS_H_
#define CHOIR_MODEL_CHECKPOINT_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/files.h"

namespace choir::model {

enum class DType {
  kBool,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kI16,
  kU16,
  kF16,
  kBf16,
  kI32,
  kU32,
  kF32,
  kF64,
  kI64,
  kU64,
};

// "F32", "BF16", ...: the format's own names.
absl::string_view DTypeName(DType dtype);
// Bytes per element.
int DTypeBytes(DType dtype);

// A named tensor, row-major, little-endian. `bytes` is borrowed: from the file
// it was read from, or from whoever writes one. It is not aligned.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // empty: a scalar
  absl::string_view bytes;
  int64_t num_elements() const;
};

// The largest header that is read; the format's own limit.
inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100u << 20;

// A parsed file. Cheap to copy; copies share the mapping.
// Threads: safe, nothing changes after parsing.
class SafetensorsFile {
 public:
  // Maps `path` and parses its header; the weights are read from disk when
  // they are first touched. Errors: those of base/files.h and of
  // ParseSafetensors.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  // In order of their names.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const {
    return metadata_;
  }
  // Path or name for error messages.
  const std::string& source() const { return source_; }
  // The same bytes under another table of contents, whose tensors must borrow
  // them.
  SafetensorsFile WithTensors(std::vector<TensorView> tensors) const;

  // Null if there is none of this name.
  const TensorView* Find(absl::string_view name) const;
  // INVALID_ARGUMENT, naming file and tensor, if it is not there or its shape
  // is not `shape`. The pointer lives as long as this object.
  absl::StatusOr<const TensorView*> Get(absl::string_view name,
                                        absl::Span<const int64_t> shape) const;

 private:
  friend absl::StatusOr<SafetensorsFile> ParseSafetensors(
      absl::string_view bytes, absl::string_view source);
  std::shared_ptr<const base::MappedFile> mapping_;  // shared by copies
  std::string source_;
  std::vector<TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Parses a whole file held in memory; the tensors borrow `bytes`. Nothing in
// `bytes` is trusted.
//
// Errors: INVALID_ARGUMENT naming `source`, the tensor and the problem: too
//   short, header too large or not JSON, unknown dtype, bad shape, bytes that
//   overlap, leave gaps, do not fit the shape or the file, repeated names.
absl::StatusOr<SafetensorsFile> ParseSafetensors(absl::string_view bytes,
                                                 absl::string_view source);

// The elements as float. BF16 and F16 convert exactly.
// Errors: INVALID_ARGUMENT for any dtype but F32, BF16 and F16.
absl::StatusOr<std::vector<float>> ReadFloats(const TensorView& tensor);
// The same into `out`, which must have tensor.num_elements() elements.
absl::Status ReadFloatsInto(const TensorView& tensor, absl::Span<float> out);

// OK if the `values` of tensor `name` stay finite when FloatsToBytes() rounds
// them; INVALID_ARGUMENT with the name and the first that does not.
absl::Status CheckFits(absl::string_view name, absl::Span<const float> values,
                       DType dtype);

// `values` as bytes of `dtype`, which must be kF32, kBf16 or kF16; rounds to
// nearest, ties to even.
std::string FloatsToBytes(absl::Span<const float> values, DType dtype);

// A file that depends only on the contents: tensors in order of their names,
// without gaps, the header padded with spaces to a multiple of 8 bytes.
// Names must differ and every tensor's bytes must fit its shape.
std::string EncodeSafetensors(
    std::vector<TensorView> tensors,
    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_SAFETENSORS_H_
