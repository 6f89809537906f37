// kernels/trace.h along rays in a field that is known exactly: a ball and thin plates.

#include <vector>

#include "../../kernels/trace.h"

using namespace dss;

// (n, 6): the lowest and the highest corner of each box.
static float distance(const float* boxes, int count, Point p) {
  float result = sqrtf(p.x * p.x + p.y * p.y + p.z * p.z) - 0.1f;
  for (const float* box = boxes; box < boxes + 6 * count; box += 6) {
    const float x = max_of(box[0] - p.x, p.x - box[3]), y = max_of(box[1] - p.y, p.y - box[4]);
    const float z = max_of(box[2] - p.z, p.z - box[5]);
    const float ox = max_of(x, 0), oy = max_of(y, 0), oz = max_of(z, 0);
    result = min_of(result, sqrtf(ox * ox + oy * oy + oz * oz) + min_of(max_of(max_of(x, y), z), 0));
  }
  return result;
}

// The spheres (1 to 8 of them) hang in a tree of one leaf.
extern "C" void trace_boxes(const float* spheres, const float* tree, const float* boxes, int count,
                            int rays, const Point* origins, const Point* directions, float* t,
                            int* steps) {
  const Shell shell = {(const Record*)tree, spheres, 0};
  const TraceOptions options = {kRelative, true, false, 1e-6f};
  for (int i = 0; i < rays; ++i) {
    Trace trace;
    trace.ray = Ray(origins[i], directions[i]);
    bool more = trace.begin(shell, options);
    while (more)
      more = trace.take(shell, options, distance(boxes, count, trace.ray.at(trace.t)));
    t[i] = trace.hit;
    steps[i] = trace.steps;
  }
}
