// The tables that tools/make_unicode_tables.py writes, and how they are read.
#ifndef CHOIR_MODEL_TOKENIZER_UNICODE_TABLES_H_
#define CHOIR_MODEL_TOKENIZER_UNICODE_TABLES_H_

#include <cstdint>

namespace choir::model {

// (length, category) of runs that cover all code points.
extern const char kCategoryTable[];
// (step, length, combining class) of runs whose class is not 0.
extern const char kCombiningTable[];
// (step, signed difference) of characters with one lower case letter.
extern const char kLowercaseTable[];
// (step, count, signed differences) of characters that decompose; the count
// is 0 for a pair that composes again.
extern const char kCanonicalTable[];
extern const char kCompatibleTable[];

// Reads the numbers of a table one after the other.
class TableReader {
 public:
  explicit TableReader(const char* table) : next_(table) {}
  bool done() const { return *next_ == '\0'; }
  uint32_t Number() {
    uint32_t value = 0;
    for (int shift = 0;; shift += 5) {
      const uint32_t digit = Digit(*next_++);
      value |= (digit & 31) << shift;
      if ((digit & 32) == 0) return value;
    }
  }
  int32_t Signed() {
    const uint32_t value = Number();
    const auto size = static_cast<int32_t>(value >> 1);
    return (value & 1) != 0 ? -size : size;
  }

 private:
  static uint32_t Digit(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : 63;
  }
  const char* next_;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_TOKENIZER_UNICODE_TABLES_H_
