// The field's network, fused, on one warp: its 32 lanes evaluate the network together, on a matrix
// of activations with one row per lane. Include warp_intrinsics.h before, or, as the tests do, its
// emulation on the host.
//
// A fused MLP, `Mlp` below, is used so: each lane puts the encoded input of its own row with
// `set_input`, then all lanes call `run`, and each receives the output of its row. There are two
// kinds of runs.
//   Plain: each row is a point of its own. Its first layer starts from the row of the table that
//          belongs to the lane's sphere.
//   Dual:  the rows p, p + 8, p + 16, p + 24 (p < 8) are a value and its derivatives by x, y and z,
//          from the inputs to the outputs. Such a warp evaluates eight points.
#pragma once

#include "network.h"

#ifdef __CUDACC__
#define DSS_DEVICE __device__ inline
#define DSS_DEVICE_INLINE __device__ __forceinline__
#define DSS_DEVICE_NOINLINE __device__ __noinline__
#else
#define DSS_DEVICE inline
#define DSS_DEVICE_INLINE inline
#define DSS_DEVICE_NOINLINE inline
#endif
#define DSS_UNROLL _Pragma("unroll")

namespace dss {

constexpr int kMaxInputTiles = 4; // of 16 encoded inputs

template <bool exact, bool silu>
DSS_DEVICE float activated(float x, float& slope) {
  if (!silu) {
    slope = x > 0 ? 1 : kLeakySlope;
    return x * slope;
  }
  const float sigmoid =
      exact ? 1 / (1 + expf(-x)) : 0.5f + 0.5f * warp::rough_tanh(0.5f * x);
  const float result = x * sigmoid;
  slope = sigmoid + result * (1 - sigmoid);
  return result;
}

// The network with 16-bit products in the tensor cores and 32-bit sums. All weights stay in shared
// memory, all activations in registers: between two layers no lane needs what another one holds.
//
// The activations are cut into blocks of 32 rows and 16 columns, and a block into two halves m of
// 16 rows. Each lane holds four words of a half, and a word holds two neighbouring columns. This is
// the half m of block t; "5" stands for lane 5:
//
//                         column 16 t + ...
//                   0,1  2,3  4,5  6,7  | 8,9 10,11 12,13 14,15
//   row 16 m +  0    0    1    2    3   |  0    1     2     3
//               1    4    5    6    7   |  4    5     6     7
//               :         word 0        |        word 2
//               7   28   29   30   31   | 28   29    30    31
//              -------------------------+----------------------
//               8    0    1    2    3   |  0    1     2     3
//               :         word 1        |        word 3
//              15   28   29   30   31   | 28   29    30    31
//
// The tensor cores leave the sums of a layer in the same places: sums 0 and 1 of the left or right
// 8 columns where word 0 or 2 is, sums 2 and 3 where word 1 or 3 is. So a block of sums, activated
// and rounded to halves, is a block of the next layer's factors.
//
// Lane 4 g + k holds parts of the rows g + 8 r, for r = 0 to 3 ("its rows"), and of the columns
// 2 k and 2 k + 1 of each 8. So the four rows of a dual number lie in the same lane.
//
// Width and activation are known to the compiler, and everything is inlined: else it takes shared
// memory for any memory, keeps activations in local memory, and branches at each of them.
template <int width, bool silu>
class FusedMlpHalf {
 public:
  static constexpr bool exact = false;
  static constexpr int kWarps = 8; // of a block of threads

  static DSS_HD int input_tiles(const Network& net) { return (net.inputs() + 15) / 16; }
  // Of a row of 16 * tiles columns. The 8 more spread the 8 rows of a tile over all memory banks.
  static DSS_HD int stride(int tiles) { return 16 * tiles + 8; }
  static DSS_HD int matrices_size(const Network& net) {
    return width * (stride(input_tiles(net)) + (net.layers - 1) * stride(width / 16));
  }
  static DSS_HD int inputs_size(const Network& net) { return 32 * stride(input_tiles(net)); }
  static DSS_HD size_t shared_bytes(const Network& net) {
    return 2 * (size_t)(matrices_size(net) + kWarps * inputs_size(net)) +
           4 * (size_t)(net.layers * width);
  }
  // It needs no weights in an order of its own in global memory.
  static DSS_HD size_t packed_size(const Network&) { return 0; }
  static DSS_HD float packed(const Network&, size_t) { return 0; }

  // Fill a block's shared memory: all its threads call this, and then wait for each other. First
  // come the matrices as halves, then the inputs of each warp, then the biases of layers 1 and up
  // and the output row as floats; all padded with zeros.
  static DSS_DEVICE void load(const Network& net, char* shared, int thread, int threads) {
    uint16_t* to = (uint16_t*)shared;
    for (int layer = 0; layer < net.layers; ++layer) {
      const int inputs = layer ? net.width : net.inputs();
      const int step = stride(layer ? width / 16 : input_tiles(net));
      for (int i = thread; i < width * step; i += threads) {
        const int row = i / step, column = i % step;
        const bool exists = row < net.width && column < inputs;
        to[i] = warp::to_half(exists ? net.matrix(layer)[row * inputs + column] : 0);
      }
      to += width * step;
    }
    for (int i = thread; i < kWarps * inputs_size(net); i += threads) to[i] = 0;
    float* vectors = (float*)(to + kWarps * inputs_size(net));
    for (int i = thread; i < net.layers * width; i += threads) {
      const int layer = i / width + 1, column = i % width;
      const float* vector = layer < net.layers ? net.bias(layer) : net.output_row();
      vectors[i] = column < net.width ? vector[column] : 0;
    }
  }

  DSS_DEVICE_INLINE FusedMlpHalf(const Network& net, const float*, char* shared, int warp_index)
      : net(net), matrices((const uint16_t*)shared),
        inputs((uint16_t*)shared + matrices_size(net) + warp_index * inputs_size(net)),
        vectors((const float*)(matrices + matrices_size(net) + kWarps * inputs_size(net))) {}

  DSS_DEVICE void set_input(int column, float value) {
    inputs[warp::lane_index() * stride(input_tiles(net)) + column] = warp::to_half(value);
  }

  template <bool dual>
  DSS_DEVICE_INLINE float run(int sphere) {
    const float* table_rows[4]; // where this lane's rows start in layer 0
    DSS_UNROLL
    for (int r = 0; r < 4; ++r) {
      const int owner = warp::from_lane(sphere, 8 * r + warp::lane_index() / 4);
      table_rows[r] = net.table + (size_t)owner * net.width;
    }
    Block in[kMaxTiles], out[kTiles];
    float total[4] = {0, 0, 0, 0}; // the outputs of this lane's rows, from its columns only
    load_inputs(in);
    const int tiles = input_tiles(net);
    const uint16_t* matrix = matrices + lane_offset(stride(tiles));
    DSS_UNROLL
    for (int j = 0; j < kTiles; ++j) { // the layer's outputs 16 j to 16 j + 15
      Sums sums;
      start_from_table<dual>(sums, j, table_rows);
      add_products<kMaxInputTiles>(sums, in, tiles, matrix + 16 * j * stride(tiles));
      out[j] = activated_block<dual>(sums, j, net.layers == 1, total);
    }
    matrix = matrices + width * stride(tiles) + lane_offset(stride(kTiles));
    for (int layer = 1; layer < net.layers; ++layer, matrix += width * stride(kTiles)) {
      DSS_UNROLL
      for (int t = 0; t < kTiles; ++t) in[t] = out[t];
      DSS_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        Sums sums;
        start_from_bias<dual>(sums, j, vectors + (layer - 1) * width);
        add_products<kTiles>(sums, in, kTiles, matrix + 16 * j * stride(kTiles));
        out[j] = activated_block<dual>(sums, j, layer == net.layers - 1, total);
      }
    }
    const float result = of_own_row(total);
    const bool has_bias = !dual || warp::lane_index() < 8; // derivatives have none
    return has_bias ? result + net.output_row()[net.width] : result;
  }

 private:
  static constexpr int kTiles = width / 16; // of a hidden layer
  static constexpr int kMaxTiles = kTiles > kMaxInputTiles ? kTiles : kMaxInputTiles;

  // This lane's part of a block of activations.
  struct Block {
    uint32_t word[2][4]; // half m, word
  };
  // This lane's part of a block of sums.
  struct Sums {
    float sum[2][2][4]; // half m, left or right 8 columns, sum
    // Of this lane's row r, in the left or right (n) 8 columns, column 2 k + e.
    DSS_DEVICE_INLINE float& at(int r, int n, int e) { return sum[r / 2][n][2 * (r % 2) + e]; }
  };

  const Network& net;
  const uint16_t* matrices;
  uint16_t* inputs;     // of this warp
  const float* vectors; // the biases of layers 1 and up, then the output row

  // The four tiles that are loaded together are the words 0 to 3 of a half.
  DSS_DEVICE_INLINE void load_inputs(Block (&in)[kMaxTiles]) const {
    const int lane = warp::lane_index(), tiles = input_tiles(net);
    warp::sync(); // all rows are written
    DSS_UNROLL
    for (int t = 0; t < kMaxInputTiles; ++t)
      DSS_UNROLL
      for (int m = 0; m < 2; ++m)
        if (t < tiles) {
          const int row = 16 * m + lane % 16, column = 16 * t + lane / 16 * 8;
          warp::load_tiles(in[t].word[m], inputs + row * stride(tiles) + column);
        }
  }

  // A sum starts from the bias, which in layer 0 is in the table; that of a derivative from 0.
  template <bool dual>
  DSS_DEVICE_INLINE void start_from_table(Sums& sums, int j,
                                          const float* const (&table_rows)[4]) const {
    DSS_UNROLL
    for (int i = 0; i < 16; ++i) {
      const int r = i / 4, n = i / 2 % 2, e = i % 2, column = column_of(j, n, e);
      const bool exists = (!dual || r == 0) && column < net.width;
      sums.at(r, n, e) = exists ? table_rows[r][column] : 0;
    }
  }
  template <bool dual>
  DSS_DEVICE_INLINE void start_from_bias(Sums& sums, int j, const float* bias) const {
    DSS_UNROLL
    for (int i = 0; i < 16; ++i) {
      const int r = i / 4, n = i / 2 % 2, e = i % 2;
      sums.at(r, n, e) = !dual || r == 0 ? bias[column_of(j, n, e)] : 0;
    }
  }

  // sums += in . transpose of 16 rows of the matrix. Four of their tiles are loaded together: the
  // left and right 8 columns of the first 8 rows, then of the last 8. `weights` is this lane's row
  // of them.
  template <int most>
  DSS_DEVICE_INLINE void add_products(Sums& sums, const Block (&in)[kMaxTiles], int tiles,
                                      const uint16_t* weights) const {
    DSS_UNROLL
    for (int t = 0; t < most; ++t)
      if (t < tiles) {
        uint32_t factors[4];
        warp::load_tiles(factors, weights + 16 * t);
        DSS_UNROLL
        for (int m = 0; m < 2; ++m)
          DSS_UNROLL
          for (int n = 0; n < 2; ++n)
            warp::multiply_add(sums.sum[m][n], in[t].word[m], factors[2 * n], factors[2 * n + 1]);
      }
  }
  static DSS_DEVICE_INLINE int lane_offset(int stride) {
    const int lane = warp::lane_index(), row = lane / 16 * 8 + lane % 8, column = lane / 8 % 2 * 8;
    return row * stride + column;
  }

  // Of a dual number, the value goes through the activation, the derivatives through its slope. The
  // last layer's activations times the output row are added to `total`.
  template <bool dual>
  DSS_DEVICE_INLINE Block activated_block(Sums& sums, int j, bool last, float (&total)[4]) const {
    const float* output_row = vectors + (net.layers - 1) * width;
    DSS_UNROLL
    for (int n = 0; n < 2; ++n)
      DSS_UNROLL
      for (int e = 0; e < 2; ++e) {
        float slope, unused;
        sums.at(0, n, e) = activated<exact, silu>(sums.at(0, n, e), slope);
        DSS_UNROLL
        for (int r = 0; r < 4; ++r) {
          float& sum = sums.at(r, n, e);
          if (r > 0) sum = dual ? sum * slope : activated<exact, silu>(sum, unused);
          if (last) total[r] += sum * output_row[column_of(j, n, e)];
        }
      }
    return rounded(sums);
  }

  static DSS_DEVICE_INLINE Block rounded(const Sums& sums) {
    Block block;
    DSS_UNROLL
    for (int m = 0; m < 2; ++m)
      DSS_UNROLL
      for (int k = 0; k < 4; ++k) {
        const float* pair = &sums.sum[m][k / 2][2 * (k % 2)];
        block.word[m][k] = warp::pack_halves(pair[0], pair[1]);
      }
    return block;
  }

  // Add up what the four lanes of a row have, and give each lane the output of its own row.
  static DSS_DEVICE_INLINE float of_own_row(float (&total)[4]) {
    const int lane = warp::lane_index();
    float result = 0;
    DSS_UNROLL
    for (int r = 0; r < 4; ++r) {
      total[r] += warp::from_lane_xor(total[r], 1);
      total[r] += warp::from_lane_xor(total[r], 2);
      const float value = warp::from_lane(total[r], lane % 8 * 4); // of row 8 r + lane % 8
      if (lane / 8 == r) result = value;
    }
    warp::sync(); // all rows are read
    return result;
  }

  static DSS_DEVICE_INLINE int column_of(int j, int n, int e) {
    return 16 * j + 8 * n + warp::lane_index() % 4 * 2 + e;
  }
};

// The network in 32 bits: each lane computes width / 32 outputs of all 32 rows. The activations
// lie in shared memory; the weights come through the cache, transposed.
template <int width>
class FusedMlpFloat {
 public:
  static constexpr bool exact = true;
  static constexpr int kWarps = 4; // of a block of threads

  static DSS_HD size_t shared_bytes(const Network&) { return 4 * (size_t)(kWarps * 32 * kStride); }

  // The weights in global memory: the transposed matrices, the biases of layers 1 and up, and the
  // output row, each of their rows padded with zeros to `width`.
  static DSS_HD size_t packed_size(const Network& net) {
    return (size_t)width * (net.inputs() + (net.layers - 1) * width + net.layers);
  }
  static DSS_HD float packed(const Network& net, size_t i) {
    const int column = i % width, row = i / width;
    const int inputs = net.inputs(), biases = inputs + (net.layers - 1) * width;
    if (column >= net.width) return 0;
    if (row < inputs) return net.matrix(0)[column * inputs + row];
    if (row >= biases) {
      const int layer = row - biases + 1;
      return (layer < net.layers ? net.bias(layer) : net.output_row())[column];
    }
    const int layer = (row - inputs) / width + 1, input = (row - inputs) % width;
    return input < net.width ? net.matrix(layer)[column * net.width + input] : 0;
  }
  static DSS_DEVICE void load(const Network&, char*, int, int) {}

  DSS_DEVICE FusedMlpFloat(const Network& net, const float* packed, char* shared, int warp_index)
      : net(net), weights(packed), activations((float*)shared + warp_index * 32 * kStride) {}

  DSS_DEVICE void set_input(int column, float value) {
    activations[warp::lane_index() * kStride + column] = value;
  }

  template <bool dual>
  DSS_DEVICE_NOINLINE float run(int sphere) {
    const int lane = warp::lane_index();
    const float* matrix = weights;
    const float* vector = weights + (size_t)width * (net.inputs() + (net.layers - 1) * width);
    for (int layer = 0; layer < net.layers; ++layer, vector += width) {
      const int inputs = layer ? width : net.inputs();
      float sum[kOutputs][32];
      DSS_UNROLL
      for (int r = 0; r < 32; ++r) {
        const float* table_row = net.table + (size_t)warp::from_lane(sphere, r) * net.width;
        DSS_UNROLL
        for (int j = 0; j < kOutputs; ++j) {
          const int column = lane + 32 * j;
          sum[j][r] = 0;
          if (!dual || r < 8)
            sum[j][r] =
                layer ? vector[column - width] : column < net.width ? table_row[column] : 0;
        }
      }
      warp::sync(); // all rows are written
      for (int k = 0; k < inputs; ++k) {
        float weight[kOutputs];
        DSS_UNROLL
        for (int j = 0; j < kOutputs; ++j) weight[j] = matrix[(size_t)k * width + lane + 32 * j];
        DSS_UNROLL
        for (int r = 0; r < 32; ++r)
          DSS_UNROLL
          for (int j = 0; j < kOutputs; ++j) sum[j][r] += activations[r * kStride + k] * weight[j];
      }
      warp::sync(); // all rows are read
      DSS_UNROLL
      for (int j = 0; j < kOutputs; ++j)
        DSS_UNROLL
        for (int r = 0; r < (dual ? 8 : 32); ++r) {
          const int column = lane + 32 * j;
          float slope;
          activations[r * kStride + column] = net.silu ? activated<exact, true>(sum[j][r], slope)
                                                       : activated<exact, false>(sum[j][r], slope);
          if (dual)
            DSS_UNROLL
            for (int d = r + 8; d < 32; d += 8)
              activations[d * kStride + column] = sum[j][d] * slope;
        }
      matrix += (size_t)inputs * width;
    }
    warp::sync();
    float result = !dual || lane < 8 ? net.output_row()[net.width] : 0;
    for (int k = 0; k < width; ++k) result += activations[lane * kStride + k] * vector[k - width];
    warp::sync();
    return result;
  }

 private:
  static constexpr int kOutputs = width / 32;
  static constexpr int kMaxColumns = width > 16 * kMaxInputTiles ? width : 16 * kMaxInputTiles;
  static constexpr int kStride = kMaxColumns + 1; // odd: a column lies in 32 memory banks

  const Network& net;
  const float* weights;
  float* activations; // of this warp
};

// Set this lane's row: the encoding of an offset (part 0), or its derivative by x, y or z (part 1,
// 2 or 3).
template <class Mlp>
DSS_DEVICE void encode(Mlp& mlp, const Network& net, Point offset, int part) {
  const float at[3] = {offset.x, offset.y, offset.z};
  for (int axis = 0; axis < 3; ++axis) {
    float sine, cosine;
    for (int k = 0; k < net.octaves; ++k) {
      const float rate = net.rate(k), factor = part == axis + 1 ? rate : 0;
      if (k == 0 || Mlp::exact) {
        sincosf(rate * at[axis], &sine, &cosine);
      } else { // of twice the angle
        const float before = sine;
        sine = 2 * before * cosine;
        cosine = 1 - 2 * before * before;
      }
      mlp.set_input(axis * net.octaves + k, part ? factor * cosine : sine);
      mlp.set_input((axis + 3) * net.octaves + k, part ? -factor * sine : cosine);
    }
  }
}

// The prediction of each lane's sphere at each lane's point.
template <class Mlp>
DSS_DEVICE float predict(Mlp& mlp, const Network& net, const float* spheres, Point p, int sphere) {
  const float* own = spheres + 5 * (size_t)sphere;
  encode(mlp, net, net.offset(own, p), 0);
  return net.value(own, p, mlp.template run<false>(sphere));
}

// The same, and its gradient, by dual numbers: four runs of eight points.
template <class Mlp>
DSS_DEVICE float differentiate(Mlp& mlp, const Network& net, const float* spheres, Point p,
                               int sphere, Point& gradient) {
  const int lane = warp::lane_index();
  float dual[4] = {0, 0, 0, 0}; // output at this lane's point, and its derivatives
  for (int first = 0; first < 32; first += 8) {
    const int source = first + lane % 8, owner = warp::from_lane(sphere, source);
    const Point place = {warp::from_lane(p.x, source), warp::from_lane(p.y, source),
                         warp::from_lane(p.z, source)};
    encode(mlp, net, net.offset(spheres + 5 * (size_t)owner, place), lane / 8);
    const float output = mlp.template run<true>(owner);
    for (int part = 0; part < 4; ++part) {
      const float value = warp::from_lane(output, 8 * part + lane % 8);
      if (lane / 8 == first / 8) dual[part] = value;
    }
  }
  const float* own = spheres + 5 * (size_t)sphere;
  gradient = net.gradient(own, p, dual[0], {dual[1], dual[2], dual[3]});
  return net.value(own, p, dual[0]);
}

} // namespace dss
