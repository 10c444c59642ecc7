#include "model/tokenizer/pipeline_json.h"

#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/tokenizer/part_json.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {
namespace {

using nlohmann::json;

constexpr int kMostSteps = 64;

// IsWord, inside a class.
constexpr char kWord[] =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200C}\\x{200D}\\x{24B6}-\\x{24E9}"
    "\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}";

// What a Replace or a Split looks for.
struct Pattern {
  std::string text;  // plain, or
  std::optional<Regex> regex;
};

absl::StatusOr<Pattern> ParsePattern(const json& step, absl::string_view part) {
  Pattern out;
  const json& pattern = Member(step, "pattern");
  if (pattern.is_object() && pattern.contains("String")) {
    CHOIR_ASSIGN_OR_RETURN(out.text, TextMember(pattern, "String"));
    if (out.text.empty()) {
      return BadPart(absl::StrCat("a ", part, " has an empty pattern"));
    }
    return out;
  }
  if (pattern.is_object() && pattern.contains("Regex")) {
    CHOIR_ASSIGN_OR_RETURN(const std::string text,
                           TextMember(pattern, "Regex"));
    CHOIR_ASSIGN_OR_RETURN(out.regex, Regex::Compile(text));
    return out;
  }
  return BadPart(absl::StrCat("a ", part,
                              " needs 'pattern': {'String': ..} or "
                              "{'Regex': ..}"));
}

// An expression that matches `text` as it stands.
absl::StatusOr<Regex> Literal(absl::string_view text) {
  std::string escaped;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte < 0x80 && !IsWord(byte)) escaped.push_back('\\');
    escaped.push_back(c);
  }
  return Regex::Compile(escaped);
}

absl::StatusOr<size_t> CountMember(const json& step, const char* key) {
  const json& value = Member(step, key);
  if (!value.is_number_unsigned() || value.get<uint64_t>() > 1000) {
    return BadPart(
        absl::StrCat("'", key, "' is not a whole number up to 1000"));
  }
  return value.get<size_t>();
}

template <typename Part>
absl::Status ParseReplace(const json& step, Part& out) {
  CHOIR_ASSIGN_OR_RETURN(Pattern pattern, ParsePattern(step, "Replace"));
  CHOIR_ASSIGN_OR_RETURN(std::string content, TextMember(step, "content"));
  if (pattern.regex) {
    out.AddReplace(*std::move(pattern.regex), std::move(content));
  } else {
    out.AddReplace(std::move(pattern.text), std::move(content));
  }
  return absl::OkStatus();
}

absl::StatusOr<SplitBehavior> ParseBehavior(const json& step) {
  CHOIR_ASSIGN_OR_RETURN(const std::string name, TextMember(step, "behavior"));
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return BadPart(absl::StrCat("'behavior' is '", name,
                              "'; known: Removed, Isolated, MergedWithPrevious,"
                              " MergedWithNext, Contiguous"));
}

struct MetaspaceSettings {
  std::string replacement;
  PrependScheme scheme = PrependScheme::kAlways;
  bool split = true;
};

absl::StatusOr<MetaspaceSettings> ParseMetaspace(const json& step) {
  MetaspaceSettings out;
  CHOIR_ASSIGN_OR_RETURN(out.replacement, TextMember(step, "replacement"));
  if (out.replacement.empty() ||
      DecodeUtf8(out.replacement, 0).length != out.replacement.size() ||
      (out.replacement.size() == 1 && IsWord(out.replacement[0]))) {
    return BadPart(
        "Metaspace's 'replacement' is not one character that is "
        "neither an ASCII letter nor a digit");
  }
  if (Member(step, "prepend_scheme").is_null()) {
    CHOIR_ASSIGN_OR_RETURN(const bool prefix,
                           BoolMember(step, "add_prefix_space", true));
    if (!prefix) out.scheme = PrependScheme::kNever;
  } else {
    CHOIR_ASSIGN_OR_RETURN(const std::string scheme,
                           TextMember(step, "prepend_scheme"));
    if (scheme == "first") {
      out.scheme = PrependScheme::kFirst;
    } else if (scheme == "never") {
      out.scheme = PrependScheme::kNever;
    } else if (scheme != "always") {
      return BadPart(absl::StrCat("'prepend_scheme' is '", scheme,
                                  "'; known: always, first, never"));
    }
  }
  CHOIR_ASSIGN_OR_RETURN(out.split, BoolMember(step, "split", true));
  return out;
}

absl::Status ParseSplit(const json& part, PreTokenizer& out) {
  CHOIR_ASSIGN_OR_RETURN(Pattern pattern, ParsePattern(part, "Split"));
  CHOIR_ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseBehavior(part));
  CHOIR_ASSIGN_OR_RETURN(const bool invert, BoolMember(part, "invert", false));
  if (!pattern.regex) {
    CHOIR_ASSIGN_OR_RETURN(pattern.regex, Literal(pattern.text));
  }
  out.AddSplit(*std::move(pattern.regex), behavior, invert);
  return absl::OkStatus();
}

// Those that are a Split by a fixed expression.
absl::Status AddFixedSplit(absl::string_view regex, SplitBehavior behavior,
                           bool invert, PreTokenizer& out) {
  CHOIR_ASSIGN_OR_RETURN(Regex compiled, Regex::Compile(regex));
  out.AddSplit(std::move(compiled), behavior, invert);
  return absl::OkStatus();
}

absl::Status ParseNormalizerStep(const json& part, const std::string& type,
                                 Normalizer& out) {
  if (type == "Prepend") {
    CHOIR_ASSIGN_OR_RETURN(std::string text, TextMember(part, "prepend"));
    out.AddPrepend(std::move(text));
  } else if (type == "Replace") {
    return ParseReplace(part, out);
  } else if (type == "NFC") {
    out.AddUnicode(NormalForm::kNfc);
  } else if (type == "NFD") {
    out.AddUnicode(NormalForm::kNfd);
  } else if (type == "NFKC") {
    out.AddUnicode(NormalForm::kNfkc);
  } else if (type == "NFKD") {
    out.AddUnicode(NormalForm::kNfkd);
  } else if (type == "Lowercase") {
    out.AddLowercase();
  } else if (type == "Strip") {
    CHOIR_ASSIGN_OR_RETURN(const bool left,
                           BoolMember(part, "strip_left", true));
    CHOIR_ASSIGN_OR_RETURN(const bool right,
                           BoolMember(part, "strip_right", true));
    out.AddStrip(left, right);
  } else {
    return UnknownPart("normalizer", type,
                       "Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD, "
                       "Lowercase, Strip");
  }
  return absl::OkStatus();
}

absl::Status ParsePreTokenizerStep(const json& part, const std::string& type,
                                   PreTokenizer& out) {
  if (out.byte_level()) {
    return BadPart("pre_tokenizer ByteLevel is not the last of its Sequence");
  }
  if (type == "ByteLevel") {
    CHOIR_ASSIGN_OR_RETURN(const bool prefix,
                           BoolMember(part, "add_prefix_space", true));
    CHOIR_ASSIGN_OR_RETURN(const bool use_regex,
                           BoolMember(part, "use_regex", true));
    out.AddByteLevel(prefix, use_regex);
    return absl::OkStatus();
  }
  if (type == "Split") return ParseSplit(part, out);
  if (type == "Metaspace") {
    CHOIR_ASSIGN_OR_RETURN(MetaspaceSettings settings, ParseMetaspace(part));
    out.AddMetaspace(std::move(settings.replacement), settings.scheme,
                     settings.split);
    return absl::OkStatus();
  }
  if (type == "Digits") {
    CHOIR_ASSIGN_OR_RETURN(const bool individual,
                           BoolMember(part, "individual_digits", false));
    return AddFixedSplit(
        "\\p{N}",
        individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous,
        false, out);
  }
  if (type == "Punctuation") {
    SplitBehavior behavior = SplitBehavior::kIsolated;
    if (!Member(part, "behavior").is_null()) {
      CHOIR_ASSIGN_OR_RETURN(behavior, ParseBehavior(part));
    }
    return AddFixedSplit("[\\p{P}$+<=>^`|~]", behavior, false, out);
  }
  if (type == "Whitespace") {
    return AddFixedSplit(absl::StrCat("[", kWord, "]+|[^\\s", kWord, "]+"),
                         SplitBehavior::kRemoved, true, out);
  }
  if (type == "WhitespaceSplit") {
    return AddFixedSplit("\\s", SplitBehavior::kRemoved, false, out);
  }
  return UnknownPart("pre_tokenizer", type,
                     "Sequence, ByteLevel, Split, Metaspace, Digits, "
                     "Punctuation, Whitespace, WhitespaceSplit");
}

absl::Status ParseDecoderStep(const json& part, const std::string& type,
                              TokenDecoder& out) {
  if (type == "Replace") {
    return ParseReplace(part, out);
  } else if (type == "ByteFallback") {
    out.AddByteFallback();
  } else if (type == "Fuse") {
    out.AddFuse();
  } else if (type == "ByteLevel") {
    out.AddByteLevel();
  } else if (type == "Metaspace") {
    CHOIR_ASSIGN_OR_RETURN(MetaspaceSettings settings, ParseMetaspace(part));
    out.AddMetaspace(std::move(settings.replacement),
                     settings.scheme != PrependScheme::kNever);
  } else if (type == "BPEDecoder") {
    CHOIR_ASSIGN_OR_RETURN(std::string suffix, TextMember(part, "suffix"));
    if (suffix.empty()) return BadPart("a BPEDecoder has an empty suffix");
    out.AddSuffix(std::move(suffix));
  } else if (type == "Strip") {
    CHOIR_ASSIGN_OR_RETURN(std::string content, TextMember(part, "content"));
    CHOIR_ASSIGN_OR_RETURN(const size_t start, CountMember(part, "start"));
    CHOIR_ASSIGN_OR_RETURN(const size_t stop, CountMember(part, "stop"));
    if (content.empty()) return BadPart("a Strip has empty content");
    out.AddStrip(std::move(content), start, stop);
  } else {
    return UnknownPart("decoder", type,
                       "Sequence, Replace, ByteFallback, Fuse, Strip, "
                       "ByteLevel, Metaspace, BPEDecoder");
  }
  return absl::OkStatus();
}

// Calls parse(step, its type) for the part, or for each of a Sequence's.
using ParseStep =
    absl::FunctionRef<absl::Status(const json&, const std::string&)>;
absl::Status ForEachStep(const json& part, const char* key, int& steps,
                         ParseStep parse) {
  if (part.is_null()) return absl::OkStatus();
  const json& name = Member(part, "type");
  if (!name.is_string()) return BadPart("'type' is not text");
  const auto& type = name.get_ref<const std::string&>();
  if (type != "Sequence") {
    if (++steps > kMostSteps) {
      return BadPart(
          absl::StrCat("'", key, "' has more than ", kMostSteps, " steps"));
    }
    return parse(part, type);
  }
  const json& list = Member(part, key);
  if (!list.is_array()) return BadPart(absl::StrCat("'", key, "' is no list"));
  for (const json& step : list) {
    CHOIR_RETURN_IF_ERROR(ForEachStep(step, key, steps, parse));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseNormalizer(const json& part, Normalizer& out) {
  int steps = 0;
  return ForEachStep(part, "normalizers", steps,
                     [&](const json& step, const std::string& type) {
                       return ParseNormalizerStep(step, type, out);
                     });
}

absl::Status ParsePreTokenizer(const json& part, PreTokenizer& out) {
  int steps = 0;
  return ForEachStep(part, "pretokenizers", steps,
                     [&](const json& step, const std::string& type) {
                       return ParsePreTokenizerStep(step, type, out);
                     });
}

absl::Status ParseDecoder(const json& part, TokenDecoder& out) {
  int steps = 0;
  return ForEachStep(part, "decoders", steps,
                     [&](const json& step, const std::string& type) {
                       return ParseDecoderStep(step, type, out);
                     });
}

}  // namespace choir::model
