// The network and the march on one warp. Its 32 lanes hold a ray or a point each, and evaluate the network together, on
// a matrix with one row per lane. Include lanes.h before (or, as the tests do, its emulation on the host).
#pragma once

#include "network.h"
#include "trace.h"

#ifdef __CUDACC__
#define DSS_DEVICE __device__ inline
#define DSS_DEVICE_CALLED __device__ __noinline__
#else
#define DSS_DEVICE inline
#define DSS_DEVICE_CALLED inline
#endif

namespace dss {

constexpr int kTiles = 4;  // of 16 encoded inputs, at most
constexpr int kRefill = 8; // idle lanes that are worth a stop for new rays

template <bool exact, bool silu>
DSS_DEVICE float activated(float x, float& slope) {
  if (!silu) {
    slope = x > 0 ? 1 : kSlope;
    return x * slope;
  }
  const float sigmoid = exact ? 1 / (1 + expf(-x)) : 0.5f + 0.5f * lanes::rough_tanh(0.5f * x), result = x * sigmoid;
  slope = sigmoid + result * (1 - sigmoid);
  return result;
}

// A `Rows` evaluates the network on 32 rows. Each lane puts its encoded input into its own row, then all call `run`. Plain:
// a lane receives its row's output; its first layer starts from the table's row for the lane's sphere. Dual: the rows p,
// p + 8, p + 16, p + 24 (p < 8) are a value and its derivatives by x, y, z, and so are the outputs.

// With 16-bit products in the tensor cores and 32-bit sums. All weights stay in shared memory. The sums of one layer lie in
// the registers just as the next layer's factors must, so that activations never leave them; and the four rows of a dual
// number lie in the same lane.
template <int width>
class HalfRows {
 public:
  static constexpr bool exact = false;
  static constexpr int warps = 8; // of a block

  static DSS_HD int tiles(const Network& net) { return (net.inputs() + 15) / 16; }
  static DSS_HD int stride(int tiles) { return 16 * tiles + 8; } // spreads the 8 rows of a tile over all banks
  static DSS_HD int matrices(const Network& net) { return width * (stride(tiles(net)) + (net.layers - 1) * stride(width / 16)); }
  static DSS_HD int stage(const Network& net) { return 32 * stride(tiles(net)); } // of one warp
  static DSS_HD size_t shared_bytes(const Network& net) {
    return 2 * (size_t)(matrices(net) + warps * stage(net)) + 4 * (size_t)(net.layers * width);
  }
  static DSS_HD size_t packed_size(const Network&) { return 0; }
  static DSS_HD float packed(const Network&, size_t) { return 0; }

  // Fill a block's shared memory: all its threads call it, and then wait for each other.
  static DSS_DEVICE void load(const Network& net, char* shared, int thread, int threads) {
    uint16_t* to = (uint16_t*)shared;
    for (int layer = 0; layer < net.layers; ++layer) {
      const int inputs = layer ? net.width : net.inputs(), step = stride(layer ? width / 16 : tiles(net));
      for (int i = thread; i < width * step; i += threads) {
        const int row = i / step, column = i % step;
        to[i] = lanes::half_of(row < net.width && column < inputs ? net.matrix(layer)[row * inputs + column] : 0);
      }
      to += width * step;
    }
    for (int i = thread; i < warps * stage(net); i += threads) to[i] = 0;
    float* vectors = (float*)(to + warps * stage(net));
    for (int i = thread; i < net.layers * width; i += threads) {
      const int layer = i / width + 1, column = i % width;
      vectors[i] = column < net.width ? (layer < net.layers ? net.bias(layer) : net.output_row())[column] : 0;
    }
  }

  DSS_DEVICE HalfRows(const Network& net, const float*, char* shared, int warp)
      : net(net), matrix((const uint16_t*)shared), rows((uint16_t*)shared + matrices(net) + warp * stage(net)),
        vectors((const float*)((uint16_t*)shared + matrices(net) + warps * stage(net))) {}

  DSS_DEVICE void put(int column, float value) { rows[lanes::index() * stride(tiles(net)) + column] = lanes::half_of(value); }

  template <bool dual>
  DSS_DEVICE float run(int sphere) {
    return net.silu ? forward<dual, true>(sphere) : forward<dual, false>(sphere);
  }

 private:
  const Network& net;
  const uint16_t* matrix;
  uint16_t* rows;       // this warp's
  const float* vectors; // the biases of layers 1 and up, then the output row

  template <bool dual, bool silu>
  DSS_DEVICE_CALLED float forward(int sphere) {
    constexpr int kInner = width / 16, kMost = kInner > kTiles ? kInner : kTiles;
    const int lane = lanes::index(), group = lane / 4, pair = lane % 4 * 2, outer = tiles(net);
    const float* start[4]; // in the table, of my rows: group, group + 8, group + 16, group + 24
#pragma unroll
    for (int r = 0; r < 4; ++r) start[r] = net.table + (size_t)lanes::from(sphere, 8 * r + group) * net.width;
    uint32_t in[2][kMost][4], out[2][kInner][4];
    float total[4] = {0, 0, 0, 0}; // the output of my rows, as far as it comes from my columns
    lanes::sync();                 // all rows are written
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int m = 0; m < 2; ++m)
        if (t < outer) lanes::load_tiles(in[m][t], rows + (16 * m + lane % 16) * stride(outer) + 16 * t + lane / 16 * 8);
    const uint16_t* weights = matrix;
    for (int layer = 0; layer < net.layers; ++layer) {
      const int count = layer ? kInner : outer, step = stride(count);
      const uint16_t* mine = weights + (lane / 16 * 8 + lane % 8) * step + lane / 8 % 2 * 8;
      const float *bias = vectors + (layer - 1) * width, *output = vectors + (net.layers - 1) * width;
      const bool last = layer == net.layers - 1;
#pragma unroll
      for (int j = 0; j < kInner; ++j) { // outputs 16 j to 16 j + 15
        float c[2][2][4];                // m, n, 2 h + e: row 16 m + 8 h + group, column 16 j + 8 n + pair + e
#pragma unroll
        for (int r = 0; r < 4; ++r)
#pragma unroll
          for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int column = 16 * j + 8 * n + pair + e;
              float& sum = c[r / 2][n][2 * (r % 2) + e];
              sum = 0;
              if (!dual || r == 0) sum = layer ? bias[column] : column < net.width ? start[r][column] : 0;
            }
#pragma unroll
        for (int t = 0; t < kMost; ++t)
          if (t < count) {
            uint32_t b[4];
            lanes::load_tiles(b, mine + 16 * j * step + 16 * t);
#pragma unroll
            for (int m = 0; m < 2; ++m)
#pragma unroll
              for (int n = 0; n < 2; ++n) lanes::multiply(c[m][n], in[m][t], b[2 * n], b[2 * n + 1]);
          }
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float slope, other;
            c[0][n][e] = activated<exact, silu>(c[0][n][e], slope);
#pragma unroll
            for (int r = 0; r < 4; ++r) {
              float& sum = c[r / 2][n][2 * (r % 2) + e];
              if (r > 0) sum = dual ? sum * slope : activated<exact, silu>(sum, other);
              if (last) total[r] += sum * output[16 * j + 8 * n + pair + e];
            }
          }
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
          for (int k = 0; k < 4; ++k) out[m][j][k] = lanes::halves(c[m][k / 2][2 * (k % 2)], c[m][k / 2][2 * (k % 2) + 1]);
      }
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int t = 0; t < kInner; ++t)
#pragma unroll
          for (int k = 0; k < 4; ++k) in[m][t][k] = out[m][t][k];
      weights += width * step;
    }
    float result = 0;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      total[r] += lanes::across(total[r], 1);
      total[r] += lanes::across(total[r], 2);
      const float value = lanes::from(total[r], lane % 8 * 4); // of row 8 r + lane % 8
      if (lane / 8 == r) result = value;
    }
    lanes::sync(); // all rows are read
    return !dual || lane < 8 ? result + net.output_row()[net.width] : result;
  }
};

// In 32 bits: each lane computes width / 32 outputs of all rows. Weights come through the cache, transposed.
template <int width>
class FloatRows {
 public:
  static constexpr bool exact = true;
  static constexpr int warps = 4;

  static constexpr int kOutputs = width / 32, kStride = (width > 16 * kTiles ? width : 16 * kTiles) + 1;
  static DSS_HD size_t shared_bytes(const Network&) { return 4 * (size_t)(warps * 32 * kStride); }

  // The transposed matrices, the biases of layers 1 and up, the output row: padded to `width`.
  static DSS_HD size_t packed_size(const Network& net) { return (size_t)width * (net.inputs() + (net.layers - 1) * width + net.layers); }
  static DSS_HD float packed(const Network& net, size_t i) {
    const int column = i % width, row = i / width, first = net.inputs(), biases = first + (net.layers - 1) * width;
    if (column >= net.width) return 0;
    if (row < first) return net.matrix(0)[column * first + row];
    if (row >= biases) return (row - biases < net.layers - 1 ? net.bias(row - biases + 1) : net.output_row())[column];
    const int layer = (row - first) / width + 1, input = (row - first) % width;
    return input < net.width ? net.matrix(layer)[column * net.width + input] : 0;
  }
  static DSS_DEVICE void load(const Network&, char*, int, int) {}

  DSS_DEVICE FloatRows(const Network& net, const float* packed, char* shared, int warp)
      : net(net), weights(packed), rows((float*)shared + warp * 32 * kStride) {}

  DSS_DEVICE void put(int column, float value) { rows[lanes::index() * kStride + column] = value; }

  template <bool dual>
  DSS_DEVICE_CALLED float run(int sphere) {
    const int lane = lanes::index();
    const float *matrix = weights, *vectors = weights + (size_t)width * (net.inputs() + (net.layers - 1) * width);
    for (int layer = 0; layer < net.layers; ++layer, vectors += width) {
      const int inputs = layer ? width : net.inputs();
      float sum[kOutputs][32];
#pragma unroll
      for (int r = 0; r < 32; ++r) {
        const float* start = net.table + (size_t)lanes::from(sphere, r) * net.width;
#pragma unroll
        for (int j = 0; j < kOutputs; ++j) {
          const int column = lane + 32 * j;
          sum[j][r] = 0;
          if (!dual || r < 8) sum[j][r] = layer ? vectors[column - width] : column < net.width ? start[column] : 0;
        }
      }
      lanes::sync(); // all rows are written
      for (int k = 0; k < inputs; ++k) {
        float weight[kOutputs];
#pragma unroll
        for (int j = 0; j < kOutputs; ++j) weight[j] = matrix[(size_t)k * width + lane + 32 * j];
#pragma unroll
        for (int r = 0; r < 32; ++r)
#pragma unroll
          for (int j = 0; j < kOutputs; ++j) sum[j][r] += rows[r * kStride + k] * weight[j];
      }
      lanes::sync(); // all rows are read
#pragma unroll
      for (int j = 0; j < kOutputs; ++j)
#pragma unroll
        for (int r = 0; r < (dual ? 8 : 32); ++r) {
          float slope;
          rows[r * kStride + lane + 32 * j] = net.silu ? activated<exact, true>(sum[j][r], slope) : activated<exact, false>(sum[j][r], slope);
          if (dual)
#pragma unroll
            for (int d = r + 8; d < 32; d += 8) rows[d * kStride + lane + 32 * j] = sum[j][d] * slope;
        }
      matrix += (size_t)inputs * width;
    }
    lanes::sync();
    float result = !dual || lane < 8 ? net.output_row()[net.width] : 0;
    for (int k = 0; k < width; ++k) result += rows[lane * kStride + k] * vectors[k - width];
    lanes::sync();
    return result;
  }

 private:
  const Network& net;
  const float* weights;
  float* rows; // this warp's
};

// My row: the encoding of an offset (part 0), or its derivative by x, y or z (part 1, 2, 3).
template <class Rows>
DSS_DEVICE void encode(Rows& rows, const Network& net, Point offset, int part) {
  const float at[3] = {offset.x, offset.y, offset.z};
  for (int axis = 0; axis < 3; ++axis) {
    float sine, cosine;
    for (int k = 0; k < net.octaves; ++k) {
      const float rate = net.rate(k), factor = part == axis + 1 ? rate : 0;
      if (k == 0 || Rows::exact) {
        sincosf(rate * at[axis], &sine, &cosine);
      } else { // an octave up
        const float before = sine;
        sine = 2 * before * cosine;
        cosine = 1 - 2 * before * before;
      }
      rows.put(axis * net.octaves + k, part ? factor * cosine : sine);
      rows.put((axis + 3) * net.octaves + k, part ? -factor * sine : cosine);
    }
  }
}

// The prediction of each lane's sphere at each lane's point.
template <class Rows>
DSS_DEVICE float predict(Rows& rows, const Network& net, const float* spheres, Point p, int sphere) {
  const float* own = spheres + 5 * (size_t)sphere;
  encode(rows, net, net.offset(own, p), 0);
  return net.value(own, p, rows.template run<false>(sphere));
}

// The same, and its gradient: eight points at a time, in dual numbers.
template <class Rows>
DSS_DEVICE float differentiate(Rows& rows, const Network& net, const float* spheres, Point p, int sphere, Point& gradient) {
  const int lane = lanes::index();
  float mine[4] = {0, 0, 0, 0};
  for (int first = 0; first < 32; first += 8) {
    const int source = first + lane % 8, owner = lanes::from(sphere, source);
    const Point place = {lanes::from(p.x, source), lanes::from(p.y, source), lanes::from(p.z, source)};
    encode(rows, net, net.offset(spheres + 5 * (size_t)owner, place), lane / 8);
    const float output = rows.template run<true>(owner);
    for (int r = 0; r < 4; ++r) {
      const float value = lanes::from(output, 8 * r + lane % 8);
      if (lane / 8 == first / 8) mine[r] = value;
    }
  }
  const float* own = spheres + 5 * (size_t)sphere;
  gradient = net.gradient(own, p, mine[0], {mine[1], mine[2], mine[3]});
  return net.value(own, p, mine[0]);
}

// Rays that meet the shell wait in `queue`, rays with a hit in `hits`, all on the device.
struct Work {
  int *taken, *queued, *found; // entries of the queue that lanes have taken; entries of both lists
  int *queue, *hits;
};

// Trace rays from the queue until it is empty. A lane whose ray is done waits until enough of them do, then takes another.
template <class Rows>
DSS_DEVICE void trace_rays(Rows& rows, const Shell& shell, const Network& net, const March& march, const Rays& rays, const Work& work) {
  Trace trace;
  int ray = 0;
  bool busy = false, more = true;
  auto finish = [&] {
    rays.store(ray, trace);
    if (trace.sphere >= 0) work.hits[lanes::fetch_add(work.found, 1)] = ray;
  };
  for (;;) {
    const unsigned idle = lanes::ballot(!busy);
    if (more && lanes::count(idle) >= kRefill) {
      int first = 0;
      if (lanes::index() == 0) first = lanes::fetch_add(work.taken, lanes::count(idle));
      first = lanes::from(first, 0);
      const int place = first + lanes::count(idle & ((1u << lanes::index()) - 1)), total = *work.queued;
      if (!busy && place < total) {
        ray = work.queue[place];
        trace = Trace();
        trace.ray = rays.ray(ray);
        busy = trace.begin(shell, march);
        if (!busy) finish();
      }
      more = first + lanes::count(idle) < total;
      continue;
    }
    if (idle == lanes::kAll) break;
    const Point place = busy ? trace.ray.at(trace.t) : Point{0, 0, 0};
    const float value = predict(rows, net, shell.spheres, place, busy ? trace.segment.sphere : 0);
    if (busy && !trace.take(shell, march, value)) {
      finish();
      busy = false;
    }
  }
}

// The normals of the hits, by warp `warp` of `warps`.
template <class Rows>
DSS_DEVICE void find_normals(Rows& rows, const Shell& shell, const Network& net, const Rays& rays, const Work& work, int warp, int warps) {
  for (int first = 32 * warp; first < *work.found; first += 32 * warps) {
    const int place = first + lanes::index();
    const bool some = place < *work.found;
    const int i = some ? work.hits[place] : 0;
    const Ray ray = rays.ray(i);
    Point gradient;
    differentiate(rows, net, shell.spheres, some ? ray.at(rays.t[i] * ray.length) : Point{0, 0, 0}, some ? (int)rays.sphere[i] : 0, gradient);
    if (some) rays.store(i, gradient);
  }
}

} // namespace dss
