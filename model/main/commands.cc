#include "model/main/commands.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/model_config.h"
#include "model/checkpoint/packed_checkpoint.h"
#include "model/checkpoint/safetensors.h"
#include "model/compute.h"
#include "model/loaded_model.h"
#include "model/main/adapted_model.h"
#include "model/main/chat_messages.h"
#include "model/tokenizer/chat_template.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {
namespace {

std::string ReadStdin() {
  return std::string(std::istreambuf_iterator<char>(std::cin),
                     std::istreambuf_iterator<char>());
}

// The "ids" of what `tokenize --json` printed.
absl::StatusOr<std::vector<int32_t>> IdsOfDocument(absl::string_view text) {
  const nlohmann::json document =
      nlohmann::json::parse(text.begin(), text.end(), nullptr, false);
  const auto wrong = [] {
    return absl::InvalidArgumentError(
        "standard input is a JSON document, but not one with \"ids\", a list "
        "of "
        "token ids, as tokenize --json prints it");
  };
  if (!document.is_object() || !document.contains("ids") ||
      !document["ids"].is_array()) {
    return wrong();
  }
  std::vector<int32_t> ids;
  for (const nlohmann::json& id : document["ids"]) {
    if (!id.is_number_unsigned() ||
        id.get<uint64_t>() > std::numeric_limits<int32_t>::max()) {
      return wrong();
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

// Numbers apart by blanks or commas, in brackets or not, or the document that
// `tokenize --json` prints.
absl::StatusOr<std::vector<int32_t>> ParseIds(absl::string_view text) {
  std::vector<int32_t> ids;
  text = absl::StripAsciiWhitespace(text);
  if (absl::StartsWith(text, "{")) return IdsOfDocument(text);
  for (const absl::string_view word :
       absl::StrSplit(text, absl::ByAnyChar(" \t\r\n,[]"), absl::SkipEmpty())) {
    int32_t id;
    if (!absl::SimpleAtoi(word, &id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", word.substr(0, 40), "\" is not a token id"));
    }
    ids.push_back(id);
  }
  return ids;
}

// A list of messages, alone or as "messages" of an object.
absl::StatusOr<std::vector<ChatMessage>> ParseConversation(
    const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  return ParseMessages(
      json.is_object() && json.contains("messages") ? json["messages"] : json,
      "standard input");
}

// Flags that would be ignored are refused.
absl::Status Check(const TokenizeOptions& options) {
  const auto refuse = [](absl::string_view flag, absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat(flag, why));
  };
  if (!options.chat) {
    const char* why = " says how a conversation is written; give --chat, too";
    if (!options.chat_format.empty()) return refuse("--chat-format", why);
    if (options.generation_prompt) return refuse("--generation-prompt", why);
  } else if (options.decode) {
    return refuse("--decode", " takes ids and --chat a conversation; give one");
  }
  if (options.no_special && (options.chat || options.decode)) {
    return refuse("--no-special",
                  " is for text; leave it away with --chat, whose format says "
                  "what stands around it, and --decode, which leaves special "
                  "tokens out");
  }
  return absl::OkStatus();
}

// What a conversation is written as, its ids, and which of them are learnt.
absl::StatusOr<Json> TokenizeChat(const Tokenizer& tokenizer,
                                  const TokenizeOptions& options,
                                  const std::string& input) {
  CHOIR_ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages,
                         ParseConversation(input));
  CHOIR_ASSIGN_OR_RETURN(
      const ChatTemplate chat,
      ChatTemplate::For(tokenizer, options.chat_format.empty()
                                       ? "model"
                                       : options.chat_format));
  CHOIR_ASSIGN_OR_RETURN(const std::vector<ChatTemplate::Piece> pieces,
                         chat.Render(messages, options.generation_prompt));
  CHOIR_ASSIGN_OR_RETURN(
      const ChatIds encoded,
      chat.Encode(tokenizer, messages, options.generation_prompt));
  std::string text;
  for (const ChatTemplate::Piece& piece : pieces) text += piece.text;
  Json json;
  json["ids"] = encoded.ids;
  json["learnt"] = encoded.learnt;
  json["text"] = text;
  return json;
}

}  // namespace

absl::Status RunInspect(const CommonOptions& common) {
  CHOIR_ASSIGN_OR_RETURN(
      const ModelConfig config,
      LoadModelConfig(base::JoinPath(common.model, "config.json")));
  // Opening the weights checks every name and shape without reading them.
  CHOIR_ASSIGN_OR_RETURN(
      const auto model,
      LoadedModel::LoadFolder(common.model, DeviceKind::kCpu, false));
  (void)model;
  Json json;
  json["family"] = std::string(FamilyName(config.family));
  json["architecture"] = ArchitectureName(config);
  json["parameters"] = config.num_parameters();
  json["layers"] = config.num_layers;
  json["experts"] = config.moe.num_experts;
  if (config.moe.num_experts > 0) {
    json["experts_per_token"] = config.moe.experts_per_token;
    json["expert_intermediate_size"] = config.moe.intermediate_size;
    json["active_parameters"] = config.num_active_parameters();
  }
  json["hidden_size"] = config.hidden_size;
  json["intermediate_size"] = config.intermediate_size;
  json["heads"] = config.num_heads;
  json["kv_heads"] = config.num_kv_heads;
  json["head_dim"] = config.head_dim;
  json["vocab_size"] = config.vocab_size;
  if (config.sliding_window > 0) {
    json["sliding_window"] = config.sliding_window;
  }
  json["context"] = config.max_positions;
  json["tied_head"] = config.tie_word_embeddings;
  json["dtype"] = config.torch_dtype;
  CHOIR_ASSIGN_OR_RETURN(const absl::optional<WeightFormat> quantised,
                         ReadQuantization(common.model));
  if (quantised) json["quantised"] = std::string(WeightFormatName(*quantised));
  json["lora_targets"] = LinearKinds(config);
  if (common.json) {
    PrintJson(json);
    return absl::OkStatus();
  }
  for (const auto& [key, value] : json.items()) {
    std::cout << absl::StrFormat("%-18s %s\n", key, value.dump());
  }
  return absl::OkStatus();
}

absl::Status RunTokenize(const CommonOptions& common,
                         const TokenizeOptions& options) {
  CHOIR_RETURN_IF_ERROR(Check(options));
  CHOIR_ASSIGN_OR_RETURN(const std::unique_ptr<const Tokenizer> tokenizer,
                         Tokenizer::LoadFolder(common.model));
  const std::string input = ReadStdin();
  if (options.chat) {
    CHOIR_ASSIGN_OR_RETURN(const Json chat,
                           TokenizeChat(*tokenizer, options, input));
    if (common.json) {
      PrintJson(chat);
    } else {
      std::cout << chat["text"].get<std::string>() << "\n"
                << absl::StrJoin(chat["ids"].get<std::vector<int32_t>>(), " ")
                << "\n";
    }
    return absl::OkStatus();
  }
  if (options.decode) {
    CHOIR_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseIds(input));
    CHOIR_ASSIGN_OR_RETURN(const std::string text,
                           tokenizer->Decode(ids, /*skip_special=*/true));
    if (common.json) {
      PrintJson({{"text", Utf8Lossy(text)}});
    } else {
      std::cout << text << "\n";
    }
    return absl::OkStatus();
  }
  const std::vector<int32_t> ids =
      tokenizer->Encode(input, !options.no_special);
  if (common.json) {
    PrintJson({{"ids", ids}});
  } else {
    std::cout << absl::StrJoin(ids, " ") << "\n";
  }
  return absl::OkStatus();
}

absl::Status RunPretrain(const CommonOptions& common, PretrainFlags flags) {
  CHOIR_RETURN_IF_ERROR(CheckThreads(common.threads));
  PretrainOptions& options = flags.options;
  if (flags.split == "paragraphs") {
    options.split = DocumentSplit::kParagraphs;
  } else if (flags.split == "lines") {
    options.split = DocumentSplit::kLines;
  } else if (flags.split == "files") {
    options.split = DocumentSplit::kFiles;
  } else {
    return absl::InvalidArgumentError(absl::StrCat(
        "--split is \"", flags.split, "\"; one of paragraphs, lines, files"));
  }
  options.threads = common.threads;
  ModelConfig& config = options.config;
  config.vocab_size = options.vocab_size;
  if (config.num_heads < 1 || config.hidden_size % config.num_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--hidden is ", config.hidden_size,
        "; it must be a multiple of --heads, which is ", config.num_heads));
  }
  config.head_dim = config.hidden_size / config.num_heads;
  config.norm_eps = 1e-5;
  config.tie_word_embeddings = true;
  // The reader of config.json knows what fits together.
  CHOIR_ASSIGN_OR_RETURN(
      config, ParseModelConfig(ModelConfigJson(config), "the model's shape"));
  ConfigureCompute(1);  // each replica computes on its own thread
  CHOIR_ASSIGN_OR_RETURN(const PretrainResult result, Pretrain(options));
  if (common.json) {
    PrintJson({{"parameters", result.parameters},
               {"steps", result.steps},
               {"tokens", result.tokens},
               {"train_loss", result.train_loss},
               {"heldout_loss", result.heldout_loss},
               {"seconds", result.seconds},
               {"sample", Utf8Lossy(result.sample)},
               {"out", options.out}});
  } else {
    std::cout << absl::StrFormat(
        "%s: %d parameters, %d tokens seen, training loss %.4f, held-out loss "
        "%.4f\n%s\n",
        options.out, result.parameters, result.tokens, result.train_loss,
        result.heldout_loss, result.sample);
  }
  return absl::OkStatus();
}

}  // namespace choir::model
