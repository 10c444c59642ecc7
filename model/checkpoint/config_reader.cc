#include "model/checkpoint/config_reader.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace choir::model {
namespace {

using nlohmann::json;

std::string Short(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 60) text = absl::StrCat(text.substr(0, 57), "...");
  return text;
}

}  // namespace

bool ConfigReader::Has(const char* key) const {
  const auto found = document_.find(key);
  return found != document_.end() && !found->is_null();
}

int64_t ConfigReader::Whole(const char* key, int64_t least, int64_t most) {
  const json& value = document_[key];
  if (!value.is_number_unsigned() ||
      value.get<uint64_t>() < static_cast<uint64_t>(least) ||
      value.get<uint64_t>() > static_cast<uint64_t>(most)) {
    Complain(key,
             absl::StrCat("is ", Short(value), ", not a whole number from ",
                          least, " to ", most));
    sizes_known_ = false;
    return least;
  }
  return value.get<int64_t>();
}

int64_t ConfigReader::Size(const char* key, int64_t most) {
  if (!Has(key)) {
    Complain(key, "is missing");
    sizes_known_ = false;
    return 1;
  }
  return Whole(key, 1, most);
}

int64_t ConfigReader::OptionalSize(const char* key, int64_t fallback,
                                   int64_t most) {
  return Has(key) ? Whole(key, 1, most) : fallback;
}

int64_t ConfigReader::OptionalCount(const char* key, int64_t fallback,
                                    int64_t most) {
  return Has(key) ? Whole(key, 0, most) : fallback;
}

double ConfigReader::Positive(const char* key, double fallback) {
  if (!Has(key)) return fallback;
  const json& value = document_[key];
  if (!value.is_number() || !std::isfinite(value.get<double>()) ||
      !(value.get<double>() > 0)) {
    Complain(key, absl::StrCat("is ", Short(value),
                               ", not a positive finite number"));
    return fallback;
  }
  return value.get<double>();
}

double ConfigReader::NotNegative(const char* key, double fallback) {
  if (!Has(key)) return fallback;
  const json& value = document_[key];
  if (!value.is_number() || !std::isfinite(value.get<double>()) ||
      value.get<double>() < 0) {
    Complain(key, absl::StrCat("is ", Short(value),
                               ", not a finite number of at least 0"));
    return fallback;
  }
  return value.get<double>();
}

bool ConfigReader::Flag(const char* key, bool fallback) {
  if (!Has(key)) return fallback;
  if (!document_[key].is_boolean()) {
    Complain(key,
             absl::StrCat("is ", Short(document_[key]), ", not true or false"));
    return fallback;
  }
  return document_[key].get<bool>();
}

std::string ConfigReader::Text(const char* key, const char* fallback) {
  if (!Has(key)) return fallback;
  if (!document_[key].is_string()) {
    Complain(key, absl::StrCat("is ", Short(document_[key]), ", not text"));
    return fallback;
  }
  return document_[key].get<std::string>();
}

std::vector<int32_t> ConfigReader::TokenIds(const char* key) {
  std::vector<int32_t> ids;
  if (!Has(key)) return ids;
  const json& value = document_[key];
  const json list = value.is_array() ? value : json::array({value});
  for (const json& id : list) {
    if (id.is_number_integer() && id.get<int64_t>() == -1) continue;
    if (!id.is_number_unsigned() || id.get<uint64_t>() > kLargestSize) {
      Complain(key, absl::StrCat("is ", Short(value), ", not a token id"));
      return {};
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

std::vector<int64_t> ConfigReader::Indices(const char* key, int64_t limit) {
  std::vector<int64_t> indices;
  if (!Has(key)) return indices;
  const json& value = document_[key];
  bool good = value.is_array();
  for (size_t i = 0; good && i < value.size(); ++i) {
    good = value[i].is_number_unsigned() &&
           value[i].get<uint64_t>() < static_cast<uint64_t>(limit);
    if (good) indices.push_back(value[i].get<int64_t>());
  }
  if (good) return indices;
  Complain(key, absl::StrCat("is ", Short(value),
                             ", not a list of whole numbers below ", limit));
  return {};
}

void ConfigReader::Complain(const char* key, absl::string_view problem) {
  problems_.push_back(absl::StrCat(prefix_, key, " ", problem));
}

void ConfigReader::Adopt(ConfigReader& other) {
  for (std::string& problem : other.problems_) {
    problems_.push_back(std::move(problem));
  }
  other.problems_.clear();
}

}  // namespace choir::model
