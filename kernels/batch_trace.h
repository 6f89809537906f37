// Traces rays on one core of the CPU, a batch of queries at a time. No torch.
#pragma once

#include "batch.h"
#include "trace.h"

namespace dss {

// From which size on an answer of each precision counts: four times its largest error in a sample
// of points between the inner and the outer spheres. Inf where it is not to be had, or not wanted.
class Trusted {
 public:
  Trusted(const PackedNetwork& packed, int count, bool wanted) {
    for (Precision precision : {kRough, kSplit})
      if (wanted && packed.has(precision)) sizes[precision] = 4 * error(packed, count, precision);
  }

  // The precision to ask with for an answer that is thought to have this size. A split one is
  // always tried: it takes fewer instructions than a full one, and most count, in brackets too.
  int first(float size) const {
    if (size > sizes[kRough]) return kRough;
    return sizes[kSplit] < INFINITY ? kSplit : kFull;
  }

  // The roughest precision, no rougher than `from`, whose answers of this size count.
  int precision(float size, int from) const {
    while (from < kFull && !(size > sizes[from])) ++from;
    return from;
  }

 private:
  float sizes[kFull] = {INFINITY, INFINITY};

  static float error(const PackedNetwork& packed, int count, Precision precision) {
    Batch batch(packed);
    float result = 0;
    for (int round = 0; round < 4; ++round) {
      for (int i = 0; i < kBatch; ++i) {
        const Sample sample(packed.spheres, count, round * kBatch + i, 4 * kBatch);
        batch.points[i] = sample.place;
        batch.spheres[i] = sample.sphere;
      }
      batch.evaluate(kBatch, precision);
      float values[kBatch];
      std::copy_n(batch.values, kBatch, values);
      batch.evaluate(kBatch);
      for (int i = 0; i < kBatch; ++i)
        result = std::max(result, fabsf(values[i] - batch.values[i]));
    }
    return result;
  }
};

// Traces rays, a batch at a time. A ray that is done makes room for the next one, so that batches
// are full until no rays are left. Less precise answers are asked for first, and count where they
// are larger than they are thought to err; so every sign that is in doubt is of full precision.
class Tracer {
 public:
  Tracer(const Shell& shell, const TraceOptions& options, const PackedNetwork& packed,
         const Rays& rays, const Trusted& trusted)
      : shell(shell), options(options), rays(rays), trusted(trusted), batch(packed) {}

  template <class Take>
  void run(Take take) {
    for (int64_t next = 0, last = 0;;) {
      while (!full() && (next < last || take(next, last))) begin(next++);
      if (const int list = chosen(); list < kPrecisions) answer(list);
      else if (!hits.empty()) find_normals();
      else break;
      if (hits.size() >= kBatch) find_normals();
    }
  }

 private:
  struct Active {
    Trace trace;
    int64_t ray;
  };
  struct Hit {
    int64_t ray;
    Point place;
    int sphere;
    int item = -1; // whose bracket the normal may close
  };
  const Shell& shell;
  const TraceOptions& options;
  const Rays& rays;
  const Trusted& trusted;
  Batch batch;
  std::vector<Active> items;
  std::vector<int> idle, waiting[kPrecisions]; // items: not in use; to be asked with a precision
  std::vector<Hit> hits; // whose normals are still to be found

  bool full() const {
    for (const std::vector<int>& list : waiting)
      if (list.size() >= kBatch) return true;
    return false;
  }

  // Which items are asked next: the most precise that fill a batch; else the roughest, since some
  // of them will be asked again. kPrecisions: none wait.
  int chosen() const {
    for (int list = kFull; list >= kRough; --list)
      if (waiting[list].size() >= kBatch) return list;
    int list = kRough;
    while (list < kPrecisions && waiting[list].empty()) ++list;
    return list;
  }

  void put(int i, Point place, int sphere) {
    batch.points[i] = place;
    batch.spheres[i] = sphere;
  }

  void begin(int64_t ray) {
    if (idle.empty()) {
      idle.push_back(items.size());
      items.emplace_back();
    }
    const int index = idle.back();
    Active& item = items[index];
    item.trace = Trace();
    item.trace.ray = rays.ray(ray);
    item.ray = ray;
    if (!item.trace.begin(shell, options)) return finish(item);
    idle.pop_back();
    queue(index);
  }

  void queue(int index) {
    const Trace& trace = items[index].trace;
    if (trace.root >= 0)
      hits.push_back({items[index].ray, trace.ray.at(trace.root), trace.asked, index});
    else
      waiting[trusted.first(trace.expected())].push_back(index);
  }

  // The last queries of a list that fill a batch.
  void answer(int precision) {
    std::vector<int>& list = waiting[precision];
    const int count = std::min<size_t>(kBatch, list.size());
    int asked[kBatch];
    std::copy_n(list.end() - count, count, asked);
    list.resize(list.size() - count);
    for (int i = 0; i < count; ++i) {
      const Trace& trace = items[asked[i]].trace;
      put(i, trace.ray.at(trace.t), trace.asked);
    }
    batch.evaluate(count, (Precision)precision);
    for (int i = 0; i < count; ++i) {
      Active& item = items[asked[i]];
      if (const int needed = trusted.precision(fabsf(batch.values[i]), precision);
          needed > precision) {
        waiting[needed].push_back(asked[i]);
      } else if (item.trace.take(shell, options, batch.values[i])) {
        queue(asked[i]);
      } else {
        finish(item);
        idle.push_back(asked[i]);
      }
    }
  }

  void finish(const Active& item) {
    const Trace& trace = item.trace;
    rays.store(item.ray, trace);
    if (trace.sphere >= 0) hits.push_back({item.ray, trace.ray.at(trace.hit), trace.sphere});
  }

  // Of the last hits that fill a batch. Those that are not yet proven are, or are asked again.
  void find_normals() {
    const size_t count = std::min<size_t>(kBatch, hits.size()), first = hits.size() - count;
    for (size_t i = 0; i < count; ++i) put(i, hits[first + i].place, hits[first + i].sphere);
    batch.differentiate(count);
    for (size_t i = 0; i < count; ++i) {
      const auto& [ray, place, sphere, item] = hits[first + i];
      const Point g = batch.gradients[i];
      if (item >= 0) {
        Trace& trace = items[item].trace;
        const Point d = trace.ray.direction;
        if (!trace.close(options, batch.values[i], g.x * d.x + g.y * d.y + g.z * d.z)) {
          waiting[kFull].push_back(item);
          continue;
        }
        rays.store(ray, trace);
        idle.push_back(item);
      }
      rays.store_normal(ray, g);
    }
    hits.resize(first);
  }
};

} // namespace dss
