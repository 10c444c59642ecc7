#include "model/adapter/target_rules.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "model/adapter/lora_layout.h"
#include "model/checkpoint/families.h"
#include "model/tokenizer/regex.h"

namespace choir::model {
namespace {

using config::AdapterOptions;
using nlohmann::ordered_json;
using Problems = std::vector<std::string>;

constexpr int kMostRank = 1 << 16;
constexpr size_t kMostPatterns = 100000;

// One character more would have to follow, and none does: the end.
constexpr char kEnd[] = "(?![\\s\\S])";

const ordered_json* Find(const ordered_json& document, const char* key) {
  const auto found = document.find(key);
  return found == document.end() || found->is_null() ? nullptr : &*found;
}

// Sorted, without doubles.
std::vector<std::string> Names(const ordered_json& list, const char* key,
                               Problems& problems) {
  std::set<std::string> names;
  for (const ordered_json& name : list) {
    if (!name.is_string()) {
      problems.push_back(
          absl::StrCat(key, " holds something that is not text"));
      break;
    }
    names.insert(name.get<std::string>());
  }
  return {names.begin(), names.end()};
}

NameRule ReadNames(const ordered_json& document, const char* key,
                   Problems& problems) {
  NameRule rule;
  const ordered_json* value = Find(document, key);
  if (value == nullptr) return rule;
  if (value->is_string()) {
    rule.pattern = value->get<std::string>();
  } else if (value->is_array()) {
    rule.names = Names(*value, key, problems);
  } else {
    problems.push_back(
        absl::StrCat(key, " is neither a list of names nor an expression"));
  }
  return rule;
}

void ReadLayers(const ordered_json& document, TargetRules& rules,
                Problems& problems) {
  const ordered_json* layers = Find(document, "layers_to_transform");
  if (layers != nullptr) {
    const ordered_json list =
        layers->is_array() ? *layers : ordered_json::array({*layers});
    for (const ordered_json& layer : list) {
      if (!layer.is_number_unsigned() || layer.get<uint64_t>() > (1u << 20)) {
        problems.push_back(
            "layers_to_transform holds something that is not a layer's number");
        return;
      }
      rules.layers.push_back(layer.get<int64_t>());
    }
  }
  const ordered_json* pattern = Find(document, "layers_pattern");
  if (pattern == nullptr) return;
  if (pattern->is_string()) {
    if (!pattern->get<std::string>().empty()) {
      rules.layer_lists.push_back(pattern->get<std::string>());
    }
  } else if (pattern->is_array()) {
    rules.layer_lists = Names(*pattern, "layers_pattern", problems);
  } else {
    problems.push_back("layers_pattern is neither a name nor a list of names");
  }
}

template <typename Value, typename Valid>
std::vector<std::pair<std::string, Value>> ReadPattern(
    const ordered_json& document, const char* key, const char* wanted,
    Problems& problems, const Valid& valid) {
  std::vector<std::pair<std::string, Value>> patterns;
  const ordered_json* object = Find(document, key);
  if (object == nullptr) return patterns;
  if (!object->is_object() || object->size() > kMostPatterns) {
    problems.push_back(absl::StrCat(key, " is not an object of at most ",
                                    kMostPatterns, " patterns"));
    return patterns;
  }
  for (const auto& [pattern, value] : object->items()) {
    if (!valid(value)) {
      problems.push_back(absl::StrCat(key, " of '", pattern.substr(0, 80),
                                      "' is not ", wanted));
      break;
    }
    patterns.emplace_back(pattern, value.template get<Value>());
  }
  return patterns;
}

absl::StatusOr<Regex> Compile(const char* key, absl::string_view pattern,
                              absl::string_view whole) {
  absl::StatusOr<Regex> regex = Regex::Compile(whole);
  if (regex.ok()) return regex;
  return absl::InvalidArgumentError(absl::StrCat(
      key, " '", pattern.substr(0, 80), "': ", regex.status().message()));
}

// A NameRule ready to use.
class NameMatcher {
 public:
  static absl::StatusOr<NameMatcher> Make(const char* key,
                                          const NameRule& rule) {
    NameMatcher matcher;
    matcher.names_ = rule.names;
    if (rule.pattern.empty()) return matcher;
    CHOIR_ASSIGN_OR_RETURN(
        matcher.regex_, Compile(key, rule.pattern,
                                absl::StrCat("(?:", rule.pattern, ")", kEnd)));
    return matcher;
  }
  bool Matches(const std::string& module) const {
    if (regex_) return regex_->MatchAt(module, 0) == module.size();
    return std::any_of(
        names_.begin(), names_.end(),
        [&](const std::string& name) { return TargetMatches(name, module); });
  }

 private:
  std::vector<std::string> names_;
  std::optional<Regex> regex_;
};

// A key of rank_pattern or alpha_pattern. Most are names, whose dots match
// anything; only others need a table.
class KeyMatcher {
 public:
  static absl::StatusOr<KeyMatcher> Make(const char* what,
                                         const std::string& key) {
    KeyMatcher matcher;
    matcher.key_ = key;
    const bool name = std::all_of(key.begin(), key.end(), [](char c) {
      return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' ||
             c == '.' || c == '-';
    });
    if (name && !key.empty()) return matcher;
    CHOIR_ASSIGN_OR_RETURN(
        matcher.regex_,
        Compile(what, key, absl::StrCat("(?:.*\\.)?(?:", key, ")", kEnd)));
    return matcher;
  }
  bool Matches(const std::string& module) const {
    if (regex_) return regex_->MatchAt(module, 0) == module.size();
    if (key_.size() > module.size()) return false;
    const size_t begin = module.size() - key_.size();
    if (begin > 0 && module[begin - 1] != '.') return false;
    return std::equal(key_.begin(), key_.end(), module.begin() + begin,
                      [](char k, char m) { return k == '.' || k == m; });
  }

 private:
  std::string key_;
  std::optional<Regex> regex_;
};

// The number that layers_to_transform is held against: it follows one of
// `lists`, or else any name; the last one that does. -1: there is none.
int64_t LayerNumber(const std::string& module,
                    const std::vector<std::string>& lists) {
  const std::vector<std::string> parts = absl::StrSplit(module, '.');
  for (size_t i = parts.size(); i-- > 0;) {
    int64_t number = 0;
    // PEFT wants something before the list and something after the number.
    if (i < 2 || i + 1 == parts.size() ||
        !absl::SimpleAtoi(parts[i], &number)) {
      continue;
    }
    if (lists.empty() ||
        std::find(lists.begin(), lists.end(), parts[i - 1]) != lists.end()) {
      return number;
    }
  }
  return -1;
}

// The names that are layers of this model. As with PEFT, others may stand
// beside them, unless they name a part that this model has and that is never
// adapted here: its tensors would be lost.
absl::StatusOr<std::vector<std::string>> NamesHere(
    const ModelConfig& config, const std::vector<std::string>& names) {
  static constexpr const char* kNeverAdapted[] = {"lm_head", "embed_tokens",
                                                  "wte", "wpe", "score"};
  const std::vector<LinearSpec> layers = LinearLayers(config);
  std::vector<std::string> here;
  for (const std::string& name : names) {
    const std::string last = name.substr(name.rfind('.') + 1);
    if (std::any_of(layers.begin(), layers.end(), [&](const LinearSpec& spec) {
          return TargetMatches(name, spec.module);
        })) {
      here.push_back(name);
    } else if (absl::c_linear_search(kNeverAdapted, last) ||
               (last == "gate" && config.moe.num_experts > 0)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "target_modules names '", name,
          "'; embeddings, heads and routers are not adapted here, only ",
          absl::StrJoin(LinearKinds(config), ", "),
          ": train the adapter without it, or merge it with PEFT first"));
    }
  }
  return here;
}

absl::StatusOr<std::vector<LinearSpec>> Selected(
    const ModelConfig& config, const TargetRules& rules,
    const AdapterOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const NameMatcher targets,
                         NameMatcher::Make("target_modules", rules.targets));
  CHOIR_ASSIGN_OR_RETURN(const NameMatcher excluded,
                         NameMatcher::Make("exclude_modules", rules.excluded));
  if (!options.target_modules.empty()) {
    // What else is wrong with the options.
    CHOIR_RETURN_IF_ERROR(AdaptedLayers(config, options).status());
  }
  std::vector<LinearSpec> selected;
  for (LinearSpec& layer : LinearLayers(config)) {
    const std::string& module = layer.module;
    if (!rules.all_linear && !targets.Matches(module)) continue;
    if (excluded.Matches(module)) continue;
    if (!rules.layers.empty() &&
        std::find(rules.layers.begin(), rules.layers.end(),
                  LayerNumber(module, rules.layer_lists)) ==
            rules.layers.end()) {
      continue;
    }
    selected.push_back(std::move(layer));
  }
  return selected;
}

// By the last part of the path where that says the same, else whole paths.
std::vector<std::string> Shortest(const ModelConfig& config,
                                  const std::vector<LinearSpec>& selected) {
  std::set<std::string> kinds;
  std::vector<std::string> paths;
  for (const LinearSpec& layer : selected) {
    kinds.insert(layer.kind);
    paths.push_back(layer.module);
  }
  const std::vector<LinearSpec> all = LinearLayers(config);
  const auto same = std::count_if(
      all.begin(), all.end(),
      [&](const LinearSpec& layer) { return kinds.count(layer.kind) > 0; });
  if (static_cast<size_t>(same) == paths.size()) {
    return {kinds.begin(), kinds.end()};
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

absl::Status SetFeedforward(const ModelConfig& config, const TargetRules& rules,
                            AdapterOptions& options) {
  if (rules.feedforward.pattern.empty()) {
    options.feedforward_modules = rules.feedforward.names;
    return absl::OkStatus();
  }
  CHOIR_ASSIGN_OR_RETURN(
      const NameMatcher matcher,
      NameMatcher::Make("feedforward_modules", rules.feedforward));
  CHOIR_ASSIGN_OR_RETURN(std::vector<LinearSpec> layers,
                         AdaptedLayers(config, options));
  layers.erase(std::remove_if(layers.begin(), layers.end(),
                              [&](const LinearSpec& layer) {
                                return !matcher.Matches(layer.module);
                              }),
               layers.end());
  options.feedforward_modules = Shortest(config, layers);
  return absl::OkStatus();
}

// `patterns` as a value for each layer that has another than `usual`.
template <typename Value>
absl::StatusOr<std::map<std::string, Value>> ByLayer(
    const char* key, const std::vector<std::pair<std::string, Value>>& patterns,
    const std::vector<LinearSpec>& layers, Value usual) {
  std::map<std::string, Value> values;
  std::set<std::string> settled;
  for (const auto& [pattern, value] : patterns) {
    CHOIR_ASSIGN_OR_RETURN(const KeyMatcher matcher,
                           KeyMatcher::Make(key, pattern));
    for (const LinearSpec& layer : layers) {
      if (!matcher.Matches(layer.module) ||
          !settled.insert(layer.module).second) {
        continue;
      }
      if (value != usual) values[layer.module] = value;
    }
  }
  return values;
}

}  // namespace

TargetRules ReadTargetRules(const ordered_json& document, Problems& problems) {
  TargetRules rules;
  const size_t before = problems.size();
  rules.targets = ReadNames(document, "target_modules", problems);
  if (absl::AsciiStrToLower(rules.targets.pattern) == config::kAllLinear) {
    rules.all_linear = true;
    rules.targets.pattern.clear();
  } else if (rules.targets.empty() && problems.size() == before) {
    problems.push_back(absl::StrCat(
        "target_modules ",
        Find(document, "target_modules") == nullptr ? "is missing" : "is empty",
        "; name the layers that are adapted, or \"all-linear\""));
  }
  rules.feedforward = ReadNames(document, "feedforward_modules", problems);
  rules.excluded = ReadNames(document, "exclude_modules", problems);
  ReadLayers(document, rules, problems);
  if (!rules.layers.empty() && !rules.targets.pattern.empty()) {
    problems.push_back(
        "layers_to_transform is set, but target_modules is an expression; "
        "PEFT takes it with a list of names only");
  }
  rules.ranks = ReadPattern<int>(
      document, "rank_pattern", "a whole number from 1 to 65536", problems,
      [](const ordered_json& value) {
        return value.is_number_unsigned() && value.get<uint64_t>() >= 1 &&
               value.get<uint64_t>() <= kMostRank;
      });
  rules.alphas = ReadPattern<double>(
      document, "alpha_pattern", "a positive number", problems,
      [](const ordered_json& value) {
        return value.is_number() && std::isfinite(value.get<double>()) &&
               value.get<double>() > 0;
      });
  return rules;
}

absl::Status ApplyTargetRules(const ModelConfig& config,
                              const TargetRules& rules,
                              AdapterOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(options.target_modules,
                         NamesHere(config, rules.targets.names));
  CHOIR_ASSIGN_OR_RETURN(const std::vector<LinearSpec> selected,
                         Selected(config, rules, options));
  if (selected.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "target_modules",
        rules.targets.names.empty()
            ? ""
            : absl::StrCat(" (", absl::StrJoin(rules.targets.names, ", "), ")"),
        " and the rules beside it leave none of this model's layers; known "
        "modules: ",
        absl::StrJoin(LinearKinds(config), ", ")));
  }
  const bool names_say_it = !rules.all_linear &&
                            rules.targets.pattern.empty() &&
                            rules.excluded.empty() && rules.layers.empty();
  if (!names_say_it) options.target_modules = Shortest(config, selected);
  if (options.kind == config::AdapterKind::kIa3) {
    return SetFeedforward(config, rules, options);
  }
  CHOIR_ASSIGN_OR_RETURN(
      options.layer_ranks,
      ByLayer("rank_pattern", rules.ranks, selected, options.rank));
  CHOIR_ASSIGN_OR_RETURN(
      options.layer_alphas,
      ByLayer("alpha_pattern", rules.alphas, selected, options.alpha));
  return absl::OkStatus();
}

}  // namespace choir::model
