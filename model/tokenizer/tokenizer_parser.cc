#include "model/tokenizer/tokenizer_parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "model/checkpoint/json_text.h"

namespace choir::model {
namespace {

using nlohmann::json;

// Ids may leave gaps, but not so many that a small file needs a large table.
constexpr int64_t kMostUnusedIds = 65536;
constexpr uint64_t kMaxConfigBytes = 16u << 20;

JsonLimits TokenizerLimits() {
  JsonLimits limits;
  limits.max_bytes = kMaxTokenizerBytes;
  limits.max_depth = 16;
  return limits;
}

absl::Status WithSource(const absl::Status& status, absl::string_view source) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat(source, ": ", status.message()));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Build(const json& document) {
  TokenizerParser parser;
  CHOIR_ASSIGN_OR_RETURN(const BpeOptions options,
                         ParseBpeModel(Member(document, "model")));
  CHOIR_RETURN_IF_ERROR(parser.Normalize(Member(document, "normalizer")));
  CHOIR_RETURN_IF_ERROR(parser.PreTokenize(Member(document, "pre_tokenizer")));
  CHOIR_RETURN_IF_ERROR(parser.Decode(Member(document, "decoder")));
  CHOIR_RETURN_IF_ERROR(parser.Model(options));
  const json& added = Member(document, "added_tokens");
  if (!added.is_null() && !added.is_array()) {
    return absl::InvalidArgumentError("'added_tokens' is not a list");
  }
  for (const json& entry : added) CHOIR_RETURN_IF_ERROR(parser.AddToken(entry));
  CHOIR_RETURN_IF_ERROR(parser.Template(Member(document, "post_processor")));
  return parser.Finish();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> BuildGpt2(
    const json& vocab, absl::string_view merges_text) {
  BpeOptions options;
  CHOIR_RETURN_IF_ERROR(ParseVocab(vocab, options));
  for (absl::string_view line : absl::StrSplit(merges_text, '\n')) {
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty() || line.substr(0, 9) == "#version:") continue;
    CHOIR_RETURN_IF_ERROR(ParseMerge(line, options));
  }
  TokenizerParser parser;
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  CHOIR_RETURN_IF_ERROR(parser.PreTokenize(byte_level));
  CHOIR_RETURN_IF_ERROR(parser.Decode(byte_level));
  CHOIR_RETURN_IF_ERROR(parser.Model(options));
  const auto end = options.vocab.find("<|endoftext|>");
  if (end != options.vocab.end()) {
    CHOIR_RETURN_IF_ERROR(
        parser.AddToken({{"id", static_cast<uint32_t>(end->second)},
                         {"content", end->first},
                         {"normalized", false},
                         {"special", true}}));
  }
  return parser.Finish();
}

}  // namespace

absl::Status TokenizerParser::Register(const std::string& token, int32_t id) {
  std::vector<std::string>& names = tokenizer_->id_to_token_;
  const int64_t needed = static_cast<int64_t>(id) + 1;
  if (needed > static_cast<int64_t>(names.size())) {
    if (needed > static_cast<int64_t>(2 * num_tokens_) + kMostUnusedIds) {
      return absl::InvalidArgumentError(
          absl::StrCat("token '", token, "' has the id ", id, ", far above the ",
                       num_tokens_, " tokens there are"));
    }
    names.resize(needed);
    tokenizer_->special_.resize(needed, false);
  }
  if (!names[id].empty() && names[id] != token) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokens '", names[id], "' and '", token,
                     "' have the same id ", id));
  }
  names[id] = token;
  tokenizer_->token_to_id_.emplace(token, id);
  return absl::OkStatus();
}

absl::Status TokenizerParser::Model(const BpeOptions& options) {
  num_tokens_ = options.vocab.size();
  for (const auto& [token, id] : options.vocab) {
    CHOIR_RETURN_IF_ERROR(Register(token, id));
  }
  CHOIR_ASSIGN_OR_RETURN(tokenizer_->model_, BpeModel::Create(options));
  return absl::OkStatus();
}

absl::Status TokenizerParser::AddToken(const json& entry) {
  AddedToken token;
  CHOIR_ASSIGN_OR_RETURN(token.content, TextMember(entry, "content"));
  const json& id = Member(entry, "id");
  if (token.content.empty() || !id.is_number_unsigned() ||
      id.get<uint64_t>() >= kMaxTokenId) {
    return absl::InvalidArgumentError(
        absl::StrCat("added token '", token.content,
                     "' needs content and an id below ", kMaxTokenId));
  }
  token.id = id.get<int32_t>();
  CHOIR_ASSIGN_OR_RETURN(token.single_word,
                         BoolMember(entry, "single_word", false));
  CHOIR_ASSIGN_OR_RETURN(token.lstrip, BoolMember(entry, "lstrip", false));
  CHOIR_ASSIGN_OR_RETURN(token.rstrip, BoolMember(entry, "rstrip", false));
  CHOIR_ASSIGN_OR_RETURN(const bool special,
                         BoolMember(entry, "special", false));
  CHOIR_ASSIGN_OR_RETURN(const bool normalized,
                         BoolMember(entry, "normalized", !special));
  const auto known = tokenizer_->token_to_id_.find(token.content);
  if (known != tokenizer_->token_to_id_.end() && known->second != token.id) {
    return absl::InvalidArgumentError(
        absl::StrCat("added token '", token.content, "' has the id ", token.id,
                     ", but ", known->second, " in the vocabulary"));
  }
  ++num_tokens_;
  CHOIR_RETURN_IF_ERROR(Register(token.content, token.id));
  tokenizer_->special_[token.id] = special;
  if (!normalized || tokenizer_->normalizer_.empty()) {
    tokenizer_->raw_added_.Add(std::move(token));
  } else {
    token.content = tokenizer_->normalizer_.Apply(token.content);
    if (!token.content.empty()) {
      tokenizer_->normalized_added_.Add(std::move(token));
    }
  }
  return absl::OkStatus();
}

absl::Status TokenizerParser::Template(const json& part) {
  TemplateIds ids;
  CHOIR_RETURN_IF_ERROR(ParsePostProcessor(part, ids));
  for (const std::vector<int32_t>* side : {&ids.prefix, &ids.suffix}) {
    for (const int32_t id : *side) {
      if (tokenizer_->IdToToken(id).empty()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "the template adds the id ", id, ", which no token has"));
      }
    }
  }
  if (!ids.prefix.empty()) tokenizer_->bos_id_ = ids.prefix.front();
  if (!ids.suffix.empty()) tokenizer_->eos_id_ = ids.suffix.back();
  tokenizer_->prefix_ids_ = std::move(ids.prefix);
  tokenizer_->suffix_ids_ = std::move(ids.suffix);
  return absl::OkStatus();
}

std::unique_ptr<Tokenizer> TokenizerParser::Finish() {
  Tokenizer& tokenizer = *tokenizer_;
  // tokenizer.json does not say which tokens begin and end a text; where the
  // template does not either, the customary names do.
  for (const char* name :
       {"<s>", "<|begin|>", "<|begin_of_text|>", "<bos>"}) {
    if (!tokenizer.bos_id_) tokenizer.bos_id_ = tokenizer.TokenToId(name);
  }
  for (const char* name : {"</s>", "<|end|>", "<|end_of_text|>", "<eos>",
                           "<|endoftext|>"}) {
    if (!tokenizer.eos_id_) tokenizer.eos_id_ = tokenizer.TokenToId(name);
  }
  return std::move(tokenizer_);
}

absl::Status TokenizerParser::ApplyConfig(const json& config,
                                          Tokenizer& tokenizer) {
  const auto find = [&](const char* key, std::optional<int32_t>& id) {
    const json& value = Member(config, key);
    const json& name = value.is_object() ? Member(value, "content") : value;
    if (name.is_null()) return absl::OkStatus();
    if (!name.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat("'", key,
                                                     "' is not text"));
    }
    const std::optional<int32_t> found =
        tokenizer.TokenToId(name.get_ref<const std::string&>());
    if (!found) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", key, "' names '", name.get<std::string>(),
                       "', which is not in the vocabulary"));
    }
    id = found;
    return absl::OkStatus();
  };
  CHOIR_RETURN_IF_ERROR(find("bos_token", tokenizer.bos_id_));
  return find("eos_token", tokenizer.eos_id_);
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::Parse(
    absl::string_view json_text, absl::string_view source) {
  CHOIR_ASSIGN_OR_RETURN(const json document,
                         ParseJsonObject(json_text, source, TokenizerLimits()));
  absl::StatusOr<std::unique_ptr<Tokenizer>> built = Build(document);
  if (!built.ok()) return WithSource(built.status(), source);
  return *std::move(built);
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::ParseVocabAndMerges(
    absl::string_view vocab_json, absl::string_view merges_text,
    absl::string_view source) {
  CHOIR_ASSIGN_OR_RETURN(
      const json vocab, ParseJsonObject(vocab_json, source, TokenizerLimits()));
  absl::StatusOr<std::unique_ptr<Tokenizer>> built =
      BuildGpt2(vocab, merges_text);
  if (!built.ok()) return WithSource(built.status(), source);
  return *std::move(built);
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::LoadFile(
    const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text,
                         base::ReadFile(path, kMaxTokenizerBytes));
  return Parse(text, path);
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::LoadFolder(
    const std::string& directory) {
  const std::string whole = base::JoinPath(directory, "tokenizer.json");
  const std::string vocab = base::JoinPath(directory, "vocab.json");
  const std::string merges = base::JoinPath(directory, "merges.txt");
  std::unique_ptr<const Tokenizer> tokenizer;
  if (!base::FileExists(whole) && base::FileExists(vocab)) {
    CHOIR_ASSIGN_OR_RETURN(const std::string vocab_text,
                           base::ReadFile(vocab, kMaxTokenizerBytes));
    CHOIR_ASSIGN_OR_RETURN(const std::string merges_text,
                           base::ReadFile(merges, kMaxTokenizerBytes));
    CHOIR_ASSIGN_OR_RETURN(
        tokenizer, ParseVocabAndMerges(vocab_text, merges_text, vocab));
  } else {
    CHOIR_ASSIGN_OR_RETURN(tokenizer, LoadFile(whole));
  }
  const std::string config = base::JoinPath(directory, "tokenizer_config.json");
  if (!base::FileExists(config)) return tokenizer;
  CHOIR_ASSIGN_OR_RETURN(const std::string text,
                         base::ReadFile(config, kMaxConfigBytes));
  JsonLimits limits;
  limits.max_bytes = kMaxConfigBytes;
  CHOIR_ASSIGN_OR_RETURN(const json document,
                         ParseJsonObject(text, config, limits));
  auto named = std::make_unique<Tokenizer>(*tokenizer);
  CHOIR_RETURN_IF_ERROR(
      WithSource(TokenizerParser::ApplyConfig(document, *named), config));
  return named;
}

}  // namespace choir::model
