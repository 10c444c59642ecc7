#include "coordinator/aggregate/server_optimizer.h"

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "coordinator/aggregate/integer_sum.h"
#include "model/adapter/peft_folder.h"
#include "model/checkpoint/safetensors.h"

namespace choir::aggregate {
namespace {

// The momentum's encoding: docs/wire_format.md.
constexpr char kMagic[4] = {'C', 'H', 'M', '1'};
constexpr size_t kHeaderBytes = 4 + 32 + 8;

std::string EncodeMomentum(const codec::Layout& layout,
                           absl::Span<const double> momentum) {
  const absl::StatusOr<base::Sha256Digest> digest =
      base::DigestFromHex(layout.digest());
  CHOIR_CHECK(digest.ok());
  std::string out(kHeaderBytes + momentum.size() * sizeof(double), '\0');
  std::memcpy(out.data(), kMagic, 4);
  std::memcpy(out.data() + 4, digest->data(), digest->size());
  const uint64_t count = momentum.size();
  std::memcpy(out.data() + 36, &count, 8);
  std::memcpy(out.data() + kHeaderBytes, momentum.data(),
              momentum.size() * sizeof(double));
  return out;
}

absl::StatusOr<std::vector<double>> DecodeMomentum(
    absl::string_view bytes, const codec::Layout& layout) {
  CHOIR_ASSIGN_OR_RETURN(const base::Sha256Digest digest,
                         base::DigestFromHex(layout.digest()));
  const uint64_t count = static_cast<uint64_t>(layout.num_elements());
  if (bytes.size() != kHeaderBytes + count * sizeof(double) ||
      std::memcmp(bytes.data(), kMagic, 4) != 0 ||
      std::memcmp(bytes.data() + 4, digest.data(), digest.size()) != 0 ||
      std::memcmp(bytes.data() + 36, &count, 8) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "server state of ", bytes.size(),
        " bytes is not the momentum of an adapter with ", count, " values"));
  }
  std::vector<double> momentum(count);
  std::memcpy(momentum.data(), bytes.data() + kHeaderBytes,
              count * sizeof(double));
  for (const double value : momentum) {
    if (!std::isfinite(value)) {
      return absl::InvalidArgumentError(
          "server state has a value that is not finite");
    }
  }
  return momentum;
}

}  // namespace

absl::StatusOr<codec::Layout> LayoutOfAdapter(absl::string_view adapter) {
  CHOIR_ASSIGN_OR_RETURN(
      const model::SafetensorsFile file,
      model::ParseSafetensors(adapter, model::kAdapterModelName));
  std::vector<codec::TensorSpec> tensors;
  for (const model::TensorView& tensor : file.tensors()) {
    tensors.push_back({tensor.name, tensor.shape});
  }
  return codec::Layout::Create(std::move(tensors));
}

absl::StatusOr<ServerStepResult> ServerStep(
    absl::string_view adapter_before, absl::string_view aggregate,
    absl::string_view server_state, const config::AggregationOptions& options) {
  CHOIR_ASSIGN_OR_RETURN(const codec::Layout layout,
                         LayoutOfAdapter(adapter_before));
  CHOIR_ASSIGN_OR_RETURN(std::vector<float> adapter,
                         model::DecodeAdapterFile(adapter_before, layout));
  CHOIR_ASSIGN_OR_RETURN(const IntegerSum sum, IntegerSum::Decode(aggregate));
  if (sum.layout_digest() != layout.digest() ||
      sum.num_elements() != layout.num_elements() ||
      sum.fixed_point_bits() != options.fixed_point_bits) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the sum has layout ", sum.layout_digest().substr(0, 16), "... and ",
        sum.fixed_point_bits(), " bits; the adapter has layout ",
        layout.digest().substr(0, 16), "... and the job ",
        options.fixed_point_bits, " bits"));
  }
  CHOIR_ASSIGN_OR_RETURN(std::vector<double> step, sum.MeanUpdate());
  const bool has_momentum = options.server_momentum > 0.0;
  if (!has_momentum && !server_state.empty()) {
    return absl::InvalidArgumentError(
        "there is a server state, but server_momentum is 0");
  }
  if (has_momentum && !server_state.empty()) {
    CHOIR_ASSIGN_OR_RETURN(const std::vector<double> momentum,
                           DecodeMomentum(server_state, layout));
    for (size_t i = 0; i < step.size(); ++i) {
      step[i] = options.server_momentum * momentum[i] + step[i];
    }
  }
  for (size_t i = 0; i < adapter.size(); ++i) {
    adapter[i] = static_cast<float>(static_cast<double>(adapter[i]) +
                                    options.server_learning_rate * step[i]);
    if (!std::isfinite(adapter[i])) {
      return absl::InvalidArgumentError(
          "the new adapter would have a value that is not finite; lower "
          "server_learning_rate, server_momentum or the clients' learning "
          "rate");
    }
  }
  ServerStepResult result;
  result.adapter_after = model::EncodeAdapterFile(layout, adapter);
  if (has_momentum) result.server_state = EncodeMomentum(layout, step);
  return result;
}

}  // namespace choir::aggregate
