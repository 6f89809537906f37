// What the 32 lanes of a warp do together. All of them must arrive at every call, but for those in
// the last section. tests/kernels/emulated_warp.cpp has the same functions for the host.
#pragma once

#include <cuda_fp16.h>
#include <stdint.h>

#include "shell.h"

namespace dss {
namespace warp {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline void sync() { __syncwarp(); }

// All threads of the block.
__device__ inline void sync_block() { __syncthreads(); }

// Bit i of the result is the value of lane i.
__device__ inline unsigned ballot(bool value) { return __ballot_sync(kAllLanes, value); }

// The value that `lane` passes.
template <class T>
__device__ inline T from_lane(T value, int lane) {
  return __shfl_sync(kAllLanes, value, lane);
}
__device__ inline Point from_lane(Point p, int lane) {
  return {from_lane(p.x, lane), from_lane(p.y, lane), from_lane(p.z, lane)};
}

// Halves in shared memory.
struct SharedHalves {
  uint32_t address;
  __device__ explicit SharedHalves(const uint16_t* halves)
      : address((uint32_t)__cvta_generic_to_shared(halves)) {}
  __device__ SharedHalves operator+(int count) const {
    SharedHalves result = *this;
    result.address += 2 * count;
    return result;
  }
};

// Loads four 8 x 8 tiles of halves from shared memory. Lane 8 i + r passes the address of row r of
// tile i. Lane 4 r + k receives of each tile row r, columns 2 k and 2 k + 1, the first one in the
// lower half of the word.
__device__ inline void load_tiles(uint32_t (&tiles)[4], SharedHalves row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(row.address));
}

// The same of the tiles' transposes.
__device__ inline void load_transposed_tiles(uint32_t (&tiles)[4], SharedHalves row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(row.address));
}

// c (16 x 8) += a (16 x 16) . b (16 x 8) in the tensor cores. `a` is four tiles as `load_tiles`
// gives them: rows 0-7 and 8-15 of the columns 0-7, then of the columns 8-15. `b0` and `b1` are
// the tiles of b's transpose (8 x 16), columns 0-7 and 8-15. Lane 4 r + k holds of c row r, columns
// 2 k and 2 k + 1, then row r + 8, the same columns.
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- Of a single lane ----

__device__ inline int lane_index() { return threadIdx.x % 32; }
__device__ inline int count_bits(unsigned mask) { return __popc(mask); }
__device__ inline int fetch_add(int* counter, int amount) { return atomicAdd(counter, amount); }

// Set a number, not negative, to the maximum of itself and another one. NaN counts as the largest.
__device__ inline void raise(float* number, float value) {
  atomicMax((int*)number, __float_as_int(value));
}

// To about 5e-4, in one instruction.
__device__ inline float rough_tanh(float x) {
  float result;
  asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// To about 5e-7 where x is small.
__device__ inline void rough_sincos(float x, float& sine, float& cosine) {
  sine = __sinf(x);
  cosine = __cosf(x);
}
// Of x half turns.
__device__ inline void sincos_of_pi(float x, float& sine, float& cosine) {
  sincospif(x, &sine, &cosine);
}
// 2^x, to about |x| times the last bit.
__device__ inline float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
// 1 / x to the last bit but one, 0 for inf.
__device__ inline float inverse(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

__device__ inline uint16_t to_half(float value) {
  return __half_as_ushort(__float2half_rn(value));
}
// The first one in the lower half of a word.
__device__ inline uint32_t pack_halves(float first, float second) {
  const __half2 pair = __floats2half2_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ inline float half_in(uint32_t pair, int which) {
  return __half2float(__ushort_as_half((unsigned short)(pair >> 16 * which)));
}

} // namespace warp
} // namespace dss
