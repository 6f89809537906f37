// `shell_trace` on a block of warps. Each thread keeps a ray; what the network is asked in a round
// lies in shared memory, without gaps, and all warps answer it together.
#pragma once

#include "fused_mlp.h"
#include "trace.h"

namespace dss {

constexpr int kPull = 16;      // idle lanes of a warp that are worth a stop for as many new rays
constexpr int kMaxPoints = 16; // of one ray in a round
constexpr int kSamples = 2048; // for the error of rough answers

// What the blocks share, in the device's memory.
struct Work {
  int* taken;   // entries of the queue that threads have taken
  int* queued;  // entries of the queue
  int* found;   // entries of the list of hits
  float* error; // the largest one of rough answers
  int* queue;   // rays that meet the shell
  int* hits;    // rays with a hit
};

// What the threads of a block share: the queries of a round, and their answers.
template <class Mlp>
struct Round {
  static constexpr int kRoom = 32 * Mlp::kWarps;

  struct Counts {
    int rays, rough, accurate; // with a query in this round; queries of each kind
    int more;                  // whether the queue may have more rays
  };
  Counts counts;
  float x[kRoom]; // and then the answer
  float y[kRoom], z[kRoom];
  int sphere[kRoom];

  // Reserve `length` places for each lane with a query, and return the first of them.
  static DSS_DEVICE int reserve(int& count, bool asks, int length) {
    const unsigned asking = warp::ballot(asks), lower_lanes = (1u << warp::lane_index()) - 1;
    int first = 0;
    if (warp::lane_index() == 0) first = warp::fetch_add(&count, length * warp::count_bits(asking));
    return warp::from_lane(first, 0) + length * warp::count_bits(asking & lower_lanes);
  }
  // Rough queries lie at the front, accurate ones at the back.
  static DSS_DEVICE int place(bool rough, int index) { return rough ? index : kRoom - 1 - index; }

  DSS_DEVICE void ask(int at, Point p, int owner) {
    x[at] = p.x, y[at] = p.y, z[at] = p.z;
    sphere[at] = owner;
  }

  // Answer all queries. The tiles with accurate ones take longer, so they come first; what is left
  // of one of them is filled with rough ones.
  DSS_DEVICE void answer(const Mlp& mlp, const Network& net, const float* spheres, int warp_index,
                         const Counts& counts) {
    constexpr int rows = Mlp::kRows;
    const int total = counts.rough + counts.accurate, tiles = (total + rows - 1) / rows;
    for (int tile = tiles - 1 - warp_index; tile >= 0; tile -= Mlp::kWarps) {
      const int lane = warp::lane_index(), wanted = rows * tile + lane % rows;
      const int query = wanted < total ? wanted : total - 1;
      const bool rough = query < counts.rough;
      const int at = place(rough, rough ? query : query - counts.rough);
      const Point p = {x[at], y[at], z[at]};
      const float* own = spheres + 5 * (size_t)sphere[at];
      const Point offset = net.offset(own, p);
      const float output = tile < counts.rough / rows
                               ? mlp.template run<false>(offset, sphere[at])
                               : mlp.template run<true>(offset, sphere[at]);
      if (lane < rows && wanted < total) x[at] = net.value(own, p, output);
    }
  }
};

// Trace rays from the queue until it is empty. In each round every thread with a ray asks a query,
// and takes the answer. Answers that are thought to be large are asked for roughly first, and count
// where they exceed four times the error of rough answers. So every sign that decides anything is
// accurate. Once few rays are left, each asks several queries at once.
template <class Mlp>
DSS_DEVICE void trace_rays(const Mlp& mlp, const Shell& shell, const Network& net,
                           const TraceOptions& options, const Rays& rays, const Work& work,
                           Round<Mlp>& shared, int warp_index) {
  using Counts = typename Round<Mlp>::Counts;
  const bool is_first = warp_index == 0 && warp::lane_index() == 0;
  const float trusted = options.exact ? 4 * *work.error : -1; // the paper's rule needs no signs
  if (is_first) shared.counts = {};
  warp::sync_block();
  Trace trace;
  int ray = 0;
  int points = 1; // of each ray in this round
  bool busy = false, doubted = false, more = true;
  auto finish = [&] {
    rays.store(ray, trace);
    if (trace.sphere >= 0) work.hits[warp::fetch_add(work.found, 1)] = ray;
    busy = false;
  };
  for (;;) {
    if (more && warp::count_bits(warp::ballot(!busy)) >= kPull) {
      const unsigned idle = warp::ballot(!busy), lower_lanes = (1u << warp::lane_index()) - 1;
      int first = 0;
      if (warp::lane_index() == 0) first = warp::fetch_add(work.taken, kPull);
      first = warp::from_lane(first, 0);
      const int rank = warp::count_bits(idle & lower_lanes), total = *work.queued;
      if (!busy && rank < kPull && first + rank < total) {
        ray = work.queue[first + rank];
        trace = Trace();
        trace.ray = rays.ray(ray);
        busy = trace.begin(shell, options);
        if (!busy) finish();
      }
      more = first + kPull < total;
    }
    Counts& counts = shared.counts;
    const bool rough = Mlp::kHasRough && !doubted && trace.expected() > trusted;
    const int at_rough = shared.reserve(counts.rough, busy && rough, points);
    const int at_accurate = shared.reserve(counts.accurate, busy && !rough, points);
    const int at = rough ? at_rough : at_accurate;
    shared.reserve(counts.rays, busy, 1);
    if (more && warp::lane_index() == 0) counts.more = 1;
    if (busy) {
      Places places = trace.places(points);
      for (int k = 0; k < points; ++k, places.advance())
        shared.ask(shared.place(rough, at + k), trace.ray.at(places.t), trace.asked);
    }
    warp::sync_block();
    const Counts all = counts;
    if (all.rays == 0 && !all.more) break;
    shared.answer(mlp, net, shell.spheres, warp_index, all);
    warp::sync_block();
    if (is_first) counts = {};
    if (busy) {
      const auto answer = [&](int k) { return shared.x[shared.place(rough, at + k)]; };
      int count = 0; // of answers that can be trusted
      while (count < points && (!rough || fabsf(answer(count)) > trusted)) ++count;
      doubted = count == 0;
      if (count > 0 && !trace.take(shell, options, points, count, answer)) finish();
    }
    warp::sync_block(); // all answers are taken
    const bool few = !all.more && all.rays <= shared.kRoom / 8 && options.exact;
    points = !few ? 1 : all.rays <= shared.kRoom / kMaxPoints ? kMaxPoints : 8;
  }
}

// The largest error of rough answers, at points between the inner and the outer spheres.
template <class Mlp>
DSS_DEVICE void measure_error(const Mlp& mlp, const Network& net, const float* spheres,
                              int sphere_count, const Work& work, int warp_index, int warp_count) {
  for (int first = 32 * warp_index; first < kSamples; first += 32 * warp_count) {
    const Sample sample(spheres, sphere_count, first + warp::lane_index(), kSamples);
    const float rough = predict<false>(mlp, net, spheres, sample.place, sample.sphere);
    const float accurate = predict<true>(mlp, net, spheres, sample.place, sample.sphere);
    warp::raise(work.error, fabsf(rough - accurate));
  }
}

// The normals of the hits. Each warp takes every `warp_count`-th group of 32 hits.
template <class Mlp>
DSS_DEVICE void find_normals(const Mlp& mlp, const Shell& shell, const Network& net,
                             const Rays& rays, const Work& work, int warp_index, int warp_count) {
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
