// Speed of tokenizers on one core.
//
//   tools/make_corpus.py --out build/corpus
//   build/release/tests/tokenizer_bench build/corpus/bible.txt FOLDER...
//
// For each folder with a tokenizer: time to load it, and the median of five
// rounds over the text as a whole, paragraph by paragraph (short texts, as
// examples are), and back.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/files.h"
#include "model/tokenizer/tokenizer.h"

namespace choir::model {
namespace {

constexpr int kRounds = 5;

double MedianSeconds(const std::function<void()>& work) {
  std::vector<double> seconds;
  for (int i = 0; i < kRounds; ++i) {
    const absl::Time start = absl::Now();
    work();
    seconds.push_back(absl::ToDoubleSeconds(absl::Now() - start));
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[kRounds / 2];
}

int Run(const std::string& text_path, absl::Span<const std::string> folders) {
  const auto text = base::ReadFile(text_path);
  if (!text.ok()) {
    std::fprintf(stderr, "%s\n", text.status().ToString().c_str());
    return 1;
  }
  const std::vector<std::string> paragraphs =
      absl::StrSplit(*text, "\n\n", absl::SkipEmpty());
  const double megabytes = static_cast<double>(text->size()) / 1e6;
  std::printf("%s: %.1f MB, %zu paragraphs, one core, MB/s of text\n",
              text_path.c_str(), megabytes, paragraphs.size());
  std::printf("%-40s %8s %8s %10s %8s %8s\n", "tokenizer", "load s", "whole",
              "paragraphs", "decode", "tokens");
  for (const std::string& folder : folders) {
    const absl::Time start = absl::Now();
    const auto loaded = Tokenizer::LoadFolder(folder);
    const double load = absl::ToDoubleSeconds(absl::Now() - start);
    if (!loaded.ok()) {
      std::fprintf(stderr, "%s\n", loaded.status().ToString().c_str());
      return 1;
    }
    const Tokenizer& tokenizer = **loaded;
    std::vector<int32_t> ids;
    const double whole =
        MedianSeconds([&] { ids = tokenizer.Encode(*text, false); });
    size_t tokens = 0;
    const double parts = MedianSeconds([&] {
      tokens = 0;
      for (const std::string& paragraph : paragraphs) {
        tokens += tokenizer.Encode(paragraph, false).size();
      }
    });
    size_t decoded = 0;
    const double back = MedianSeconds(
        [&] { decoded = tokenizer.Decode(ids, false).value().size(); });
    std::printf(
        "%-40s %8.2f %8.1f %10.1f %8.1f %8zu\n",
        folder.substr(folder.size() > 40 ? folder.size() - 40 : 0).c_str(),
        load, megabytes / whole, megabytes / parts,
        static_cast<double>(decoded) / 1e6 / back, ids.size());
    if (tokens == 0) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace choir::model

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s TEXT_FILE TOKENIZER_FOLDER...\n", argv[0]);
    return 2;
  }
  return choir::model::Run(argv[1],
                           std::vector<std::string>(argv + 2, argv + argc));
}
