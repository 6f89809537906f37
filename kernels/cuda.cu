// The operators of dss/ops.py for CUDA. Nothing waits for the device but `shell_intervals`, whose result has a size that
// only the device knows.

#include <cub/device/device_scan.cuh>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "lanes.h"
#include "tensors.h"
#include "warp.h"

namespace dss {
namespace {

constexpr int kThreads = 128; // of a block without a network

// The device of a tensor while in scope, and its current stream.
class Place {
 public:
  explicit Place(const Tensor& tensor) : tensor(tensor), device(tensor.device().index()), guard(device) {
    void* current = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &current));
    stream = (cudaStream_t)current;
  }
  const Tensor& tensor;
  const int device;
  cudaStream_t stream;

 private:
  torch::stable::accelerator::DeviceGuard guard;
};

template <class Function>
__global__ void each(int64_t count, Function function) {
  const int64_t i = blockIdx.x * (int64_t)kThreads + threadIdx.x;
  if (i < count) function(i);
}

template <class Function>
void for_each(const Place& place, int64_t count, Function function) {
  if (count == 0) return;
  each<<<(count + kThreads - 1) / kThreads, kThreads, 0, place.stream>>>(count, function);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Every warp runs task(rows, warp, warps) with rows of its own.
template <class Rows, class Task>
__global__ void __launch_bounds__(32 * Rows::warps) with_rows(Network net, const float* packed, Task task) {
  extern __shared__ __align__(16) char shared[];
  Rows::load(net, shared, threadIdx.x, blockDim.x);
  __syncthreads();
  const int warp = threadIdx.x / 32;
  Rows rows(net, packed, shared, warp);
  task(rows, blockIdx.x * Rows::warps + warp, gridDim.x * Rows::warps);
}

// In no more blocks than run at the same time, and no more warps than `warps`.
template <class Rows, class Task>
void launch(const Place& place, const Network& net, const float* packed, int64_t warps, Task task) {
  const auto kernel = with_rows<Rows, Task>;
  const size_t bytes = Rows::shared_bytes(net);
  int resident = 0, multiprocessors = 0;
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
  STD_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, 32 * Rows::warps, bytes));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, place.device));
  const int64_t blocks = std::min<int64_t>((warps + Rows::warps - 1) / Rows::warps, (int64_t)std::max(resident, 1) * multiprocessors);
  if (blocks == 0) return;
  kernel<<<blocks, 32 * Rows::warps, bytes, place.stream>>>(net, packed, task);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <int width, class... Tasks>
void run_padded(const Place& place, const Network& net, bool half, int64_t warps, Tasks... tasks) {
  int room = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, place.device));
  if (half && HalfRows<width>::shared_bytes(net) <= (size_t)room) return (launch<HalfRows<width>>(place, net, nullptr, warps, tasks), ...);
  using Rows = FloatRows<width>;
  Tensor packed = empty({(int64_t)Rows::packed_size(net)}, ScalarType::Float, place.tensor);
  float* to = packed.mutable_data_ptr<float>();
  const Network from = net;
  for_each(place, packed.size(0), [=] __device__(int64_t i) { to[i] = Rows::packed(from, i); });
  (launch<Rows>(place, net, to, warps, tasks), ...);
}

// Run tasks one after the other, one lane per ray or point; in 16 bits where that is asked for, and fits.
template <class... Tasks>
void run(const Place& place, const Network& net, bool half, int64_t count, Tasks... tasks) {
  STD_TORCH_CHECK(net.width <= 128 && net.inputs() <= 16 * kTiles, "network: on CUDA up to 128 wide and 10 octaves");
  auto padded = net.width <= 64 ? run_padded<64, Tasks...> : run_padded<128, Tasks...>;
  padded(place, net, half, (count + 31) / 32, tasks...);
}

struct FieldTask {
  Network net;
  const float* spheres;
  int64_t count;
  const Point* points;   // (count, 3)
  const int64_t* owners; // (count,)
  float* values;         // (count,)
  Point* gradients;      // (count, 3) or null

  template <class Rows>
  __device__ void operator()(Rows& rows, int warp, int warps) const {
    for (int64_t first = 32 * (int64_t)warp; first < count; first += 32 * (int64_t)warps) {
      const int64_t i = first + lanes::index(), read = i < count ? i : first;
      Point gradient;
      const int owner = (int)owners[read];
      const float value = gradients ? differentiate(rows, net, spheres, points[read], owner, gradient)
                                    : predict(rows, net, spheres, points[read], owner);
      if (i < count) values[i] = value;
      if (i < count && gradients) gradients[i] = gradient;
    }
  }
};

struct TotalTask {
  Shell shell;
  Network net;
  int rule;
  int64_t count;
  const Point* points; // (count, 3)
  float* values;       // (count,)

  template <class Rows>
  __device__ void operator()(Rows& rows, int warp, int warps) const {
    for (int64_t first = 32 * (int64_t)warp; first < count; first += 32 * (int64_t)warps) {
      const int64_t i = first + lanes::index();
      const Total total(shell, points[i < count ? i : first], rule);
      float prediction = 0;
      if (lanes::ballot(total.asked)) prediction = predict(rows, net, shell.spheres, total.place, max(total.sphere, 0));
      if (i < count) values[i] = total.value(prediction);
    }
  }
};

struct TraceTask {
  Shell shell;
  Network net;
  March march;
  Rays rays;
  Work work;

  template <class Rows>
  __device__ void operator()(Rows& rows, int, int) const {
    trace_rays(rows, shell, net, march, rays, work);
  }
};

struct NormalTask {
  Shell shell;
  Network net;
  Rays rays;
  Work work;

  template <class Rows>
  __device__ void operator()(Rows& rows, int warp, int warps) const {
    find_normals(rows, shell, net, rays, work, warp, warps);
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> intervals(Tensor spheres, Tensor tree, Tensor origins, Tensor directions, int64_t rule) {
  const Place place(origins);
  const Shell shell = shell_of(spheres, tree);
  const int64_t count = origins.size(0);
  const Point *o = points_of(origins, "origins"), *d = points_of(directions, "directions", count);
  Tensor offsets = empty({count + 1}, ScalarType::Long, origins), stops = empty({count}, ScalarType::Float, origins);
  int64_t* offset = offsets.mutable_data_ptr<int64_t>();
  float* stop = stops.mutable_data_ptr<float>();
  STD_CUDA_CHECK(cudaMemsetAsync(offset, 0, sizeof(int64_t), place.stream));
  for_each(place, count, [=] __device__(int64_t i) {
    const Ray ray(o[i], d[i]);
    Chords chords;
    chords.gather(shell, ray);
    int64_t segments = 0;
    for (Segment segment; chords.next(shell, ray, rule, segment);) ++segments;
    stop[i] = chords.stop / ray.length;
    offset[i + 1] = segments;
  });
  size_t bytes = 0;
  STD_CUDA_CHECK(cub::DeviceScan::InclusiveSum(nullptr, bytes, offset, offset, count + 1, place.stream));
  Tensor scratch = empty({(int64_t)bytes}, ScalarType::Byte, origins);
  STD_CUDA_CHECK(cub::DeviceScan::InclusiveSum(scratch.mutable_data_ptr(), bytes, offset, offset, count + 1, place.stream));
  int64_t total = 0;
  STD_CUDA_CHECK(cudaMemcpyAsync(&total, offset + count, sizeof total, cudaMemcpyDeviceToHost, place.stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(place.stream));
  Tensor starts = empty({total}, ScalarType::Float, origins), ends = empty({total}, ScalarType::Float, origins);
  Tensor owners = empty({total}, ScalarType::Long, origins);
  float *start = starts.mutable_data_ptr<float>(), *end = ends.mutable_data_ptr<float>();
  int64_t* sphere = owners.mutable_data_ptr<int64_t>();
  for_each(place, count, [=] __device__(int64_t i) {
    const Ray ray(o[i], d[i]);
    Chords chords;
    chords.gather(shell, ray);
    int64_t to = offset[i];
    for (Segment segment; chords.next(shell, ray, rule, segment); ++to) {
      start[to] = segment.start / ray.length;
      end[to] = segment.end / ray.length;
      sphere[to] = segment.sphere;
    }
  });
  return {offsets, starts, ends, owners, stops};
}

Tensor owners(Tensor spheres, Tensor tree, Tensor points, int64_t rule) {
  const Place place(points);
  const Shell shell = shell_of(spheres, tree);
  const Point* p = points_of(points, "points");
  Tensor result = empty({points.size(0)}, ScalarType::Long, points);
  int64_t* to = result.mutable_data_ptr<int64_t>();
  for_each(place, points.size(0), [=] __device__(int64_t i) { to[i] = owner(shell, p[i], rule); });
  return result;
}

std::tuple<Tensor, Tensor> gaps(Tensor spheres, Tensor tree, Tensor points, bool inner) {
  const Place place(points);
  const Shell shell = shell_of(spheres, tree);
  const Point* p = points_of(points, "points");
  Tensor values = empty({points.size(0)}, ScalarType::Float, points), nearest = empty({points.size(0)}, ScalarType::Long, points);
  float* value = values.mutable_data_ptr<float>();
  int64_t* sphere = nearest.mutable_data_ptr<int64_t>();
  for_each(place, points.size(0), [=] __device__(int64_t i) {
    const Gap best = gap(shell, p[i], inner ? 3 : 4);
    value[i] = best.value;
    sphere[i] = best.sphere;
  });
  return {values, nearest};
}

std::tuple<Tensor, Tensor> field(Tensor spheres, Tensor table, Tensor weights, std::vector<int64_t> sizes, double frequency, bool half,
                                 Tensor points, Tensor owner, bool gradient) {
  const Place place(points);
  const Network net = network_of(spheres, table, weights, sizes, frequency);
  const int64_t count = points.size(0);
  FieldTask task = {net, data<float>(spheres, "spheres", -1, 5), count, points_of(points, "points"), data<int64_t>(owner, "owner", count, 0)};
  Tensor values = empty({count}, ScalarType::Float, points), gradients = empty({gradient ? count : 0, 3}, ScalarType::Float, points);
  task.values = values.mutable_data_ptr<float>();
  task.gradients = gradient ? (Point*)gradients.mutable_data_ptr<float>() : nullptr;
  run(place, net, half, count, task);
  return {values, gradients};
}

Tensor sdf(Tensor spheres, Tensor tree, Tensor table, Tensor weights, std::vector<int64_t> sizes, double frequency, bool half, Tensor points,
           int64_t rule) {
  const Place place(points);
  const Shell shell = shell_of(spheres, tree);
  const Network net = network_of(spheres, table, weights, sizes, frequency);
  const int64_t count = points.size(0);
  Tensor values = empty({count}, ScalarType::Float, points);
  const TotalTask task = {shell, net, (int)rule, count, points_of(points, "points"), values.mutable_data_ptr<float>()};
  run(place, net, half, count, task);
  return values;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> trace(Tensor spheres, Tensor tree, Tensor table, Tensor weights, std::vector<int64_t> sizes,
                                                         double frequency, bool half, Tensor origins, Tensor directions, int64_t rule,
                                                         bool exact, bool everywhere, double tolerance) {
  const Place place(origins);
  const Shell shell = shell_of(spheres, tree);
  const Network net = network_of(spheres, table, weights, sizes, frequency);
  const March march = {(int)rule, exact, everywhere, (float)tolerance};
  const int64_t count = origins.size(0);
  STD_TORCH_CHECK(count < INT32_MAX / 2, "origins: at most 2^30 rays at once");
  Traced traced(origins);
  const Rays rays = traced.rays(origins, directions);
  Tensor scratch = empty({3 + 2 * count}, ScalarType::Int, origins);
  int* lists = scratch.mutable_data_ptr<int>();
  const Work work = {lists, lists + 1, lists + 2, lists + 3, lists + 3 + count};
  STD_CUDA_CHECK(cudaMemsetAsync(lists, 0, 3 * sizeof(int), place.stream));
  for_each(place, count, [=] __device__(int64_t i) { // which rays meet the shell at all?
    Trace trace;
    trace.ray = rays.ray(i);
    rays.store(i, trace);
    if (trace.meets(shell)) work.queue[atomicAdd(work.queued, 1)] = (int)i;
  });
  run(place, net, half, count, TraceTask{shell, net, march, rays, work}, NormalTask{shell, net, rays, work});
  return traced.tuple();
}

STABLE_TORCH_LIBRARY_IMPL(dss, CUDA, library) {
  library.impl("shell_intervals", TORCH_BOX(&intervals));
  library.impl("shell_owner", TORCH_BOX(&owners));
  library.impl("shell_gap", TORCH_BOX(&gaps));
  library.impl("shell_field", TORCH_BOX(&field));
  library.impl("shell_sdf", TORCH_BOX(&sdf));
  library.impl("shell_trace", TORCH_BOX(&trace));
}

} // namespace
} // namespace dss
