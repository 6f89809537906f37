// Matrix products in the tiles of kernels/amx.h. A number is the sum of two in bfloat16, its high
// and its low part. No torch.
#pragma once

#include <math.h>

#include <algorithm>
#include <vector>

#include "amx.h"
#include "vectors.h"

namespace dss {

constexpr int kTileInputs = kTileBytes / 2; // numbers in a row of a tile
constexpr int kTileBlock = 2 * kTileRows;   // rows, and outputs, that are computed together
constexpr int kParts = 2;                   // high, low

// The tiles of this thread, for as long as this object lives.
class TilesInUse {
 public:
  explicit TilesInUse(bool needed) : needed(needed) {
    if (needed) Amx::configure(TileConfig());
  }
  ~TilesInUse() {
    if (needed) Amx::release();
  }
  TilesInUse(const TilesInUse&) = delete;
  void operator=(const TilesInUse&) = delete;

 private:
  const bool needed;
};

// Numbers in rows, split into their parts.
class TileRows {
 public:
  const int steps; // tiles side by side

  TileRows(int rows, int columns)
      : steps((columns + kTileInputs - 1) / kTileInputs),
        tiles((rows + kTileBlock - 1) / kTileBlock * 2 * kParts * steps) {}

  const Tile& tile(int row, int step, int part) const { return tiles[index(row, step, part)]; }

  // kLanes numbers, from a column on that is a multiple of kLanes. Their low parts: with `split`.
  template <bool split>
  void store(int row, int column, Vector value) {
    const Halves high = rounded(value);
    put(row, column, 0, high);
    if constexpr (split) put(row, column, 1, rounded(value - widened(high)));
  }

 private:
  std::vector<Tile> tiles;

  int index(int row, int step, int part) const {
    return ((row / kTileRows) * steps + step) * kParts + part;
  }
  void put(int row, int column, int part, Halves halves) {
    uint8_t* bytes = tiles[index(row, column / kTileInputs, part)].bytes;
    const int place = row % kTileRows * kTileInputs + column % kTileInputs;
    memcpy(bytes + 2 * place, &halves, sizeof halves);
  }
};

// Weights, split into their parts, in the order in which the products take them.
class TileWeights {
 public:
  const int inputs, outputs; // outputs padded with zeros to whole vectors

  template <class Element>
  TileWeights(int inputs, int count, Element element)
      : inputs(inputs), outputs(padded(count)), steps((inputs + kTileInputs - 1) / kTileInputs),
        tiles((outputs + kTileBlock - 1) / kTileBlock * 2 * kParts * steps) {
    for (int output = 0; output < count; ++output)
      for (int input = 0; input < inputs; ++input) {
        const float value = element(output, input);
        const uint32_t high = rounded(value);
        put(output, input, 0, high);
        put(output, input, 1, rounded(value - std::bit_cast<float>(high << 16)));
      }
  }

  const Tile& tile(int output, int step, int part) const {
    return tiles[index(output, step, part)];
  }

 private:
  const int steps;
  std::vector<Tile> tiles;

  int index(int output, int step, int part) const {
    return ((output / kTileRows) * steps + step) * kParts + part;
  }
  void put(int output, int input, int part, uint32_t half) {
    uint8_t* bytes = tiles[index(output, input / kTileInputs, part)].bytes;
    const int pair = input % kTileInputs / 2, column = output % kTileRows;
    const uint16_t narrow = half;
    memcpy(bytes + pair * kTileBytes + 4 * column + 2 * (input % 2), &narrow, sizeof narrow);
  }
};

// Add the products of 2 x 2 tiles to the tiles 0 to 3: the parts of 32 rows and of 32 outputs.
template <bool load_rows, bool load_outputs>
void multiply_block(const TileRows& in, int row, int row_part, const TileWeights& weights,
                    int output, int output_part, int step) {
  if constexpr (load_rows) {
    Amx::load<4>(in.tile(row, step, row_part));
    Amx::load<5>(in.tile(row + kTileRows, step, row_part));
  }
  if constexpr (load_outputs) {
    Amx::load<6>(weights.tile(output, step, output_part));
    Amx::load<7>(weights.tile(output + kTileRows, step, output_part));
  }
  Amx::multiply<0, 4, 6>();
  Amx::multiply<1, 4, 7>();
  Amx::multiply<2, 5, 6>();
  Amx::multiply<3, 5, 7>();
}

// finish(start + in . weights) for (count, weights.outputs), as `layer` of batch.h. `split`: both
// parts of each factor, but for the product of the low ones, so about 16 bits; else the high parts.
template <bool split, class Start, class Finish>
void tile_layer(int count, const TileRows& in, const TileWeights& weights, Start start,
                Finish finish) {
  Tile sums[4];
  for (int row = 0; row < count; row += kTileBlock)
    for (int output = 0; output < weights.outputs; output += kTileBlock) {
      Amx::clear<0>();
      Amx::clear<1>();
      Amx::clear<2>();
      Amx::clear<3>();
      for (int step = 0; step < in.steps; ++step) {
        if constexpr (split) {
          multiply_block<true, true>(in, row, 0, weights, output, 1, step);
          multiply_block<false, true>(in, row, 0, weights, output, 0, step);
          multiply_block<true, false>(in, row, 1, weights, output, 0, step);
        } else {
          multiply_block<true, true>(in, row, 0, weights, output, 0, step);
        }
      }
      Amx::store<0>(sums[0]);
      Amx::store<1>(sums[1]);
      Amx::store<2>(sums[2]);
      Amx::store<3>(sums[3]);
      const int rows = std::min(kTileBlock, count - row);
      const int outputs = std::min(kTileBlock, weights.outputs - output);
      for (int r = 0; r < rows; ++r)
        for (int o = 0; o < outputs; o += kLanes) {
          const Tile& sum = sums[r / kTileRows * 2 + o / kTileRows];
          Vector value;
          memcpy(&value, sum.bytes + r % kTileRows * kTileBytes + o % kTileRows * 4, sizeof value);
          finish(start(row + r, output + o) + value, row + r, output + o);
        }
    }
}

enum TileState { kNoTiles, kTilesRefused, kTilesWrong, kTilesRight };

// Whether the unit can be used: there, granted by the system, and right in one known product.
inline TileState tried_tiles() {
  if constexpr (!Amx::kCompiled) {
    return kNoTiles;
  } else {
    if (!Amx::granted()) return kTilesRefused;
    constexpr int kRows = kTileBlock, kInputs = 2 * kTileInputs, kOutputs = kTileBlock;
    const auto in = [](int row, int k) { return sinf(0.7f * row + 1.3f * k); };
    const auto weight = [](int output, int k) { return cosf(1.1f * output - 0.3f * k); };
    TileRows rows(kRows, kInputs);
    for (int row = 0; row < kRows; ++row)
      for (int k = 0; k < kInputs; k += kLanes) {
        Vector values;
        for (int lane = 0; lane < kLanes; ++lane) values[lane] = in(row, k + lane);
        rows.store<true>(row, k, values);
      }
    const TileWeights weights(kInputs, kOutputs, weight);
    const TilesInUse in_use(true);
    bool right = true;
    const auto zero = [](int, int) { return Vector{}; };
    tile_layer<true>(kRows, rows, weights, zero, [&](Vector sum, int row, int output) {
      for (int lane = 0; lane < kLanes; ++lane) {
        double expected = 0, size = 0;
        for (int k = 0; k < kInputs; ++k) {
          const double product = (double)in(row, k) * weight(output + lane, k);
          expected += product;
          size += fabs(product);
        }
        right &= fabs(sum[lane] - expected) <= size / (1 << 15);
      }
    });
    return right ? kTilesRight : kTilesWrong;
  }
}

// The same, tried once per process.
inline TileState tile_state() {
  static const TileState state = tried_tiles();
  return state;
}

} // namespace dss
