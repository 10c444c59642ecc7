// Reads values out of config.json and collects everything that is wrong with
// them, so that one error can list it all.
#ifndef CHOIR_MODEL_CHECKPOINT_CONFIG_READER_H_
#define CHOIR_MODEL_CHECKPOINT_CONFIG_READER_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace choir::model {

inline constexpr int64_t kLargestSize = int64_t{1} << 24;
inline constexpr int64_t kMostLayers = 4096;

// Every getter returns something harmless after it has complained. Keys that
// are null count as absent. Threads: one at a time.
class ConfigReader {
 public:
  // `document` outlives this object. `prefix` stands before keys in messages.
  explicit ConfigReader(const nlohmann::json& document, std::string prefix = "")
      : document_(document), prefix_(std::move(prefix)) {}

  bool Has(const char* key) const;
  const nlohmann::json& At(const char* key) const { return document_[key]; }

  // A whole number from 1 to `most`.
  int64_t Size(const char* key, int64_t most = kLargestSize);
  int64_t OptionalSize(const char* key, int64_t fallback,
                       int64_t most = kLargestSize);
  // A whole number from 0 to `most`.
  int64_t OptionalCount(const char* key, int64_t fallback, int64_t most);
  double Positive(const char* key, double fallback);
  double NotNegative(const char* key, double fallback);
  bool Flag(const char* key, bool fallback);
  std::string Text(const char* key, const char* fallback);
  // One id or a list of ids; -1, which says that there is none, is left out.
  std::vector<int32_t> TokenIds(const char* key);
  // A list of whole numbers below `limit`.
  std::vector<int64_t> Indices(const char* key, int64_t limit);

  // "<prefix><key> <problem>".
  void Complain(const char* key, absl::string_view problem);
  // Takes over the problems of a reader of a part of the document.
  void Adopt(ConfigReader& other);
  const std::vector<std::string>& problems() const { return problems_; }
  // False once a whole number was missing or impossible: what was returned in
  // its place says nothing of the others, which it must not be compared with.
  bool sizes_known() const { return sizes_known_; }

 private:
  int64_t Whole(const char* key, int64_t least, int64_t most);

  const nlohmann::json& document_;
  std::string prefix_;
  std::vector<std::string> problems_;
  bool sizes_known_ = true;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_CHECKPOINT_CONFIG_READER_H_
