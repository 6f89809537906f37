// The matrix unit of kernels/amx.h, emulated: its products, the network in tiles, and rays traced
// with it.

#include <utility>

#include "emulated_amx.h"
// only now
#include "../../kernels/batch_trace.h"

using namespace dss;

// What the library would find out about a unit that is refused by the system, or computes wrongly.
extern "C" int tried(bool granted, bool faulty) {
  Amx::is_granted = granted;
  Amx::is_faulty = faulty;
  const TileState state = tried_tiles();
  Amx::is_granted = true;
  Amx::is_faulty = false;
  return state;
}

// From now on, before the unit was ever tried.
extern "C" void refuse() { Amx::is_granted = false; }

extern "C" bool in_use() { return Amx::in_use(); }

// (rows, inputs) times the transpose of (outputs, inputs): by the high parts, and by both.
extern "C" void multiply(int rows, int inputs, int outputs, const float* in, const float* weights,
                         float* rough, float* split) {
  TileRows tiles(rows, inputs);
  for (int row = 0; row < rows; ++row)
    for (int k = 0; k < inputs; k += kLanes) {
      Vector values = {};
      for (int lane = 0; lane < std::min(kLanes, inputs - k); ++lane)
        values[lane] = in[row * inputs + k + lane];
      tiles.store<true>(row, k, values);
    }
  const TileWeights packed(inputs, outputs,
                           [=](int output, int k) { return weights[output * inputs + k]; });
  const TilesInUse used(true);
  const auto zero = [](int, int) { return Vector{}; };
  const auto into = [=](float* to) {
    return [=](Vector sum, int row, int output) {
      for (int lane = 0; lane < std::min(kLanes, outputs - output); ++lane)
        to[row * outputs + output + lane] = sum[lane];
    };
  };
  tile_layer<false>(rows, tiles, packed, zero, into(rough));
  tile_layer<true>(rows, tiles, packed, zero, into(split));
}

// By each Precision (3, count). The last points come alone, so that batches are of several sizes.
extern "C" void evaluate(const float* spheres, int sphere_count, Network net, int count,
                         const Point* points, const int* owners, float* values) {
  const PackedNetwork packed(net, spheres, sphere_count, false);
  Batch batch(packed);
  for (int first = 0, size; first < count; first += size) {
    size = std::min(first == 0 ? kBatch : 37, count - first);
    std::copy_n(points + first, size, batch.points);
    std::copy_n(owners + first, size, batch.spheres);
    for (Precision precision : {kRough, kSplit, kFull}) {
      batch.evaluate(size, precision);
      std::copy_n(batch.values, size, values + precision * count + first);
    }
  }
}

// With the tiles, or in 32 bits alone. How many products of tiles that took.
extern "C" long trace(const float* spheres, int sphere_count, const float* tree, int first_leaf,
                      Network net, int rule, bool in_tiles, int count, Rays rays) {
  const Shell shell = {(const Record*)tree, spheres, first_leaf};
  const TraceOptions options = {rule, true, false, 1e-6f};
  const PackedNetwork packed(net, spheres, sphere_count, true);
  const long before = Amx::products;
  const Trusted trusted(packed, sphere_count, in_tiles);
  int64_t taken = 0;
  Tracer(shell, options, packed, rays, trusted).run([&](int64_t& first, int64_t& last) {
    first = std::exchange(taken, count);
    last = count;
    return first < last;
  });
  return Amx::products - before;
}
