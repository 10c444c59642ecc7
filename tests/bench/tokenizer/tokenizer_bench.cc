// Speed of tokenizers on one core.
//
//   tools/make_corpus.py --out build/corpus
//   build/release/tests/tokenizer_bench [--least R] build/corpus/bible.txt
//       FOLDER...
//
// Exit code 1 if a tokenizer reads less than R MB/s of the text as a whole or
// by paragraphs. For each folder with a tokenizer: time to load it, and the
// median of five rounds over the text as a whole, paragraph by paragraph (short
// texts, as examples are), and back.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
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

int Run(const std::string& text_path, absl::Span<const std::string> folders,
        double least) {
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
  bool good = true;
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
    if (!(megabytes / std::max(whole, parts) >= least)) {
      std::fprintf(stderr, "%s: %.1f MB/s, less than %.1f\n", folder.c_str(),
                   megabytes / std::max(whole, parts), least);
      good = false;
    }
  }
  return good ? 0 : 1;
}

}  // namespace
}  // namespace choir::model

int main(int argc, char** argv) {
  const bool bounded = argc > 2 && std::strcmp(argv[1], "--least") == 0;
  const int first = bounded ? 3 : 1;
  if (argc < first + 2) {
    std::fprintf(stderr,
                 "usage: %s [--least MB_PER_SECOND] TEXT_FILE "
                 "TOKENIZER_FOLDER...\n",
                 argv[0]);
    return 2;
  }
  return choir::model::Run(
      argv[first], std::vector<std::string>(argv + first + 1, argv + argc),
      bounded ? std::atof(argv[2]) : 0.0);
}
