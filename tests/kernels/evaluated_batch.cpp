// kernels/batch.h on its own, to be compiled for processors with more and with fewer instructions.

#include "../../kernels/batch.h"

using namespace dss;

extern "C" bool has_rough() { return kHasRough; }

extern "C" void evaluate(const float* spheres, int sphere_count, Network net, int count,
                         const Point* points, const int* owners, float* values, float* estimates,
                         Point* gradients) {
  const PackedNetwork packed(net, spheres, sphere_count, true);
  Batch batch(packed);
  for (int first = 0; first < count; first += kBatch) {
    const int size = std::min(kBatch, count - first);
    std::copy_n(points + first, size, batch.points);
    std::copy_n(owners + first, size, batch.spheres);
    batch.evaluate(size, kRough);
    std::copy_n(batch.values, size, estimates + first);
    batch.evaluate(size);
    std::copy_n(batch.values, size, values + first);
    batch.differentiate(size);
    std::copy_n(batch.gradients, size, gradients + first);
  }
}
