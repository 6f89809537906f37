// kernels/amx.h in plain C++, as Intel's manual describes the instructions. Any use that would be a
// fault of the processor ends the program. Include it instead, and first.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bit>
#include <limits>

#define DSS_EMULATED_AMX
#include "../../kernels/amx.h"

namespace dss {

struct EmulatedAmx {
  static constexpr bool kCompiled = true;
  // What tests change, and what they count.
  static inline bool is_granted = true, is_faulty = false;
  static inline long products = 0;

  static bool granted() { return is_granted; }

  static void configure(const TileConfig& config) {
    require(config.palette == 1 && config.start_row == 0, "palette");
    for (uint8_t byte : config.reserved) require(byte == 0, "reserved bytes");
    for (int tile = 0; tile < 16; ++tile) {
      const bool used = config.rows[tile] || config.row_bytes[tile];
      require(!used || tile < 8, "a ninth tile");
      require(!used || (config.rows[tile] && config.row_bytes[tile]), "half a tile");
      require(config.rows[tile] <= 16 && config.row_bytes[tile] <= 64, "a tile that is too large");
    }
    shape = config;
    memset(tiles, 0, sizeof tiles);
    configured = true;
  }
  static void release() {
    configured = false;
    memset(tiles, 0, sizeof tiles);
  }
  static bool in_use() { return configured; }

  template <int tile>
  static void clear() {
    require_tile(tile);
    memset(tiles[tile], 0, sizeof tiles[tile]);
  }
  template <int tile>
  static void load(const Tile& from) {
    require_tile(tile);
    memset(tiles[tile], 0, sizeof tiles[tile]);
    for (int row = 0; row < shape.rows[tile]; ++row)
      memcpy(tiles[tile][row], from.bytes + row * kTileBytes, shape.row_bytes[tile]);
  }
  template <int tile>
  static void store(Tile& to) {
    require_tile(tile);
    for (int row = 0; row < shape.rows[tile]; ++row)
      memcpy(to.bytes + row * kTileBytes, tiles[tile][row], shape.row_bytes[tile]);
  }

  template <int sums, int rows, int columns>
  static void multiply() {
    static_assert(sums != rows && sums != columns && rows != columns); // else it is a fault
    for (int tile : {sums, rows, columns}) require_tile(tile);
    require(shape.row_bytes[rows] % 4 == 0 && shape.row_bytes[columns] % 4 == 0, "row bytes");
    require(shape.rows[sums] == shape.rows[rows], "rows of the sums");
    require(shape.row_bytes[sums] == shape.row_bytes[columns], "columns of the sums");
    require(shape.row_bytes[rows] / 4 == shape.rows[columns], "inputs");
    ++products;
    const int width = shape.row_bytes[sums] / 4;
    for (int row = 0; row < shape.rows[sums]; ++row) {
      float even[16] = {}, odd[16] = {};
      for (int k = 0; k < shape.rows[columns]; ++k)
        for (int n = 0; n < width; ++n) {
          even[n] = fused(half<rows>(row, 2 * k), half<columns>(k, 2 * n), even[n]);
          odd[n] = fused(half<rows>(row, 2 * k + 1), half<columns>(k, 2 * n + 1), odd[n]);
        }
      for (int n = 0; n < width; ++n) {
        float sum;
        uint8_t* place = tiles[sums][row] + 4 * n;
        memcpy(&sum, place, 4);
        sum = flushed(flushed(sum) + flushed(even[n] + odd[n]));
        memcpy(place, &sum, 4);
      }
    }
    if (is_faulty) tiles[sums][3][2] ^= 0x80;
  }

 private:
  static inline thread_local TileConfig shape;
  static inline thread_local bool configured = false;
  static inline thread_local uint8_t tiles[8][16][64];

  static void require(bool condition, const char* what) {
    if (condition) return;
    fprintf(stderr, "emulated tiles: %s\n", what);
    abort();
  }
  static void require_tile(int tile) {
    require(configured, "used without a configuration");
    require(tile < 8 && shape.rows[tile] > 0, "a tile that is not configured");
  }
  // Denormal numbers count as zero, of the same sign.
  static float flushed(float x) {
    return fabsf(x) < std::numeric_limits<float>::min() ? copysignf(0, x) : x;
  }
  static float fused(float a, float b, float sum) { return flushed(fmaf(a, b, sum)); }
  template <int tile>
  static float half(int row, int column) {
    uint16_t bits;
    memcpy(&bits, tiles[tile][row] + 2 * column, 2);
    return flushed(std::bit_cast<float>((uint32_t)bits << 16));
  }
};

using Amx = EmulatedAmx;

} // namespace dss
