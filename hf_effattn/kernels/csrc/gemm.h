// Products of small matrices that lie in cache, in float32.
#pragma once

#include "vec.h"

namespace effattn {

// The tile of sums that one pass keeps in registers: kTileRows rows of up to kTileVecs vectors.
constexpr int kTileRows = 6;
#if defined(__AVX__) && !defined(__AVX512F__)
constexpr int kTileVecs = 2;  // 16 registers
#else
constexpr int kTileVecs = 4;  // 32 registers
#endif

template <int Rows, int Vecs, bool Accumulate>
inline void gemm_tile(int depth, const float* a, ptrdiff_t a_row, ptrdiff_t a_col, const float* b, ptrdiff_t ldb,
                      float* c, ptrdiff_t ldc) {
  Vec acc[Rows][Vecs];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vecs; ++j) acc[i][j] = Vec{};
  for (int k = 0; k < depth; ++k) {
    Vec row[Vecs];
#pragma GCC unroll 4
    for (int j = 0; j < Vecs; ++j) row[j] = load(b + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const float factor = a[i * a_row];
#pragma GCC unroll 4
      for (int j = 0; j < Vecs; ++j) acc[i][j] += factor * row[j];
    }
    a += a_col;
    b += ldb;
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < Vecs; ++j) {
      // Added as a whole, so that a sum over many products C += A B is rounded once for each of them.
      if constexpr (Accumulate) acc[i][j] += load(c + i * ldc + j * kLanes);
      store(c + i * ldc + j * kLanes, acc[i][j]);
    }
}

template <int Rows, bool Accumulate>
inline void gemm_rows(int vecs, int depth, const float* a, ptrdiff_t a_row, ptrdiff_t a_col, const float* b,
                      ptrdiff_t ldb, float* c, ptrdiff_t ldc) {
  switch (vecs) {
    case 1: return gemm_tile<Rows, 1, Accumulate>(depth, a, a_row, a_col, b, ldb, c, ldc);
    case 2: return gemm_tile<Rows, 2, Accumulate>(depth, a, a_row, a_col, b, ldb, c, ldc);
#if !defined(__AVX__) || defined(__AVX512F__)
    case 3: return gemm_tile<Rows, 3, Accumulate>(depth, a, a_row, a_col, b, ldb, c, ldc);
    case 4: return gemm_tile<Rows, 4, Accumulate>(depth, a, a_row, a_col, b, ldb, c, ldc);
#endif
  }
}

// What gemm calls before each tile of rows: nothing, or the prefetching of what comes next.
struct NoStream {
  void operator()(int, int) {}
};

// C[rows x cols] = A B, or C += A B. The element (i, k) of A is a[i * a_row + k * a_col], so that A may be transposed;
// B [depth x cols] and C are row-major, and their rows reach up to the next multiple of kLanes.
template <bool Accumulate, typename Stream = NoStream>
inline void gemm(int rows, int cols, int depth, const float* a, ptrdiff_t a_row, ptrdiff_t a_col, const float* b,
                 ptrdiff_t ldb, float* c, ptrdiff_t ldc, Stream stream = {}) {
  const int all_vecs = round_up(cols) / kLanes;
  for (int j = 0; j < all_vecs; j += kTileVecs) {
    const int vecs = all_vecs - j < kTileVecs ? all_vecs - j : kTileVecs;
    const float* b_panel = b + j * kLanes;
    for (int i = 0; i < rows; i += kTileRows) {
      const float* a_panel = a + i * a_row;
      float* c_tile = c + i * ldc + j * kLanes;
      if (j == 0) stream(i, rows);
      switch (rows - i) {
        case 1: gemm_rows<1, Accumulate>(vecs, depth, a_panel, a_row, a_col, b_panel, ldb, c_tile, ldc); break;
        case 2: gemm_rows<2, Accumulate>(vecs, depth, a_panel, a_row, a_col, b_panel, ldb, c_tile, ldc); break;
        case 3: gemm_rows<3, Accumulate>(vecs, depth, a_panel, a_row, a_col, b_panel, ldb, c_tile, ldc); break;
        case 4: gemm_rows<4, Accumulate>(vecs, depth, a_panel, a_row, a_col, b_panel, ldb, c_tile, ldc); break;
        case 5: gemm_rows<5, Accumulate>(vecs, depth, a_panel, a_row, a_col, b_panel, ldb, c_tile, ldc); break;
        default: gemm_rows<6, Accumulate>(vecs, depth, a_panel, a_row, a_col, b_panel, ldb, c_tile, ldc);
      }
    }
  }
}

}  // namespace effattn
