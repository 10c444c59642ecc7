#include "model/objective/packing.h"

#include <algorithm>

namespace choir::model {
namespace {

template <typename T>
at::Tensor Copied(const std::vector<T>& values, at::ScalarType type) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, type);
  std::copy(values.begin(), values.end(), tensor.data_ptr<T>());
  return tensor;
}

int64_t CutLength(const Example& example, int max_length) {
  return std::min<int64_t>(static_cast<int64_t>(example.ids.size()),
                           max_length);
}

bool IsLearnt(const Example& example, int64_t position) {
  return example.loss_mask.empty() || example.loss_mask[position] != 0;
}

}  // namespace

int64_t PredictedTokens(const Example& example, int max_length) {
  const int64_t begin = std::max(example.loss_begin, 1);
  const int64_t end = CutLength(example, max_length);
  if (example.loss_mask.empty()) return std::max<int64_t>(0, end - begin);
  int64_t count = 0;
  for (int64_t i = begin; i < end; ++i) count += IsLearnt(example, i) ? 1 : 0;
  return count;
}

PackedBatch PackExamples(absl::Span<const Example* const> examples,
                         int max_length, at::Device device, bool keep_last) {
  std::vector<int64_t> ids;
  std::vector<int64_t> rows;
  std::vector<int32_t> targets;
  PackedBatch batch;
  batch.starts.push_back(0);
  for (const Example* example : examples) {
    if (PredictedTokens(*example, max_length) == 0) continue;
    const int64_t length = CutLength(*example, max_length);
    const int64_t start = batch.starts.back();
    for (int64_t i = std::max(example->loss_begin, 1); i < length; ++i) {
      if (!IsLearnt(*example, i)) continue;
      rows.push_back(start + i - 1);
      targets.push_back(example->ids[i]);
    }
    const int64_t kept = keep_last ? length : length - 1;
    ids.insert(ids.end(), example->ids.begin(), example->ids.begin() + kept);
    batch.starts.push_back(start + kept);
  }
  batch.predictions = static_cast<int64_t>(targets.size());
  batch.ids = Copied(ids, at::kLong).to(device);
  if (rows.size() < ids.size()) {
    batch.rows = Copied(rows, at::kLong).to(device);
  }
  batch.targets = Copied(targets, at::kInt);
  return batch;
}

PackedBatch PackWhole(absl::Span<const int32_t> ids, at::Device device) {
  PackedBatch batch;
  batch.ids = Copied(std::vector<int64_t>(ids.begin(), ids.end()), at::kLong)
                  .to(device);
  batch.starts = {0, static_cast<int64_t>(ids.size())};
  return batch;
}

}  // namespace choir::model
