#include "model/training/pretrain_data.h"

#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/files.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/sim_random.h"
#include "base/status_macros.h"
#include "model/tokenizer/bpe_trainer.h"
#include "nlohmann/json.hpp"

namespace choir::model {
namespace {

absl::Status Check(const PretrainOptions& o) {
  const auto refuse = [](absl::string_view flag, double value,
                         absl::string_view limit) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " is ", value, "; ", limit));
  };
  if (o.corpus.empty()) {
    return absl::InvalidArgumentError("--corpus names no file");
  }
  if (o.out.empty()) return absl::InvalidArgumentError("--out is not set");
  if (!(o.minutes > 0.0) && o.tokens <= 0) {
    return absl::InvalidArgumentError("set --minutes or --tokens (or both)");
  }
  if (!(o.holdout > 0.0 && o.holdout <= 0.5)) {
    return refuse("--holdout", o.holdout, "above 0, at most 0.5");
  }
  if (o.batch < 1) return refuse("--batch", o.batch, "at least 1");
  if (o.threads < 1 || o.threads > 256) {
    return refuse("--threads", o.threads, "1 to 256");
  }
  if (!(o.learning_rate > 0.0) || !std::isfinite(o.learning_rate)) {
    return refuse("--learning-rate", o.learning_rate, "above 0");
  }
  if (!(o.warmup >= 0.0 && o.warmup < 1.0)) {
    return refuse("--warmup", o.warmup, "at least 0, below 1");
  }
  if (!(o.weight_decay >= 0.0) || !std::isfinite(o.weight_decay)) {
    return refuse("--weight-decay", o.weight_decay, "at least 0");
  }
  return absl::OkStatus();
}

std::vector<std::string> Documents(const std::string& text,
                                   DocumentSplit split) {
  std::vector<std::string> documents;
  if (split == DocumentSplit::kFiles) return {text};
  const char* separator = split == DocumentSplit::kLines ? "\n" : "\n\n";
  for (const absl::string_view part : absl::StrSplit(text, separator)) {
    const absl::string_view trimmed = absl::StripAsciiWhitespace(part);
    if (!trimmed.empty()) documents.emplace_back(trimmed);
  }
  return documents;
}

}  // namespace

absl::StatusOr<PretrainData> LoadPretrainData(const PretrainOptions& options) {
  CHOIR_RETURN_IF_ERROR(Check(options));
  PretrainData data;
  base::Sha256 digest;
  std::vector<std::string> documents;
  for (const std::string& path : options.corpus) {
    CHOIR_ASSIGN_OR_RETURN(const std::string text, base::ReadFile(path));
    digest.Update(text);
    for (std::string& document : Documents(text, options.split)) {
      documents.push_back(std::move(document));
    }
  }
  data.corpus_digest = base::ToHex(digest.Finish());
  data.documents = static_cast<int64_t>(documents.size());
  // A resumed run keeps the tokenizer that it began with.
  const std::string kept = base::JoinPath(options.out, "tokenizer.json");
  const std::string& given =
      options.tokenizer.empty() && options.resume ? kept : options.tokenizer;
  if (given.empty()) {
    base::LogInfo("training a tokenizer of ", options.vocab_size, " tokens on ",
                  documents.size(), " documents");
    BpeTrainerOptions bpe;
    bpe.vocab_size = options.vocab_size;
    bpe.add_bos = true;
    CHOIR_ASSIGN_OR_RETURN(data.tokenizer_json, TrainBpe(documents, bpe));
  } else {
    CHOIR_ASSIGN_OR_RETURN(data.tokenizer_json,
                           base::ReadFile(given, kMaxTokenizerBytes));
  }
  CHOIR_ASSIGN_OR_RETURN(
      data.tokenizer, Tokenizer::Parse(data.tokenizer_json, "tokenizer.json"));
  CHOIR_RETURN_IF_ERROR(base::MakeDirectories(options.out));
  CHOIR_RETURN_IF_ERROR(base::WriteFileAtomic(kept, data.tokenizer_json));

  const uint64_t limit =
      static_cast<uint64_t>(options.holdout * 18446744073709549568.0);
  for (const std::string& document : documents) {
    const bool held =
        base::DeriveSeed(options.seed, {"holdout", document}) < limit;
    std::vector<int32_t>& stream = held ? data.heldout : data.train;
    const std::vector<int32_t> ids =
        data.tokenizer->Encode(document, /*add_special=*/false);
    if (data.tokenizer->bos_id()) stream.push_back(*data.tokenizer->bos_id());
    stream.insert(stream.end(), ids.begin(), ids.end());
    if (data.tokenizer->eos_id()) stream.push_back(*data.tokenizer->eos_id());
  }
  const size_t window = static_cast<size_t>(options.config.max_positions) + 1;
  if (data.train.size() < window || data.heldout.size() < window) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the corpus gives ", data.train.size(), " training and ",
        data.heldout.size(), " held-out tokens; each needs at least ", window,
        " (--context + 1); give more text or raise --holdout"));
  }
  return data;
}

std::string TokenizerConfigJson(const Tokenizer& tokenizer) {
  nlohmann::ordered_json json;
  json["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (tokenizer.bos_id()) {
    json["bos_token"] = std::string(tokenizer.IdToToken(*tokenizer.bos_id()));
  }
  if (tokenizer.eos_id()) {
    json["eos_token"] = std::string(tokenizer.IdToToken(*tokenizer.eos_id()));
  }
  json["clean_up_tokenization_spaces"] = false;
  return json.dump(2) + "\n";
}

std::string ModelCard(const PretrainOptions& options, const ModelConfig& config,
                      const PretrainData& data, const PretrainResult& result) {
  std::vector<std::string> names;
  for (const std::string& path : options.corpus) {
    names.push_back(std::vector<std::string>(absl::StrSplit(path, '/')).back());
  }
  const char* split = options.split == DocumentSplit::kLines   ? "lines"
                      : options.split == DocumentSplit::kFiles ? "files"
                                                               : "paragraphs";
  return absl::StrCat(
      "# ", options.name, "\n\n",
      absl::StrFormat(
          "A Llama-shaped language model of %d parameters, stored as bfloat16, "
          "with its own\nbyte-level BPE tokenizer of %d tokens. Made by "
          "`choir-model pretrain`.\n\n",
          result.parameters, config.vocab_size),
      "## Recipe\n\n",
      absl::StrFormat(
          "- Shape: hidden %d, %d layers, %d heads, %d key-value heads, "
          "intermediate %d, context %d, tied head\n",
          config.hidden_size, config.num_layers, config.num_heads,
          config.num_kv_heads, config.intermediate_size, config.max_positions),
      absl::StrFormat(
          "- Text: %s; %d documents (%s), %d training and %d held-out tokens\n"
          "- SHA-256 of the text: `%s`\n",
          absl::StrJoin(names, ", "), data.documents, split, data.train.size(),
          data.heldout.size(), data.corpus_digest),
      absl::StrFormat(
          "- AdamW (0.9, %g), learning rate %g to %g (cosine, %g %% warm-up), "
          "weight decay %g, gradient norm %g\n",
          options.beta2, options.learning_rate, options.min_learning_rate,
          100.0 * options.warmup, options.weight_decay, options.max_grad_norm),
      absl::StrFormat(
          "- %d steps of %d windows, %d tokens in all, %.0f seconds on %d CPU "
          "threads, seed %d\n\n",
          result.steps, options.batch, result.tokens, result.seconds,
          options.threads, options.seed),
      "## Result\n\n",
      absl::StrFormat(
          "- Training loss %.4f, held-out loss %.4f nats per token (as "
          "stored)\n- A sample (temperature 0.7, top-p 0.9):\n\n",
          result.train_loss, result.heldout_loss),
      "```\n", absl::StrReplaceAll(result.sample, {{"```", "'''"}}),
      "\n```\n\n",
      "It is a small base for demonstrations of federated fine-tuning, not a "
      "source of facts.\n");
}

}  // namespace choir::model
