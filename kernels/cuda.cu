// The operators of dss/ops for CUDA. Only `shell_intervals` waits for the device, because the size
// of its result is known only there.

#include <cub/device/device_scan.cuh>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include "warp_intrinsics.h" // which block_trace.h expects

#include "block_trace.h"
#include "tensors.h"

namespace dss {
namespace {

constexpr int kThreads = 128; // of a block without a network

// While in scope, makes the device of a tensor the current one, which `others` must be on too. Has
// that device's current stream.
class Device {
 public:
  explicit Device(const Tensor& tensor, std::initializer_list<Tensor> others)
      : tensor(tensor), index(tensor.device().index()), guard(index) {
    for (const Tensor& other : others)
      STD_TORCH_CHECK(other.device() == tensor.device(), "expected all tensors on one device");
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &current));
    stream = (cudaStream_t)current;
  }
  // The most bytes that a block may have.
  int shared_memory() const {
    int bytes = 0;
    STD_CUDA_CHECK(
        cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
    return bytes;
  }
  const Tensor& tensor;
  const int index;
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
void for_each(const Device& device, int64_t count, Function function) {
  if (count == 0) return;
  each<<<(count + kThreads - 1) / kThreads, kThreads, 0, device.stream>>>(count, function);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// In bytes: the weights, and behind them the room for a round of `trace_rays`.
template <class Mlp>
size_t shared_bytes(const Network& net) {
  return Mlp::shared_bytes(net) + sizeof(Round<Mlp>);
}

// Every warp runs task(mlp, warp_index, warp_count, round), of which a block shares the last.
template <class Mlp, class Task>
__global__ void __launch_bounds__(32 * Mlp::kWarps)
    run_task(const __grid_constant__ Network net, size_t spheres, const char* packed,
             const __grid_constant__ Task task) {
  extern __shared__ __align__(16) char shared[];
  Mlp::load(net, packed, shared, threadIdx.x, blockDim.x);
  __syncthreads();
  const int warp_index = threadIdx.x / 32;
  const Mlp mlp(net, spheres, packed, shared, warp_index);
  task(mlp, blockIdx.x * Mlp::kWarps + warp_index, gridDim.x * Mlp::kWarps,
       *(Round<Mlp>*)(shared + Mlp::shared_bytes(net)));
}

// In no more blocks than run at the same time, and no more warps than `warps`.
template <class Mlp, class Task>
void launch(const Device& device, const Network& net, size_t spheres, const char* packed,
            int64_t warps, Task task) {
  const auto kernel = run_task<Mlp, Task>;
  const size_t bytes = shared_bytes<Mlp>(net);
  int resident = 0, multiprocessors = 0;
  // The same limit at each call, or it would be a race between threads with different networks.
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      device.shared_memory()));
  STD_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, 32 * Mlp::kWarps,
                                                               bytes));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount,
                                        device.index));
  const int64_t needed = (warps + Mlp::kWarps - 1) / Mlp::kWarps;
  const int64_t blocks =
      std::min<int64_t>(needed, (int64_t)std::max(resident, 1) * multiprocessors);
  if (blocks == 0) return;
  kernel<<<blocks, 32 * Mlp::kWarps, bytes, device.stream>>>(net, spheres, packed, task);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// The weights are packed once, for all blocks of all tasks.
template <class Mlp, class... Tasks>
void run_packed(const Device& device, const Network& net, size_t spheres, int64_t warps,
                Tasks... tasks) {
  const int64_t bytes = Mlp::packed_bytes(net, spheres);
  Tensor packed = empty({bytes}, ScalarType::Byte, device.tensor);
  char* to = (char*)packed.mutable_data_ptr();
  const Network from = net;
  for_each(device, Mlp::pack_count(net, spheres),
           [=] __device__(int64_t i) { Mlp::pack(from, spheres, to, i); });
  (launch<Mlp>(device, net, spheres, to, warps, tasks), ...);
}

// Run tasks one after the other, with one lane per ray or point; in 16 bits where that is asked
// for, and fits the shared memory.
template <class... Tasks>
void run(const Device& device, const Network& net, size_t spheres, bool half, int64_t count,
         Tasks... tasks) {
  STD_TORCH_CHECK(net.width <= 128 && net.octaves <= kMaxOctaves,
                  "network: on CUDA up to 128 wide and ", kMaxOctaves, " octaves");
  const auto run_as = [&](auto* mlp) {
    using Mlp = std::remove_pointer_t<decltype(mlp)>;
    const bool fits = net.layers <= Mlp::kMaxLayers &&
                      shared_bytes<Mlp>(net) <= (size_t)device.shared_memory();
    if (fits) run_packed<Mlp>(device, net, spheres, (count + 31) / 32, tasks...);
    return fits;
  };
  const auto run_padded = [&](auto constant) {
    constexpr int width = decltype(constant)::value;
    const bool done = half && (net.silu ? run_as((FusedMlpHalf<width, true>*)nullptr)
                                        : run_as((FusedMlpHalf<width, false>*)nullptr));
    if (!done) run_as((FusedMlpFloat<width>*)nullptr);
  };
  if (net.width <= 64) run_padded(std::integral_constant<int, 64>());
  else run_padded(std::integral_constant<int, 128>());
}

struct FieldTask {
  Network net;
  const float* spheres;
  int64_t sphere_count, count;
  const Point* points;   // (count, 3)
  const int64_t* owners; // (count,), which nobody has checked
  float* values;         // (count,)
  Point* gradients;      // (count, 3) or null

  template <class Mlp>
  __device__ void operator()(const Mlp& mlp, int warp_index, int warp_count, Round<Mlp>&) const {
    for (int64_t first = 32 * (int64_t)warp_index; first < count;
         first += 32 * (int64_t)warp_count) {
      const int64_t i = first + warp::lane_index(), read = i < count ? i : first;
      Point gradient;
      const int owner = (int)max((int64_t)0, min(owners[read], sphere_count - 1));
      const float value =
          gradients ? differentiate(mlp, net, spheres, points[read], owner, gradient)
                    : predict(mlp, net, spheres, points[read], owner);
      if (i < count) values[i] = value;
      if (i < count && gradients) gradients[i] = gradient;
    }
  }
};

struct SdfTask {
  Shell shell;
  Network net;
  int rule;
  int64_t count;
  const Point* points; // (count, 3)
  float* values;       // (count,)

  template <class Mlp>
  __device__ void operator()(const Mlp& mlp, int warp_index, int warp_count, Round<Mlp>&) const {
    for (int64_t first = 32 * (int64_t)warp_index; first < count;
         first += 32 * (int64_t)warp_count) {
      const int64_t i = first + warp::lane_index();
      const TotalDistance total(shell, points[i < count ? i : first], rule);
      float prediction = 0;
      if (warp::ballot(total.needs_field))
        prediction = predict(mlp, net, shell.spheres, total.place, max(total.sphere, 0));
      if (i < count) values[i] = total.value(prediction);
    }
  }
};

struct TraceTask {
  Shell shell;
  Network net;
  TraceOptions options;
  Rays rays;
  Work work;

  template <class Mlp>
  __device__ void operator()(const Mlp& mlp, int warp_index, int, Round<Mlp>& round) const {
    trace_rays(mlp, shell, net, options, rays, work, round, warp_index % Mlp::kWarps);
  }
};

struct ErrorTask {
  Network net;
  const float* spheres;
  int sphere_count;
  Work work;

  template <class Mlp>
  __device__ void operator()(const Mlp& mlp, int warp_index, int warp_count, Round<Mlp>&) const {
    if (Mlp::kHasRough)
      measure_error(mlp, net, spheres, sphere_count, work, warp_index, warp_count);
  }
};

struct NormalTask {
  Shell shell;
  Network net;
  Rays rays;
  Work work;

  template <class Mlp>
  __device__ void operator()(const Mlp& mlp, int warp_index, int warp_count, Round<Mlp>&) const {
    find_normals(mlp, shell, net, rays, work, warp_index, warp_count);
  }
};

IntervalTensors intervals(Tensor spheres, Tensor tree, Tensor origins, Tensor directions,
                          int64_t rule) {
  const Device device(origins, {spheres, tree, directions});
  const Shell shell = shell_of(spheres, tree);
  const int64_t count = origins.size(0);
  const Point* o = points_of(origins, "origins");
  const Point* d = points_of(directions, "directions", count);
  Tensor offsets = empty({count + 1}, ScalarType::Long, origins);
  Tensor stops = empty({count}, ScalarType::Float, origins);
  int64_t* offset = offsets.mutable_data_ptr<int64_t>();
  float* stop = stops.mutable_data_ptr<float>();
  // The first pass counts the intervals of each ray,
  STD_CUDA_CHECK(cudaMemsetAsync(offset, 0, sizeof(int64_t), device.stream));
  for_each(device, count, [=] __device__(int64_t i) {
    const Ray ray(o[i], d[i]);
    Crossings crossings;
    crossings.gather(shell, ray);
    int64_t intervals = 0;
    for (Interval interval; crossings.next(shell, ray, rule, interval);) ++intervals;
    stop[i] = crossings.stop / ray.length;
    offset[i + 1] = intervals;
  });
  // their running sum says where those of each ray belong,
  size_t bytes = 0;
  STD_CUDA_CHECK(
      cub::DeviceScan::InclusiveSum(nullptr, bytes, offset, offset, count + 1, device.stream));
  Tensor scratch = empty({(int64_t)bytes}, ScalarType::Byte, origins);
  STD_CUDA_CHECK(cub::DeviceScan::InclusiveSum(scratch.mutable_data_ptr(), bytes, offset, offset,
                                               count + 1, device.stream));
  int64_t total = 0;
  STD_CUDA_CHECK(cudaMemcpyAsync(&total, offset + count, sizeof total, cudaMemcpyDeviceToHost,
                                 device.stream));
  STD_CUDA_CHECK(cudaStreamSynchronize(device.stream));
  // and the second pass writes them.
  Tensor starts = empty({total}, ScalarType::Float, origins);
  Tensor ends = empty({total}, ScalarType::Float, origins);
  Tensor owners = empty({total}, ScalarType::Long, origins);
  float *start = starts.mutable_data_ptr<float>(), *end = ends.mutable_data_ptr<float>();
  int64_t* sphere = owners.mutable_data_ptr<int64_t>();
  for_each(device, count, [=] __device__(int64_t i) {
    const Ray ray(o[i], d[i]);
    Crossings crossings;
    crossings.gather(shell, ray);
    int64_t to = offset[i];
    for (Interval interval; crossings.next(shell, ray, rule, interval); ++to) {
      start[to] = interval.start / ray.length;
      end[to] = interval.end / ray.length;
      sphere[to] = interval.sphere;
    }
  });
  return {offsets, starts, ends, owners, stops};
}

Tensor owners(Tensor spheres, Tensor tree, Tensor points, int64_t rule) {
  const Device device(points, {spheres, tree});
  const Shell shell = shell_of(spheres, tree);
  const Point* p = points_of(points, "points");
  Tensor result = empty({points.size(0)}, ScalarType::Long, points);
  int64_t* to = result.mutable_data_ptr<int64_t>();
  for_each(device, points.size(0),
           [=] __device__(int64_t i) { to[i] = owner(shell, p[i], rule); });
  return result;
}

std::tuple<Tensor, Tensor> union_sdfs(Tensor spheres, Tensor tree, Tensor points, bool inner) {
  const Device device(points, {spheres, tree});
  const Shell shell = shell_of(spheres, tree);
  const Point* p = points_of(points, "points");
  Tensor values = empty({points.size(0)}, ScalarType::Float, points);
  Tensor nearest = empty({points.size(0)}, ScalarType::Long, points);
  float* value = values.mutable_data_ptr<float>();
  int64_t* sphere = nearest.mutable_data_ptr<int64_t>();
  for_each(device, points.size(0), [=] __device__(int64_t i) {
    const Nearest best = union_sdf(shell, p[i], inner ? kInnerRadius : kOuterRadius);
    value[i] = best.distance;
    sphere[i] = best.sphere;
  });
  return {values, nearest};
}

std::tuple<Tensor, Tensor> field(Tensor spheres, Tensor table, Tensor weights,
                                 std::vector<int64_t> sizes, double frequency, bool half,
                                 Tensor points, Tensor owner, bool gradient) {
  const Device device(points, {spheres, table, weights, owner});
  const int64_t count = points.size(0);
  Tensor values = empty({count}, ScalarType::Float, points);
  Tensor gradients = empty({gradient ? count : 0, 3}, ScalarType::Float, points);
  FieldTask task;
  task.net = network_of(spheres, table, weights, sizes, frequency);
  task.spheres = data<float>(spheres, "spheres", -1, 5);
  task.sphere_count = spheres.size(0);
  task.count = count;
  task.points = points_of(points, "points");
  task.owners = data<int64_t>(owner, "owner", count, 0);
  task.values = values.mutable_data_ptr<float>();
  task.gradients = gradient ? (Point*)gradients.mutable_data_ptr<float>() : nullptr;
  run(device, task.net, task.sphere_count, half, count, task);
  return {values, gradients};
}

Tensor sdf(Tensor spheres, Tensor tree, Tensor table, Tensor weights, std::vector<int64_t> sizes,
           double frequency, bool half, Tensor points, int64_t rule) {
  const Device device(points, {spheres, tree, table, weights});
  const Shell shell = shell_of(spheres, tree);
  const Network net = network_of(spheres, table, weights, sizes, frequency);
  const int64_t count = points.size(0);
  const Point* p = points_of(points, "points");
  Tensor values = empty({count}, ScalarType::Float, points);
  const SdfTask task = {shell, net, (int)rule, count, p, values.mutable_data_ptr<float>()};
  run(device, net, spheres.size(0), half, count, task);
  return values;
}

TracedTensors trace(Tensor spheres, Tensor tree, Tensor table, Tensor weights,
                    std::vector<int64_t> sizes, double frequency, bool half, Tensor origins,
                    Tensor directions, int64_t rule, bool exact, bool everywhere,
                    double tolerance) {
  const Device device(origins, {spheres, tree, table, weights, directions});
  const Shell shell = shell_of(spheres, tree);
  const Network net = network_of(spheres, table, weights, sizes, frequency);
  const TraceOptions options = {(int)rule, exact, everywhere, (float)tolerance};
  const int64_t count = origins.size(0);
  STD_TORCH_CHECK(count < INT32_MAX / 2, "origins: at most 2^30 rays at once");
  Traced traced(origins);
  const Rays rays = traced.rays(origins, directions);
  Tensor scratch = empty({4 + 2 * count}, ScalarType::Int, origins); // four numbers, two lists
  int* lists = scratch.mutable_data_ptr<int>();
  const Work work = {lists,    lists + 1,         lists + 2, (float*)(lists + 3),
                     lists + 4, lists + 4 + count};
  STD_CUDA_CHECK(cudaMemsetAsync(lists, 0, 4 * sizeof(int), device.stream));
  for_each(device, count, [=] __device__(int64_t i) { // queue the rays that meet the shell
    Trace trace;
    trace.ray = rays.ray(i);
    rays.store(i, trace);
    if (trace.meets(shell)) work.queue[atomicAdd(work.queued, 1)] = (int)i;
  });
  run(device, net, spheres.size(0), half, count,
      ErrorTask{net, shell.spheres, (int)spheres.size(0), work},
      TraceTask{shell, net, options, rays, work}, NormalTask{shell, net, rays, work});
  return traced.tuple();
}

TracedTensors trace_octree(Tensor nodes, Tensor corners, int64_t depth, double extent, Tensor table,
                           Tensor output, Tensor origins, Tensor directions, double probe) {
  const Device device(origins, {nodes, corners, table, output, directions});
  const Octree octree = octree_of(nodes, corners, depth, extent);
  const Decoder decoder = decoder_of(table, output);
  Traced traced(origins);
  const Rays rays = traced.rays(origins, directions);
  const float step = (float)probe;
  for_each(device, origins.size(0),
           [=] __device__(int64_t i) { rays.trace(i, octree, decoder, step); });
  return traced.tuple();
}

STABLE_TORCH_LIBRARY_IMPL(dss, CUDA, library) {
  library.impl("shell_intervals", TORCH_BOX(&intervals));
  library.impl("shell_owner", TORCH_BOX(&owners));
  library.impl("shell_union_sdf", TORCH_BOX(&union_sdfs));
  library.impl("shell_field", TORCH_BOX(&field));
  library.impl("shell_sdf", TORCH_BOX(&sdf));
  library.impl("shell_trace", TORCH_BOX(&trace));
  library.impl("octree_trace", TORCH_BOX(&trace_octree));
}

} // namespace
} // namespace dss
