// The matrix unit of recent Intel processors (AMX): eight tiles of 16 rows of 64 bytes, and
// products of tiles in bfloat16 with sums in 32 bits. Each thread configures its tiles before it
// uses them. No torch. tests/kernels/emulated_amx.h has the same in plain C++.
#pragma once

#include <stdint.h>

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#define DSS_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace dss {

constexpr int kTileRows = 16, kTileBytes = 64; // of a tile, and of each of its rows

// 16 rows of 32 numbers in bfloat16, or of 16 floats.
struct alignas(64) Tile {
  uint8_t bytes[kTileRows * kTileBytes];
};

// What `ldtilecfg` reads.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  TileConfig() { // all tiles in full
    for (int tile = 0; tile < 8; ++tile) {
      row_bytes[tile] = kTileBytes;
      rows[tile] = kTileRows;
    }
  }
};
static_assert(sizeof(TileConfig) == 64);

#ifndef DSS_EMULATED_AMX
// One function for each instruction. The compiler's own intrinsics take the tiles' numbers as text,
// and some releases forget that they read and write memory.
struct Amx {
#ifdef DSS_AMX
  static constexpr bool kCompiled = true;

  // Whether the processor has the unit, and the system gives it to this process.
  static bool granted() {
    constexpr int kRequestPermission = 0x1023, kTileData = 18; // ARCH_REQ_XCOMP_PERM
    unsigned a, b, c, d;
    const bool present = __get_cpuid_count(7, 0, &a, &b, &c, &d) && d >> 24 & 1 && d >> 22 & 1;
    return present && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }
  static void configure(const TileConfig& config) {
    asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
  }
  static void release() { asm volatile("tilerelease" ::: "memory"); }
  template <int tile>
  static void clear() {
    asm volatile("tilezero %%tmm%c0" ::"i"(tile));
  }
  template <int tile>
  static void load(const Tile& from) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(&from), "r"((long)kTileBytes), "i"(tile)
                 : "memory");
  }
  template <int tile>
  static void store(Tile& to) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(&to), "r"((long)kTileBytes), "i"(tile)
                 : "memory");
  }
  // sums += rows . columns. A row of `columns` has, for each of 16 outputs, the weights of two
  // successive inputs.
  template <int sums, int rows, int columns>
  static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(rows), "i"(columns));
  }
#else
  static constexpr bool kCompiled = false;

  static bool granted() { return false; }
  static void configure(const TileConfig&) {}
  static void release() {}
  // Never called.
  template <int tile>
  static void clear();
  template <int tile>
  static void load(const Tile& from);
  template <int tile>
  static void store(Tile& to);
  template <int sums, int rows, int columns>
  static void multiply();
#endif
};
#endif

} // namespace dss
