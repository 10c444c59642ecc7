#include "model/kernels/attention_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/kernels/blas.h"
#include "model/kernels/row_kernels.h"

namespace choir::model {
namespace {

// Queries are taken in blocks, so that keys after a block are never touched.
constexpr int64_t kBlock = 64;

// Offsets of one head within rows of queries and of keys.
struct Head {
  int64_t q = 0;
  int64_t kv = 0;
  int64_t ldq = 0;
  int64_t ldk = 0;
};

Head HeadAt(const AttentionShape& shape, int64_t h) {
  const int64_t group = shape.heads / shape.kv_heads;
  return {h * shape.head_dim, (h / group) * shape.head_dim,
          shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim};
}

float Scale(const AttentionShape& shape) {
  return 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
}

// First position that the query at `position` sees.
int64_t Lowest(int64_t window, int64_t position) {
  return window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
}

// What one row sees of keys [tile.begin, tile.end), relative to tile.begin.
KeyTile RowRange(const KeyTile& tile, int64_t window, int64_t position) {
  const int64_t begin =
      std::clamp(Lowest(window, position), tile.begin, tile.end);
  const int64_t end = std::clamp(position + 1, begin, tile.end);
  return {begin - tile.begin, end - tile.begin};
}

void ClearOutside(float* row, const KeyTile& seen, int64_t width) {
  std::fill(row, row + seen.begin, 0.0f);
  std::fill(row + seen.end, row + width, 0.0f);
}

// Queries [first, first + rows) of a head, where they lie in memory.
struct QueryBlock {
  int64_t first = 0;
  int64_t rows = 0;
  int64_t at = 0;
};

// Backward pass of one block of queries over one tile of keys.
void TileBackward(const AttentionShape& shape, const Head& head,
                  const QueryBlock& block, const KeyTile& tile,
                  const float* delta, const float* grad_out, const float* q,
                  const float* k, const float* v, const float* log_sum,
                  float* grad_q, float* grad_k, float* grad_v) {
  const int64_t d = shape.head_dim;
  const int64_t rows = block.rows;
  const int64_t width = tile.end - tile.begin;
  const int64_t at = block.at;
  const int64_t kv = head.kv + tile.begin * head.ldk;
  const float scale = Scale(shape);
  float* p = RowScratch(0, kBlock * width);
  float* g = RowScratch(1, kBlock * width);
  MatMul(Op::kPlain, Op::kTransposed, rows, width, d, scale, q + at, head.ldq,
         k + kv, head.ldk, 0.0f, p, width);
  MatMul(Op::kPlain, Op::kTransposed, rows, width, d, 1.0f, grad_out + at,
         head.ldq, v + kv, head.ldk, 0.0f, g, width);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t position = block.first + i;
    const KeyTile seen = RowRange(tile, shape.window, position);
    const int64_t n = seen.end - seen.begin;
    float* p_row = p + i * width;
    float* g_row = g + i * width;
    ExpRow(p_row + seen.begin, n, log_sum[position * shape.heads + head.q / d]);
    SoftmaxBackwardRow(p_row + seen.begin, g_row + seen.begin, n, delta[i],
                       scale);
    ClearOutside(p_row, seen, width);
    ClearOutside(g_row, seen, width);
  }
  MatMul(Op::kTransposed, Op::kPlain, width, d, rows, 1.0f, p, width,
         grad_out + at, head.ldq, 1.0f, grad_v + kv, head.ldk);
  MatMul(Op::kPlain, Op::kPlain, rows, d, width, 1.0f, g, width, k + kv,
         head.ldk, 1.0f, grad_q + at, head.ldq);
  MatMul(Op::kTransposed, Op::kPlain, width, d, rows, 1.0f, g, width, q + at,
         head.ldq, 1.0f, grad_k + kv, head.ldk);
}

// Rows of the next block of queries at `position`, within one pattern block.
int64_t BlockRows(const TiledAttentionPlan& plan, int64_t position,
                  int64_t left) {
  int64_t rows = std::min(kBlock, left);
  if (plan.pattern != nullptr) {
    const int64_t block = plan.pattern->block;
    rows = std::min(rows, block - position % block);
  }
  return rows;
}

// Takes a tile into the running softmax of a block of queries.
void VisitTile(const AttentionShape& shape, const Head& head,
               const QueryBlock& block, const KeyTile& tile, const float* q,
               const float* k, const float* v, float* out, float* top,
               float* sum) {
  const int64_t d = shape.head_dim;
  const int64_t width = tile.end - tile.begin;
  const int64_t kv = head.kv + tile.begin * head.ldk;
  float* scores = RowScratch(0, kBlock * width);
  MatMul(Op::kPlain, Op::kTransposed, block.rows, width, d, Scale(shape),
         q + block.at, head.ldq, k + kv, head.ldk, 0.0f, scores, width);
  for (int64_t i = 0; i < block.rows; ++i) {
    float* row = scores + i * width;
    const KeyTile seen = RowRange(tile, shape.window, block.first + i);
    const int64_t n = seen.end - seen.begin;
    if (n > 0) {
      const float now = std::max(top[i], Maximum(row + seen.begin, n));
      if (now > top[i]) {
        const float factor = sum[i] > 0.0f ? std::exp(top[i] - now) : 0.0f;
        ScaleRow(out + block.at + i * head.ldq, d, factor);
        sum[i] *= factor;
        top[i] = now;
      }
      sum[i] += ExpRow(row + seen.begin, n, now);
    }
    ClearOutside(row, seen, width);
  }
  MatMul(Op::kPlain, Op::kPlain, block.rows, d, width, 1.0f, scores, width,
         v + kv, head.ldk, 1.0f, out + block.at, head.ldq);
}

}  // namespace

bool BlockPattern::Sees(int64_t query_block, int64_t key_block) const {
  return key_block <= query_block &&
         (key_block < global_blocks || query_block - key_block < local_blocks ||
          (stride > 0 && key_block % stride == stride - 1));
}

std::vector<KeyTile> VisibleTiles(const TiledAttentionPlan& plan,
                                  int64_t window, int64_t first, int64_t rows) {
  const int64_t low = Lowest(window, first);
  const int64_t high = first + rows;
  std::vector<KeyTile> ranges;
  if (plan.pattern == nullptr) {
    ranges.push_back({low, high});
  } else {
    const int64_t block = plan.pattern->block;
    for (int64_t c = low / block; c * block < high; ++c) {
      if (!plan.pattern->Sees(first / block, c)) continue;
      const KeyTile range = {std::max(low, c * block),
                             std::min(high, (c + 1) * block)};
      if (!ranges.empty() && ranges.back().end == range.begin) {
        ranges.back().end = range.end;
      } else {
        ranges.push_back(range);
      }
    }
  }
  std::vector<KeyTile> tiles;
  for (const KeyTile& range : ranges) {
    for (int64_t j = range.begin; j < range.end; j += plan.key_chunk) {
      tiles.push_back({j, std::min(range.end, j + plan.key_chunk)});
    }
  }
  return tiles;
}

void CausalAttention(const AttentionShape& shape, const float* q,
                     const float* k, const float* v, float* out,
                     float* log_sum) {
  const int64_t d = shape.head_dim;
  const int64_t past = shape.keys - shape.queries;
  for (int64_t h = 0; h < shape.heads; ++h) {
    const Head head = HeadAt(shape, h);
    for (int64_t i0 = 0; i0 < shape.queries; i0 += kBlock) {
      const int64_t rows = std::min(kBlock, shape.queries - i0);
      const KeyTile tile = {Lowest(shape.window, past + i0), past + i0 + rows};
      const int64_t width = tile.end - tile.begin;
      const int64_t at = i0 * head.ldq + head.q;
      const int64_t kv = head.kv + tile.begin * head.ldk;
      float* scores = RowScratch(0, kBlock * width);
      MatMul(Op::kPlain, Op::kTransposed, rows, width, d, Scale(shape), q + at,
             head.ldq, k + kv, head.ldk, 0.0f, scores, width);
      for (int64_t i = 0; i < rows; ++i) {
        float* row = scores + i * width;
        const KeyTile seen = RowRange(tile, shape.window, past + i0 + i);
        const int64_t n = seen.end - seen.begin;
        const float top = Maximum(row + seen.begin, n);
        const float sum = ExpRow(row + seen.begin, n, top);
        ScaleRow(row + seen.begin, n, 1.0f / sum);
        ClearOutside(row, seen, width);
        log_sum[(i0 + i) * shape.heads + h] = top + std::log(sum);
      }
      MatMul(Op::kPlain, Op::kPlain, rows, d, width, 1.0f, scores, width,
             v + kv, head.ldk, 0.0f, out + at, head.ldq);
    }
  }
}

void CausalAttentionBackward(const AttentionShape& shape, const float* grad_out,
                             const float* q, const float* k, const float* v,
                             const float* out, const float* log_sum,
                             float* grad_q, float* grad_k, float* grad_v) {
  // The forward pass takes all keys of a block of queries at once; so does
  // this one.
  TiledAttentionPlan plan;
  plan.key_chunk = std::max<int64_t>(1, shape.keys);
  TiledAttentionBackward(shape, plan, grad_out, q, k, v, out, log_sum, grad_q,
                         grad_k, grad_v);
}

void TiledAttention(const AttentionShape& shape, const TiledAttentionPlan& plan,
                    const float* q, const float* k, const float* v, float* out,
                    float* log_sum) {
  const int64_t d = shape.head_dim;
  const int64_t past = shape.keys - shape.queries;
  float top[kBlock];
  float sum[kBlock];
  std::fill(out, out + shape.queries * shape.heads * d, 0.0f);
  for (int64_t h = 0; h < shape.heads; ++h) {
    const Head head = HeadAt(shape, h);
    int64_t rows = 0;
    for (int64_t i0 = 0; i0 < shape.queries; i0 += rows) {
      rows = BlockRows(plan, past + i0, shape.queries - i0);
      const QueryBlock block = {past + i0, rows, i0 * head.ldq + head.q};
      std::fill(top, top + rows, -std::numeric_limits<float>::infinity());
      std::fill(sum, sum + rows, 0.0f);
      for (const KeyTile& tile :
           VisibleTiles(plan, shape.window, block.first, rows)) {
        VisitTile(shape, head, block, tile, q, k, v, out, top, sum);
      }
      for (int64_t i = 0; i < rows; ++i) {
        ScaleRow(out + block.at + i * head.ldq, d, 1.0f / sum[i]);
        log_sum[(i0 + i) * shape.heads + h] = top[i] + std::log(sum[i]);
      }
    }
  }
}

void TiledAttentionBackward(const AttentionShape& shape,
                            const TiledAttentionPlan& plan,
                            const float* grad_out, const float* q,
                            const float* k, const float* v, const float* out,
                            const float* log_sum, float* grad_q, float* grad_k,
                            float* grad_v) {
  const int64_t d = shape.head_dim;
  float delta[kBlock];
  for (int64_t h = 0; h < shape.heads; ++h) {
    const Head head = HeadAt(shape, h);
    int64_t rows = 0;
    for (int64_t i0 = 0; i0 < shape.queries; i0 += rows) {
      rows = BlockRows(plan, i0, shape.queries - i0);
      const QueryBlock block = {i0, rows, i0 * head.ldq + head.q};
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t at = block.at + i * head.ldq;
        delta[i] = Dot(grad_out + at, out + at, d);
      }
      for (const KeyTile& tile : VisibleTiles(plan, shape.window, i0, rows)) {
        TileBackward(shape, head, block, tile, delta, grad_out, q, k, v,
                     log_sum, grad_q, grad_k, grad_v);
      }
    }
  }
}

}  // namespace choir::model
