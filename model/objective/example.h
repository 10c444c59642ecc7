// What training and evaluation learn from, tokenised.
#ifndef CHOIR_MODEL_OBJECTIVE_EXAMPLE_H_
#define CHOIR_MODEL_OBJECTIVE_EXAMPLE_H_

#include <cstdint>
#include <vector>

namespace choir::model {

// One tokenised example. Position i is predicted from positions before it when
// i >= loss_begin (and i >= 1): the prompt lies before loss_begin.
struct Example {
  std::vector<int32_t> ids;
  int32_t loss_begin = 1;
  // DPO: ids is the answer that was chosen, after its prompt; these are the
  // other one and its loss_begin.
  std::vector<int32_t> rejected;
  int32_t rejected_begin = 1;
  int32_t label = -1;  // classification: index of the class
  // Empty, or one for each of ids: those that are 0 are not predicted either
  // (what users say between an assistant's turns).
  std::vector<uint8_t> loss_mask;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_OBJECTIVE_EXAMPLE_H_
