#include "model/tokenizer/unicode.h"

#include <array>
#include <map>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/check.h"
#include "model/tokenizer/unicode_tables.h"

namespace choir::model {
namespace {

constexpr uint32_t kCodePoints = 0x110000;

// A value for each code point, in pages of 256 of which equal ones are shared.
class CategoryPages {
 public:
  CategoryPages() {
    std::vector<uint8_t> flat;
    flat.reserve(kCodePoints);
    for (TableReader table(kCategoryTable); !table.done();) {
      const uint32_t length = table.Number();
      flat.insert(flat.end(), length, static_cast<uint8_t>(table.Number()));
    }
    CHOIR_CHECK(flat.size() == kCodePoints);
    std::map<std::string, uint16_t> known;
    for (uint32_t page = 0; page < pages_.size(); ++page) {
      const std::string values(flat.begin() + page * 256,
                               flat.begin() + (page + 1) * 256);
      const auto [place, is_new] =
          known.emplace(values, static_cast<uint16_t>(known.size()));
      if (is_new) values_.insert(values_.end(), values.begin(), values.end());
      pages_[page] = place->second;
    }
  }
  uint8_t operator[](uint32_t c) const {
    return values_[pages_[c >> 8] * 256 + (c & 255)];
  }

 private:
  std::array<uint16_t, kCodePoints / 256> pages_{};
  std::vector<uint8_t> values_;
};

const absl::flat_hash_map<uint32_t, uint32_t>& Lowercases() {
  static const auto* const lowercases = [] {
    auto* made = new absl::flat_hash_map<uint32_t, uint32_t>();
    uint32_t c = 0;
    for (TableReader table(kLowercaseTable); !table.done();) {
      c += table.Number();
      made->emplace(
          c, static_cast<uint32_t>(static_cast<int32_t>(c) + table.Signed()));
    }
    return made;
  }();
  return *lowercases;
}

bool InCategories(uint32_t c, Category first, Category last) {
  const Category category = CategoryOf(c);
  return category >= first && category <= last;
}

// The letters among the symbols, which have the property Alphabetic.
bool IsLetterSymbol(uint32_t c) {
  return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
         (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

// Length of the longest run at `position` that begins a character but does not
// end one; at least 1.
size_t BrokenLength(absl::string_view bytes, size_t position) {
  const auto first = static_cast<uint8_t>(bytes[position]);
  const size_t whole = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  std::string completed;
  size_t length = 1;
  for (; length < whole && position + length < bytes.size(); ++length) {
    // Continued by the least and by the greatest byte, one of which will do.
    bool begins = false;
    for (const char filler : {'\x80', '\xBF'}) {
      completed.assign(bytes.data() + position, length + 1);
      completed.resize(whole, filler);
      begins |= DecodeUtf8(completed, 0).code_point != kInvalidCodePoint;
    }
    if (!begins) break;
  }
  return length;
}

bool IsWideWhitespace(uint32_t c) {
  return c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsPrintable(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

struct Alphabet {
  std::array<uint16_t, 256> code_points{};
  std::array<int16_t, 512> bytes{};
  Alphabet() {
    bytes.fill(-1);
    uint16_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const uint16_t code_point =
          IsPrintable(byte) ? static_cast<uint16_t>(byte) : next++;
      code_points[byte] = code_point;
      bytes[code_point] = static_cast<int16_t>(byte);
    }
  }
};

const Alphabet& Gpt2Alphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

Utf8Char DecodeUtf8(absl::string_view text, size_t position) {
  const auto byte = [&](size_t i) {
    return static_cast<uint8_t>(text[position + i]);
  };
  const uint32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  uint32_t length = 0;
  uint32_t code_point = 0;
  uint32_t lowest = 0;
  if (first >= 0xC2 && first < 0xE0) {
    length = 2, code_point = first & 0x1F, lowest = 0x80;
  } else if (first >= 0xE0 && first < 0xF0) {
    length = 3, code_point = first & 0x0F, lowest = 0x800;
  } else if (first >= 0xF0 && first < 0xF5) {
    length = 4, code_point = first & 0x07, lowest = 0x10000;
  } else {
    return {};
  }
  if (text.size() - position < length) return {};
  for (uint32_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {};
    code_point = code_point << 6 | (byte(i) & 0x3F);
  }
  if (code_point < lowest || code_point > 0x10FFFF ||
      (code_point >= 0xD800 && code_point <= 0xDFFF)) {
    return {};
  }
  return {code_point, length};
}

void AppendUtf8(uint32_t c, std::string& out) {
  const auto put = [&](uint32_t byte) {
    out.push_back(static_cast<char>(static_cast<uint8_t>(byte)));
  };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

bool IsValidUtf8(absl::string_view bytes) {
  for (size_t i = 0; i < bytes.size();) {
    const Utf8Char c = DecodeUtf8(bytes, i);
    if (c.code_point == kInvalidCodePoint) return false;
    i += c.length;
  }
  return true;
}

std::string Utf8Lossy(absl::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (size_t i = 0; i < bytes.size();) {
    const Utf8Char c = DecodeUtf8(bytes, i);
    if (c.code_point == kInvalidCodePoint) {
      AppendUtf8(0xFFFD, out);
      i += BrokenLength(bytes, i);
    } else {
      out.append(bytes.data() + i, c.length);
      i += c.length;
    }
  }
  return out;
}

Category CategoryOf(uint32_t code_point) {
  static const auto* const pages = new CategoryPages();
  if (code_point >= kCodePoints) return Category::kCn;
  return static_cast<Category>((*pages)[code_point]);
}

bool IsLetter(uint32_t c) {
  if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  return InCategories(c, Category::kLl, Category::kLu);
}

bool IsNumber(uint32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return InCategories(c, Category::kNd, Category::kNo);
}

bool IsWord(uint32_t c) {
  return InCategories(c, Category::kLl, Category::kNl) ||
         CategoryOf(c) == Category::kPc || IsLetterSymbol(c) || c == 0x200C ||
         c == 0x200D;
}

void AppendLowercase(uint32_t c, std::string& out) {
  if (c >= 'A' && c <= 'Z') {
    c += 'a' - 'A';
  } else if (c == 0x130) {  // the one that becomes two
    AppendUtf8('i', out);
    c = 0x307;
  } else if (c >= 0x80) {
    const auto found = Lowercases().find(c);
    if (found != Lowercases().end()) c = found->second;
  }
  AppendUtf8(c, out);
}

bool IsWhitespace(uint32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0D);
  return IsWideWhitespace(c);
}

uint32_t ByteToCodePoint(uint8_t byte) {
  return Gpt2Alphabet().code_points[byte];
}

int CodePointToByte(uint32_t code_point) {
  return code_point < 512 ? Gpt2Alphabet().bytes[code_point] : -1;
}

std::string BytesToAlphabet(absl::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char byte : bytes) {
    AppendUtf8(ByteToCodePoint(static_cast<uint8_t>(byte)), out);
  }
  return out;
}

}  // namespace choir::model
