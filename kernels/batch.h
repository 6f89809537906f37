// The network on a batch of points, on one core of the CPU: matrix products in the vector
// registers, and in tiles where there are some. No torch.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "network.h"
#include "tiles.h"

namespace dss {

// How a network can be evaluated. Rough answers, in bfloat16, err by some hundredths of the
// thickness of the shell; split ones, in sums of two bfloat16, by some five-hundredth of that.
enum Precision { kRough, kSplit, kFull, kPrecisions };

// With half the bits, the vector instructions multiply twice as many numbers at a time.
#ifdef __AVX512BF16__
constexpr bool kHasRough = true;
#else
constexpr bool kHasRough = false;
#endif
constexpr int kBlockRows = 6; // points of a block
constexpr int kBatch = 96;    // points together: their activations fit the second-level cache

// Two numbers in bfloat16, the upper halves of floats, the first one in the lower half.
struct Pair {
  uint32_t bits;
};
inline void multiply_add(Vector& sum, float in, Vector weight) { sum += in * weight; }
// `weight` holds a pair in each lane. These two exist only where kHasRough.
void multiply_add(Vector& sum, Pair in, Vector weight);
void store(Pair* to, Vector value);
#ifdef __AVX512BF16__
inline void multiply_add(Vector& sum, Pair in, Vector weight) {
  const __m512bh both = (__m512bh)_mm512_set1_epi32((int)in.bits);
  sum = (Vector)_mm512_dpbf16_ps((__m512)sum, both, (__m512bh)weight);
}
inline void store(Pair* to, Vector value) {
  const __m256bh halves = _mm512_cvtneps_pbh((__m512)value);
  memcpy(to, &halves, sizeof halves);
}
#endif

// A matrix cut into panels of up to kVectors vectors of outputs; within a panel, one row per input.
class Panels {
 public:
  int inputs = 0, outputs = 0; // outputs padded with zeros to whole vectors

  Panels() {}
  template <class Element>
  Panels(int inputs, int count, Element element)
      : inputs(inputs), outputs(padded(count)), data(inputs * outputs) {
    float* to = data.data();
    for (int first = 0; first < outputs; first += width(first))
      for (int input = 0; input < inputs; ++input)
        for (int output = first; output < first + width(first); ++output)
          *to++ = output < count ? element(output, input) : 0;
  }
  int width(int first) const { // of the panel that starts at output `first`
    int vectors = kVectors;
    while (vectors * kLanes > outputs - first) vectors /= 2;
    return vectors * kLanes;
  }
  const float* panel(int first) const { return data.data() + first * inputs; }

 private:
  std::vector<float> data;
};

// finish(start(row)[:] + in[row][:] . panel) for a block of rows and a panel. `In` is float or
// Pair.
template <int rows, int vectors, class In, class Start, class Finish>
void block(const In* in, int in_stride, const float* panel, int inputs, Start start,
           Finish finish) {
  Vector sum[rows][vectors];
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v) sum[r][v] = start(r, v * kLanes);
  for (int k = 0; k < inputs; ++k) {
    Vector weight[vectors];
    for (int v = 0; v < vectors; ++v) weight[v] = load(panel + (k * vectors + v) * kLanes);
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < vectors; ++v) multiply_add(sum[r][v], in[r * in_stride + k], weight[v]);
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v) finish(sum[r][v], r, v * kLanes);
}

// The same for any number of rows.
template <int vectors, class In, class Start, class Finish>
void all_rows(int count, const In* in, int in_stride, const Panels& panels, int first, Start start,
              Finish finish) {
  const float* panel = panels.panel(first);
  auto run = [&](auto rows, int row) {
    block<decltype(rows)::value, vectors>(
        in + row * in_stride, in_stride, panel, panels.inputs,
        [&](int r, int o) { return start(row + r, first + o); },
        [&](Vector sum, int r, int o) { finish(sum, row + r, first + o); });
  };
  int row = 0;
  for (; row + kBlockRows <= count; row += kBlockRows)
    run(std::integral_constant<int, kBlockRows>(), row);
  for (; row + 2 <= count; row += 2) run(std::integral_constant<int, 2>(), row);
  for (; row < count; ++row) run(std::integral_constant<int, 1>(), row);
}

// finish(start + in . panels) for (count, panels.outputs). `start` and `finish` are called for one
// vector, with its row and the output of its first lane.
template <class In, class Start, class Finish>
void layer(int count, const In* in, int in_stride, const Panels& panels, Start start,
           Finish finish) {
  for (int first = 0; first < panels.outputs; first += panels.width(first)) {
    const int vectors = panels.width(first) / kLanes;
    auto run = [&](auto vectors) {
      all_rows<decltype(vectors)::value>(count, in, in_stride, panels, first, start, finish);
    };
    if (vectors == 4) run(std::integral_constant<int, 4>());
    if (vectors == 2) run(std::integral_constant<int, 2>());
    if (vectors == 1) run(std::integral_constant<int, 1>());
  }
}

// A network's weights, packed for the functions above. One per call of an operator, shared by its
// threads.
struct PackedNetwork {
  const Network net;
  const float* spheres; // (S, 5)
  int width;            // padded
  std::vector<Panels> forward, backward;
  std::vector<Panels> rough;      // `forward` in pairs of bfloat16
  std::vector<TileWeights> tiles; // the same for the matrix unit; none where that is not to be used
  std::vector<float> biases, output_row, table_copy;
  const float* table; // (S, width), which is a copy where the network's width needs padding
  float output_bias;

  PackedNetwork(const Network& net, const float* spheres, int count, bool gradient)
      : net(net), spheres(spheres), width(padded(net.width)) {
    const int n = net.width;
    for (int i = 0; i < net.layers; ++i) {
      const float* matrix = net.matrix(i);
      const int inputs = i == 0 ? net.inputs() : n;
      const auto element = [&](int output, int input) { return matrix[output * inputs + input]; };
      forward.emplace_back(inputs, n, element);
      if (tile_state() == kTilesRight) tiles.emplace_back(inputs, n, element);
      else if (kHasRough)
        rough.emplace_back((inputs + 1) / 2, n, [&](int output, int pair) {
          const float* from = matrix + output * inputs + 2 * pair;
          const uint32_t second = 2 * pair + 1 < inputs ? rounded(from[1]) : 0;
          return std::bit_cast<float>(rounded(from[0]) | second << 16);
        });
      if (gradient)
        backward.emplace_back(
            n, inputs, [&](int output, int input) { return matrix[input * inputs + output]; });
      biases.resize((i + 1) * width, 0);
      if (i > 0) std::copy_n(net.bias(i), n, &biases[i * width]);
    }
    output_row.assign(net.output_row(), net.output_row() + n);
    output_row.resize(width, 0);
    output_bias = net.output_row()[n];
    table = net.table;
    if (n != width) {
      table_copy.resize((size_t)count * width, 0);
      for (int i = 0; i < count; ++i)
        std::copy_n(net.table + (size_t)i * n, n, &table_copy[(size_t)i * width]);
      table = table_copy.data();
    }
  }

  // Whether answers of this precision are to be had, faster than those of the next one.
  bool has(Precision precision) const {
    return precision == kFull || !tiles.empty() || (precision == kRough && kHasRough);
  }
};

// Up to kBatch points with their spheres, and the field there. One per thread.
class Batch {
 public:
  Point points[kBatch];
  int spheres[kBatch];
  float values[kBatch];
  Point gradients[kBatch];

  explicit Batch(const PackedNetwork& packed)
      : packed(packed), net(packed.net), width(packed.width), stride(padded(net.inputs())),
        phases(kBatch * stride), inward(kBatch * stride), hidden(2 * kBatch * width),
        rough(packed.rough.empty() ? 0 : kBatch * (std::max(stride, width) / 2) * 2),
        slopes(packed.backward.empty() ? 0 : (size_t)net.layers * kBatch * width),
        tiles(!packed.tiles.empty()), tile_phases(tiles ? kBatch : 0, stride),
        tile_hidden{{tiles ? kBatch : 0, width}, {tiles ? kBatch : 0, width}}, in_use(tiles) {}

  // Compute the values of the first `count` points, by this precision or the next one that is to be
  // had.
  void evaluate(int count, Precision precision = kFull) {
    net.silu ? evaluate<true>(count, precision) : evaluate<false>(count, precision);
  }

  // Compute their values and gradients, by the chain rule from the output back to the point.
  void differentiate(int count) {
    net.silu ? forward<true, true, kFloats>(count) : forward<false, true, kFloats>(count);
    const auto zero = [](int, int) { return Vector{}; };
    float *delta = hidden.data(), *next = delta + kBatch * width;
    const float* last = slopes_of(net.layers - 1);
    for (int row = 0; row < count; ++row)
      for (int o = 0; o < width; o += kLanes)
        store(delta + row * width + o, load(&packed.output_row[o]) * load(last + row * width + o));
    for (int i = net.layers - 1; i > 0; --i) {
      const float* below = slopes_of(i - 1);
      layer(count, delta, width, packed.backward[i], zero, [=, this](Vector sum, int row, int o) {
        store(next + row * width + o, sum * load(below + row * width + o));
      });
      std::swap(delta, next);
    }
    layer(count, delta, width, packed.backward[0], zero, [this](Vector sum, int row, int o) {
      store(&inward[row * stride + o], sum);
    });
    for (int row = 0; row < count; ++row) {
      const float *in = &phases[row * stride], *d = &inward[row * stride];
      float result[3] = {};
      for (int axis = 0; axis < 3; ++axis)
        for (int k = 0; k < net.octaves; ++k) { // sin' = cos, cos' = -sin
          const int sine = axis * net.octaves + k, cosine = sine + 3 * net.octaves;
          result[axis] += net.rate(k) * (d[sine] * in[cosine] - d[cosine] * in[sine]);
        }
      gradients[row] = net.gradient(sphere(row), points[row], outputs[row],
                                    {result[0], result[1], result[2]});
    }
  }

 private:
  const PackedNetwork& packed;
  const Network& net;
  const int width, stride;
  std::vector<float> phases, inward; // the encoding, and the output's derivatives by it
  std::vector<float> hidden;
  std::vector<Pair> rough;   // inputs of a layer, two arrays that take turns
  std::vector<float> slopes; // of the activations, kept for the way back
  const bool tiles;          // are there
  TileRows tile_phases;      // the encoding
  TileRows tile_hidden[2];   // inputs of the other layers, in turns
  const TilesInUse in_use;
  float outputs[kBatch] = {};

  float* slopes_of(int layer) { return &slopes[(size_t)layer * kBatch * width]; }
  const float* sphere(int row) const { return packed.spheres + 5 * (size_t)spheres[row]; }

  // What a layer multiplies.
  enum Factors { kFloats, kPairs, kTiles, kSplitTiles };

  template <bool silu>
  void evaluate(int count, Precision precision) {
    if constexpr (Amx::kCompiled) {
      if (tiles && precision == kRough) return forward<silu, false, kTiles>(count);
      if (tiles && precision == kSplit) return forward<silu, false, kSplitTiles>(count);
    }
    if (precision == kRough && !packed.rough.empty())
      forward<silu, false, kHasRough ? kPairs : kFloats>(count);
    else forward<silu, false, kFloats>(count);
  }

  template <bool silu, bool gradient, Factors factors>
  void forward(int count) {
    constexpr bool is_rough = factors == kPairs, in_tiles = factors >= kTiles;
    constexpr bool split = factors == kSplitTiles;
    encode(count);
    float *in = hidden.data(), *out = in + kBatch * width;
    const int half = std::max(stride, width) / 2; // a row of pairs
    Pair *rough_in = rough.data(), *rough_out = rough_in + kBatch * half;
    if constexpr (is_rough)
      for (int row = 0; row < count; ++row)
        for (int k = 0; k < stride; k += kLanes)
          store(rough_in + row * half + k / 2, load(&phases[row * stride + k]));
    if constexpr (in_tiles)
      for (int row = 0; row < count; ++row)
        for (int k = 0; k < stride; k += kLanes)
          tile_phases.template store<split>(row, k, load(&phases[row * stride + k]));
    for (int i = 0; i < net.layers; ++i) {
      float* kept = gradient ? slopes_of(i) : nullptr;
      const bool is_last = i == net.layers - 1;
      auto finish = [=, this](Vector x, int row, int o) {
        Vector result;
        if constexpr (silu) {
          const Vector bounded = x < -80 ? Vector{} - 80 : x;
          const Vector sigmoid = reciprocal(1 + exponential(-bounded));
          result = x * sigmoid;
          if constexpr (gradient) store(kept + row * width + o, sigmoid + result * (1 - sigmoid));
        } else {
          result = x > 0 ? x : kLeakySlope * x;
          if constexpr (gradient)
            store(kept + row * width + o, x > 0 ? Vector{} + 1 : Vector{} + kLeakySlope);
        }
        if constexpr (is_rough)
          if (!is_last) return store(rough_out + row * half + o / 2, result);
        if constexpr (in_tiles)
          if (!is_last) return tile_hidden[i % 2].template store<split>(row, o, result);
        store(out + row * width + o, result);
      };
      auto run = [&](const float* from, int from_stride, auto start) {
        if constexpr (is_rough) layer(count, rough_in, half, packed.rough[i], start, finish);
        else if constexpr (in_tiles)
          tile_layer<split>(count, i == 0 ? tile_phases : tile_hidden[(i + 1) % 2],
                            packed.tiles[i], start, finish);
        else layer(count, from, from_stride, packed.forward[i], start, finish);
      };
      if (i == 0) {
        run(phases.data(), stride, [this](int row, int o) {
          return load(packed.table + (size_t)spheres[row] * width + o);
        });
      } else {
        const float* bias = &packed.biases[i * width];
        run(in, width, [=](int, int o) { return load(bias + o); });
      }
      std::swap(in, out);
      std::swap(rough_in, rough_out);
    }
    for (int row = 0; row < count; ++row) {
      Vector sum = {};
      for (int o = 0; o < width; o += kLanes)
        sum += load(in + row * width + o) * load(&packed.output_row[o]);
      outputs[row] = packed.output_bias + sum_of(sum);
    }
    if (net.radial)
      for (int row = 0; row < count; ++row)
        values[row] = net.value(sphere(row), points[row], outputs[row]);
    else
      for (int row = 0; row < count; row += kLanes)
        store(values + row, tanh_of(load(outputs + row)));
  }

  // The positional encoding, kLanes points at a time.
  void encode(int count) {
    for (int first = 0; first < count; first += kLanes) {
      const int lanes = std::min(kLanes, count - first);
      Vector offset[3] = {};
      for (int lane = 0; lane < lanes; ++lane) {
        const Point p = net.offset(sphere(first + lane), points[first + lane]);
        offset[0][lane] = p.x;
        offset[1][lane] = p.y;
        offset[2][lane] = p.z;
      }
      for (int axis = 0; axis < 3; ++axis)
        for (int k = 0; k < net.octaves; ++k) {
          Vector sine, cosine;
          sincos(offset[axis] * net.rate(k), sine, cosine);
          float* to = &phases[first * stride + axis * net.octaves + k];
          for (int lane = 0; lane < lanes; ++lane, to += stride) {
            to[0] = sine[lane];
            to[3 * net.octaves] = cosine[lane];
          }
        }
    }
  }
};

} // namespace dss
