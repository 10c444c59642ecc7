#include "model/main/commands.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/files.h"
#include "base/status_macros.h"
#include "model/adapter/peft_folder.h"
#include "model/checkpoint/families.h"
#include "model/checkpoint/model_config.h"
#include "model/checkpoint/safetensors.h"
#include "model/generate.h"
#include "model/loaded_model.h"
#include "model/objective/encode.h"
#include "model/objective/packing.h"
#include "model/tokenizer/unicode.h"
#include "model/torch_guard.h"
#include "nlohmann/json.hpp"

namespace choir::model {
namespace {

using Json = nlohmann::ordered_json;

void Print(const Json& json) {
  // Text that is cut inside a character is shown with replacement characters.
  std::cout << json.dump(-1, ' ', false, Json::error_handler_t::replace)
            << "\n";
}

absl::StatusOr<DeviceKind> ParseDevice(const std::string& name) {
  if (name == "auto") return DeviceKind::kAuto;
  if (name == "cpu") return DeviceKind::kCpu;
  if (name == "cuda") return DeviceKind::kCuda;
  return absl::InvalidArgumentError(absl::StrCat(
      "--device is \"", name, "\"; one of auto, cpu, cuda"));
}

struct Adapted {
  std::shared_ptr<const LoadedModel> model;
  std::optional<LoraBank> lora;
  const LoraBank* bank() const { return lora ? &*lora : nullptr; }
};

absl::StatusOr<Adapted> Load(const CommonOptions& common, bool with_tokenizer) {
  if (common.threads < 1 || common.threads > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("--threads is ", common.threads, "; 1 to 1024"));
  }
  ConfigureCompute(common.threads);
  CHOIR_ASSIGN_OR_RETURN(const DeviceKind device, ParseDevice(common.device));
  Adapted adapted;
  CHOIR_ASSIGN_OR_RETURN(
      adapted.model,
      LoadedModel::LoadFolder(common.model, device, with_tokenizer));
  if (!common.adapter.empty()) {
    const Decoder& decoder = adapted.model->decoder();
    CHOIR_ASSIGN_OR_RETURN(const PeftAdapter adapter,
                           ReadPeftFolder(common.adapter, decoder.config()));
    at::Tensor flat =
        at::empty({static_cast<int64_t>(adapter.values.size())}, at::kFloat);
    std::copy(adapter.values.begin(), adapter.values.end(),
              flat.data_ptr<float>());
    adapted.lora = BindLora(decoder.config(), adapter.layout,
                            flat.to(decoder.device()), adapter.options.scale());
  }
  return adapted;
}

absl::StatusOr<std::vector<std::vector<int32_t>>> ReadIds(
    const std::string& path, const ModelConfig& config) {
  CHOIR_ASSIGN_OR_RETURN(const std::string text,
                         base::ReadFile(path, 256u << 20));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  const auto wrong = [&](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " ", what, "; expected [[id, ...], ...]"));
  };
  if (!json.is_array() || json.empty()) return wrong("is not a list of lists");
  std::vector<std::vector<int32_t>> rows;
  for (const auto& row : json) {
    if (!row.is_array() || row.empty()) return wrong("has an empty or odd row");
    rows.emplace_back();
    for (const auto& id : row) {
      if (!id.is_number_integer()) return wrong("has something not a number");
      const int64_t value = id.get<int64_t>();
      if (value < 0 || value >= config.vocab_size) {
        return absl::InvalidArgumentError(absl::StrCat(
            path, ": token id ", value, " is outside the vocabulary of ",
            config.vocab_size));
      }
      rows.back().push_back(static_cast<int32_t>(value));
    }
    if (static_cast<int64_t>(rows.back().size()) > config.max_positions) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": a row of ", rows.back().size(),
                       " ids; the model's limit is ", config.max_positions));
    }
  }
  return rows;
}

absl::StatusOr<std::vector<Example>> EvalExamples(const EvalOptions& options,
                                                  const LoadedModel& model) {
  std::vector<Example> examples;
  if (!options.ids.empty()) {
    CHOIR_ASSIGN_OR_RETURN(auto rows,
                           ReadIds(options.ids, model.decoder().config()));
    for (auto& row : rows) examples.push_back({std::move(row), 1});
    return examples;
  }
  CHOIR_ASSIGN_OR_RETURN(const std::string text, base::ReadFile(options.text));
  examples = EncodeText(model.tokenizer(), text, model.max_positions());
  if (examples.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.text, " has no text to evaluate"));
  }
  return examples;
}

std::string ReadStdin() {
  return std::string(std::istreambuf_iterator<char>(std::cin),
                     std::istreambuf_iterator<char>());
}

// Numbers apart by blanks or commas, in brackets or not, or the document that
// `tokenize --json` prints.
absl::StatusOr<std::vector<int32_t>> ParseIds(absl::string_view text) {
  std::vector<int32_t> ids;
  text = absl::StripAsciiWhitespace(text);
  if (absl::ConsumePrefix(&text, "{\"ids\":")) absl::ConsumeSuffix(&text, "}");
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
  json["architecture"] = std::string(ArchitectureName(config.family));
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
  json["lora_targets"] = LinearKinds(config);
  if (common.json) {
    Print(json);
    return absl::OkStatus();
  }
  for (const auto& [key, value] : json.items()) {
    std::cout << absl::StrFormat("%-18s %s\n", key, value.dump());
  }
  return absl::OkStatus();
}

absl::Status RunTokenize(const CommonOptions& common,
                         const TokenizeOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const std::unique_ptr<const Tokenizer> tokenizer,
                         Tokenizer::LoadFolder(common.model));
  const std::string input = ReadStdin();
  if (options.decode) {
    CHOIR_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseIds(input));
    CHOIR_ASSIGN_OR_RETURN(const std::string text,
                           tokenizer->Decode(ids, /*skip_special=*/true));
    if (common.json) {
      Print({{"text", Utf8Lossy(text)}});
    } else {
      std::cout << text << "\n";
    }
    return absl::OkStatus();
  }
  const std::vector<int32_t> ids =
      tokenizer->Encode(input, !options.no_special);
  if (common.json) {
    Print({{"ids", ids}});
  } else {
    std::cout << absl::StrJoin(ids, " ") << "\n";
  }
  return absl::OkStatus();
}

absl::Status RunEval(const CommonOptions& common, const EvalOptions& options) {
  if (options.ids.empty() == options.text.empty()) {
    return absl::InvalidArgumentError("give one of --ids and --text");
  }
  if (!options.logits.empty() && options.logits != "last") {
    return absl::InvalidArgumentError(
        absl::StrCat("--logits is \"", options.logits, "\"; only last"));
  }
  CHOIR_ASSIGN_OR_RETURN(const Adapted adapted,
                         Load(common, options.ids.empty()));
  CHOIR_ASSIGN_OR_RETURN(const std::vector<Example> examples,
                         EvalExamples(options, *adapted.model));
  return TorchGuard("evaluation", [&]() -> absl::Status {
    at::NoGradGuard no_grad;
    const Decoder& decoder = adapted.model->decoder();
    ForwardOptions forward;
    forward.lora = adapted.bank();
    const MoeConfig& moe = decoder.config().moe;
    LoadBalancingMeter balance(moe.experts_per_token);
    RouterLog routers;
    routers.keep_logits = true;
    double loss = 0.0;
    int64_t tokens = 0;
    Json last = Json::array();
    for (const Example& example : examples) {
      const Example* const one[] = {&example};
      const PackedBatch batch =
          PackExamples(one, adapted.model->max_positions(), decoder.device(),
                       /*keep_last=*/moe.num_experts > 0);
      if (batch.predictions > 0) {
        if (moe.num_experts > 0) forward.router_log = &routers;
        loss += decoder.Loss(batch, forward, 1.0).item<double>();
        tokens += batch.predictions;
        balance.Add(routers.layers);
        forward.router_log = nullptr;
      }
      if (options.logits.empty()) continue;
      PackedBatch whole = PackWhole(example.ids, decoder.device());
      whole.rows = at::full({1}, static_cast<int64_t>(example.ids.size()) - 1,
                            at::kLong).to(decoder.device());
      const at::Tensor row = decoder.Logits(whole, forward).cpu().contiguous();
      last.push_back(std::vector<float>(
          row.data_ptr<float>(), row.data_ptr<float>() + row.numel()));
    }
    if (tokens > 0 && !std::isfinite(loss)) {
      return absl::AbortedError("the model's loss is not a finite number");
    }
    Json json;
    json["mean_nll"] = tokens > 0 ? Json(loss / tokens) : Json(nullptr);
    json["tokens"] = tokens;
    if (!options.logits.empty()) json["logits_last"] = last;
    json["load_balancing_loss"] = balance.loss();
    if (common.json) {
      Print(json);
    } else if (tokens == 0) {
      std::cout << "nothing to predict: each row has one id\n";
    } else {
      std::cout << absl::StrFormat(
          "mean loss %.4f nats per token (perplexity %.2f) over %d tokens\n",
          loss / tokens, std::exp(loss / tokens), tokens);
    }
    return absl::OkStatus();
  });
}

absl::Status RunGenerate(const CommonOptions& common,
                         const GenerateFlags& flags) {
  CHOIR_ASSIGN_OR_RETURN(const Adapted adapted, Load(common, true));
  const Tokenizer& tokenizer = adapted.model->tokenizer();
  const ModelConfig& config = adapted.model->decoder().config();
  std::vector<int32_t> prompt = tokenizer.Encode(flags.prompt, false);
  if (tokenizer.bos_id()) prompt.insert(prompt.begin(), *tokenizer.bos_id());
  GenerateOptions options;
  options.max_tokens = flags.max_tokens;
  options.temperature = flags.temperature;
  options.top_p = flags.top_p;
  options.seed = flags.seed;
  options.stop_ids = config.eos_token_ids;
  if (tokenizer.eos_id()) options.stop_ids.push_back(*tokenizer.eos_id());
  const absl::Time start = absl::Now();
  CHOIR_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                         Generate(adapted.model->decoder(), adapted.bank(),
                                  prompt, options));
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  CHOIR_ASSIGN_OR_RETURN(const std::string text,
                         tokenizer.Decode(ids, /*skip_special=*/true));
  const double made = static_cast<double>(ids.size() - prompt.size());
  if (common.json) {
    Print({{"ids", ids},
           {"text", Utf8Lossy(text)},
           {"tokens_per_second", seconds > 0.0 ? made / seconds : 0.0}});
  } else {
    std::cout << text << "\n";
  }
  return absl::OkStatus();
}

absl::Status RunPretrain(const CommonOptions& common, PretrainFlags flags) {
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
    return absl::InvalidArgumentError(
        absl::StrCat("--hidden is ", config.hidden_size,
                     "; it must be a multiple of --heads, which is ",
                     config.num_heads));
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
    Print({{"parameters", result.parameters},
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
