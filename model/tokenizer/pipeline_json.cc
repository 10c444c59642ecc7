#include "model/tokenizer/pipeline_json.h"

#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace choir::model {
namespace {

using nlohmann::json;

absl::Status Bad(absl::string_view what) {
  return absl::InvalidArgumentError(what);
}

absl::Status Unknown(absl::string_view part, absl::string_view type,
                     absl::string_view known) {
  return Bad(absl::StrCat(part, " has the unknown type '", type,
                          "'; known types: ", known));
}

// The pattern of a Replace, which must be plain text.
absl::StatusOr<std::string> Pattern(const json& step) {
  const json& pattern = Member(step, "pattern");
  if (!pattern.is_object() || !pattern.contains("String")) {
    return Bad("a Replace needs 'pattern': {'String': ..}; regular "
               "expressions are not supported");
  }
  CHOIR_ASSIGN_OR_RETURN(std::string text, TextMember(pattern, "String"));
  if (text.empty()) return Bad("a Replace has an empty pattern");
  return text;
}

absl::StatusOr<size_t> CountMember(const json& step, const char* key) {
  const json& value = Member(step, key);
  if (!value.is_number_unsigned() || value.get<uint64_t>() > 1000) {
    return Bad(absl::StrCat("'", key, "' is not a whole number up to 1000"));
  }
  return value.get<size_t>();
}

// Calls `parse` for each step of a Sequence.
template <typename Parse>
absl::Status ForEachStep(const json& sequence, const char* key, Parse parse) {
  const json& steps = Member(sequence, key);
  if (!steps.is_array()) return Bad(absl::StrCat("'", key, "' is not a list"));
  for (const json& step : steps) CHOIR_RETURN_IF_ERROR(parse(step));
  return absl::OkStatus();
}

absl::Status ParseTemplate(const json& processor, TemplateIds& out) {
  const json& special = Member(processor, "special_tokens");
  bool after_text = false;
  const auto parse = [&](const json& item) -> absl::Status {
    if (item.is_object() && item.contains("Sequence")) {
      if (after_text) return Bad("the template has two sequences");
      after_text = true;
      return absl::OkStatus();
    }
    if (!item.is_object() || !item.contains("SpecialToken")) {
      return Bad("the template holds neither SpecialToken nor Sequence");
    }
    CHOIR_ASSIGN_OR_RETURN(const std::string name,
                           TextMember(item["SpecialToken"], "id"));
    const json& ids = Member(Member(special, name.c_str()), "ids");
    if (!ids.is_array() || ids.size() > 16) {
      return Bad(absl::StrCat("the template's token '", name,
                              "' has no 'ids' in special_tokens"));
    }
    for (const json& id : ids) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxTokenId) {
        return Bad(absl::StrCat("the template's token '", name,
                                "' has an id that is not one"));
      }
      (after_text ? out.suffix : out.prefix).push_back(id.get<int32_t>());
    }
    return absl::OkStatus();
  };
  CHOIR_RETURN_IF_ERROR(ForEachStep(processor, "single", parse));
  if (!after_text) return Bad("the template has no place for the text");
  if (out.prefix.size() + out.suffix.size() > 64) {
    return Bad("the template adds more than 64 tokens");
  }
  return absl::OkStatus();
}

// For settings whose only supported value is "off".
absl::Status RequireEmpty(const json& model, const char* key) {
  const json& value = Member(model, key);
  if (value.is_null() || value == "" || value == 0 || value == 0.0) {
    return absl::OkStatus();
  }
  return Bad(absl::StrCat("the model sets '", key, "', which is not supported"));
}

}  // namespace

const json& Member(const json& object, const char* key) {
  static const json* const null = new json();
  if (!object.is_object()) return *null;
  const auto found = object.find(key);
  return found == object.end() ? *null : *found;
}

absl::StatusOr<bool> BoolMember(const json& object, const char* key,
                                bool fallback) {
  const json& value = Member(object, key);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) {
    return Bad(absl::StrCat("'", key, "' is not true or false"));
  }
  return value.get<bool>();
}

absl::StatusOr<std::string> TextMember(const json& object, const char* key) {
  const json& value = Member(object, key);
  if (!value.is_string()) return Bad(absl::StrCat("'", key, "' is not text"));
  return value.get<std::string>();
}

absl::Status ParseNormalizer(const json& part, Normalizer& out) {
  if (part.is_null()) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(const std::string type, TextMember(part, "type"));
  if (type == "Sequence") {
    return ForEachStep(part, "normalizers", [&](const json& step) {
      return ParseNormalizer(step, out);
    });
  }
  if (type == "Prepend") {
    CHOIR_ASSIGN_OR_RETURN(std::string text, TextMember(part, "prepend"));
    out.AddPrepend(std::move(text));
  } else if (type == "Replace") {
    CHOIR_ASSIGN_OR_RETURN(std::string pattern, Pattern(part));
    CHOIR_ASSIGN_OR_RETURN(std::string content, TextMember(part, "content"));
    out.AddReplace(std::move(pattern), std::move(content));
  } else {
    return Unknown("normalizer", type, "Sequence, Prepend, Replace");
  }
  return absl::OkStatus();
}

absl::Status ParsePreTokenizer(const json& part, PreTokenizer& out) {
  if (part.is_null()) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(const std::string type, TextMember(part, "type"));
  if (type == "Sequence") {
    if (Member(part, "pretokenizers").size() > 1) {
      return Bad("pre_tokenizer is a Sequence of several; one is supported");
    }
    return ForEachStep(part, "pretokenizers", [&](const json& step) {
      return ParsePreTokenizer(step, out);
    });
  }
  if (type != "ByteLevel") {
    return Unknown("pre_tokenizer", type, "Sequence, ByteLevel");
  }
  out.byte_level = true;
  CHOIR_ASSIGN_OR_RETURN(out.add_prefix_space,
                         BoolMember(part, "add_prefix_space", true));
  CHOIR_ASSIGN_OR_RETURN(const bool use_regex,
                         BoolMember(part, "use_regex", true));
  out.word_end = use_regex ? &Gpt2WordEnd : &WholeTextEnd;
  return absl::OkStatus();
}

absl::Status ParseDecoder(const json& part, TokenDecoder& out) {
  if (part.is_null()) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(const std::string type, TextMember(part, "type"));
  if (type == "Sequence") {
    return ForEachStep(part, "decoders", [&](const json& step) {
      return ParseDecoder(step, out);
    });
  }
  if (type == "Replace") {
    CHOIR_ASSIGN_OR_RETURN(std::string pattern, Pattern(part));
    CHOIR_ASSIGN_OR_RETURN(std::string content, TextMember(part, "content"));
    out.AddReplace(std::move(pattern), std::move(content));
  } else if (type == "ByteFallback") {
    out.AddByteFallback();
  } else if (type == "Fuse") {
    out.AddFuse();
  } else if (type == "ByteLevel") {
    out.AddByteLevel();
  } else if (type == "Strip") {
    CHOIR_ASSIGN_OR_RETURN(std::string content, TextMember(part, "content"));
    CHOIR_ASSIGN_OR_RETURN(const size_t start, CountMember(part, "start"));
    CHOIR_ASSIGN_OR_RETURN(const size_t stop, CountMember(part, "stop"));
    if (content.empty()) return Bad("a Strip has empty content");
    out.AddStrip(std::move(content), start, stop);
  } else {
    return Unknown("decoder", type,
                   "Sequence, Replace, ByteFallback, Fuse, Strip, ByteLevel");
  }
  return absl::OkStatus();
}

absl::Status ParsePostProcessor(const json& part, TemplateIds& out) {
  if (part.is_null()) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(const std::string type, TextMember(part, "type"));
  if (type == "Sequence") {
    return ForEachStep(part, "processors", [&](const json& step) {
      return ParsePostProcessor(step, out);
    });
  }
  if (type == "TemplateProcessing") {
    if (!out.prefix.empty() || !out.suffix.empty()) {
      return Bad("post_processor has two templates");
    }
    return ParseTemplate(part, out);
  }
  // ByteLevel only trims the offsets of tokens in the text.
  if (type == "ByteLevel") return absl::OkStatus();
  return Unknown("post_processor", type,
                 "Sequence, TemplateProcessing, ByteLevel");
}

absl::Status ParseVocab(const json& vocab, BpeOptions& out) {
  if (!vocab.is_object() || vocab.empty()) {
    return Bad("the vocabulary is not a JSON object with tokens");
  }
  absl::flat_hash_set<int32_t> ids;
  out.vocab.reserve(vocab.size());
  ids.reserve(vocab.size());
  for (const auto& [token, id] : vocab.items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxTokenId) {
      return Bad(absl::StrCat("the id of token '", token,
                              "' is not a whole number below ", kMaxTokenId));
    }
    if (!ids.insert(id.get<int32_t>()).second) {
      return Bad(absl::StrCat("token '", token, "' has the id ",
                              id.get<int32_t>(), ", as another token does"));
    }
    out.vocab.emplace(token, id.get<int32_t>());
  }
  return absl::OkStatus();
}

absl::Status ParseMerge(absl::string_view text, BpeOptions& out) {
  const size_t space = text.find(' ');
  if (space == absl::string_view::npos || space == 0 ||
      space + 1 == text.size() ||
      text.find(' ', space + 1) != absl::string_view::npos) {
    return Bad(absl::StrCat("merge ", out.merges.size(), " ('", text,
                            "') is not two tokens with a space between"));
  }
  out.merges.emplace_back(std::string(text.substr(0, space)),
                          std::string(text.substr(space + 1)));
  return absl::OkStatus();
}

absl::StatusOr<BpeOptions> ParseBpeModel(const json& model) {
  BpeOptions out;
  // Old files do not name the type.
  if (!Member(model, "type").is_null()) {
    CHOIR_ASSIGN_OR_RETURN(const std::string type, TextMember(model, "type"));
    if (type != "BPE") return Unknown("model", type, "BPE");
  }
  CHOIR_RETURN_IF_ERROR(RequireEmpty(model, "dropout"));
  CHOIR_RETURN_IF_ERROR(RequireEmpty(model, "continuing_subword_prefix"));
  CHOIR_RETURN_IF_ERROR(RequireEmpty(model, "end_of_word_suffix"));
  CHOIR_RETURN_IF_ERROR(ParseVocab(Member(model, "vocab"), out));
  const json& merges = Member(model, "merges");
  if (!merges.is_array()) return Bad("the model has no list of merges");
  out.merges.reserve(merges.size());
  for (const json& merge : merges) {
    if (merge.is_string()) {
      CHOIR_RETURN_IF_ERROR(
          ParseMerge(merge.get_ref<const std::string&>(), out));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      out.merges.emplace_back(merge[0].get<std::string>(),
                              merge[1].get<std::string>());
    } else {
      return Bad(absl::StrCat("merge ", out.merges.size(),
                              " is neither text nor a pair of texts"));
    }
  }
  if (!Member(model, "unk_token").is_null()) {
    CHOIR_ASSIGN_OR_RETURN(out.unk_token, TextMember(model, "unk_token"));
  }
  CHOIR_ASSIGN_OR_RETURN(out.fuse_unk, BoolMember(model, "fuse_unk", false));
  CHOIR_ASSIGN_OR_RETURN(out.byte_fallback,
                         BoolMember(model, "byte_fallback", false));
  CHOIR_ASSIGN_OR_RETURN(out.ignore_merges,
                         BoolMember(model, "ignore_merges", false));
  return out;
}

}  // namespace choir::model
