#include <algorithm>
#include <cmath>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/cli.h"
#include "base/status_macros.h"
#include "model/main/adapted_model.h"
#include "model/main/class_report.h"
#include "model/main/commands.h"
#include "model/main/eval_data.h"
#include "model/objective/losses.h"
#include "model/objective/packing.h"
#include "model/torch/guard.h"

namespace choir::model {
namespace {

struct Tally {
  uint64_t examples = 0;
  int64_t tokens = 0;
  double loss = 0.0;  // nats, summed
  double mean() const { return loss / static_cast<double>(tokens); }
};

struct Result {
  Tally all;
  std::map<std::string, Tally> domains;
  Json logits = Json::array();
  double load_balancing_loss = 0.0;
  double seconds = 0.0;
  // Of classification, instead of the above but for all.tokens, which is then
  // all that was read.
  bool classify = false;
  ClassReport labels;
  std::map<std::string, ClassReport> labels_by_domain;
};

absl::Status Check(const EvalOptions& options) {
  const int sources = (options.ids.empty() ? 0 : 1) +
                      (options.text.empty() ? 0 : 1) +
                      (options.data.empty() ? 0 : 1);
  if (sources != 1) {
    return absl::InvalidArgumentError("give one of --ids, --text and --data");
  }
  if (!options.domain_field.empty() && options.data.empty()) {
    return absl::InvalidArgumentError(
        "--domain-field names a field of the lines of --data, which is not "
        "given");
  }
  if (!options.chat_format.empty() && options.data.empty()) {
    return absl::InvalidArgumentError(
        "--chat-format says how conversations of --data are written, which is "
        "not given");
  }
  if (!options.logits.empty() && options.logits != "last") {
    return absl::InvalidArgumentError(
        absl::StrCat("--logits is \"", options.logits, "\"; only last"));
  }
  return absl::OkStatus();
}

// The head's outputs and what they are called.
absl::StatusOr<Labels> LabelsOf(const EvalOptions& options,
                                const Adapted& adapted) {
  Labels labels;
  if (adapted.score.defined()) labels.count = adapted.score.size(0);
  const ModelConfig& config = adapted.model->decoder().config();
  if (config.num_labels == labels.count) labels.names = config.labels;
  if (options.labels.empty()) return labels;
  if (labels.count != static_cast<int64_t>(options.labels.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--labels names ", options.labels.size(), " labels, but ",
        labels.count == 0
            ? std::string("neither model nor adapter has a classification head")
            : absl::StrCat("the classification head has ", labels.count,
                           " outputs")));
  }
  labels.names = options.labels;
  return labels;
}

absl::StatusOr<Result> EvaluateLabels(const Adapted& adapted,
                                      const EvalData& data) {
  at::NoGradGuard no_grad;
  config::TrainingOptions training;
  training.objective = config::Objective::kClassification;
  const LossContext context{adapted.model->decoder(), training,
                            adapted.model->max_positions(), adapted.score};
  ForwardOptions forward;
  forward.lora = adapted.bank();
  Result result;
  result.classify = true;
  const absl::Time begin = absl::Now();
  for (size_t i = 0; i < data.examples.size(); ++i) {
    const Example& example = data.examples[i];
    const Example* const one[] = {&example};
    const ClassOutcome outcome = Classify(context, forward, one);
    const auto add = [&](ClassReport& report) {
      report.Add(example.label, outcome.predicted[0], outcome.loss_sum);
    };
    add(result.labels);
    if (!data.domains.empty()) add(result.labels_by_domain[data.domains[i]]);
    result.all.tokens += TotalTokens(context, one);
  }
  result.seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  return result;
}

Json LastLogits(const Decoder& decoder, const std::vector<int32_t>& ids,
                const ForwardOptions& forward) {
  PackedBatch whole = PackWhole(ids, decoder.device());
  whole.rows = at::full({1}, static_cast<int64_t>(ids.size()) - 1, at::kLong)
                   .to(decoder.device());
  const at::Tensor row = decoder.Logits(whole, forward).cpu().contiguous();
  return std::vector<float>(row.data_ptr<float>(),
                            row.data_ptr<float>() + row.numel());
}

absl::StatusOr<Result> Evaluate(const EvalOptions& options,
                                const Adapted& adapted, const EvalData& data) {
  at::NoGradGuard no_grad;
  const Decoder& decoder = adapted.model->decoder();
  ForwardOptions forward;
  forward.lora = adapted.bank();
  const MoeConfig& moe = decoder.config().moe;
  LoadBalancingMeter balance(moe.experts_per_token);
  RouterLog routers;
  routers.keep_logits = true;
  Result result;
  absl::Duration spent;
  for (size_t i = 0; i < data.examples.size(); ++i) {
    const Example* const one[] = {&data.examples[i]};
    const PackedBatch batch =
        PackExamples(one, adapted.model->max_positions(), decoder.device(),
                     /*keep_last=*/moe.num_experts > 0);
    if (batch.predictions > 0) {
      if (moe.num_experts > 0) forward.router_log = &routers;
      const absl::Time begin = absl::Now();
      const double loss = decoder.Loss(batch, forward, 1.0).item<double>();
      spent += absl::Now() - begin;
      balance.Add(routers.layers);
      forward.router_log = nullptr;
      for (Tally* tally :
           {&result.all, data.domains.empty()
                             ? nullptr
                             : &result.domains[data.domains[i]]}) {
        if (tally == nullptr) continue;
        ++tally->examples;
        tally->tokens += batch.predictions;
        tally->loss += loss;
      }
    }
    if (!options.logits.empty()) {
      result.logits.push_back(
          LastLogits(decoder, data.examples[i].ids, forward));
    }
  }
  result.load_balancing_loss = balance.loss();
  result.seconds = absl::ToDoubleSeconds(spent);
  return result;
}

double Rate(const Result& result) {
  return result.seconds > 0.0 ? result.all.tokens / result.seconds : 0.0;
}

Json LabelsJson(const Result& result, const Labels& labels) {
  Json json = result.labels.ToJson();
  json["tokens"] = result.all.tokens;
  json["tokens_per_second"] = Rate(result);
  json["labels"] = result.labels.LabelsJson(labels.names);
  for (const auto& [name, report] : result.labels_by_domain) {
    Json row = {{"domain", name}};
    row.update(report.ToJson());
    json["domains"].push_back(std::move(row));
  }
  return json;
}

void PrintLabels(const Result& result) {
  std::cout << absl::StrFormat(
      "accuracy %.2f %%, macro F1 %.4f, mean loss %.4f nats over %d examples, "
      "%.0f tokens/s\n",
      100.0 * result.labels.accuracy(), result.labels.macro_f1(),
      result.labels.mean_loss(), result.labels.examples(), Rate(result));
  if (result.labels_by_domain.empty()) return;
  size_t width = 6;
  for (const auto& [name, report] : result.labels_by_domain) {
    width = std::max(width, base::PrintableText(name).size());
  }
  std::cout << absl::StrFormat("\n%-*s  %9s  %9s  %9s  %8s\n",
                               static_cast<int>(width), "domain", "examples",
                               "accuracy", "macro F1", "loss");
  for (const auto& [name, report] : result.labels_by_domain) {
    std::cout << absl::StrFormat(
        "%-*s  %9d  %7.2f %%  %9.4f  %8.4f\n", static_cast<int>(width),
        base::PrintableText(name), report.examples(), 100.0 * report.accuracy(),
        report.macro_f1(), report.mean_loss());
  }
}

Json ToJson(const EvalOptions& options, const Result& result) {
  const bool any = result.all.tokens > 0;
  Json json;
  json["mean_nll"] = any ? Json(result.all.mean()) : Json(nullptr);
  json["tokens"] = result.all.tokens;
  json["perplexity"] = any ? Json(std::exp(result.all.mean())) : Json(nullptr);
  json["tokens_per_second"] = Rate(result);
  if (!options.logits.empty()) json["logits_last"] = result.logits;
  json["load_balancing_loss"] = result.load_balancing_loss;
  if (!result.domains.empty()) {
    Json domains = Json::array();
    for (const auto& [name, tally] : result.domains) {
      domains.push_back({{"domain", name},
                         {"examples", tally.examples},
                         {"tokens", tally.tokens},
                         {"mean_nll", tally.mean()},
                         {"perplexity", std::exp(tally.mean())}});
    }
    json["domains"] = domains;
  }
  return json;
}

void PrintTable(const Result& result) {
  if (result.all.tokens == 0) {
    std::cout << "nothing to predict: each row has one id\n";
    return;
  }
  std::cout << absl::StrFormat(
      "mean loss %.4f nats per token (perplexity %.2f) over %d tokens, %.0f "
      "tokens/s\n",
      result.all.mean(), std::exp(result.all.mean()), result.all.tokens,
      Rate(result));
  if (result.domains.empty()) return;
  size_t width = 6;
  for (const auto& [name, tally] : result.domains) {
    width = std::max(width, base::PrintableText(name).size());
  }
  std::cout << absl::StrFormat("\n%-*s  %9s  %9s  %8s  %10s\n",
                               static_cast<int>(width), "domain", "examples",
                               "tokens", "loss", "perplexity");
  for (const auto& [name, tally] : result.domains) {
    std::cout << absl::StrFormat(
        "%-*s  %9d  %9d  %8.4f  %10.2f\n", static_cast<int>(width),
        base::PrintableText(name), tally.examples, tally.tokens, tally.mean(),
        std::exp(tally.mean()));
  }
}

absl::Status CheckFinite(const CommonOptions& common, const Result& result) {
  const double loss =
      result.classify ? result.labels.mean_loss() : result.all.loss;
  if (std::isfinite(loss)) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat(
      "the loss of the model ", common.model,
      common.adapter.empty()
          ? ""
          : absl::StrCat(" with the adapter ", common.adapter),
      " is ", loss, ", not a finite number: ",
      common.adapter.empty()
          ? "the checkpoint holds weights that are not finite, or too large; "
            "take another, or one from before its training diverged"
          : "one of the two holds weights that are not finite, or too large; "
            "without --adapter you see whether it is the model"));
}

}  // namespace

absl::Status RunEval(const CommonOptions& common, const EvalOptions& options) {
  CHOIR_RETURN_IF_ERROR(Check(options));
  CHOIR_ASSIGN_OR_RETURN(const Adapted adapted,
                         LoadAdapted(common, options.ids.empty()));
  CHOIR_ASSIGN_OR_RETURN(const Labels labels, LabelsOf(options, adapted));
  CHOIR_ASSIGN_OR_RETURN(const EvalData data,
                         LoadEvalData(options, *adapted.model, labels));
  if (!data.classify) {
    if (!options.labels.empty()) {
      return absl::InvalidArgumentError(
          "--labels is given, but the lines of --data have no \"label\"");
    }
    CHOIR_RETURN_IF_ERROR(CheckLanguageModel(adapted));
  }
  CHOIR_ASSIGN_OR_RETURN(const Result result, TorchGuard("evaluation", [&] {
                           return data.classify
                                      ? EvaluateLabels(adapted, data)
                                      : Evaluate(options, adapted, data);
                         }));
  CHOIR_RETURN_IF_ERROR(CheckFinite(common, result));
  if (common.json) {
    PrintJson(result.classify ? LabelsJson(result, labels)
                              : ToJson(options, result));
  } else if (result.classify) {
    PrintLabels(result);
  } else {
    PrintTable(result);
  }
  return absl::OkStatus();
}

}  // namespace choir::model
