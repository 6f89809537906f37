// The operators of dss/ops.py for the CPU. Threads take blocks of rays or points as they become free.

#include <atomic>

#include "batch.h"
#include "tensors.h"

namespace dss {
namespace {

constexpr int64_t kBlock = 1024;

// Run `work(take)` on every thread; take(first, last) hands out the next block of [0, count), or returns false.
template <class Work>
void parallel(int64_t count, int64_t block, Work work) {
  std::atomic<int64_t> next{0};
  auto take = [&](int64_t& first, int64_t& last) {
    first = next.fetch_add(block);
    last = std::min(first + block, count);
    return first < count;
  };
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), (count + block - 1) / block);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) { work(take); });
}

template <class Function>
void for_each(int64_t count, Function function) {
  parallel(count, kBlock, [&](auto take) {
    for (int64_t first, last; take(first, last);)
      for (int64_t i = first; i < last; ++i) function(i);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> intervals(Tensor spheres, Tensor tree, Tensor origins, Tensor directions, int64_t rule) {
  const Shell shell = shell_of(spheres, tree);
  const int64_t count = origins.size(0);
  const Point *o = points_of(origins, "origins"), *d = points_of(directions, "directions", count);
  Tensor offsets = empty({count + 1}, ScalarType::Long, origins), stops = empty({count}, ScalarType::Float, origins);
  int64_t* offset = offsets.mutable_data_ptr<int64_t>();
  float* stop = stops.mutable_data_ptr<float>();
  std::vector<std::vector<Segment>> blocks((count + kBlock - 1) / kBlock);
  for_each(count, [&](int64_t i) {
    std::vector<Segment>& block = blocks[i / kBlock];
    const size_t before = block.size();
    const Ray ray(o[i], d[i]);
    Chords chords;
    chords.gather(shell, ray);
    for (Segment segment; chords.next(shell, ray, rule, segment);) {
      block.push_back(segment);
      block.back().start /= ray.length;
      block.back().end /= ray.length;
    }
    stop[i] = chords.stop / ray.length;
    offset[i + 1] = block.size() - before;
  });
  offset[0] = 0;
  for (int64_t i = 0; i < count; ++i) offset[i + 1] += offset[i];
  const int64_t total = offset[count];
  Tensor starts = empty({total}, ScalarType::Float, origins), ends = empty({total}, ScalarType::Float, origins);
  Tensor owners = empty({total}, ScalarType::Long, origins);
  float *start = starts.mutable_data_ptr<float>(), *end = ends.mutable_data_ptr<float>();
  int64_t* sphere = owners.mutable_data_ptr<int64_t>();
  for (const std::vector<Segment>& block : blocks)
    for (const Segment& segment : block) {
      *start++ = segment.start;
      *end++ = segment.end;
      *sphere++ = segment.sphere;
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

std::tuple<Tensor, Tensor> gaps(Tensor spheres, Tensor tree, Tensor points, bool inner) {
  const Shell shell = shell_of(spheres, tree);
  const Point* p = points_of(points, "points");
  Tensor values = empty({points.size(0)}, ScalarType::Float, points), nearest = empty({points.size(0)}, ScalarType::Long, points);
  float* value = values.mutable_data_ptr<float>();
  int64_t* sphere = nearest.mutable_data_ptr<int64_t>();
  for_each(points.size(0), [=](int64_t i) {
    const Gap best = gap(shell, p[i], inner ? 3 : 4);
    value[i] = best.value;
    sphere[i] = best.sphere;
  });
  return {values, nearest};
}

std::tuple<Tensor, Tensor> field(Tensor spheres, Tensor table, Tensor weights, std::vector<int64_t> sizes, double frequency, bool,
                                 Tensor points, Tensor owner, bool gradient) {
  const Network net = network_of(spheres, table, weights, sizes, frequency);
  const int64_t count = points.size(0);
  const Point* p = points_of(points, "points");
  const int64_t* sphere = data<int64_t>(owner, "owner", count, 0);
  Tensor values = empty({count}, ScalarType::Float, points), gradients = empty({gradient ? count : 0, 3}, ScalarType::Float, points);
  float* value = values.mutable_data_ptr<float>();
  Point* slope = reinterpret_cast<Point*>(gradients.mutable_data_ptr<float>());
  const Packed packed(net, data<float>(spheres, "spheres", -1, 5), spheres.size(0), gradient);
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

Tensor sdf(Tensor spheres, Tensor tree, Tensor table, Tensor weights, std::vector<int64_t> sizes, double frequency, bool, Tensor points,
           int64_t rule) {
  const Shell shell = shell_of(spheres, tree);
  const Point* p = points_of(points, "points");
  Tensor values = empty({points.size(0)}, ScalarType::Float, points);
  float* value = values.mutable_data_ptr<float>();
  const Packed packed(network_of(spheres, table, weights, sizes, frequency), shell.spheres, spheres.size(0), false);
  parallel(points.size(0), kBlock, [&](auto take) {
    Batch batch(packed);
    std::vector<std::pair<int64_t, Total>> asked;
    auto answer = [&] {
      batch.evaluate(asked.size());
      for (size_t k = 0; k < asked.size(); ++k) value[asked[k].first] = asked[k].second.value(batch.values[k]);
      asked.clear();
    };
    for (int64_t first, last; take(first, last);)
      for (int64_t i = first; i < last; ++i) {
        const Total total(shell, p[i], rule);
        value[i] = total.bound;
        if (!total.asked) continue;
        batch.points[asked.size()] = total.place;
        batch.spheres[asked.size()] = total.sphere;
        asked.emplace_back(i, total);
        if (asked.size() == kBatch) answer();
      }
    answer();
  });
  return values;
}

// Rays on their way fill the batch; one that is done makes room for the next, so that the batch is always full.
class Tracer {
 public:
  Tracer(const Shell& shell, const March& march, const Packed& packed, const Rays& rays)
      : shell(shell), march(march), rays(rays), batch(packed), lanes(kBatch) {}

  template <class Take>
  void run(Take take) {
    int active = 0;
    for (int64_t next = 0, last = 0;;) {
      while (active < kBatch && (next < last || take(next, last))) active += begin(lanes[active], next++);
      if (active == 0) break;
      for (int i = 0; i < active; ++i) ask(i, lanes[i].trace.ray.at(lanes[i].trace.t), lanes[i].trace.segment.sphere);
      batch.evaluate(active);
      for (int i = active - 1; i >= 0; --i)
        if (!lanes[i].trace.take(shell, march, batch.values[i])) {
          finish(lanes[i]);
          lanes[i] = lanes[--active];
        }
      if (hits.size() >= kBatch) normals();
    }
    while (!hits.empty()) normals();
  }

 private:
  struct Lane {
    Trace trace;
    int64_t ray;
  };
  struct Hit {
    int64_t ray;
    Point place;
    int sphere;
  };
  const Shell& shell;
  const March& march;
  const Rays& rays;
  Batch batch;
  std::vector<Lane> lanes;
  std::vector<Hit> hits; // that wait for their normals

  void ask(int i, Point place, int sphere) {
    batch.points[i] = place;
    batch.spheres[i] = sphere;
  }

  bool begin(Lane& lane, int64_t ray) {
    lane.trace = Trace();
    lane.trace.ray = rays.ray(ray);
    lane.ray = ray;
    const bool active = lane.trace.begin(shell, march);
    if (!active) finish(lane);
    return active;
  }

  void finish(const Lane& lane) {
    rays.store(lane.ray, lane.trace);
    if (lane.trace.sphere >= 0) hits.push_back({lane.ray, lane.trace.ray.at(lane.trace.hit), lane.trace.sphere});
  }

  void normals() {
    const size_t count = std::min<size_t>(kBatch, hits.size()), first = hits.size() - count;
    for (size_t i = 0; i < count; ++i) ask(i, hits[first + i].place, hits[first + i].sphere);
    batch.differentiate(count);
    for (size_t i = 0; i < count; ++i) rays.store(hits[first + i].ray, batch.gradients[i]);
    hits.resize(first);
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> trace(Tensor spheres, Tensor tree, Tensor table, Tensor weights, std::vector<int64_t> sizes,
                                                         double frequency, bool, Tensor origins, Tensor directions, int64_t rule,
                                                         bool exact, bool everywhere, double tolerance) {
  const Shell shell = shell_of(spheres, tree);
  const March march = {(int)rule, exact, everywhere, (float)tolerance};
  const Packed packed(network_of(spheres, table, weights, sizes, frequency), shell.spheres, spheres.size(0), true);
  Traced traced(origins);
  const Rays rays = traced.rays(origins, directions);
  parallel(origins.size(0), kBlock, [&](auto take) { Tracer(shell, march, packed, rays).run(take); });
  return traced.tuple();
}

STABLE_TORCH_LIBRARY_IMPL(dss, CPU, library) {
  library.impl("shell_intervals", TORCH_BOX(&intervals));
  library.impl("shell_owner", TORCH_BOX(&owners));
  library.impl("shell_gap", TORCH_BOX(&gaps));
  library.impl("shell_field", TORCH_BOX(&field));
  library.impl("shell_sdf", TORCH_BOX(&sdf));
  library.impl("shell_trace", TORCH_BOX(&trace));
}

} // namespace
} // namespace dss
