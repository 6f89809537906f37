// The CUDA kernels on the host: blocks of warps of 32 lanes, each lane a fiber. A warp runs from
// one barrier of its block to the next, its lanes from one collective call to the next, and the
// warps take turns. So the kernels' logic is tested without a GPU: the layout of the matrix tiles
// as PTX documents it, what lanes, warps and blocks share, and that all lanes make the same calls.

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <functional>
#include <type_traits>
#include <vector>

#include "../../kernels/shell.h"

namespace dss {
namespace warp {

constexpr int kLanes = 32;
constexpr size_t kStackBytes = 1 << 17;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr char kBarrier = 'B', kDone = 'D';

struct Slot {
  char kind; // which call
  uint32_t word[6];
  const uint16_t* row;
};

struct Lane {
  jmp_buf place;
  ucontext_t context; // until it has begun
  bool begun = false;
};

struct Warp {
  int block, index; // in its block
  Lane lanes[kLanes];
  Slot slots[2][kLanes] = {}; // of two successive calls: a lane may already be in the next one
  int turn = 0;               // of which they are
};

ucontext_t host_context;
jmp_buf host;
Warp* now;
int lane_now;
const std::function<void()>* body;
int passes; // from one barrier to the next, of the block with the most

inline int lane_index() { return lane_now; }

// Leave `mine` for the other lanes, wait until all have arrived, and see what they left.
inline const Slot* exchange(const Slot& mine) {
  Slot* all = now->slots[now->turn % 2];
  all[lane_now] = mine;
  if (!_setjmp(now->lanes[lane_now].place)) _longjmp(host, 1);
  return all;
}

inline void enter() {
  (*body)();
  exchange({kDone, {}, nullptr});
}

// Run a lane to its next call.
inline void resume(int lane) {
  lane_now = lane;
  if (_setjmp(host)) return;
  Lane& mine = now->lanes[lane];
  if (mine.begun) _longjmp(mine.place, 1);
  mine.begun = true;
  setcontext(&mine.context);
}

// Run a warp to its next barrier. Whether it is done.
inline bool advance(Warp& warp) {
  for (now = &warp;; ++warp.turn) {
    for (int lane = 0; lane < kLanes; ++lane) resume(lane);
    const Slot* all = warp.slots[warp.turn % 2];
    for (int lane = 0; lane < kLanes; ++lane)
      if (all[lane].kind != all[0].kind) {
        fprintf(stderr, "lane %d calls '%c', lane 0 '%c'\n", lane, all[lane].kind, all[0].kind);
        abort();
      }
    if (all[0].kind == kDone) return true;
    if (all[0].kind == kBarrier) return ++warp.turn, false;
  }
}

// Run `work` in so many blocks of so many warps. `work` finds out where it is.
void run(int blocks, int warps, const std::function<void()>& work) {
  const int count = blocks * warps;
  const size_t bytes = (size_t)count * kLanes * kStackBytes;
  char* stacks = (char*)mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stacks == MAP_FAILED) abort();
  std::vector<Warp> all(count);
  body = &work;
  for (int i = 0; i < count; ++i) {
    all[i].block = i / warps, all[i].index = i % warps;
    for (int lane = 0; lane < kLanes; ++lane) {
      ucontext_t& context = all[i].lanes[lane].context;
      getcontext(&context);
      context.uc_stack.ss_sp = stacks + ((size_t)i * kLanes + lane) * kStackBytes;
      context.uc_stack.ss_size = kStackBytes;
      makecontext(&context, enter, 0);
    }
  }
  std::vector<char> done(count);
  passes = 0;
  for (int left = count; left > 0; ++passes) {
    for (int i = 0; i < count; ++i)
      if (!done[i]) left -= done[i] = advance(all[i]);
    for (int i = 0; i < count; ++i)
      if (done[i] != done[i / warps * warps]) {
        fprintf(stderr, "a barrier that not all warps of block %d arrive at\n", i / warps);
        abort();
      }
  }
  munmap(stacks, bytes);
}

inline void sync_block() { exchange({kBarrier, {}, nullptr}); }
inline unsigned ballot(bool value) {
  const Slot* all = exchange({'b', {value}, nullptr});
  unsigned result = 0;
  for (int lane = 0; lane < kLanes; ++lane) result |= all[lane].word[0] << lane;
  return result;
}
inline void sync() { exchange({'s', {}, nullptr}); }
inline int count_bits(unsigned mask) { return __builtin_popcount(mask); }
template <class T>
T from_lane(T value, int lane) {
  Slot mine = {'f', {}, nullptr};
  memcpy(mine.word, &value, sizeof value);
  memcpy(&value, exchange(mine)[lane].word, sizeof value);
  return value;
}
inline Point from_lane(Point p, int lane) { return from_lane<Point>(p, lane); }
inline int fetch_add(int* counter, int amount) { return (*counter += amount) - amount; }
inline void raise(float* number, float value) { *number = *number > value ? *number : value; }
inline float rough_tanh(float x) { return tanhf(x); }
inline void rough_sincos(float x, float& sine, float& cosine) { sine = sinf(x), cosine = cosf(x); }
inline void sincos_of_pi(float x, float& sine, float& cosine) {
  sine = (float)sin(M_PI * x), cosine = (float)cos(M_PI * x);
}
inline float power_of_two(float x) { return exp2f(x); }
inline float inverse(float x) { return 1 / x; }
inline uint16_t to_half(float value) {
  const _Float16 half = value;
  uint16_t bits;
  memcpy(&bits, &half, 2);
  return bits;
}
inline uint32_t pack_halves(float first, float second) {
  return to_half(first) | (uint32_t)to_half(second) << 16;
}
inline float half_in(uint32_t pair, int which) {
  const uint16_t bits = pair >> 16 * which;
  _Float16 half;
  memcpy(&half, &bits, 2);
  return half;
}
using SharedHalves = const uint16_t*;
inline const Slot* exchange_rows(SharedHalves row) {
  if ((uintptr_t)row % 16) abort(); // as on the device
  return exchange({'l', {}, row});
}
inline void load_tiles(uint32_t (&tiles)[4], SharedHalves row) {
  const int lane = lane_now;
  const Slot* all = exchange_rows(row);
  for (int i = 0; i < 4; ++i) memcpy(&tiles[i], all[8 * i + lane / 4].row + lane % 4 * 2, 4);
}
inline void load_transposed_tiles(uint32_t (&tiles)[4], SharedHalves row) {
  const int lane = lane_now;
  const Slot* all = exchange_rows(row);
  for (int i = 0; i < 4; ++i) {
    const Slot* pair = all + 8 * i + lane % 4 * 2; // of rows
    tiles[i] = pair[0].row[lane / 4] | (uint32_t)pair[1].row[lane / 4] << 16;
  }
}
inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const Slot* all = exchange({'m', {a[0], a[1], a[2], a[3], b0, b1}, nullptr});
  for (int i = 0; i < 4; ++i) {
    const int row = lane_now / 4, column = lane_now % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const uint32_t left = all[4 * row + k % 8 / 2].word[k / 8 * 2 + i / 2];
      const uint32_t right = all[4 * column + k % 8 / 2].word[4 + k / 8];
      c[i] += half_in(left, k % 2) * half_in(right, k % 2);
    }
  }
}

} // namespace warp
} // namespace dss

#include "../../kernels/block_trace.h"

namespace dss {

int tiles, queries; // that were run, and the different ones in them

// Counts them.
template <class Mlp>
struct Counted : Mlp {
  using Mlp::Mlp;
  template <bool accurate>
  float run(Point offset, int sphere) const {
    const int lane = warp::lane_index();
    const Point before = warp::from_lane(offset, lane ? lane - 1 : 0);
    tiles += lane == 0;
    queries += lane < Mlp::kRows && (lane == 0 || before.x != offset.x || before.y != offset.y);
    return Mlp::template run<accurate>(offset, sphere);
  }
};

// The network in plain C++, fast enough for whole frames. Its rough answers are rounded.
struct PlainMlp {
  static constexpr int kWarps = 12, kRows = 16;
  static constexpr bool kHasRough = true;
  static size_t shared_bytes(const Network&) { return 0; }
  static size_t packed_bytes(const Network&, size_t) { return 0; }
  static size_t pack_count(const Network&, size_t) { return 0; }
  static void pack(const Network&, size_t, char*, size_t) {}
  static void load(const Network&, const char*, char*, int, int) {}

  const Network& net;
  PlainMlp(const Network& net, size_t, const char*, char*, int) : net(net) {}

  template <bool accurate>
  float run(Point offset, int sphere) const {
    if (warp::lane_index() >= kRows) return 0; // belongs to another lane
    const float at[3] = {offset.x, offset.y, offset.z};
    std::vector<float> in(net.inputs()), out(net.width);
    for (int i = 0; i < 3 * net.octaves; ++i) {
      const float angle = net.rate(i % net.octaves) * at[i / net.octaves];
      in[i] = sinf(angle), in[i + 3 * net.octaves] = cosf(angle);
    }
    for (int layer = 0; layer < net.layers; ++layer, in = out) {
      const float* start = layer ? net.bias(layer) : net.table + (size_t)sphere * net.width;
      const float* weights = net.matrix(layer);
      for (int row = 0; row < net.width; ++row, weights += in.size()) {
        float sum = start[row];
        for (size_t k = 0; k < in.size(); ++k) sum += weights[k] * in[k];
        out[row] = net.silu ? sum / (1 + expf(-sum)) : sum * (sum > 0 ? 1 : kLeakySlope);
      }
    }
    float output = net.output_row()[net.width];
    for (int k = 0; k < net.width; ++k) output += net.output_row()[k] * out[k];
    return accurate ? output : warp::half_in(warp::to_half(output), 0);
  }
  float differentiate(Point, int, Point& slope) const { return slope.x = slope.y = slope.z = NAN; }
};

enum Kind { kFloat, kHalf, kPlain };

// Runs work(mlp, warp, warps) on every lane, as `run_task` of cuda.cu does.
template <class Work>
void with_mlp(const Network& net, int spheres, int kind, int blocks, Work work) {
  auto run = [&](auto* type) {
    using Mlp = Counted<std::remove_pointer_t<decltype(type)>>;
    struct alignas(16) Line {
      char bytes[16];
    };
    std::vector<Line> packed(Mlp::packed_bytes(net, spheres) / 16 + 1);
    char* weights = (char*)packed.data();
    for (size_t i = 0; i < Mlp::pack_count(net, spheres); ++i) Mlp::pack(net, spheres, weights, i);
    std::vector<std::vector<Line>> shared(blocks);
    for (auto& lines : shared) lines.resize(Mlp::shared_bytes(net) / 16 + 1);
    warp::run(blocks, Mlp::kWarps, [&] {
      const int block = warp::now->block, index = warp::now->index;
      char* own = (char*)shared[block].data();
      Mlp::load(net, weights, own, 32 * index + warp::lane_index(), 32 * Mlp::kWarps);
      warp::sync_block();
      const Mlp mlp(net, spheres, weights, own, index);
      work(mlp, block * Mlp::kWarps + index, blocks * Mlp::kWarps);
    });
  };
  const auto of_width = [&](auto width) {
    constexpr int columns = decltype(width)::value;
    if (kind == kFloat) run((FusedMlpFloat<columns>*)nullptr);
    else if (net.silu) run((FusedMlpHalf<columns, true>*)nullptr);
    else run((FusedMlpHalf<columns, false>*)nullptr);
  };
  if (kind == kPlain) run((PlainMlp*)nullptr);
  else if (net.width <= 64) of_width(std::integral_constant<int, 64>());
  else of_width(std::integral_constant<int, 128>());
}

Shell shell_from(const float* spheres, int count, const float* tree) {
  int first_leaf = 0;
  for (int leaves = 1; leaves * kBranching < count; leaves *= kBranching) first_leaf += leaves;
  return {(const Record*)tree, spheres, first_leaf};
}

} // namespace dss

using namespace dss;

// What a call of `trace_rays` took: the most rounds of a block, and the tiles and queries of all.
struct Used {
  int rounds, tiles, queries;
};

// `accurate`: with both halves of each number, which makes a difference to kHalf.
extern "C" void emulated_field(const float* spheres, int sphere_count, Network net, int kind,
                               bool accurate, int count, const Point* points, const int* owners,
                               float* values, Point* gradients) {
  with_mlp(net, sphere_count, kind, 2, [&](const auto& mlp, int warp, int warps) {
    for (int first = 32 * warp; first < count; first += 32 * warps) {
      const int i = first + warp::lane_index(), read = i < count ? i : first;
      Point gradient;
      const float again = differentiate(mlp, net, spheres, points[read], owners[read], gradient);
      const float value = accurate ? predict<true>(mlp, net, spheres, points[read], owners[read])
                                   : predict<false>(mlp, net, spheres, points[read], owners[read]);
      if (i >= count) continue;
      values[i] = accurate || fabsf(value - again) < 1e-6f ? value : NAN;
      gradients[i] = gradient;
    }
  });
}

extern "C" void emulated_trace(const float* spheres, int sphere_count, const float* tree,
                               Network net, int kind, TraceOptions options, int blocks,
                               int count, Rays rays, Used* used) {
  const Shell shell = shell_from(spheres, sphere_count, tree);
  int taken = 0, queued = 0, found = 0;
  float error = 0;
  std::vector<int> queue(count), hits(count);
  for (int i = 0; i < count; ++i) {
    Trace trace;
    trace.ray = rays.ray(i);
    rays.store(i, trace);
    if (trace.meets(shell)) queue[queued++] = i;
  }
  const Work work = {&taken, &queued, &found, &error, queue.data(), hits.data()};
  with_mlp(net, sphere_count, kind, blocks, [&](const auto& mlp, int warp, int warps) {
    measure_error(mlp, net, spheres, sphere_count, work, warp, warps);
  });
  tiles = queries = 0;
  with_mlp(net, sphere_count, kind, blocks, [&](const auto& mlp, int, int) {
    using Mlp = std::remove_cvref_t<decltype(mlp)>;
    static std::vector<Round<Mlp>> rounds; // of the blocks
    rounds.resize(blocks);
    trace_rays(mlp, shell, net, options, rays, work, rounds[warp::now->block], warp::now->index);
  });
  // Three barriers in a round, and four passes around them.
  *used = {warp::passes / 3 - 1, tiles, queries};
  if (kind == kPlain) return; // it has no derivatives
  with_mlp(net, sphere_count, kind, blocks, [&](const auto& mlp, int warp, int warps) {
    find_normals(mlp, shell, net, rays, work, warp, warps);
  });
}
