// Reading a tokenizer from the files of a Hugging Face folder.
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "model/tokenizer/part_json.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/tokenizer_parser.h"

namespace choir::model {
namespace {

using nlohmann::json;
using Built = absl::StatusOr<std::unique_ptr<const Tokenizer>>;

constexpr uint64_t kMaxConfigBytes = 16u << 20;

constexpr char kQwen2Pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

base::JsonLimits TokenizerLimits() {
  base::JsonLimits limits;
  limits.max_bytes = kMaxTokenizerBytes;
  limits.max_depth = 16;
  return limits;
}

absl::Status WithSource(const absl::Status& status, absl::string_view source) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat(source, ": ", status.message()));
}

// Sets add_prefix_space of a pre_tokenizer that is ByteLevel alone, as the
// configuration wishes.
json PreTokenizerPart(const json& document, const json& config) {
  json part = Member(document, "pre_tokenizer");
  const json& wish = Member(config, "add_prefix_space");
  if (wish.is_boolean() && Member(part, "type") == "ByteLevel") {
    part["add_prefix_space"] = wish;
  }
  return part;
}

absl::StatusOr<TokenizerParser> ParseDocument(const json& document,
                                              const json& config) {
  TokenizerParser parser;
  CHOIR_ASSIGN_OR_RETURN(BpeOptions options,
                         ParseBpeModel(Member(document, "model")));
  CHOIR_RETURN_IF_ERROR(parser.Normalize(Member(document, "normalizer")));
  CHOIR_RETURN_IF_ERROR(parser.PreTokenize(PreTokenizerPart(document, config)));
  CHOIR_RETURN_IF_ERROR(parser.Decode(Member(document, "decoder")));
  CHOIR_RETURN_IF_ERROR(parser.Model(std::move(options)));
  const json& added = Member(document, "added_tokens");
  if (!added.is_null() && !added.is_array()) {
    return absl::InvalidArgumentError("'added_tokens' is not a list");
  }
  for (const json& entry : added) CHOIR_RETURN_IF_ERROR(parser.AddToken(entry));
  CHOIR_RETURN_IF_ERROR(parser.Template(Member(document, "post_processor")));
  return parser;
}

Built BuildDocument(const json& document, absl::string_view source,
                    const json& config, absl::string_view config_source) {
  absl::StatusOr<TokenizerParser> parser = ParseDocument(document, config);
  if (!parser.ok()) return WithSource(parser.status(), source);
  CHOIR_RETURN_IF_ERROR(
      WithSource(parser->ApplyConfig(config, false), config_source));
  return parser->Finish();
}

// The parts that vocab.json and merges.txt leave out.
absl::StatusOr<json> PipelineOf(const json& config) {
  const json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  json document = {{"pre_tokenizer", byte_level}, {"decoder", byte_level}};
  const json& name = Member(config, "tokenizer_class");
  if (name == "Qwen2Tokenizer" || name == "Qwen2TokenizerFast") {
    json plain = byte_level;
    plain["use_regex"] = false;
    document["normalizer"] = {{"type", "NFC"}};
    document["pre_tokenizer"] = {{"type", "Sequence"},
                                 {"pretokenizers",
                                  {{{"type", "Split"},
                                    {"pattern", {{"Regex", kQwen2Pattern}}},
                                    {"behavior", "Isolated"}},
                                   plain}}};
  } else if (!name.is_null() && name != "GPT2Tokenizer" &&
             name != "GPT2TokenizerFast" && name != "PreTrainedTokenizerFast") {
    return absl::InvalidArgumentError(absl::StrCat(
        "tokenizer_class ", name.dump(),
        " with vocab.json and merges.txt is "
        "not supported; known: GPT2Tokenizer, Qwen2Tokenizer. Save the folder "
        "with a tokenizer.json"));
  }
  return document;
}

absl::StatusOr<TokenizerParser> ParseTwoFiles(const json& vocab,
                                              absl::string_view merges_text,
                                              const json& added,
                                              const json& config) {
  CHOIR_ASSIGN_OR_RETURN(const json document, PipelineOf(config));
  BpeOptions options;
  CHOIR_RETURN_IF_ERROR(ParseVocab(vocab, options));
  for (absl::string_view line : absl::StrSplit(merges_text, '\n')) {
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty() || line.substr(0, 9) == "#version:") continue;
    CHOIR_RETURN_IF_ERROR(ParseMerge(line, options));
  }
  TokenizerParser parser;
  const auto end = options.vocab.find("<|endoftext|>");
  const json end_token = end == options.vocab.end()
                             ? json()
                             : json({{"id", static_cast<uint32_t>(end->second)},
                                     {"content", end->first},
                                     {"normalized", false},
                                     {"special", true}});
  CHOIR_RETURN_IF_ERROR(parser.Normalize(Member(document, "normalizer")));
  CHOIR_RETURN_IF_ERROR(parser.PreTokenize(PreTokenizerPart(document, config)));
  CHOIR_RETURN_IF_ERROR(parser.Decode(Member(document, "decoder")));
  CHOIR_RETURN_IF_ERROR(parser.Model(std::move(options)));
  // The configuration knows more of a token than added_tokens.json.
  CHOIR_RETURN_IF_ERROR(
      parser.AddConfigTokens(Member(config, "added_tokens_decoder")));
  json more = json::object();
  for (const auto& [content, id] : added.items()) {
    if (!id.is_number_unsigned()) {
      return absl::InvalidArgumentError(
          absl::StrCat("added_tokens.json: the id of '", content,
                       "' is not a whole number"));
    }
    more[absl::StrCat(id.get<uint64_t>())] = {
        {"content", content}, {"normalized", false}, {"special", true}};
  }
  if (!end_token.is_null()) {
    more[absl::StrCat(end_token["id"].get<uint64_t>())] = end_token;
  }
  CHOIR_RETURN_IF_ERROR(parser.AddConfigTokens(more));
  CHOIR_RETURN_IF_ERROR(parser.Template(json()));
  return parser;
}

absl::StatusOr<json> ReadConfig(const std::string& path) {
  if (!base::FileExists(path)) return json();
  CHOIR_ASSIGN_OR_RETURN(const std::string text,
                         base::ReadFile(path, kMaxConfigBytes));
  base::JsonLimits limits;
  limits.max_bytes = kMaxConfigBytes;
  return base::ParseJsonObject(text, path, limits);
}

// tokenizer_config.json with what the files beside it add.
absl::StatusOr<json> FolderConfig(const std::string& directory) {
  CHOIR_ASSIGN_OR_RETURN(json config, ReadConfig(base::JoinPath(
                                          directory, "tokenizer_config.json")));
  CHOIR_ASSIGN_OR_RETURN(
      const json map,
      ReadConfig(base::JoinPath(directory, "special_tokens_map.json")));
  for (const char* key : TokenizerParser::kNamedTokens) {
    if (map.contains(key) && !config.contains(key)) config[key] = map[key];
  }
  const std::string jinja = base::JoinPath(directory, "chat_template.jinja");
  if (base::FileExists(jinja)) {
    CHOIR_ASSIGN_OR_RETURN(config["chat_template"],
                           base::ReadFile(jinja, kMaxConfigBytes));
  }
  return config;
}

}  // namespace

Built Tokenizer::Parse(absl::string_view json_text, absl::string_view source) {
  CHOIR_ASSIGN_OR_RETURN(
      const json document,
      base::ParseJsonObject(json_text, source, TokenizerLimits()));
  return BuildDocument(document, source, json(), source);
}

Built Tokenizer::ParseVocabAndMerges(absl::string_view vocab_json,
                                     absl::string_view merges_text,
                                     absl::string_view source) {
  CHOIR_ASSIGN_OR_RETURN(
      const json vocab,
      base::ParseJsonObject(vocab_json, source, TokenizerLimits()));
  absl::StatusOr<TokenizerParser> parser =
      ParseTwoFiles(vocab, merges_text, json(), json());
  if (!parser.ok()) return WithSource(parser.status(), source);
  return parser->Finish();
}

Built Tokenizer::LoadFile(const std::string& path) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text,
                         base::ReadFile(path, kMaxTokenizerBytes));
  return Parse(text, path);
}

Built Tokenizer::LoadFolder(const std::string& directory) {
  const std::string whole = base::JoinPath(directory, "tokenizer.json");
  const std::string vocab_path = base::JoinPath(directory, "vocab.json");
  const std::string config_path =
      base::JoinPath(directory, "tokenizer_config.json");
  if (base::FileExists(whole) || !base::FileExists(vocab_path)) {
    const absl::StatusOr<std::string> read =
        base::ReadFile(whole, kMaxTokenizerBytes);
    if (absl::IsNotFound(read.status())) {
      return absl::Status(
          read.status().code(),
          absl::StrCat(read.status().message(),
                       "; a model's folder needs tokenizer.json, or vocab.json "
                       "and merges.txt (other kinds of tokenizers must be "
                       "converted to tokenizer.json)"));
    }
    CHOIR_ASSIGN_OR_RETURN(const std::string text, read);
    CHOIR_ASSIGN_OR_RETURN(const json config, FolderConfig(directory));
    CHOIR_ASSIGN_OR_RETURN(
        const json document,
        base::ParseJsonObject(text, whole, TokenizerLimits()));
    return BuildDocument(document, whole, config, config_path);
  }
  CHOIR_ASSIGN_OR_RETURN(const json config, FolderConfig(directory));
  CHOIR_ASSIGN_OR_RETURN(const std::string vocab_text,
                         base::ReadFile(vocab_path, kMaxTokenizerBytes));
  CHOIR_ASSIGN_OR_RETURN(const std::string merges_text,
                         base::ReadFile(base::JoinPath(directory, "merges.txt"),
                                        kMaxTokenizerBytes));
  CHOIR_ASSIGN_OR_RETURN(
      const json vocab,
      base::ParseJsonObject(vocab_text, vocab_path, TokenizerLimits()));
  CHOIR_ASSIGN_OR_RETURN(
      const json added,
      ReadConfig(base::JoinPath(directory, "added_tokens.json")));
  absl::StatusOr<TokenizerParser> parser =
      ParseTwoFiles(vocab, merges_text, added, config);
  if (!parser.ok()) return WithSource(parser.status(), vocab_path);
  CHOIR_RETURN_IF_ERROR(
      WithSource(parser->ApplyConfig(config, true), config_path));
  return parser->Finish();
}

}  // namespace choir::model
