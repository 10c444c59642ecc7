#include "model/transformer/packed_weight.h"

#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"
#include "model/quantize/dequantize.h"

namespace choir::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::Tensor HostTensor(absl::string_view bytes, at::IntArrayRef sizes,
                      at::ScalarType type) {
  at::Tensor tensor = at::zeros(sizes, at::TensorOptions().dtype(type));
  CHOIR_CHECK(static_cast<int64_t>(bytes.size()) <=
              tensor.numel() * static_cast<int64_t>(tensor.element_size()));
  std::memcpy(tensor.data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

template <typename T>
absl::string_view BytesOf(const std::vector<T>& values) {
  return absl::string_view(reinterpret_cast<const char*>(values.data()),
                           values.size() * sizeof(T));
}

class PackedMatMulFn : public Function<PackedMatMulFn> {
 public:
  // `weight` outlives the graph: the model does.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            int64_t weight) {
    ctx->saved_data["weight"] = weight;
    const auto* packed = reinterpret_cast<const PackedWeight*>(weight);
    return at::matmul(x, packed->Dense(x.scalar_type()).t());
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto* packed = reinterpret_cast<const PackedWeight*>(
        ctx->saved_data["weight"].toInt());
    const at::Tensor& grad = grads[0];
    return {at::matmul(grad, packed->Dense(grad.scalar_type())), at::Tensor()};
  }
};

}  // namespace

PackedWeight::PackedWeight(QuantizedMatrix matrix, at::Device device,
                           bool as_tensors)
    : out_(matrix.rows()),
      in_(matrix.columns()),
      format_(matrix.format()),
      device_(device) {
  if (device.is_cpu() && !as_tensors) {
    matrix_ = std::make_shared<const QuantizedMatrix>(std::move(matrix));
    return;
  }
  const QuantizedMatrix::Parts& p = matrix.parts();
  switch (format_) {
    case WeightFormat::kFloat32:
      CHOIR_CHECK(false);
      break;
    case WeightFormat::kBf16:
      codes_ = HostTensor(p.codes, {out_, in_}, at::kBFloat16).to(device);
      break;
    case WeightFormat::kInt8: {
      codes_ = HostTensor(p.codes, {out_, in_}, at::kChar).to(device);
      scales_ = HostTensor(BytesOf(p.scales), {out_, 1}, at::kFloat).to(device);
      const int64_t kept = static_cast<int64_t>(p.outlier_columns.size());
      if (kept == 0) break;
      outlier_columns_ =
          HostTensor(BytesOf(p.outlier_columns), {kept}, at::kInt)
              .to(device, at::kLong);
      outliers_ =
          HostTensor(BytesOf(p.outliers), {out_, kept}, at::kFloat).to(device);
      break;
    }
    case WeightFormat::kNf4: {
      const int64_t blocks = static_cast<int64_t>(p.absmax.size());
      codes_ =
          HostTensor(p.codes, {blocks, kNf4Block / 2}, at::kByte).to(device);
      at::Tensor absmax = at::empty({blocks, 1}, at::kFloat);
      for (int64_t b = 0; b < blocks; ++b) {
        absmax.data_ptr<float>()[b] =
            Nf4Absmax(p.absmax.data(), p.scales.data(), p.absmax_offset, b);
      }
      scales_ = absmax.to(device);
      const std::vector<float> points(Nf4CodePoints().begin(),
                                      Nf4CodePoints().end());
      points_ = HostTensor(BytesOf(points), {16}, at::kFloat).to(device);
      break;
    }
  }
}

at::Tensor PackedWeight::DenseOnDevice(at::ScalarType type) const {
  if (format_ == WeightFormat::kBf16) return codes_.to(type);
  if (format_ == WeightFormat::kInt8) {
    at::Tensor dense = codes_.to(at::kFloat).mul_(scales_);
    if (outliers_.defined()) {
      dense.index_copy_(1, outlier_columns_, outliers_);
    }
    return dense.to(type);
  }
  const at::Tensor high = at::bitwise_right_shift(codes_, 4);
  const at::Tensor low = at::bitwise_and(codes_, 15);
  const at::Tensor index = at::stack({high, low}, 2).reshape({-1});
  return points_.index_select(0, index.to(at::kInt))
      .view({-1, kNf4Block})
      .mul_(scales_)
      .reshape({-1})
      .narrow(0, 0, out_ * in_)
      .view({out_, in_})
      .to(type);
}

at::Tensor PackedWeight::Dense(at::ScalarType type) const {
  at::NoGradGuard no_grad;
  if (matrix_ == nullptr) return DenseOnDevice(type);
  at::Tensor dense = at::empty({out_, in_}, at::kFloat);
  matrix_->Dequantize(0, out_, dense.data_ptr<float>());
  return dense.to(type);
}

QuantizedMatrix Bf16View(const at::Tensor& matrix) {
  QuantizedMatrix::Parts parts;
  parts.format = WeightFormat::kBf16;
  parts.rows = matrix.size(0);
  parts.columns = matrix.size(1);
  parts.codes = absl::string_view(static_cast<const char*>(matrix.data_ptr()),
                                  2 * matrix.numel());
  absl::StatusOr<QuantizedMatrix> view =
      QuantizedMatrix::FromParts(std::move(parts));
  CHOIR_CHECK(view.ok());
  return *std::move(view);
}

at::Tensor PackedMatMul(const at::Tensor& x, const PackedWeight& weight) {
  return PackedMatMulFn::apply(x, reinterpret_cast<int64_t>(&weight));
}

}  // namespace choir::model
