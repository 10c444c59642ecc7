// GGUF files, the format of llama.cpp: metadata and tensors.
//
// Source: the GGUF specification, version 3 (ggml, docs/gguf.md);
// little-endian.
#ifndef CHOIR_MODEL_EXPORT_GGUF_H_
#define CHOIR_MODEL_EXPORT_GGUF_H_

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/checkpoint/safetensors.h"

namespace choir::model {

// An array is read past and not kept; arrays are not written.
struct GgufArray {
  uint64_t size = 0;
};
// uint32_t and float are what adapters need; the other integers are widened.
using GgufValue = std::variant<uint32_t, float, std::string, bool, uint64_t,
                               int64_t, double, GgufArray>;

struct GgufFile {
  std::string source;  // path or name for error messages
  // In the file's order, every key once.
  std::vector<std::pair<std::string, GgufValue>> metadata;
  // In the file's order, every name once. Shapes are row-major, the outermost
  // dimension first: the reverse of the order in the file. The bytes are
  // borrowed from what was parsed.
  std::vector<TensorView> tensors;

  // Null if it is not there.
  const GgufValue* Find(absl::string_view key) const;
  // INVALID_ARGUMENT, naming the file and the key, if it is not there or not
  // text.
  absl::StatusOr<std::string> Text(absl::string_view key) const;
};

// Parses a whole file held in memory. Nothing in `bytes` is trusted.
//
// Errors: INVALID_ARGUMENT naming `source`, where, and the problem: another
//   format, version or byte order; too short; a count, text or dimension above
//   its limit; a repeated key or name; a tensor that is quantised or lies
//   outside the file, over another one, or not on the alignment.
absl::StatusOr<GgufFile> ParseGguf(absl::string_view bytes,
                                   absl::string_view source);

// The file's bytes: metadata and tensors in the order given, tensors aligned
// to 32 bytes. What ParseGguf reads back is equal.
//
// Errors: INVALID_ARGUMENT for an array, a dtype other than F32, F16 and BF16,
//   a tensor with no or more than four dimensions, or a name longer than 63
//   bytes, the most that llama.cpp reads.
absl::StatusOr<std::string> EncodeGguf(
    const std::vector<std::pair<std::string, GgufValue>>& metadata,
    const std::vector<TensorView>& tensors);

}  // namespace choir::model

#endif  // CHOIR_MODEL_EXPORT_GGUF_H_
