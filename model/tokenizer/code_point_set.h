// Sets of code points, as regular expressions name them.
#ifndef CHOIR_MODEL_TOKENIZER_CODE_POINT_SET_H_
#define CHOIR_MODEL_TOKENIZER_CODE_POINT_SET_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/strings/string_view.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {

// Inclusive.
struct CodePointRange {
  uint32_t first;
  uint32_t last;
  bool operator==(const CodePointRange& other) const {
    return first == other.first && last == other.last;
  }
};

// Of code points 0 to kInvalidCodePoint, which stands for invalid bytes and is
// a member of complements. Threads: as a vector.
class CodePointSet {
 public:
  CodePointSet() = default;
  explicit CodePointSet(std::vector<CodePointRange> ranges);
  static CodePointSet Of(uint32_t code_point) {
    return CodePointSet({{code_point, code_point}});
  }
  // The general category or group of categories of that name ("Lu", "L"), or
  // one of digit, space and word, as Oniguruma understands them.
  static std::optional<CodePointSet> Named(absl::string_view name);

  void Add(const CodePointSet& other);
  CodePointSet Complement() const;
  CodePointSet Intersection(const CodePointSet& other) const;
  // Adds what differs from a member in case alone (one character for one).
  void AddOtherCases();

  bool Contains(uint32_t code_point) const;
  bool empty() const { return ranges_.empty(); }
  // Ascending, neither touching nor overlapping.
  const std::vector<CodePointRange>& ranges() const { return ranges_; }
  bool operator==(const CodePointSet& other) const {
    return ranges_ == other.ranges_;
  }

 private:
  void Normalize();
  std::vector<CodePointRange> ranges_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_CODE_POINT_SET_H_
