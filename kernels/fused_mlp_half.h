// The fused network (fused_mlp.h) in the tensor cores.
#pragma once

#include "network.h"

namespace dss {

// The network with 16-bit products in the tensor cores and 32-bit sums, for 16 rows. All weights
// lie in shared memory, all activations in registers: between two layers no lane needs what another
// one holds. Where `run` is to be accurate, each factor is the sum of two halves, high and low, and
// of the four products of such pairs only low . low is left out: about 22 bits.
//
// The activations are cut into blocks of 16 columns. Each lane holds four words of a block, and a
// word holds two neighbouring columns. This is block t; "5" stands for lane 5:
//
//              column 16 t + ...
//              0,1  2,3  4,5  6,7  | 8,9 10,11 12,13 14,15
//   row    0    0    1    2    3   |  0    1     2     3
//          1    4    5    6    7   |  4    5     6     7
//          :         word 0        |        word 2
//          7   28   29   30   31   | 28   29    30    31
//         -------------------------+----------------------
//          8    0    1    2    3   |  0    1     2     3
//          :         word 1        |        word 3
//         15   28   29   30   31   | 28   29    30    31
//
// The tensor cores leave the sums of a layer in the same places: sums 0 and 1 of the left or right
// 8 columns where word 0 or 2 is, sums 2 and 3 where word 1 or 3 is. So a block of sums, activated
// and rounded to halves, is a block of the next layer's factors. Lane 4 g + k holds parts of the
// rows g and g + 8 ("its rows", m = 0 and 1), and of the columns 2 k and 2 k + 1 of each 8.
//
// The encoded inputs are ordered so that lane 4 g + k encodes axis k of its rows, and asks no other
// lane: columns 2 k and 2 k + 1 of the left 8 of block t are sine and cosine of octave 2 t, those
// of the right 8 of octave 2 t + 1. There is no axis 3: its columns of the matrix are zero.
//
// Width and activation are known to the compiler, and everything is inlined: else it takes shared
// memory for any memory, keeps activations in local memory, and branches at each of them. To know
// the number of layers would save 3 % of the instructions, which is not worth a kernel for each.
template <int width, bool silu>
class FusedMlpHalf {
 public:
  static constexpr int kWarps = 12; // of a block of threads, alone on its multiprocessor
  static constexpr int kRows = 16;
  static constexpr bool kHasRough = true; // answers, beside accurate ones
  static constexpr int kMaxLayers = 8;    // whose slopes `differentiate` keeps

  // In bytes: of the weights in shared memory.
  static DSS_HD size_t shared_bytes(const Network& net) {
    return 2 * (2 * matrices_size(net) + kOutputSize) + 4 * vectors_size(net);
  }
  // Of all weights as `pack` leaves them in global memory.
  static DSS_HD size_t packed_bytes(const Network& net, size_t spheres) {
    return shared_bytes(net) + 4 * spheres * width;
  }

  // How many numbers `pack` packs, one per call: the matrices as high, then as low halves; the rows
  // of the output's matrix, of which 0 and 1 are the high and the low halves of its only row; the
  // biases of layers 1 and up and the output row, as floats; the table, as high, then as low
  // halves. All are padded with zeros. Matrices are cut into tiles of 8 x 8, each 128 bytes of
  // which 16 belong to a row; four that lie together are 16 rows and columns.
  static DSS_HD size_t pack_count(const Network& net, size_t spheres) {
    return matrices_size(net) + kOutputSize + vectors_size(net) + spheres * width;
  }
  static DSS_DEVICE void pack(const Network& net, size_t spheres, char* packed, size_t i) {
    uint16_t* halves = (uint16_t*)packed;
    const size_t size = matrices_size(net);
    if (i < size) return split(halves + i, size, kScale * matrix_entry(net, i));
    i -= size, halves += 2 * size;
    if (i < kOutputSize) {
      const int row = i % 64 / 8, column = i / 64 * 8 + i % 8;
      const float value = column < net.width ? net.output_row()[column] : 0;
      uint16_t pair[2];
      split(pair, 1, value);
      halves[i] = row < 2 ? pair[row] : 0;
      return;
    }
    i -= kOutputSize, halves += kOutputSize;
    float* vectors = (float*)halves;
    const int column = column_at(i % width), row = i / width;
    if (i < vectors_size(net)) {
      const bool is_bias = row < net.layers - 1;
      const float* vector = is_bias ? net.bias(row + 1) : net.output_row();
      vectors[i] = column < net.width ? (is_bias ? kScale : 1) * vector[column] : 0;
      return;
    }
    i -= vectors_size(net), halves = (uint16_t*)(vectors + vectors_size(net));
    const int sphere = i / width;
    const float value =
        column < net.width ? kScale * net.table[(size_t)sphere * net.width + column] : 0;
    split(halves + i, spheres * width, value);
  }

  // Fill a block's shared memory: all its threads call this, and then wait for each other.
  static DSS_DEVICE void load(const Network& net, const char* packed, char* shared, int thread,
                              int threads) {
    const int count = shared_bytes(net) / sizeof(Words<4>);
    for (int i = thread; i < count; i += threads) ((Words<4>*)shared)[i] = ((Words<4>*)packed)[i];
  }

  DSS_DEVICE_INLINE FusedMlpHalf(const Network& net, size_t spheres, const char* packed,
                                 char* shared, int)
      : net(net), matrices((const uint16_t*)shared + 8 * warp::lane_index()),
        vectors((const float*)((const uint16_t*)shared + 2 * matrices_size(net) + kOutputSize)),
        table((const uint16_t*)(packed + shared_bytes(net))), table_size(spheres * width) {}

  template <bool accurate = false>
  DSS_DEVICE_INLINE float run(Point offset, int sphere) const {
    Block<1 + accurate> rows[kMaxTiles];
    forward(rows, Encoding<accurate>(net, offset), sphere, [](int, int, const Sums&) {});
    return output(rows);
  }

  // The output and its derivatives by the offset, backwards from the output.
  DSS_DEVICE_INLINE float differentiate(Point offset, int sphere, Point& slope) const {
    Block<1> rows[kMaxTiles], slopes[kMaxLayers][kTiles];
    forward(rows, Encoding<false>(net, offset), sphere, [&](int layer, int j, const Sums& sums) {
      slopes[layer][j] = rounded<1>(sums);
    });
    const float result = output(rows);
    DSS_UNROLL
    for (int j = 0; j < kTiles; ++j) {
      Sums sums = from_vector(vectors + (net.layers - 1) * width, j);
      rows[j] = rounded<1>(sums.times(slopes[net.layers - 1][j]));
    }
    for (int layer = net.layers - 1; layer > 0; --layer) {
      Block<1> out[kTiles];
      DSS_UNROLL
      for (int t = 0; t < kTiles; ++t)
        out[t] = rounded<1>(
            transposed_products(rows, layer, kTiles, t).times(slopes[layer - 1][t]));
      DSS_UNROLL
      for (int t = 0; t < kTiles; ++t) rows[t] = out[t];
    }
    float own[2] = {0, 0}; // by axis k of this lane's rows
    Encoding<false> encoding(net, offset);
    DSS_UNROLL
    for (int t = 0; t < kMaxInputTiles; ++t)
      if (t < input_tiles(net)) {
        const Sums sums = transposed_products(rows, 0, input_tiles(net), t);
        DSS_UNROLL
        for (int n = 0; n < 2; ++n, encoding.advance())
          DSS_UNROLL
          for (int m = 0; m < 2; ++m)
            own[m] += encoding.rate * (encoding.cosine[m] * sums.sum[n][2 * m] -
                                       encoding.sine[m] * sums.sum[n][2 * m + 1]);
      }
    slope = {of_own_row(own, 0), of_own_row(own, 1), of_own_row(own, 2)};
    return result;
  }

 private:
  static constexpr int kTiles = width / 16; // of a hidden layer
  static constexpr int kMaxInputTiles = kMaxOctaves / 2;
  static constexpr int kMaxTiles = kTiles > kMaxInputTiles ? kTiles : kMaxInputTiles;
  static constexpr size_t kOutputSize = 8 * width;
  // With h = z / 2, z / (1 + exp(-z)) = h + h tanh(h): the hidden layers compute h.
  static constexpr float kScale = silu ? 0.5f : 1.0f;
  static constexpr float kLog2E = 1.44269504f;

  template <int count>
  struct alignas(4 * count) Words {
    uint32_t word[count];
  };
  // This lane's part of a block of activations: high halves, and perhaps low ones.
  template <int parts>
  struct Block {
    uint32_t word[parts][4];
  };
  // This lane's part of a block of sums.
  struct Sums {
    float sum[2][4]; // left or right 8 columns; columns 2 k, 2 k + 1 of row g, then of row g + 8

    DSS_DEVICE_INLINE Sums& times(const Block<1>& factors) {
      DSS_UNROLL
      for (int i = 0; i < 8; ++i)
        sum[i / 4][i % 4] *= warp::half_in(factors.word[0][i / 2], i % 2);
      return *this;
    }
  };

  const Network& net;
  const warp::SharedHalves matrices; // where this lane's row of their first tiles is
  const float* vectors; // the biases of layers 1 and up, then the output row
  const uint16_t* table;
  const size_t table_size;

  static DSS_HD int input_tiles(const Network& net) { return (net.octaves + 1) / 2; }
  static DSS_HD size_t matrices_size(const Network& net) {
    return 16 * width * (input_tiles(net) + (net.layers - 1) * kTiles);
  }
  static DSS_HD size_t vectors_size(const Network& net) { return net.layers * width; }
  // A lane needs the columns 2 k, 2 k + 1, 8 + 2 k, 9 + 2 k of each 16. In vectors and rows of the
  // table they lie side by side.
  static DSS_HD int column_at(int place) {
    return place / 16 * 16 + place % 4 / 2 * 8 + place % 16 / 4 * 2 + place % 2;
  }

  static DSS_HD float matrix_entry(const Network& net, size_t i) {
    const int tile = i / 256, first = kTiles * input_tiles(net);
    const int layer = tile < first ? 0 : 1 + (tile - first) / (kTiles * kTiles);
    const int inside = layer ? (tile - first) % (kTiles * kTiles) : tile;
    const int across = layer ? kTiles : input_tiles(net);
    const int row = inside / across * 16 + i % 256 / 128 * 8 + i % 64 / 8;
    const int column = inside % across * 16 + i % 128 / 64 * 8 + i % 8;
    if (row >= net.width) return 0;
    if (layer) return column < net.width ? net.matrix(layer)[row * net.width + column] : 0;
    const int octave = column / 8, axis = column % 8 / 2, is_cosine = column % 2;
    if (axis == 3 || octave >= net.octaves) return 0;
    return net.matrix(0)[row * net.inputs() + (axis + 3 * is_cosine) * net.octaves + octave];
  }
  static DSS_DEVICE void split(uint16_t* high, size_t low, float value) {
    high[0] = warp::to_half(value);
    high[low] = warp::to_half(value - warp::half_in(high[0], 0));
  }

  // Sine and cosine of one octave after the other, of this lane's axis of its rows.
  template <bool accurate>
  struct Encoding {
    float rate, sine[2], cosine[2];

    DSS_DEVICE_INLINE Encoding(const Network& net, Point offset) : rate(net.rate(0)) {
      const int lane = warp::lane_index();
      DSS_UNROLL
      for (int m = 0; m < 2; ++m) {
        const int row = 8 * m + lane / 4;
        const float x = warp::from_lane(offset.x, row), y = warp::from_lane(offset.y, row);
        const float z = warp::from_lane(offset.z, row);
        const float angle = rate * (lane % 4 == 0 ? x : lane % 4 == 1 ? y : z);
        if (accurate) {
          turns[m] = kTurn * angle;
          rest[m] = fmaf(kTurn, angle, -turns[m]) + kTurnRest * angle;
          find(m);
        } else {
          warp::rough_sincos(angle, sine[m], cosine[m]);
        }
      }
    }
    DSS_DEVICE_INLINE void advance() {
      rate *= 2;
      DSS_UNROLL
      for (int m = 0; m < 2; ++m)
        if (accurate) {
          turns[m] *= 2, rest[m] *= 2;
          find(m);
        } else { // of twice the angle
          const float before = sine[m];
          sine[m] = 2 * before * cosine[m];
          cosine[m] = 1 - 2 * before * before;
        }
    }

   private:
    // 1 / (2 pi) is the sum of these two.
    static constexpr float kTurn = 0.15915494f, kTurnRest = 6.42063824e-09f;
    float turns[2], rest[2]; // the angle is their sum

    DSS_DEVICE_INLINE void find(int m) {
      const float part = turns[m] - rintf(turns[m]) + rest[m]; // without whole turns, exactly
      warp::sincos_of_pi(2 * part, sine[m], cosine[m]);
    }
  };

  // The activations of the last layer. Each block of slopes is shown to `keep`.
  template <int parts, class Keep>
  DSS_DEVICE_INLINE void forward(Block<parts> (&rows)[kMaxTiles], Encoding<parts == 2> encoding,
                                 int sphere, Keep keep) const {
    const uint16_t* table_rows[2]; // where this lane's rows start in layer 0
    const int lane = warp::lane_index(), tiles = input_tiles(net);
    DSS_UNROLL
    for (int m = 0; m < 2; ++m)
      table_rows[m] = table + (size_t)warp::from_lane(sphere, 8 * m + lane / 4) * width;
    DSS_UNROLL
    for (int t = 0; t < kMaxInputTiles; ++t)
      if (t < tiles) {
        Sums sums;
        DSS_UNROLL
        for (int n = 0; n < 2; ++n, encoding.advance())
          DSS_UNROLL
          for (int m = 0; m < 2; ++m) {
            sums.sum[n][2 * m] = encoding.sine[m];
            sums.sum[n][2 * m + 1] = encoding.cosine[m];
          }
        rows[t] = rounded<parts>(sums);
      }
    Block<parts> out[kTiles];
    warp::SharedHalves matrix = matrices;
    DSS_UNROLL
    for (int j = 0; j < kTiles; ++j) { // the layer's outputs 16 j to 16 j + 15
      Sums sums = from_table<parts>(table_rows, j), slopes;
      add_products<kMaxInputTiles>(sums, rows, tiles, matrix + 256 * j * tiles);
      activate<parts == 2>(sums, slopes);
      keep(0, j, slopes);
      out[j] = rounded<parts>(sums);
    }
    matrix = matrix + 256 * kTiles * tiles;
    for (int layer = 1; layer < net.layers; ++layer) {
      DSS_UNROLL
      for (int t = 0; t < kTiles; ++t) rows[t] = out[t];
      DSS_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        Sums sums = from_vector(vectors + (layer - 1) * width, j), slopes;
        add_products<kTiles>(sums, rows, kTiles, matrix + 256 * j * kTiles);
        activate<parts == 2>(sums, slopes);
        keep(layer, j, slopes);
        out[j] = rounded<parts>(sums);
      }
      matrix = matrix + 256 * kTiles * kTiles;
    }
    DSS_UNROLL
    for (int t = 0; t < kTiles; ++t) rows[t] = out[t];
  }

  // A sum starts from the bias, which in layer 0 is in the table.
  template <int parts>
  DSS_DEVICE_INLINE Sums from_table(const uint16_t* const (&table_rows)[2], int j) const {
    Sums sums;
    DSS_UNROLL
    for (int m = 0; m < 2; ++m) {
      const uint16_t* place = table_rows[m] + 16 * j + 4 * (warp::lane_index() % 4);
      const Words<2> high = *(const Words<2>*)place;
      Words<2> low = {};
      if (parts == 2) low = *(const Words<2>*)(place + table_size);
      DSS_UNROLL
      for (int n = 0; n < 2; ++n)
        DSS_UNROLL
        for (int e = 0; e < 2; ++e) {
          float& sum = sums.sum[n][2 * m + e];
          sum = warp::half_in(high.word[n], e);
          if (parts == 2) sum += warp::half_in(low.word[n], e);
        }
    }
    return sums;
  }
  static DSS_DEVICE_INLINE Sums from_vector(const float* vector, int j) {
    struct alignas(16) Four {
      float value[4];
    };
    const Four four = *(const Four*)(vector + 16 * j + 4 * (warp::lane_index() % 4));
    Sums sums;
    DSS_UNROLL
    for (int i = 0; i < 8; ++i) sums.sum[i / 4][i % 4] = four.value[i / 4 * 2 + i % 2];
    return sums;
  }

  // sums += rows . transpose of 16 rows of a matrix. The four tiles that are loaded together are
  // the left and right 8 columns of the first 8 rows, then of the last 8. `weights` is this lane's
  // row of them.
  template <int most, int parts>
  DSS_DEVICE_INLINE void add_products(Sums& sums, const Block<parts> (&rows)[kMaxTiles], int tiles,
                                      warp::SharedHalves weights) const {
    DSS_UNROLL
    for (int t = 0; t < most; ++t)
      if (t < tiles) {
        uint32_t factors[4];
        const auto multiply = [&](const uint32_t (&words)[4]) {
          DSS_UNROLL
          for (int n = 0; n < 2; ++n)
            warp::multiply_add(sums.sum[n], words, factors[2 * n], factors[2 * n + 1]);
        };
        if (parts == 2) {
          warp::load_tiles(factors, weights + 256 * t + matrices_size(net)); // the low halves
          multiply(rows[t].word[0]);
        }
        warp::load_tiles(factors, weights + 256 * t);
        DSS_UNROLL
        for (int p = parts - 1; p >= 0; --p) multiply(rows[t].word[p]);
      }
  }
  // rows . 16 columns of a layer's matrix, which is `across` blocks wide.
  DSS_DEVICE_INLINE Sums transposed_products(const Block<1> (&rows)[kMaxTiles], int layer,
                                             int across, int t) const {
    const int first = layer ? kTiles * (input_tiles(net) + (layer - 1) * kTiles) : 0;
    const warp::SharedHalves weights = matrices + 256 * (first + t);
    Sums sums = {};
    DSS_UNROLL
    for (int j = 0; j < kTiles; ++j) {
      uint32_t factors[4];
      warp::load_transposed_tiles(factors, weights + 256 * j * across);
      DSS_UNROLL
      for (int n = 0; n < 2; ++n)
        warp::multiply_add(sums.sum[n], rows[j].word[0], factors[n], factors[2 + n]);
    }
    return sums;
  }

  // The activation of sums that count in units of 1 / kScale, and its slope.
  template <bool accurate>
  static DSS_DEVICE_INLINE void activate(Sums& sums, Sums& slopes) {
    DSS_UNROLL
    for (int i = 0; i < 8; ++i) {
      float &x = sums.sum[i / 4][i % 4], &slope = slopes.sum[i / 4][i % 4];
      if (!silu) {
        slope = x > 0 ? 1 : kLeakySlope;
        x = fmaxf(x, kLeakySlope * x);
      } else {
        const float tanh = accurate ? 2 * warp::inverse(1 + warp::power_of_two(-2 * kLog2E * x)) - 1
                                    : warp::rough_tanh(x);
        slope = 1 + tanh + x * (1 - tanh * tanh);
        x += x * tanh;
      }
    }
  }

  template <int parts>
  static DSS_DEVICE_INLINE Block<parts> rounded(const Sums& sums) {
    Block<parts> block;
    DSS_UNROLL
    for (int k = 0; k < 4; ++k) {
      const float* pair = &sums.sum[k / 2][2 * (k % 2)];
      const uint32_t high = block.word[0][k] = warp::pack_halves(pair[0], pair[1]);
      if (parts == 2)
        block.word[parts - 1][k] = warp::pack_halves(pair[0] - warp::half_in(high, 0),
                                                     pair[1] - warp::half_in(high, 1));
    }
    return block;
  }

  // The product with the output row, whose two parts are rows 0 and 1 of a matrix.
  template <int parts>
  DSS_DEVICE_INLINE float output(const Block<parts> (&rows)[kMaxTiles]) const {
    const warp::SharedHalves outputs = matrices + 2 * matrices_size(net);
    float sum[4] = {0, 0, 0, 0};
    DSS_UNROLL
    for (int t = 0; t < kTiles; t += 2) {
      uint32_t factors[4];
      warp::load_tiles(factors, outputs + 128 * t);
      DSS_UNROLL
      for (int p = 0; p < parts; ++p) {
        warp::multiply_add(sum, rows[t].word[p], factors[0], factors[1]);
        warp::multiply_add(sum, rows[t + 1].word[p], factors[2], factors[3]);
      }
    }
    const float own[2] = {sum[0] + sum[1], sum[2] + sum[3]};
    return of_own_row(own, 0) + net.output_row()[net.width];
  }

  // What lane 4 g + k holds of its two rows, for row `lane % 16`.
  static DSS_DEVICE_INLINE float of_own_row(const float (&own)[2], int k) {
    const int lane = warp::lane_index(), source = lane % 8 * 4 + k;
    const float upper = warp::from_lane(own[0], source), lower = warp::from_lane(own[1], source);
    return lane % 16 < 8 ? upper : lower;
  }
};

} // namespace dss
