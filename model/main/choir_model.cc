// choir-model: looks into models, evaluates and runs them, and makes small
// ones.
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "base/cli.h"
#include "base/command_line.h"
#include "model/main/commands.h"
#include "model/main/device_commands.h"
#include "model/main/export_commands.h"
#include "model/main/upcycle_command.h"

namespace choir::model {
namespace {

constexpr char kNewFolder[] = "folder of the new model: a new or empty one";

// Whole numbers that do not fit are told the limits.
template <typename T>
CLI::Option* AddNumber(CLI::App* verb, const char* name, T& value,
                       const char* help) {
  CLI::Option* const option = verb->add_option(name, value, help);
  if constexpr (std::is_integral_v<T>) option->check(base::Whole<T>());
  return option->capture_default_str();
}

void AddPrecision(CLI::App* verb, CommonOptions& common) {
  verb->add_option("--precision", common.precision,
                   "of the base's weights in memory: stored, fp32, bf16, int8 "
                   "or nf4")
      ->capture_default_str();
}

void AddExperts(CLI::App* verb, CommonOptions& common) {
  verb->add_option("--experts", common.experts,
                   "of a mixture, hold only these (0,3,5): tokens are routed "
                   "among them")
      ->check(base::Whole<int64_t>())
      ->delimiter(',');
}

void AddModel(CLI::App* verb, CommonOptions& common, bool computes) {
  verb->add_option("--model", common.model, "Hugging Face model folder")
      ->required();
  if (!computes) return;
  verb->add_option("--adapter", common.adapter,
                   "PEFT adapter folder, or a GGUF LoRA file");
  verb->add_option("--device", common.device, "auto, cpu or cuda")
      ->capture_default_str();
  AddPrecision(verb, common);
  AddExperts(verb, common);
  AddNumber(verb, "--threads", common.threads, "CPU threads");
}

void AddPretrain(CLI::App* verb, CommonOptions& common, PretrainFlags& flags) {
  PretrainOptions& o = flags.options;
  ModelConfig& c = o.config;
  c.hidden_size = 192;
  c.num_layers = 6;
  c.num_heads = 6;
  c.num_kv_heads = 3;
  c.intermediate_size = 512;
  c.max_positions = 256;
  const auto add = [&](const char* name, auto& value, const char* help) {
    AddNumber(verb, name, value, help);
  };
  verb->add_option("--corpus", o.corpus, "text files")->required();
  verb->add_option("--out", o.out, kNewFolder)->required();
  verb->add_option("--tokenizer", o.tokenizer,
                   "tokenizer.json; default: trained on the corpus");
  add("--split", flags.split, "documents are paragraphs, lines or files");
  add("--name", o.name, "name in the model card");
  add("--vocab-size", o.vocab_size, "tokens of a new tokenizer");
  add("--hidden", c.hidden_size, "width");
  add("--layers", c.num_layers, "decoder blocks");
  add("--heads", c.num_heads, "attention heads");
  add("--kv-heads", c.num_kv_heads, "key and value heads");
  add("--intermediate", c.intermediate_size, "width inside a block's MLP");
  add("--context", c.max_positions, "tokens in a window");
  add("--seed", o.seed, "of initial weights, order and held-out documents");
  add("--batch", o.batch, "windows in a step");
  add("--learning-rate", o.learning_rate, "highest learning rate");
  add("--min-learning-rate", o.min_learning_rate, "learning rate at the end");
  add("--weight-decay", o.weight_decay, "of AdamW");
  add("--warmup", o.warmup, "share of the run with a rising learning rate");
  add("--holdout", o.holdout, "share of the documents held out");
  add("--minutes", o.minutes, "end after so many minutes (0: no limit)");
  add("--tokens", o.tokens, "end after so many tokens (0: no limit)");
  add("--checkpoint-minutes", o.checkpoint_minutes, "between checkpoints");
  add("--threads", common.threads, "replicas that share each step");
  add("--prompt", o.prompt, "of the sample in the model card");
  verb->add_flag("--resume", o.resume, "go on from the folder's checkpoint");
}

constexpr char kChatFormats[] =
    "how conversations are written: model (its chat template, the default), "
    "chatml, llama3, llama2, mistral or plain";

void AddTokenize(CLI::App* verb, CommonOptions& common, TokenizeOptions& o) {
  AddModel(verb, common, false);
  verb->add_flag("--decode", o.decode,
                 "stdin has ids, or what tokenize --json printed");
  verb->add_flag("--no-special", o.no_special, "no BOS or EOS");
  verb->add_flag("--chat", o.chat,
                 "stdin has a conversation, [{\"role\", \"content\"}, ..]; "
                 "--json shows which ids an assistant learns");
  verb->add_option("--chat-format", o.chat_format, kChatFormats);
  verb->add_flag("--generation-prompt", o.generation_prompt,
                 "ends with the head of the assistant's turn");
}

void AddEval(CLI::App* verb, EvalOptions& o) {
  verb->add_option("--ids", o.ids, "JSON file [[id, ...], ...]");
  verb->add_option("--text", o.text, "text file");
  verb->add_option("--data", o.data,
                   "JSON lines with \"text\", or \"prompt\" and \"response\", "
                   "or \"messages\" (a conversation, of which what the "
                   "assistant says is predicted); with \"text\" and \"label\" "
                   "for a classifier");
  verb->add_option("--chat-format", o.chat_format, kChatFormats);
  verb->add_option("--labels", o.labels,
                   "a classifier's labels in their order, a,b,..; default: "
                   "those of the model's config.json, or labels are numbers")
      ->delimiter(',');
  verb->add_option("--domain-field", o.domain_field,
                   "field of --data whose values make a table");
  verb->add_option("--logits", o.logits,
                   "\"last\": also the logits after each row");
}

void AddGenerate(CLI::App* verb, GenerateFlags& o) {
  verb->add_option("--prompt", o.prompt, "text to continue")->required();
  verb->add_option("--max-tokens", o.max_tokens, "at most so many")
      ->check(base::Whole<int>())
      ->capture_default_str();
  verb->add_option("--temperature", o.temperature,
                   "0: always the likeliest token")
      ->capture_default_str();
  verb->add_option("--top-p", o.top_p,
                   "draw from the likeliest tokens of this probability")
      ->capture_default_str();
  verb->add_option("--stop", o.stops, "texts that end it, and are left out");
  AddNumber(verb, "--seed", o.seed, "of the draws");
}

void AddExport(CLI::App* verb, ExportFlags& o, bool merges) {
  verb->add_option("--model", o.model,
                   "base model's folder; default: where the adapter says");
  verb->add_option("--adapter", o.adapter, "PEFT folder or GGUF file")
      ->required();
  verb->add_option(
          "--out", o.out,
          merges ? kNewFolder : "new or empty folder, or a new GGUF file")
      ->required();
  if (!merges) {
    verb->add_option("--to", o.to, "peft (a folder) or gguf (for llama.cpp)")
        ->capture_default_str();
  }
  verb->add_option("--dtype", o.dtype,
                   merges ? "f32, f16 or bf16; default: as the base stores it"
                          : "f32, f16 or bf16; default f32");
}

template <typename Verb>
void AddExportVerbs(const Verb& verb, const CommonOptions& common,
                    ExportFlags& flags) {
  AddExport(verb("merge", "Fold an adapter into its base model",
                 [&] { return RunMerge(flags, common.json); }),
            flags, true);
  AddExport(verb("export", "Write an adapter for other tools, or read theirs",
                 [&] { return RunExport(flags, common.json); }),
            flags, false);
}

void AddUpcycle(CLI::App* verb, UpcycleFlags& o) {
  verb->add_option("--model", o.model, "dense model's folder")->required();
  verb->add_option("--out", o.out, kNewFolder)->required();
  AddNumber(verb, "--experts", o.options.experts, "experts in each block");
  AddNumber(verb, "--experts-per-token", o.options.experts_per_token,
            "experts that a token passes");
  AddNumber(verb, "--seed", o.options.seed, "of the routers");
}

void AddPlan(CLI::App* verb, CommonOptions& common, PlanFlags& o) {
  AddModel(verb, common, false);
  AddPrecision(verb, common);
  AddExperts(verb, common);
  verb->add_option("--budget-mib", o.budget_mib, "memory for everything")
      ->check(base::Whole<int64_t>())
      ->required();
  AddNumber(verb, "--rank", o.rank, "of the adapter");
  AddNumber(verb, "--batch-size", o.batch_size, "examples in a step");
  AddNumber(verb, "--max-sequence-length", o.max_sequence_length,
            "tokens of an example");
  AddNumber(verb, "--longest", o.longest,
            "tokens of the longest example (0: not known)");
  AddNumber(verb, "--threads", common.threads, "CPU threads");
  verb->add_flag("--checkpointing", o.checkpointing,
                 "compute activations twice, even if memory allows more");
  verb->add_flag("--measure", o.measure,
                 "train two steps as planned and print the peak");
}

template <typename Verb>
void AddDeviceVerbs(const Verb& verb, CommonOptions& common,
                    QuantizeFlags& quantize, PlanFlags& plan) {
  CLI::App* command = verb("quantize", "Write a model in fewer bits",
                           [&] { return RunQuantize(common, quantize); });
  AddModel(command, common, false);
  command->add_option("--to", quantize.to, "int8 or nf4")->required();
  command->add_option("--out", quantize.out, kNewFolder)->required();
  command->add_option("--outlier-rms", quantize.outlier_rms,
                      "int8: columns with a weight above so many root mean "
                      "squares are kept in float32 (0: none; default 6)");
  AddPlan(verb("plan", "How training fits into a device's memory",
               [&] { return RunPlan(common, plan); }),
          common, plan);
}

// What a file or flag says, rather than what happened to it on the way.
bool IsUsage(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsAlreadyExists(status);
}

// What each verb's flags are read into.
struct Flags {
  CommonOptions common;
  TokenizeOptions tokenize;
  EvalOptions eval;
  GenerateFlags generate;
  PretrainFlags pretrain;
  ExportFlags exported;
  QuantizeFlags quantize;
  PlanFlags plan;
  UpcycleFlags upcycle;
};

// verb(name, help, body) makes the command that runs `body`.
template <typename Verb>
void AddVerbs(const Verb& verb, Flags& flags) {
  CommonOptions& common = flags.common;
  AddModel(verb("inspect", "Shape and size of a model",
                [&] { return RunInspect(common); }),
           common, false);
  AddTokenize(verb("tokenize", "Text on stdin to token ids, or back",
                   [&] { return RunTokenize(common, flags.tokenize); }),
              common, flags.tokenize);
  CLI::App* command = verb("eval", "Loss of a model on token ids or text",
                           [&] { return RunEval(common, flags.eval); });
  AddModel(command, common, true);
  AddEval(command, flags.eval);
  command = verb("generate", "Continue a prompt",
                 [&] { return RunGenerate(common, flags.generate); });
  AddModel(command, common, true);
  AddGenerate(command, flags.generate);
  AddExportVerbs(verb, common, flags.exported);
  AddDeviceVerbs(verb, common, flags.quantize, flags.plan);
  AddUpcycle(verb("upcycle", "Make a mixture of experts of a dense model",
                  [&] { return RunUpcycle(flags.upcycle, common.json); }),
             flags.upcycle);
  AddPretrain(verb("pretrain", "Make a small model from text",
                   [&] { return RunPretrain(common, flags.pretrain); }),
              common, flags.pretrain);
}

// Verbs that write no files, and so have nothing to clear away.
bool OnlyAnswers(const CLI::App& app) {
  return app.got_subcommand("inspect") || app.got_subcommand("tokenize") ||
         app.got_subcommand("eval") || app.got_subcommand("generate") ||
         app.got_subcommand("plan");
}

int Main(int argc, char** argv) {
  CLI::App app(
      "Looks into language models, evaluates and runs them, and "
      "pretrains small ones.",
      "choir-model");
  app.set_version_flag("--version", base::kVersion);
  app.footer(base::kExitCodeHelp);
  app.require_subcommand(1);
  Flags flags;
  std::function<absl::Status()> run;
  const auto verb = [&](const char* name, const char* help,
                        std::function<absl::Status()> body) {
    CLI::App* command = app.add_subcommand(name, help);
    command->add_flag("--json", flags.common.json,
                      "one JSON document on stdout");
    command->footer(base::kExitCodeHelp);
    command->callback([&run, body] { run = body; });
    return command;
  };
  AddVerbs(verb, flags);
  if (const absl::optional<int> code =
          base::ParseCommandLine(app, argc, argv)) {
    return *code;
  }
  if (OnlyAnswers(app)) {
    base::StopSignal::InstallToEnd(flags.common.json);
  } else {
    base::StopSignal::Install();
  }
  const absl::Status status = run();
  if (status.ok()) return base::kExitDone;
  if (base::StopSignal::requested()) {
    base::PrintError(status, flags.common.json);
    return base::kExitInterrupted;
  }
  return base::PrintError(status, flags.common.json, IsUsage(status));
}

}  // namespace
}  // namespace choir::model

int main(int argc, char** argv) {
  return choir::base::FinishOutput(choir::model::Main(argc, argv));
}
