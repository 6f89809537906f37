// The forward pass alone, as a kernel, for the budget of its instructions: see test_budget.py.

#include <cuda_runtime.h>

#include "../../kernels/warp_intrinsics.h"

#include "../../kernels/fused_mlp.h"

using namespace dss;
using Mlp = FusedMlpHalf<128, SILU>;

extern "C" __global__ void __launch_bounds__(32 * Mlp::kWarps)
    forward_pass(const __grid_constant__ Network net, size_t spheres, const char* packed,
                 const Point* offsets, const int* owners, float* values) {
  extern __shared__ __align__(16) char shared[];
  const Mlp mlp(net, spheres, packed, shared, threadIdx.x / 32);
  const int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  const int i = Mlp::kRows * warp + threadIdx.x % Mlp::kRows;
  values[i] = mlp.run<ACCURATE>(offsets[i], owners[i]);
}
