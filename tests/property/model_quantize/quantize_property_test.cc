// What must hold for any matrix: the formats' error bounds, exact outliers, and
// products equal to those of the dense matrix that was read back.
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/sim_random.h"
#include "gtest/gtest.h"
#include "model/checkpoint/packed_checkpoint.h"
#include "model/kernels/quantized_matmul.h"
#include "model/quantize/dequantize.h"
#include "model/quantize/float_formats.h"
#include "tests/support/golden.h"

namespace choir::model {
namespace {

struct Dense {
  int64_t rows = 0, columns = 0;
  std::vector<float> values;
  ReadRows Reader() const {
    return [this](int64_t begin, int64_t count, float* out) {
      std::copy_n(values.data() + begin * columns, count * columns, out);
    };
  }
  float at(int64_t r, int64_t c) const { return values[r * columns + c]; }
};

Dense RandomDense(int64_t rows, int64_t columns, uint64_t seed,
                  double scale = 0.05) {
  base::SimRandom random(seed);
  Dense dense{rows, columns, std::vector<float>(rows * columns)};
  for (float& v : dense.values) v = static_cast<float>(random.Normal() * scale);
  return dense;
}

Dense AnyDense() {
  const auto rows = *rc::gen::inRange<int64_t>(1, 70);
  const auto columns = *rc::gen::inRange<int64_t>(1, 200);
  Dense dense = RandomDense(rows, columns, *rc::gen::arbitrary<uint64_t>(),
                            *rc::gen::element(1e-6, 0.05, 300.0));
  // Rows of zeros and lonely large values.
  base::SimRandom random(*rc::gen::arbitrary<uint64_t>());
  if (random.Below(3) == 0) {
    const int64_t r = static_cast<int64_t>(random.Below(rows));
    std::fill_n(dense.values.begin() + r * columns, columns, 0.0f);
  }
  if (random.Below(3) == 0) {
    dense.values[random.Below(dense.values.size())] *= 1000.0f;
  }
  return dense;
}

Dense ReadBack(const QuantizedMatrix& matrix) {
  Dense dense{matrix.rows(), matrix.columns(), {}};
  dense.values.resize(dense.rows * dense.columns);
  matrix.Dequantize(0, dense.rows, dense.values.data());
  return dense;
}

QuantizedMatrix Quantized(WeightFormat format, const Dense& dense,
                          const QuantizeOptions& options = {}) {
  auto matrix = QuantizedMatrix::Quantize(format, dense.rows, dense.columns,
                                          dense.Reader(), options);
  EXPECT_TRUE(matrix.ok()) << matrix.status();
  return *matrix;
}

TEST(QuantizePropertyTest, Int8IsWithinHalfAStepAndOutliersAreExact) {
  EXPECT_TRUE(rc::check([] {
    const Dense dense = AnyDense();
    QuantizeOptions options;
    if (*rc::gen::arbitrary<bool>()) {
      options.outlier_columns = {
          static_cast<int32_t>(*rc::gen::inRange<int64_t>(0, dense.columns))};
    }
    const QuantizedMatrix matrix =
        Quantized(WeightFormat::kInt8, dense, options);
    const Dense back = ReadBack(matrix);
    const auto& kept = matrix.parts().outlier_columns;
    for (const int32_t column : options.outlier_columns) {
      RC_ASSERT(std::count(kept.begin(), kept.end(), column) == 1);
    }
    for (int64_t r = 0; r < dense.rows; ++r) {
      float absmax = 0.0f;
      for (int64_t c = 0; c < dense.columns; ++c) {
        if (std::count(kept.begin(), kept.end(), c) == 0) {
          absmax = std::max(absmax, std::fabs(dense.at(r, c)));
        }
      }
      for (int64_t c = 0; c < dense.columns; ++c) {
        const bool exact = std::count(kept.begin(), kept.end(), c) > 0;
        const double error = std::fabs(back.at(r, c) - dense.at(r, c));
        RC_ASSERT(error <= (exact ? 0.0 : absmax / 127.0 * 0.50001));
      }
    }
  }));
}

TEST(QuantizePropertyTest, Nf4IsTheNearestCodePointAndDoubleQuantised) {
  EXPECT_TRUE(rc::check([] {
    const Dense dense = AnyDense();
    const QuantizedMatrix matrix = Quantized(WeightFormat::kNf4, dense);
    const QuantizedMatrix::Parts& p = matrix.parts();
    const Dense back = ReadBack(matrix);
    const int64_t n = dense.rows * dense.columns;
    for (int64_t b = 0; b * kNf4Block < n; ++b) {
      const int64_t end = std::min(n, (b + 1) * kNf4Block);
      float absmax = 0.0f;
      for (int64_t i = b * kNf4Block; i < end; ++i) {
        absmax = std::max(absmax, std::fabs(dense.values[i]));
      }
      const float scale =
          Nf4Absmax(p.absmax.data(), p.scales.data(), p.absmax_offset, b);
      // The second quantisation is off by half a step at most.
      const double step = p.scales[b / kNf4SuperBlock];
      RC_ASSERT(std::fabs(scale - absmax) <= 0.501 * step + 1e-6 * absmax);
      for (int64_t i = b * kNf4Block; i < end; ++i) {
        // No other code point is nearer.
        double best = std::numeric_limits<double>::infinity();
        for (const float point : Nf4CodePoints()) {
          best = std::min<double>(best,
                                  std::fabs(point * scale - dense.values[i]));
        }
        const double error = std::fabs(back.values[i] - dense.values[i]);
        RC_ASSERT(error <= best * 1.0001 + 1e-6 * absmax);
      }
    }
  }));
}

TEST(QuantizePropertyTest, Bf16RoundsToNearest) {
  EXPECT_TRUE(rc::check([] {
    const Dense dense = AnyDense();
    const Dense back = ReadBack(Quantized(WeightFormat::kBf16, dense));
    for (size_t i = 0; i < dense.values.size(); ++i) {
      RC_ASSERT(back.values[i] == Bf16ToFloat(FloatToBf16(dense.values[i])));
    }
  }));
}

TEST(QuantizePropertyTest, AnyRowsReadAloneAreTheSame) {
  EXPECT_TRUE(rc::check([] {
    const Dense dense = AnyDense();
    for (const WeightFormat format :
         {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kNf4}) {
      const QuantizedMatrix matrix = Quantized(format, dense);
      const Dense back = ReadBack(matrix);
      const auto begin = *rc::gen::inRange<int64_t>(0, dense.rows);
      const auto count = *rc::gen::inRange<int64_t>(1, dense.rows - begin + 1);
      std::vector<float> part(count * dense.columns);
      matrix.Dequantize(begin, count, part.data());
      RC_ASSERT(std::memcmp(part.data(),
                            back.values.data() + begin * dense.columns,
                            part.size() * sizeof(float)) == 0);
    }
  }));
}

TEST(QuantizePropertyTest, QuantisingTwiceGivesTheSameBytes) {
  EXPECT_TRUE(rc::check([] {
    const Dense dense = AnyDense();
    for (const WeightFormat format :
         {WeightFormat::kInt8, WeightFormat::kNf4}) {
      const QuantizedMatrix a = Quantized(format, dense);
      const QuantizedMatrix b = Quantized(format, dense);
      RC_ASSERT(a.parts().codes == b.parts().codes);
      RC_ASSERT(a.parts().absmax == b.parts().absmax);
      RC_ASSERT(a.parts().scales == b.parts().scales);
      RC_ASSERT(a.parts().outliers == b.parts().outliers);
    }
  }));
}

// y = x W^T and grad_x = grad_y W in double.
std::vector<double> Product(const Dense& w, const std::vector<float>& x,
                            int64_t rows, bool backward) {
  const int64_t to = backward ? w.columns : w.rows;
  const int64_t from = backward ? w.rows : w.columns;
  std::vector<double> y(rows * to, 0.0);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t r = 0; r < w.rows; ++r) {
      for (int64_t c = 0; c < w.columns; ++c) {
        y[i * to + (backward ? c : r)] +=
            static_cast<double>(x[i * from + (backward ? r : c)]) * w.at(r, c);
      }
    }
  }
  return y;
}

void ExpectClose(const std::vector<float>& got,
                 const std::vector<double>& wanted) {
  double largest = 1e-30;
  for (const double v : wanted) largest = std::max(largest, std::fabs(v));
  for (size_t i = 0; i < wanted.size(); ++i) {
    ASSERT_NEAR(got[i], wanted[i], 2e-6 * largest) << i;
  }
}

TEST(QuantizedMatMulTest, EqualsTheDenseProductForwardAndBackward) {
  // The second shape takes several blocks of rows.
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{37, 53},
                                std::pair<int64_t, int64_t>{600, 1024}}) {
    const Dense dense = RandomDense(out, in, 5);
    const int64_t rows = 7;
    const int64_t rank = 3;
    const Dense x = RandomDense(rows, in, 6, 1.0);
    const Dense dy = RandomDense(rows, out, 7, 1.0);
    const Dense a = RandomDense(rank, in, 8);
    const Dense b = RandomDense(out, rank, 9);
    for (const WeightFormat format :
         {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kNf4}) {
      const QuantizedMatrix matrix = Quantized(format, dense);
      for (const bool adapted : {false, true}) {
        Dense w = ReadBack(matrix);
        LowRankTerm low;
        if (adapted) {
          low = {a.values.data(), b.values.data(), rank, 2.0f};
          for (int64_t r = 0; r < out; ++r) {
            for (int64_t c = 0; c < in; ++c) {
              for (int64_t k = 0; k < rank; ++k) {
                w.values[r * in + c] += 2.0f * b.at(r, k) * a.at(k, c);
              }
            }
          }
        }
        std::vector<float> y(rows * out, std::nanf(""));
        MatMulQuantized(matrix, low, rows, x.values.data(), 0.0f, y.data());
        ExpectClose(y, Product(w, x.values, rows, false));
        std::vector<float> dx(rows * in, std::nanf(""));
        MatMulQuantizedBackward(matrix, low, rows, dy.values.data(), 0.0f,
                                dx.data());
        ExpectClose(dx, Product(w, dy.values, rows, true));
        std::vector<float> twice = dx;
        MatMulQuantizedBackward(matrix, low, rows, dy.values.data(), 1.0f,
                                twice.data());
        for (size_t i = 0; i < dx.size(); ++i) {
          ASSERT_NEAR(twice[i], 2.0f * dx[i], 1e-4f * std::fabs(dx[i]) + 1e-5f);
        }
      }
    }
  }
}

TEST(QuantizeTest, CodePointsAreThoseOfQlora) {
  const std::array<float, 16>& points = Nf4CodePoints();
  EXPECT_EQ(points[0], -1.0f);
  EXPECT_EQ(points[7], 0.0f);
  EXPECT_EQ(points[15], 1.0f);
  EXPECT_FLOAT_EQ(points[1], -0.6961928f);
  EXPECT_FLOAT_EQ(points[8], 0.0795803f);
  EXPECT_TRUE(std::is_sorted(points.begin(), points.end()));
  // A block whose absmax is exact gives its code points back exactly.
  Dense dense{1, 64, {}};
  for (int i = 0; i < 64; ++i) dense.values.push_back(points[i % 16] * 0.25f);
  EXPECT_EQ(ReadBack(Quantized(WeightFormat::kNf4, dense)).values,
            dense.values);
}

TEST(QuantizeTest, ColumnsFarAboveTheRestAreKept) {
  Dense dense = RandomDense(96, 256, 1);
  for (int64_t r = 0; r < 96; ++r) {
    dense.values[r * 256 + 17] *= 40.0f;
    dense.values[r * 256 + 200] *= 40.0f;
  }
  EXPECT_EQ(Quantized(WeightFormat::kInt8, dense).parts().outlier_columns,
            (std::vector<int32_t>{17, 200}));
  QuantizeOptions none;
  none.outlier_rms = 0.0;
  EXPECT_TRUE(Quantized(WeightFormat::kInt8, dense, none)
                  .parts()
                  .outlier_columns.empty());
}

TEST(QuantizeTest, TakesTheBytesItSays) {
  const Dense dense = RandomDense(256, 512, 2);
  const int64_t n = 256 * 512;
  EXPECT_EQ(Quantized(WeightFormat::kNf4, dense).storage_bytes(),
            n / 2 + n / 64 + 4 * (n / 64 / 256) + 4);
  QuantizeOptions none;
  none.outlier_rms = 0.0;
  EXPECT_EQ(Quantized(WeightFormat::kInt8, dense, none).storage_bytes(),
            n + 4 * 256);
}

TEST(QuantizeTest, RefusesWhatItCannotQuantise) {
  Dense dense = RandomDense(4, 8, 3);
  QuantizeOptions options;
  options.outlier_columns = {8};
  EXPECT_EQ(QuantizedMatrix::Quantize(WeightFormat::kInt8, 4, 8, dense.Reader(),
                                      options)
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
  dense.values[9] = std::nanf("");
  for (const WeightFormat format : {WeightFormat::kFloat32, WeightFormat::kInt8,
                                    WeightFormat::kNf4, WeightFormat::kBf16}) {
    EXPECT_EQ(
        QuantizedMatrix::Quantize(format, 4, 8, dense.Reader()).status().code(),
        absl::StatusCode::kInvalidArgument);
  }
}

TEST(PackedCheckpointTest, ComesBackFromAFileAsItWas) {
  Dense dense = RandomDense(33, 65, 4);
  dense.values[5] = 9.0f;  // an outlier column
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kNf4}) {
    const QuantizedMatrix matrix = Quantized(format, dense);
    const std::string path = base::JoinPath(tests::NewTempDir(), "m");
    {
      auto writer = SafetensorsWriter::Create(path);
      ASSERT_TRUE(writer.ok()) << writer.status();
      ASSERT_TRUE(WritePacked("w.weight", matrix, **writer).ok());
      ASSERT_TRUE((*writer)->Finish().ok());
    }
    EXPECT_FALSE(base::FileExists(path + ".data"));
    auto opened = SafetensorsFile::Open(path);
    ASSERT_TRUE(opened.ok()) << opened.status();
    auto file = std::make_shared<const SafetensorsFile>(*std::move(opened));
    ASSERT_TRUE(HasPacked(*file, "w.weight"));
    const auto logical = LogicalTensors(*file);
    ASSERT_EQ(logical.size(), 1u);
    EXPECT_EQ(logical[0].name, "w.weight");
    EXPECT_EQ(logical[0].shape, (std::vector<int64_t>{33, 65}));
    auto back = ReadPacked(file, "w.weight", 33, 65);
    ASSERT_TRUE(back.ok()) << back.status();
    file.reset();  // the matrix keeps the mapping
    EXPECT_EQ(ReadBack(*back).values, ReadBack(matrix).values);
  }
}

TEST(PackedCheckpointTest, WrongShapesAndMissingPartsAreNamed) {
  const Dense dense = RandomDense(8, 64, 4);
  const QuantizedMatrix matrix = Quantized(WeightFormat::kNf4, dense);
  const std::string path = base::JoinPath(tests::NewTempDir(), "m");
  auto writer = SafetensorsWriter::Create(path);
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(WritePacked("a", matrix, **writer).ok());
  TensorView lonely;
  lonely.name = "b.int8";
  lonely.dtype = DType::kI8;
  lonely.shape = {8, 64};
  lonely.bytes = absl::string_view(
      reinterpret_cast<const char*>(dense.values.data()), 512);
  ASSERT_TRUE((*writer)->Add(lonely).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  auto file = std::make_shared<const SafetensorsFile>(
      SafetensorsFile::Open(path).value());
  const auto wrong = ReadPacked(file, "a", 64, 8).status();
  EXPECT_EQ(wrong.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(wrong.message().find("[64, 8]"), absl::string_view::npos) << wrong;
  const auto missing = ReadPacked(file, "b", 8, 64).status();
  EXPECT_NE(missing.message().find("b.int8_scale"), absl::string_view::npos)
      << missing;
  EXPECT_EQ(ReadPacked(file, "c", 8, 64).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(PackedCheckpointTest, ConfigSaysWhichFormat) {
  const auto with =
      WithQuantization(R"({"model_type":"llama"})", WeightFormat::kNf4, "c");
  ASSERT_TRUE(with.ok());
  EXPECT_EQ(**ParseQuantization(*with, "c"), WeightFormat::kNf4);
  EXPECT_FALSE(ParseQuantization(R"({"a":1})", "c")->has_value());
  const auto foreign = ParseQuantization(
      R"({"quantization_config":{"quant_method":"gptq","bits":4}})", "c");
  EXPECT_EQ(foreign.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(foreign.status().message().find("gptq"), absl::string_view::npos);
  EXPECT_FALSE(
      ParseQuantization(
          R"({"quantization_config":{"quant_method":"choir","format":"nf4","version":9}})",
          "c")
          .ok());
}

}  // namespace
}  // namespace choir::model
