#include <iostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "model/generate.h"
#include "model/main/adapted_model.h"
#include "model/main/commands.h"
#include "model/text_stream.h"
#include "model/tokenizer/unicode.h"

namespace choir::model {
namespace {

// The continuation while it is made: printed unless the result is JSON.
struct Writer {
  TextStream stream;
  bool print = false;
  std::string text;
  absl::Status status;

  void Write(const std::string& piece) {
    text += piece;
    if (print) std::cout << piece << std::flush;
  }
  bool Add(int32_t id) {
    absl::StatusOr<std::string> piece = stream.Add(id);
    if (!piece.ok()) {
      status = piece.status();
      return false;
    }
    Write(*piece);
    return !stream.stopped();
  }
};

GenerateOptions OptionsOf(const GenerateFlags& flags,
                          const Tokenizer& tokenizer,
                          const ModelConfig& config) {
  GenerateOptions options;
  options.max_tokens = flags.max_tokens;
  options.temperature = flags.temperature;
  options.top_p = flags.top_p;
  options.seed = flags.seed;
  options.stop_ids = config.eos_token_ids;
  if (tokenizer.eos_id()) options.stop_ids.push_back(*tokenizer.eos_id());
  return options;
}

const char* Finish(const Writer& writer, const std::vector<int32_t>& ids,
                   size_t prompt, const GenerateOptions& options) {
  if (writer.stream.stopped()) return "stop";
  if (ids.size() > prompt) {
    for (const int32_t stop : options.stop_ids) {
      if (ids.back() == stop) return "eos";
    }
  }
  return "length";
}

}  // namespace

absl::Status RunGenerate(const CommonOptions& common,
                         const GenerateFlags& flags) {
  for (const std::string& stop : flags.stops) {
    if (stop.empty()) {
      return absl::InvalidArgumentError(
          "--stop has an empty text, which would stop at once");
    }
  }
  CHOIR_ASSIGN_OR_RETURN(const Adapted adapted, LoadAdapted(common, true));
  CHOIR_RETURN_IF_ERROR(CheckLanguageModel(adapted));
  const Tokenizer& tokenizer = adapted.model->tokenizer();
  std::vector<int32_t> prompt = tokenizer.Encode(flags.prompt, false);
  // What the tokenizer puts before every text; a text of nothing begins with
  // BOS all the same.
  const absl::Span<const int32_t> prefix = tokenizer.prefix_ids();
  prompt.insert(prompt.begin(), prefix.begin(), prefix.end());
  if (prompt.empty() && tokenizer.bos_id()) {
    prompt.push_back(*tokenizer.bos_id());
  }
  GenerateOptions options =
      OptionsOf(flags, tokenizer, adapted.model->decoder().config());
  CHOIR_ASSIGN_OR_RETURN(const std::string given, tokenizer.Decode(prompt));
  Writer writer{TextStream(tokenizer, prompt, flags.stops), !common.json};
  bool begun = false;
  options.on_token = [&](int32_t id) {
    if (!begun && writer.print) std::cout << given << std::flush;
    begun = true;
    return writer.Add(id);
  };
  const absl::Time start = absl::Now();
  CHOIR_ASSIGN_OR_RETURN(
      const std::vector<int32_t> ids,
      Generate(adapted.model->decoder(), adapted.bank(), prompt, options));
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  CHOIR_RETURN_IF_ERROR(writer.status);
  writer.Write(writer.stream.Finish());
  const double made = static_cast<double>(ids.size() - prompt.size());
  if (common.json) {
    PrintJson({{"ids", ids},
               {"text", Utf8Lossy(absl::StrCat(given, writer.text))},
               {"tokens_per_second", seconds > 0.0 ? made / seconds : 0.0},
               {"finish", Finish(writer, ids, prompt.size(), options)}});
  } else {
    std::cout << (begun ? "" : given) << "\n";
  }
  return absl::OkStatus();
}

}  // namespace choir::model
