#include "model/checkpoint/side_files.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <vector>

#include "base/files.h"
#include "base/status_macros.h"

namespace choir::model {
namespace {

constexpr size_t kLargestSideFile = 256u << 20;

constexpr const char* kSideFiles[] = {
    "added_tokens.json",       "chat_template.jinja",
    "generation_config.json",  "merges.txt",
    "special_tokens_map.json", "tokenizer.json",
    "tokenizer_config.json",   "vocab.json",
};

// The same tokenizer for other programs. Nothing here reads it.
constexpr char kSentencePiece[] = "tokenizer.model";

}  // namespace

absl::Span<const char* const> SideFiles() { return kSideFiles; }

bool IsSideFile(absl::string_view name) {
  return std::any_of(std::begin(kSideFiles), std::end(kSideFiles),
                     [&](const char* known) { return name == known; });
}

absl::Status CopySideFiles(const std::string& from, const std::string& to) {
  std::vector<const char*> names(std::begin(kSideFiles), std::end(kSideFiles));
  names.push_back(kSentencePiece);
  for (const char* name : names) {
    const std::string path = base::JoinPath(from, name);
    if (!base::FileExists(path)) continue;
    CHOIR_ASSIGN_OR_RETURN(const std::string bytes,
                           base::ReadFile(path, kLargestSideFile));
    CHOIR_RETURN_IF_ERROR(
        base::WriteFileAtomic(base::JoinPath(to, name), bytes));
  }
  return absl::OkStatus();
}

}  // namespace choir::model
