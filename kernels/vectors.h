// Vectors of floats in the registers of one core of the CPU, and functions of them. No torch.
#pragma once

#include <stdint.h>
#include <string.h>

#include <bit>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace dss {

// GCC's vector types compile to whatever the machine has. The blocks of batch.h fill its registers:
// 24 accumulators out of 32 with AVX-512, 12 out of 16 otherwise.
#ifdef __AVX512F__
constexpr int kLanes = 16, kVectors = 4;
#else
constexpr int kLanes = 8, kVectors = 2;
#endif

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef int32_t Integers __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes))); // bfloat16

inline int padded(int count) { return (count + kLanes - 1) / kLanes * kLanes; }
inline Vector load(const float* from) {
  Vector result;
  memcpy(&result, from, sizeof result);
  return result;
}
inline void store(float* to, Vector value) { memcpy(to, &value, sizeof value); }
inline float sum_of(Vector value) {
#ifdef __AVX512F__
  return _mm512_reduce_add_ps((__m512)value);
#else
  float result = 0;
  for (int lane = 0; lane < kLanes; ++lane) result += value[lane];
  return result;
#endif
}

// To the nearest bfloat16, the upper half of a float, ties to even.
inline uint32_t rounded(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline Halves rounded(Vector value) {
  const Integers bits = (Integers)value;
  return __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, Halves);
}
inline Vector widened(Halves value) {
  return (Vector)(__builtin_convertvector(value, Integers) << 16);
}

// Sine and cosine to about 1e-7 for |x| up to some thousands: reduction by pi / 2 in three parts,
// then polynomials.
inline void sincos(Vector x, Vector& sine, Vector& cosine) {
  const float magic = 12582912.0f; // adding and subtracting it rounds to an integer
  const Vector turns = (x * 0.636619772f + magic) - magic;
  const Vector y = ((x - turns * 1.5703125f) - turns * 4.83751297e-4f) - turns * 7.54978942e-8f;
  const Vector z = y * y;
  const Vector s = y + y * z * (-1.6666654611e-1f + z * (8.3321608736e-3f + z * -1.9515295891e-4f));
  const Vector c = 1 - 0.5f * z + z * z * (4.166664568298827e-2f +
                   z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
  const Integers quarter = __builtin_convertvector(turns, Integers);
  const Integers swap = (quarter & 1) != 0;
  const Vector a = swap ? c : s, b = swap ? s : c;
  sine = (quarter & 2) != 0 ? -a : a;
  cosine = ((quarter + 1) & 2) != 0 ? -b : b;
}

inline Vector reciprocal(Vector x) {
#ifdef __AVX512F__
  // An estimate and one step of Newton's method: a division would take as long as the rest of an
  // activation.
  const Vector guess = (Vector)_mm512_rcp14_ps((__m512)x);
  return guess * (2 - x * guess);
#else
  return 1 / x;
#endif
}

// e^x to about 1e-7 relative, for |x| < 87.
inline Vector exponential(Vector x) {
  const float magic = 12582912.0f;
  const Vector power = (x * 1.44269504f + magic) - magic;
  const Vector y = (x - power * 0.693359375f) + power * 2.12194440e-4f;
  const Vector tail = 0.5f + y * (1.6666665459e-1f + y * (4.1665795894e-2f + y * (8.3334519073e-3f +
                      y * (1.3981999507e-3f + y * 1.9875691500e-4f))));
  const Vector mantissa = 1 + y + y * y * tail;
  return (Vector)((Integers)mantissa + (__builtin_convertvector(power, Integers) << 23));
}

// To about 1e-7, relative where x is small, so that the sign is right.
inline Vector tanh_of(Vector x) {
  const Vector z = x * x;
  const Vector small = x + x * z * (-3.3333333e-1f + z * (1.3333333e-1f + z * (-5.3968254e-2f +
                       z * 2.1869489e-2f)));
  const Vector low = x < -10 ? Vector{} - 10 : x, bounded = low > 10 ? Vector{} + 10 : low;
  const Vector large = 1 - 2 / (1 + exponential(2 * bounded));
  return z < 0.09f ? small : large;
}

} // namespace dss
