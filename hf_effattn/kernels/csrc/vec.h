// Vectors of the widest registers that the compiler targets, and the functions of feature maps on them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace effattn {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IVec __attribute__((vector_size(kLanes * 4)));
typedef float UnalignedVec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
inline Vec splat(float x) { return Vec{} + x; }
inline Vec max(Vec a, Vec b) { return a < b ? b : a; }  // a NaN in `a` stays
inline Vec min(Vec a, Vec b) { return a > b ? b : a; }

inline float sum(Vec v) {
  float lanes[kLanes], total = 0;
  std::memcpy(lanes, &v, sizeof v);
  for (int i = 0; i < kLanes; ++i) total += lanes[i];
  return total;
}

// exp(x) for x in [-87, 88], to about 2 ulp: x = n ln 2 + r, a polynomial in r, and n added to the exponent.
inline Vec exp_in_range(Vec x) {
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  Vec shifted = x * 1.44269504088896341f + magic;
  Vec n = shifted - magic;
  Vec r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  IVec bits, steps;
  std::memcpy(&bits, &p, sizeof p);
  std::memcpy(&steps, &shifted, sizeof shifted);
  bits += steps << 23;  // the upper bits of `steps`, those of `magic`, are shifted out
  std::memcpy(&p, &bits, sizeof p);
  return p;
}

// Saturates at the ends of the range of normal numbers instead of giving 0 or infinity.
inline Vec exp(Vec x) { return exp_in_range(min(max(x, splat(-87.0f)), splat(88.0f))); }
inline Vec exp_of_negative(Vec x) { return exp_in_range(max(x, splat(-87.0f))); }

// log(1 + t) for t in [0, 1], relative error below 1.2e-7 also where t is tiny: t times the polynomial of degree 9 that
// interpolates log(1 + t) / t at the Chebyshev nodes.
inline Vec log1p_unit(Vec t) {
  Vec p = splat(-3.1760570e-3f);
  p = p * t + 1.9542526e-2f;
  p = p * t - 5.6373611e-2f;
  p = p * t + 1.0543624e-1f;
  p = p * t - 1.5269667e-1f;
  p = p * t + 1.9663274e-1f;
  p = p * t - 2.4951616e-1f;
  p = p * t + 3.3329710e-1f;
  p = p * t - 4.9999893e-1f;
  return t + t * (p * t);
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

// One stage of a transposition: lane bit S and row bit S change places.
template <int S>
inline void transpose_stage(Vec* rows) {
  IVec low, high;
  for (int lane = 0; lane < kLanes; ++lane) {
    low[lane] = lane & S ? kLanes + lane - S : lane;
    high[lane] = lane & S ? kLanes + lane : lane + S;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & S) continue;
    Vec a = rows[i], b = rows[i + S];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + S] = __builtin_shuffle(a, b, high);
  }
}

// Transposes a square of kLanes x kLanes in registers.
inline void transpose_square(const float* from, ptrdiff_t ld_from, float* to, ptrdiff_t ld_to) {
  Vec rows[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) rows[i] = load(from + i * ld_from);
  transpose_stage<1>(rows);
  transpose_stage<2>(rows);
  if constexpr (kLanes > 4) transpose_stage<4>(rows);
  if constexpr (kLanes > 8) transpose_stage<8>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) store(to + i * ld_to, rows[i]);
}

inline int round_up(int n) { return (n + kLanes - 1) / kLanes * kLanes; }

// to[cols x rows] = from[rows x cols]^T; both buffers reach up to the next multiple of kLanes in both directions.
inline void transpose(const float* from, int ld_from, int rows, int cols, float* to, int ld_to) {
  for (int i = 0; i < rows; i += kLanes)
    for (int j = 0; j < cols; j += kLanes)
      transpose_square(from + i * ptrdiff_t(ld_from) + j, ld_from, to + j * ptrdiff_t(ld_to) + i, ld_to);
}

}  // namespace effattn
