// The order in which training takes its examples.
#ifndef CHOIR_MODEL_OBJECTIVE_EXAMPLE_STREAM_H_
#define CHOIR_MODEL_OBJECTIVE_EXAMPLE_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/sim_random.h"

namespace choir::model {

// Hands out the indices of `size` examples, reshuffled each epoch, in the order
// that the seed gives. Threads: one at a time.
class ExampleStream {
 public:
  ExampleStream(size_t size, uint64_t seed) : order_(size), seed_(seed) {
    next_ = size;
  }
  size_t Next() {
    if (next_ == order_.size()) {
      std::iota(order_.begin(), order_.end(), size_t{0});
      base::SimRandom random(base::DeriveSeed(
          seed_, {"examples", absl::StrCat("epoch ", epoch_++)}));
      random.Shuffle(order_);
      next_ = 0;
    }
    return order_[next_++];
  }
  size_t left_in_epoch() const {
    return next_ == order_.size() ? order_.size() : order_.size() - next_;
  }

 private:
  std::vector<size_t> order_;
  uint64_t seed_;
  size_t next_ = 0;
  int epoch_ = 0;
};

}  // namespace choir::model

#endif  // CHOIR_MODEL_OBJECTIVE_EXAMPLE_STREAM_H_
