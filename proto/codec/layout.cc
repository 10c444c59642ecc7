#include "proto/codec/layout.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/sha256.h"

namespace choir::codec {
namespace {

constexpr int64_t kMostElements = int64_t{1} << 40;

}  // namespace

int64_t TensorSpec::num_elements() const {
  int64_t elements = 1;
  for (const int64_t dimension : shape) elements *= dimension;
  return elements;
}

absl::StatusOr<Layout> Layout::Create(std::vector<TensorSpec> tensors) {
  std::sort(
      tensors.begin(), tensors.end(),
      [](const TensorSpec& a, const TensorSpec& b) { return a.name < b.name; });
  Layout layout;
  std::string canonical;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorSpec& tensor = tensors[i];
    if (tensor.name.empty() || tensor.name.find('\n') != std::string::npos) {
      return absl::InvalidArgumentError(
          "a tensor's name is empty or has a line break");
    }
    if (i > 0 && tensors[i - 1].name == tensor.name) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor '", tensor.name, "' appears twice"));
    }
    int64_t elements = 1;
    for (const int64_t dimension : tensor.shape) {
      if (dimension < 1 || dimension > kMostElements / elements) {
        return absl::InvalidArgumentError(absl::StrCat(
            "tensor '", tensor.name, "' has dimension ", dimension,
            "; dimensions are at least 1 and a layout holds at most 2^40 "
            "elements"));
      }
      elements *= dimension;
    }
    layout.offsets_.push_back(layout.num_elements_);
    layout.num_elements_ += elements;
    if (layout.num_elements_ > kMostElements) {
      return absl::InvalidArgumentError("a layout holds at most 2^40 elements");
    }
    absl::StrAppend(&canonical, tensor.name, " ",
                    absl::StrJoin(tensor.shape, "x"), "\n");
  }
  layout.tensors_ = std::move(tensors);
  layout.digest_ = base::Sha256Hex(canonical);
  return layout;
}

}  // namespace choir::codec
