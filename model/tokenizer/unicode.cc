#include "model/tokenizer/unicode.h"

#include <algorithm>
#include <array>

namespace choir::model {
namespace {

bool InRanges(absl::Span<const CodePointRange> ranges, uint32_t code_point) {
  const auto after = std::upper_bound(
      ranges.begin(), ranges.end(), code_point,
      [](uint32_t value, const CodePointRange& range) {
        return value < range.first;
      });
  return after != ranges.begin() && code_point <= std::prev(after)->last;
}

bool IsWideWhitespace(uint32_t c) {
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
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
    } else {
      out.append(bytes.data() + i, c.length);
    }
    i += c.length;
  }
  return out;
}

bool IsLetter(uint32_t c) {
  if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  return InRanges(LetterRanges(), c);
}

bool IsNumber(uint32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return InRanges(NumberRanges(), c);
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
