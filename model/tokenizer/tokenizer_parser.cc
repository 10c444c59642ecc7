#include "model/tokenizer/tokenizer_parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/tokenizer/part_json.h"

namespace choir::model {
namespace {

using nlohmann::json;

// Ids may leave gaps, but not so many that a small file needs a large table.
constexpr int64_t kMostUnusedIds = 65536;

// The text of a token that is given as text or as an object.
const json& TokenContent(const json& value) {
  return value.is_object() ? Member(value, "content") : value;
}

// Classes of which Hugging Face builds the template from add_bos_token and
// add_eos_token, whatever tokenizer.json has.
bool BuildsItsTemplate(const json& config) {
  const json& name = Member(config, "tokenizer_class");
  for (const char* known :
       {"LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer",
        "CodeLlamaTokenizerFast", "GemmaTokenizer", "GemmaTokenizerFast"}) {
    if (name == known) return true;
  }
  return false;
}

}  // namespace

absl::Status TokenizerParser::Register(const std::string& token, int32_t id) {
  std::vector<std::string>& names = tokenizer_->id_to_token_;
  const int64_t needed = static_cast<int64_t>(id) + 1;
  if (needed > static_cast<int64_t>(names.size())) {
    if (needed > static_cast<int64_t>(2 * num_tokens_) + kMostUnusedIds) {
      return absl::InvalidArgumentError(
          absl::StrCat("token '", token, "' has the id ", id,
                       ", far above the ", num_tokens_, " tokens there are"));
    }
    names.resize(needed);
    tokenizer_->special_.resize(needed, false);
  }
  if (!names[id].empty() && names[id] != token) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tokens '", names[id], "' and '", token, "' have the same id ", id));
  }
  names[id] = token;
  return absl::OkStatus();
}

absl::Status TokenizerParser::Model(BpeOptions options) {
  num_tokens_ = options.vocab.size();
  int32_t last = 0;
  for (const auto& [token, id] : options.vocab) last = std::max(last, id);
  if (last < static_cast<int64_t>(2 * num_tokens_) + kMostUnusedIds) {
    tokenizer_->id_to_token_.resize(last + 1);
    tokenizer_->special_.resize(last + 1, false);
  }
  for (const auto& [token, id] : options.vocab) {
    CHOIR_RETURN_IF_ERROR(Register(token, id));
  }
  CHOIR_ASSIGN_OR_RETURN(tokenizer_->model_,
                         BpeModel::Create(std::move(options)));
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
  const std::optional<int32_t> known = tokenizer_->TokenToId(token.content);
  if (known && *known != token.id) {
    return absl::InvalidArgumentError(
        absl::StrCat("added token '", token.content, "' has the id ", token.id,
                     ", but ", *known, " in the vocabulary"));
  }
  ++num_tokens_;
  CHOIR_RETURN_IF_ERROR(Register(token.content, token.id));
  tokenizer_->added_ids_.emplace(token.content, token.id);
  tokenizer_->special_[token.id] = special;
  if (!normalized) {
    tokenizer_->raw_added_.Add(std::move(token));
  } else {
    token.content = tokenizer_->normalizer_.Apply(token.content);
    if (!token.content.empty()) {
      tokenizer_->normalized_added_.Add(std::move(token));
    }
  }
  return absl::OkStatus();
}

// Whether tokenizer.json adds it. tokenizer_config.json can make it special.
bool TokenizerParser::IsAdded(const std::string& content, bool special) {
  const auto found = tokenizer_->added_ids_.find(content);
  if (found == tokenizer_->added_ids_.end()) return false;
  if (special) tokenizer_->special_[found->second] = true;
  return true;
}

absl::Status TokenizerParser::AddConfigTokens(const json& added) {
  if (!added.is_object()) return absl::OkStatus();
  for (const auto& [key, value] : added.items()) {
    uint32_t id;
    if (!value.is_object() || !absl::SimpleAtoi(key, &id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("'added_tokens_decoder' has '", key,
                       "', which is not an id with a "
                       "token"));
    }
    const json& content = Member(value, "content");
    CHOIR_ASSIGN_OR_RETURN(const bool special,
                           BoolMember(value, "special", false));
    if (content.is_string() &&
        IsAdded(content.get_ref<const std::string&>(), special)) {
      continue;
    }
    json entry = value;
    entry["id"] = id;
    CHOIR_RETURN_IF_ERROR(AddToken(entry));
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
  tokenizer_->prefix_ids_ = std::move(ids.prefix);
  tokenizer_->suffix_ids_ = std::move(ids.suffix);
  // tokenizer.json does not say which tokens begin and end a text; where the
  // template does not either, special tokens of the customary names do.
  const auto find = [&](std::initializer_list<const char*> names) {
    for (const char* name : names) {
      const std::optional<int32_t> id = tokenizer_->TokenToId(name);
      if (id && tokenizer_->IsSpecial(*id)) return id;
    }
    return std::optional<int32_t>();
  };
  Tokenizer& out = *tokenizer_;
  out.bos_id_ = !out.prefix_ids_.empty()
                    ? out.prefix_ids_.front()
                    : find({"<s>", "<|begin|>", "<|begin_of_text|>", "<bos>"});
  out.eos_id_ = !out.suffix_ids_.empty()
                    ? out.suffix_ids_.back()
                    : find({"</s>", "<|end|>", "<|end_of_text|>", "<eos>",
                            "<|endoftext|>"});
  return absl::OkStatus();
}

// Null says that there is none; where the key is missing, `id` stays.
absl::Status TokenizerParser::NameToken(const json& config, const char* key,
                                        std::optional<int32_t>& id) {
  if (!config.contains(key)) return absl::OkStatus();
  const json& name = TokenContent(config[key]);
  if (name.is_null()) {
    id = std::nullopt;
    return absl::OkStatus();
  }
  if (!name.is_string()) {
    return absl::InvalidArgumentError(absl::StrCat("'", key, "' is not text"));
  }
  const std::optional<int32_t> found =
      tokenizer_->TokenToId(name.get_ref<const std::string&>());
  if (!found) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", key, "' names '", name.get<std::string>(),
                     "', which is not in the vocabulary"));
  }
  id = found;
  return absl::OkStatus();
}

// Tokens of the vocabulary that the configuration names are special, whether
// or not the other files say so. Those that no file has an id for would get
// one above the vocabulary; they are left out.
absl::Status TokenizerParser::AddNamedTokens(const json& config) {
  for (const char* key : kNamedTokens) {
    const json& named = Member(config, key);
    for (const json& value : named.is_array() ? named : json::array({named})) {
      const json& content = TokenContent(value);
      if (!content.is_string()) continue;
      const auto& text = content.get_ref<const std::string&>();
      const std::optional<int32_t> id = tokenizer_->model_.TokenToId(text);
      if (text.empty() || IsAdded(text, /*special=*/true) || !id) continue;
      json entry = value.is_object() ? value : json::object();
      entry["content"] = text;
      entry["id"] = static_cast<uint32_t>(*id);
      entry["special"] = true;
      CHOIR_RETURN_IF_ERROR(AddToken(entry));
    }
  }
  return absl::OkStatus();
}

absl::Status TokenizerParser::SurroundByConfig(const json& config,
                                               bool open_template) {
  const bool builds = BuildsItsTemplate(config);
  if (!builds && !open_template) return absl::OkStatus();
  const auto apply = [&](const char* key, const std::optional<int32_t>& id,
                         std::vector<int32_t>& ids) -> absl::Status {
    if (Member(config, key).is_null()) return absl::OkStatus();
    CHOIR_ASSIGN_OR_RETURN(const bool adds, BoolMember(config, key, false));
    ids.clear();
    if (!adds) return absl::OkStatus();
    if (!id) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", key, "' is true, but there is no such token"));
    }
    ids.push_back(*id);
    return absl::OkStatus();
  };
  CHOIR_RETURN_IF_ERROR(
      apply("add_bos_token", tokenizer_->bos_id_, tokenizer_->prefix_ids_));
  return apply("add_eos_token", tokenizer_->eos_id_, tokenizer_->suffix_ids_);
}

absl::Status TokenizerParser::ApplyConfig(const json& config,
                                          bool open_template) {
  if (config.is_null()) return absl::OkStatus();
  CHOIR_RETURN_IF_ERROR(
      AddConfigTokens(Member(config, "added_tokens_decoder")));
  CHOIR_RETURN_IF_ERROR(AddNamedTokens(config));
  CHOIR_RETURN_IF_ERROR(NameToken(config, "bos_token", tokenizer_->bos_id_));
  CHOIR_RETURN_IF_ERROR(NameToken(config, "eos_token", tokenizer_->eos_id_));
  CHOIR_RETURN_IF_ERROR(SurroundByConfig(config, open_template));
  // One template, or several of which "default" is the one for chats.
  const json& chat = Member(config, "chat_template");
  if (chat.is_string()) {
    tokenizer_->chat_template_ = chat.get<std::string>();
  } else if (chat.is_array()) {
    for (const json& named : chat) {
      if (Member(named, "name") != "default") continue;
      CHOIR_ASSIGN_OR_RETURN(tokenizer_->chat_template_,
                             TextMember(named, "template"));
    }
  }
  return absl::OkStatus();
}

std::unique_ptr<Tokenizer> TokenizerParser::Finish() {
  return std::move(tokenizer_);
}

}  // namespace choir::model
