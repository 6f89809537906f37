// What the 32 lanes of a warp do together. All of them must arrive at every call.
#pragma once

#include <cuda_fp16.h>
#include <stdint.h>

namespace dss {
namespace lanes {

constexpr unsigned kAll = 0xffffffffu;

__device__ inline int index() { return threadIdx.x % 32; }
__device__ inline void sync() { __syncwarp(); }
__device__ inline unsigned ballot(bool value) { return __ballot_sync(kAll, value); }
__device__ inline int count(unsigned mask) { return __popc(mask); }

template <class T>
__device__ inline T from(T value, int lane) {
  return __shfl_sync(kAll, value, lane);
}
template <class T>
__device__ inline T across(T value, int mask) {
  return __shfl_xor_sync(kAll, value, mask);
}

// Not collective.
__device__ inline int fetch_add(int* counter, int amount) { return atomicAdd(counter, amount); }
__device__ inline float rough_tanh(float x) { // to about 5e-4, in one instruction
  float result;
  asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ inline uint16_t half_of(float value) { return __half_as_ushort(__float2half_rn(value)); }
__device__ inline uint32_t halves(float low, float high) { return half_of(low) | (uint32_t)half_of(high) << 16; }

// Four 8 x 8 tiles of halves from shared memory; lane 8 i + r holds the address of row r of tile i. Each lane receives
// the pair (row = lane / 4, columns = 2 (lane % 4) + {0, 1}) of every tile.
__device__ inline void load_tiles(uint32_t (&tiles)[4], const uint16_t* row) {
  const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(address)
               : "memory");
}

// c (16 x 8) += a (16 x 16) . b (16 x 8), in the tensor cores. a: the tiles (rows 0-7, columns 0-7), (8-15, 0-7),
// (0-7, 8-15), (8-15, 8-15); b: tiles of its transpose, columns 0-7 and 8-15; c: rows lane / 4 and lane / 4 + 8, columns
// 2 (lane % 4) + {0, 1} of each.
__device__ inline void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

} // namespace lanes
} // namespace dss
