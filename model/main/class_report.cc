#include "model/main/class_report.h"

#include <algorithm>
#include <cmath>

namespace choir::model {

double ClassReport::Label::f1() const {
  const uint64_t both = actual + predicted;
  return both == 0
             ? 0.0
             : 2.0 * static_cast<double>(right) / static_cast<double>(both);
}

void ClassReport::Add(int32_t label, int32_t predicted, double loss) {
  const auto needed = static_cast<size_t>(std::max(label, predicted)) + 1;
  if (labels_.size() < needed) labels_.resize(needed);
  ++labels_[label].actual;
  ++labels_[predicted].predicted;
  ++examples_;
  loss_ += loss;
  if (label != predicted) return;
  ++labels_[label].right;
  ++right_;
}

double ClassReport::mean_loss() const {
  return examples_ == 0 ? std::nan("") : loss_ / static_cast<double>(examples_);
}

double ClassReport::accuracy() const {
  return examples_ == 0
             ? std::nan("")
             : static_cast<double>(right_) / static_cast<double>(examples_);
}

double ClassReport::macro_f1() const {
  double sum = 0.0;
  int labels = 0;
  for (const Label& label : labels_) {
    if (label.actual + label.predicted == 0) continue;
    sum += label.f1();
    ++labels;
  }
  return labels == 0 ? std::nan("") : sum / labels;
}

nlohmann::ordered_json ClassReport::ToJson() const {
  return {{"examples", examples_},
          {"mean_nll", mean_loss()},
          {"accuracy", accuracy()},
          {"macro_f1", macro_f1()}};
}

nlohmann::ordered_json ClassReport::LabelsJson(
    const std::vector<std::string>& names) const {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (size_t i = 0; i < labels_.size(); ++i) {
    rows.push_back({{"label", i < names.size() ? names[i] : std::to_string(i)},
                    {"examples", labels_[i].actual},
                    {"predicted", labels_[i].predicted},
                    {"f1", labels_[i].f1()}});
  }
  return rows;
}

}  // namespace choir::model
