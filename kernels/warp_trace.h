// `shell_trace` on one warp: each of its 32 lanes traces a ray, and all evaluate the network
// together.
#pragma once

#include "fused_mlp.h"
#include "trace.h"

namespace dss {

constexpr int kMinRefill = 8; // idle lanes that are worth a stop for new rays

// The lists that the warps share, in the device's memory.
struct Work {
  int* taken;  // entries of the queue that lanes have taken
  int* queued; // entries of the queue
  int* found;  // entries of the list of hits
  int* queue;  // rays that meet the shell
  int* hits;   // rays with a hit
};

// Trace rays from the queue until it is empty. A lane whose ray is done waits until enough other
// lanes are done too; then each of them takes another ray.
template <class Mlp>
DSS_DEVICE void trace_rays(const Mlp& mlp, const Shell& shell, const Network& net,
                           const TraceOptions& options, const Rays& rays, const Work& work) {
  Trace trace;
  int ray = 0;
  bool busy = false, more = true;
  auto finish = [&] {
    rays.store(ray, trace);
    if (trace.sphere >= 0) work.hits[warp::fetch_add(work.found, 1)] = ray;
  };
  for (;;) {
    const unsigned idle = warp::ballot(!busy);
    const int idle_count = warp::count_bits(idle);
    if (more && idle_count >= kMinRefill) {
      int first = 0;
      if (warp::lane_index() == 0) first = warp::fetch_add(work.taken, idle_count);
      first = warp::from_lane(first, 0);
      const unsigned lower_lanes = (1u << warp::lane_index()) - 1;
      const int place = first + warp::count_bits(idle & lower_lanes), total = *work.queued;
      if (!busy && place < total) {
        ray = work.queue[place];
        trace = Trace();
        trace.ray = rays.ray(ray);
        busy = trace.begin(shell, options);
        if (!busy) finish();
      }
      more = first + idle_count < total;
      continue;
    }
    if (idle == warp::kAllLanes) break;
    const Point place = busy ? trace.ray.at(trace.t) : Point{0, 0, 0};
    const float value = predict(mlp, net, shell.spheres, place, busy ? trace.asked : 0);
    if (busy && !trace.take(shell, options, value)) {
      finish();
      busy = false;
    }
  }
}

// The normals of the hits. Each warp takes every `warp_count`-th group of 32 hits.
template <class Mlp>
DSS_DEVICE void find_normals(const Mlp& mlp, const Shell& shell, const Network& net, const Rays& rays,
                             const Work& work, int warp_index, int warp_count) {
  for (int first = 32 * warp_index; first < *work.found; first += 32 * warp_count) {
    const int place = first + warp::lane_index();
    const bool exists = place < *work.found;
    const int i = exists ? work.hits[place] : 0;
    const Ray ray = rays.ray(i);
    const Point point = exists ? ray.at(rays.t[i] * ray.length) : Point{0, 0, 0};
    Point gradient;
    differentiate(mlp, net, shell.spheres, point, exists ? (int)rays.sphere[i] : 0, gradient);
    if (exists) rays.store_normal(i, gradient);
  }
}

} // namespace dss
