// How often a classifier is right.
#ifndef CHOIR_MODEL_MAIN_CLASS_REPORT_H_
#define CHOIR_MODEL_MAIN_CLASS_REPORT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace choir::model {

// Counts of single-label classification. Threads: one at a time.
class ClassReport {
 public:
  // `label` and `predicted` are indices; the report grows to hold them.
  void Add(int32_t label, int32_t predicted, double loss);

  uint64_t examples() const { return examples_; }
  double mean_loss() const;  // nats; NaN without examples, as the next two
  double accuracy() const;
  // Mean of the F1 scores of all labels that were there or were predicted,
  // as scikit-learn's f1_score(average="macro").
  double macro_f1() const;
  // {"examples", "mean_nll", "accuracy", "macro_f1"}.
  nlohmann::ordered_json ToJson() const;
  // [{"label", "examples", "predicted", "f1"}, ..]; a label without a name is
  // its number.
  nlohmann::ordered_json LabelsJson(
      const std::vector<std::string>& names) const;

 private:
  struct Label {
    uint64_t actual = 0, predicted = 0, right = 0;
    double f1() const;
  };
  std::vector<Label> labels_;
  uint64_t examples_ = 0;
  uint64_t right_ = 0;
  double loss_ = 0.0;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_MAIN_CLASS_REPORT_H_
