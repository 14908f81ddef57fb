// What crosses the C interface: strided tensors, and the rows of one head copied into float32 buffers and back.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <new>

#include "gemm.h"

namespace effattn {

enum Type : int32_t { kFloat32 = 0, kBFloat16 = 1 };

// [batch, heads, length, dim] with unit stride along dim; `data` is null where the caller gave no tensor.
struct Tensor {
  void* data;
  int64_t batch_stride, head_stride, row_stride;  // in elements
  int32_t type;

  explicit operator bool() const { return data != nullptr; }
  int64_t offset(int64_t b, int64_t h, int64_t n) const {
    return b * batch_stride + h * head_stride + n * row_stride;
  }
};

// Fetches rows [n, n + rows) of a head towards the cache, as many at a time as a product of `total` rows has tiles:
// memory is read while the product computes. Rows outside of the sequence do no harm: a prefetch cannot fault.
template <bool Write = false>
struct RowStream {
  const char* at;
  int64_t stride, bytes;
  int rows, fetched = 0;

  RowStream(const Tensor& t, int64_t b, int64_t h, int64_t n, int rows, int cols) : rows(rows) {
    const int64_t size = t.type == kFloat32 ? 4 : 2;
    at = static_cast<const char*>(t.data) + size * t.offset(b, h, n);
    stride = size * t.row_stride;
    bytes = size * cols;
  }
  void operator()(int done, int total) {
    const int until = std::min(rows, int(int64_t(done + kTileRows) * rows / total) + 1);
    for (; fetched < until; ++fetched, at += stride)
      for (int64_t j = 0; j < bytes; j += 64) __builtin_prefetch(at + j, Write, 2);
  }
};

template <typename First, typename Second>
auto both(First first, Second second) {
  return [first, second](int done, int total) mutable {
    first(done, total);
    second(done, total);
  };
}

inline float from_bfloat16(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

inline uint16_t to_bfloat16(float value) {  // round to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40u);
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Rows [n, n + rows) of a head into `to`, filled up with zero columns to a multiple of kLanes.
inline void load_rows(const Tensor& t, int64_t b, int64_t h, int64_t n, int rows, int cols, float* to, int ld) {
  const int full = round_up(cols);
  for (int i = 0; i < rows; ++i, to += ld) {
    const int64_t at = t.offset(b, h, n + i);
    if (t.type == kFloat32) {
      const float* from = static_cast<const float*>(t.data) + at;
      if (cols == full) {
        for (int j = 0; j < cols; j += kLanes) store(to + j, load(from + j));
        continue;
      }
      std::memcpy(to, from, sizeof(float) * cols);
    } else {
      const uint16_t* from = static_cast<const uint16_t*>(t.data) + at;
      for (int j = 0; j < cols; ++j) to[j] = from_bfloat16(from[j]);
    }
    for (int j = cols; j < full; ++j) to[j] = 0;
  }
}

// Rows to read from, wherever they lie.
struct Rows {
  const float* data;
  int64_t ld;
};

// Rows as they lie in memory where vectors can read them there, else copied to `buffer`. Rows apart from each other
// are copied too if they are to be `reused`: those of one head in [batch, length, heads * dim] share a few cache sets.
inline Rows view_rows(const Tensor& t, int64_t b, int64_t h, int64_t n, int rows, int cols, bool reused,
                      float* buffer, int ld) {
  if (t.type == kFloat32 && cols == round_up(cols) && (!reused || t.row_stride == cols))
    return {static_cast<const float*>(t.data) + t.offset(b, h, n), t.row_stride};
  load_rows(t, b, h, n, rows, cols, buffer, ld);
  return {buffer, ld};
}

// The way back; `factors`, one per row, are multiplied on the way unless they are null.
inline void store_rows(const Tensor& t, int64_t b, int64_t h, int64_t n, int rows, int cols, float* from, int ld,
                       const float* factors = nullptr) {
  for (int i = 0; i < rows; ++i, from += ld) {
    const int64_t at = t.offset(b, h, n + i);
    if (t.type == kFloat32 && cols == round_up(cols)) {
      float* to = static_cast<float*>(t.data) + at;
      const Vec factor = splat(factors ? factors[i] : 1.0f);
      for (int j = 0; j < cols; j += kLanes) store(to + j, load(from + j) * factor);
      continue;
    }
    if (factors)
      for (int j = 0; j < cols; j += kLanes) store(from + j, load(from + j) * factors[i]);
    if (t.type == kFloat32) {
      std::memcpy(static_cast<float*>(t.data) + at, from, sizeof(float) * cols);
    } else {
      uint16_t* to = static_cast<uint16_t*>(t.data) + at;
      for (int j = 0; j < cols; ++j) to[j] = to_bfloat16(from[j]);
    }
  }
}

inline void zero(float* p, ptrdiff_t count) { std::memset(p, 0, sizeof(float) * count); }

// Memory of one thread while a kernel runs: taken in pieces, aligned to cache lines, and freed as a whole.
class Scratch {
 public:
  ~Scratch() {
    while (last_) {
      Header* before = last_->before;
      std::free(last_);
      last_ = before;
    }
  }
  float* take(ptrdiff_t floats) {
    const size_t bytes = (sizeof(Header) + sizeof(float) * floats + 63) / 64 * 64;
    auto* header = static_cast<Header*>(std::aligned_alloc(64, bytes));
    if (!header) throw std::bad_alloc();
    header->before = last_;
    last_ = header;
    auto* data = reinterpret_cast<float*>(header + 1);
    zero(data, floats);  // padding columns take part in vector arithmetic and must be finite
    return data;
  }

 private:
  struct alignas(64) Header {
    Header* before;
  };
  Header* last_ = nullptr;
};

}  // namespace effattn
