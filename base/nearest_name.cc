#include "base/nearest_name.h"

#include <algorithm>
#include <vector>

namespace choir::base {
namespace {

// Insertions, deletions and substitutions (Levenshtein).
int EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string NearestName(absl::string_view name,
                        absl::Span<const std::string> known, int most_edits) {
  std::string nearest;
  int least = std::numeric_limits<int>::max();
  for (const std::string& one : known) {
    const int edits = EditDistance(name, one);
    if (edits >= least || edits > most_edits) continue;
    least = edits;
    nearest = one;
  }
  return nearest;
}

}  // namespace choir::base
