// The post-processor and the BPE model of tokenizer.json.
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/tokenizer/part_json.h"
#include "model/tokenizer/pipeline_json.h"

namespace choir::model {
namespace {

using nlohmann::json;

template <typename Parse>
absl::Status ForEach(const json& list, Parse parse) {
  if (!list.is_array()) return BadPart("the post_processor has no list");
  for (const json& item : list) CHOIR_RETURN_IF_ERROR(parse(item));
  return absl::OkStatus();
}

absl::Status ParseTemplate(const json& processor, TemplateIds& out) {
  const json& special = Member(processor, "special_tokens");
  bool after_text = false;
  const auto parse = [&](const json& item) -> absl::Status {
    if (item.is_object() && item.contains("Sequence")) {
      if (after_text) return BadPart("the template has two sequences");
      after_text = true;
      return absl::OkStatus();
    }
    if (!item.is_object() || !item.contains("SpecialToken")) {
      return BadPart("the template holds neither SpecialToken nor Sequence");
    }
    CHOIR_ASSIGN_OR_RETURN(const std::string name,
                           TextMember(item["SpecialToken"], "id"));
    const json& ids = Member(Member(special, name.c_str()), "ids");
    if (!ids.is_array() || ids.size() > 16) {
      return BadPart(absl::StrCat("the template's token '", name,
                                  "' has no 'ids' in special_tokens"));
    }
    for (const json& id : ids) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxTokenId) {
        return BadPart(absl::StrCat("the template's token '", name,
                                    "' has an id that is not one"));
      }
      (after_text ? out.suffix : out.prefix).push_back(id.get<int32_t>());
    }
    return absl::OkStatus();
  };
  CHOIR_RETURN_IF_ERROR(ForEach(Member(processor, "single"), parse));
  if (!after_text) return BadPart("the template has no place for the text");
  if (out.prefix.size() + out.suffix.size() > 64) {
    return BadPart("the template adds more than 64 tokens");
  }
  return absl::OkStatus();
}

// ["token", id]
absl::Status AddPair(const json& pair, std::vector<int32_t>& ids) {
  if (!pair.is_array() || pair.size() != 2 || !pair[1].is_number_unsigned() ||
      pair[1].get<uint64_t>() >= kMaxTokenId) {
    return BadPart("the post_processor's 'cls' or 'sep' is not [token, id]");
  }
  ids.push_back(pair[1].get<int32_t>());
  return absl::OkStatus();
}

absl::Status RequireNoDropout(const json& model) {
  const json& value = Member(model, "dropout");
  if (value.is_null() || value == 0 || value == 0.0) return absl::OkStatus();
  return BadPart(
      "the model sets 'dropout', which is not supported: the same "
      "text must give the same ids");
}

absl::Status OptionalText(const json& model, const char* key,
                          std::string& out) {
  if (Member(model, key).is_null()) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(out, TextMember(model, key));
  return absl::OkStatus();
}

}  // namespace

absl::Status ParsePostProcessor(const json& part, TemplateIds& out) {
  if (part.is_null()) return absl::OkStatus();
  CHOIR_ASSIGN_OR_RETURN(const std::string type, TextMember(part, "type"));
  if (type == "Sequence") {
    return ForEach(Member(part, "processors"), [&](const json& step) {
      return ParsePostProcessor(step, out);
    });
  }
  if (type == "TemplateProcessing") {
    if (!out.prefix.empty() || !out.suffix.empty()) {
      return BadPart("post_processor has two templates");
    }
    return ParseTemplate(part, out);
  }
  if (type == "RobertaProcessing" || type == "BertProcessing") {
    CHOIR_RETURN_IF_ERROR(AddPair(Member(part, "cls"), out.prefix));
    return AddPair(Member(part, "sep"), out.suffix);
  }
  // ByteLevel only trims the offsets of tokens in the text.
  if (type == "ByteLevel") return absl::OkStatus();
  return UnknownPart("post_processor", type,
                     "Sequence, TemplateProcessing, ByteLevel, "
                     "RobertaProcessing, BertProcessing");
}

absl::Status ParseVocab(const json& vocab, BpeOptions& out) {
  if (!vocab.is_object() || vocab.empty()) {
    return BadPart("the vocabulary is not a JSON object with tokens");
  }
  absl::flat_hash_set<int32_t> ids;
  out.vocab.reserve(vocab.size());
  ids.reserve(vocab.size());
  for (const auto& [token, id] : vocab.items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxTokenId) {
      return BadPart(absl::StrCat("the id of token '", token,
                                  "' is not a whole number below ",
                                  kMaxTokenId));
    }
    if (!ids.insert(id.get<int32_t>()).second) {
      return BadPart(absl::StrCat("token '", token, "' has the id ",
                                  id.get<int32_t>(),
                                  ", as another token does"));
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
    return BadPart(absl::StrCat("merge ", out.merges.size(), " ('", text,
                                "') is not two tokens with a space between"));
  }
  out.merges.emplace_back(std::string(text.substr(0, space)),
                          std::string(text.substr(space + 1)));
  return absl::OkStatus();
}

namespace {

absl::Status ParseMerges(const json& merges, BpeOptions& out) {
  if (!merges.is_array()) return BadPart("the model has no list of merges");
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
      return BadPart(absl::StrCat("merge ", out.merges.size(),
                                  " is neither text nor a pair of texts"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BpeOptions> ParseBpeModel(const json& model) {
  BpeOptions out;
  // Old files do not name the type.
  if (!Member(model, "type").is_null()) {
    CHOIR_ASSIGN_OR_RETURN(const std::string type, TextMember(model, "type"));
    if (type != "BPE") return UnknownPart("model", type, "BPE");
  }
  CHOIR_RETURN_IF_ERROR(RequireNoDropout(model));
  CHOIR_RETURN_IF_ERROR(ParseVocab(Member(model, "vocab"), out));
  CHOIR_RETURN_IF_ERROR(ParseMerges(Member(model, "merges"), out));
  CHOIR_RETURN_IF_ERROR(OptionalText(model, "unk_token", out.unk_token));
  CHOIR_RETURN_IF_ERROR(OptionalText(model, "continuing_subword_prefix",
                                     out.continuing_subword_prefix));
  CHOIR_RETURN_IF_ERROR(
      OptionalText(model, "end_of_word_suffix", out.end_of_word_suffix));
  CHOIR_ASSIGN_OR_RETURN(out.fuse_unk, BoolMember(model, "fuse_unk", false));
  CHOIR_ASSIGN_OR_RETURN(out.byte_fallback,
                         BoolMember(model, "byte_fallback", false));
  CHOIR_ASSIGN_OR_RETURN(out.ignore_merges,
                         BoolMember(model, "ignore_merges", false));
  return out;
}

}  // namespace choir::model
