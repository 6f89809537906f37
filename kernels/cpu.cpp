// The operators of dss/ops for the CPU. Threads take blocks of rays or points as they become free.

#include <atomic>

#include "batch_trace.h"
#include "tensors.h"

namespace dss {
namespace {

constexpr int64_t kBlock = 1024; // rays or points

// Run `work(take)` on every thread; take(first, last) hands out the next block of [0, count), or
// returns false.
template <class Work>
void parallel(int64_t count, int64_t block, Work work) {
  std::atomic<int64_t> next{0};
  auto take = [&](int64_t& first, int64_t& last) {
    first = next.fetch_add(block);
    last = std::min(first + block, count);
    return first < count;
  };
  const int64_t blocks = (count + block - 1) / block;
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), blocks);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) { work(take); });
}

template <class Function>
void for_each(int64_t count, Function function) {
  parallel(count, kBlock, [&](auto take) {
    for (int64_t first, last; take(first, last);)
      for (int64_t i = first; i < last; ++i) function(i);
  });
}

IntervalTensors intervals(Tensor spheres, Tensor tree, Tensor origins, Tensor directions,
                          int64_t rule) {
  const Shell shell = shell_of(spheres, tree);
  const int64_t count = origins.size(0);
  const Point* o = points_of(origins, "origins");
  const Point* d = points_of(directions, "directions", count);
  Tensor offsets = empty({count + 1}, ScalarType::Long, origins);
  Tensor stops = empty({count}, ScalarType::Float, origins);
  int64_t* offset = offsets.mutable_data_ptr<int64_t>();
  float* stop = stops.mutable_data_ptr<float>();
  std::vector<std::vector<Interval>> blocks((count + kBlock - 1) / kBlock);
  for_each(count, [&](int64_t i) {
    std::vector<Interval>& block = blocks[i / kBlock];
    const size_t before = block.size();
    const Ray ray(o[i], d[i]);
    Crossings crossings;
    crossings.gather(shell, ray);
    for (Interval interval; crossings.next(shell, ray, rule, interval);) {
      block.push_back(interval);
      block.back().start /= ray.length;
      block.back().end /= ray.length;
    }
    stop[i] = crossings.stop / ray.length;
    offset[i + 1] = block.size() - before;
  });
  offset[0] = 0;
  for (int64_t i = 0; i < count; ++i) offset[i + 1] += offset[i];
  const int64_t total = offset[count];
  Tensor starts = empty({total}, ScalarType::Float, origins);
  Tensor ends = empty({total}, ScalarType::Float, origins);
  Tensor owners = empty({total}, ScalarType::Long, origins);
  float *start = starts.mutable_data_ptr<float>(), *end = ends.mutable_data_ptr<float>();
  int64_t* sphere = owners.mutable_data_ptr<int64_t>();
  for (const std::vector<Interval>& block : blocks)
    for (const Interval& interval : block) {
      *start++ = interval.start;
      *end++ = interval.end;
      *sphere++ = interval.sphere;
    }
  return {offsets, starts, ends, owners, stops};
}

Tensor owners(Tensor spheres, Tensor tree, Tensor points, int64_t rule) {
  const Shell shell = shell_of(spheres, tree);
  const Point* p = points_of(points, "points");
  Tensor result = empty({points.size(0)}, ScalarType::Long, points);
  int64_t* to = result.mutable_data_ptr<int64_t>();
  for_each(points.size(0), [=](int64_t i) { to[i] = owner(shell, p[i], rule); });
  return result;
}

std::tuple<Tensor, Tensor> union_sdfs(Tensor spheres, Tensor tree, Tensor points, bool inner) {
  const Shell shell = shell_of(spheres, tree);
  const Point* p = points_of(points, "points");
  Tensor values = empty({points.size(0)}, ScalarType::Float, points);
  Tensor nearest = empty({points.size(0)}, ScalarType::Long, points);
  float* value = values.mutable_data_ptr<float>();
  int64_t* sphere = nearest.mutable_data_ptr<int64_t>();
  for_each(points.size(0), [=](int64_t i) {
    const Nearest best = union_sdf(shell, p[i], inner ? kInnerRadius : kOuterRadius);
    value[i] = best.distance;
    sphere[i] = best.sphere;
  });
  return {values, nearest};
}

std::tuple<Tensor, Tensor> field(Tensor spheres, Tensor table, Tensor weights,
                                 std::vector<int64_t> sizes, double frequency, bool, Tensor points,
                                 Tensor owner, bool gradient) {
  const Network net = network_of(spheres, table, weights, sizes, frequency);
  const int64_t count = points.size(0);
  const Point* p = points_of(points, "points");
  const int64_t* sphere = data<int64_t>(owner, "owner", count, 0);
  Tensor values = empty({count}, ScalarType::Float, points);
  Tensor gradients = empty({gradient ? count : 0, 3}, ScalarType::Float, points);
  float* value = values.mutable_data_ptr<float>();
  Point* slope = reinterpret_cast<Point*>(gradients.mutable_data_ptr<float>());
  const float* sphere_data = data<float>(spheres, "spheres", -1, 5);
  const PackedNetwork packed(net, sphere_data, spheres.size(0), gradient);
  parallel(count, kBatch, [&](auto take) {
    Batch batch(packed);
    for (int64_t first, last; take(first, last);) {
      std::copy(p + first, p + last, batch.points);
      std::copy(sphere + first, sphere + last, batch.spheres);
      gradient ? batch.differentiate(last - first) : batch.evaluate(last - first);
      std::copy_n(batch.values, last - first, value + first);
      if (gradient) std::copy_n(batch.gradients, last - first, slope + first);
    }
  });
  return {values, gradients};
}

Tensor sdf(Tensor spheres, Tensor tree, Tensor table, Tensor weights, std::vector<int64_t> sizes,
           double frequency, bool, Tensor points, int64_t rule) {
  const Shell shell = shell_of(spheres, tree);
  const Point* p = points_of(points, "points");
  Tensor values = empty({points.size(0)}, ScalarType::Float, points);
  float* value = values.mutable_data_ptr<float>();
  const Network net = network_of(spheres, table, weights, sizes, frequency);
  const PackedNetwork packed(net, shell.spheres, spheres.size(0), false);
  parallel(points.size(0), kBlock, [&](auto take) {
    Batch batch(packed);
    std::vector<std::pair<int64_t, TotalDistance>> waiting; // for the batch to be full
    auto evaluate = [&] {
      batch.evaluate(waiting.size());
      for (size_t k = 0; k < waiting.size(); ++k) {
        const auto& [i, total] = waiting[k];
        value[i] = total.value(batch.values[k]);
      }
      waiting.clear();
    };
    for (int64_t first, last; take(first, last);)
      for (int64_t i = first; i < last; ++i) {
        const TotalDistance total(shell, p[i], rule);
        value[i] = total.bound;
        if (!total.needs_field) continue;
        batch.points[waiting.size()] = total.place;
        batch.spheres[waiting.size()] = total.sphere;
        waiting.emplace_back(i, total);
        if (waiting.size() == kBatch) evaluate();
      }
    evaluate();
  });
  return values;
}

TracedTensors trace(Tensor spheres, Tensor tree, Tensor table, Tensor weights,
                    std::vector<int64_t> sizes, double frequency, bool, Tensor origins,
                    Tensor directions, int64_t rule, bool exact, bool everywhere,
                    double tolerance) {
  const Shell shell = shell_of(spheres, tree);
  const TraceOptions options = {(int)rule, exact, everywhere, (float)tolerance};
  const Network net = network_of(spheres, table, weights, sizes, frequency);
  const PackedNetwork packed(net, shell.spheres, spheres.size(0), true);
  Traced traced(origins);
  const Rays rays = traced.rays(origins, directions);
  const Trusted trusted(packed, spheres.size(0), exact);
  parallel(origins.size(0), kBlock,
           [&](auto take) { Tracer(shell, options, packed, rays, trusted).run(take); });
  return traced.tuple();
}

TracedTensors trace_octree(Tensor nodes, Tensor corners, int64_t depth, double extent, Tensor table,
                           Tensor output, Tensor origins, Tensor directions, double probe) {
  const Octree octree = octree_of(nodes, corners, depth, extent);
  const Decoder decoder = decoder_of(table, output);
  Traced traced(origins);
  const Rays rays = traced.rays(origins, directions);
  for_each(origins.size(0), [=](int64_t i) { rays.trace(i, octree, decoder, (float)probe); });
  return traced.tuple();
}

STABLE_TORCH_LIBRARY_IMPL(dss, CPU, library) {
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

// For kernels/build.py: a TileState.
extern "C" __attribute__((visibility("default"))) int dss_tiles() { return dss::tile_state(); }
