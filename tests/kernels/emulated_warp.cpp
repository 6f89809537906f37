// kernels/warp_trace.h on the host. The 32 lanes of a warp are fibers that hand over to each other
// at every collective call. So the CUDA kernels' logic is tested without a GPU: the layout of the
// matrix tiles as PTX documents it, the reuse of lanes, and that all lanes make the same calls.

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <vector>

namespace dss {
namespace warp {

constexpr int kLanes = 32, kStackBytes = 1 << 18;
constexpr unsigned kAllLanes = 0xffffffffu;

struct Slot {
  char kind; // which call
  uint32_t word[6];
  const uint16_t* row;
};
Slot slots[2][kLanes]; // of two successive calls: a lane may already be in the next one
int turn[kLanes], now;
bool done[kLanes];
ucontext_t host, fiber[kLanes];
const std::function<void()>* body;

inline int lane_index() { return now; }

// Leave `mine` for the other lanes, wait until all have arrived, and see what they left.
inline const Slot* exchange(const Slot& mine) {
  Slot* all = slots[turn[now]++ % 2];
  all[now] = mine;
  swapcontext(&fiber[now], &host);
  for (int lane = 0; lane < kLanes; ++lane)
    if (turn[lane] < turn[now] || all[lane].kind != mine.kind) {
      fprintf(stderr, "lane %d is not where lane %d is ('%c')\n", lane, now, mine.kind);
      abort();
    }
  return all;
}

inline void enter() {
  (*body)();
  done[now] = true;
  swapcontext(&fiber[now], &host);
}

void run(const std::function<void()>& work) {
  std::vector<char> stacks((size_t)kLanes * kStackBytes);
  body = &work;
  for (int lane = 0; lane < kLanes; ++lane) {
    turn[lane] = done[lane] = 0;
    getcontext(&fiber[lane]);
    fiber[lane].uc_stack.ss_sp = &stacks[(size_t)lane * kStackBytes];
    fiber[lane].uc_stack.ss_size = kStackBytes;
    makecontext(&fiber[lane], enter, 0);
  }
  for (bool some = true; some;) {
    some = false;
    for (now = 0; now < kLanes; ++now)
      if (!done[now]) {
        swapcontext(&host, &fiber[now]);
        some = true;
      }
  }
}

inline void sync() { exchange({'s', {}, nullptr}); }
inline unsigned ballot(bool value) {
  const Slot* all = exchange({'b', {value}, nullptr});
  unsigned result = 0;
  for (int lane = 0; lane < kLanes; ++lane) result |= all[lane].word[0] << lane;
  return result;
}
inline int count_bits(unsigned mask) { return __builtin_popcount(mask); }
template <class T>
T from_lane(T value, int lane) {
  Slot mine = {'f', {}, nullptr};
  memcpy(mine.word, &value, sizeof value);
  memcpy(&value, exchange(mine)[lane].word, sizeof value);
  return value;
}
template <class T>
T from_lane_xor(T value, int mask) {
  return from_lane(value, now ^ mask);
}
inline int fetch_add(int* counter, int amount) { return (*counter += amount) - amount; }
inline float rough_tanh(float x) { return tanhf(x); }
inline uint16_t to_half(float value) {
  const _Float16 half = value;
  uint16_t bits;
  memcpy(&bits, &half, 2);
  return bits;
}
inline uint32_t pack_halves(float low, float high) {
  return to_half(low) | (uint32_t)to_half(high) << 16;
}
inline float half_in(uint32_t pair, int which) {
  const uint16_t bits = pair >> 16 * which;
  _Float16 half;
  memcpy(&half, &bits, 2);
  return half;
}
inline void load_tiles(uint32_t (&tiles)[4], const uint16_t* row) {
  if ((uintptr_t)row % 16) abort(); // as on the device
  const Slot* all = exchange({'l', {}, row});
  for (int i = 0; i < 4; ++i) memcpy(&tiles[i], all[8 * i + now / 4].row + now % 4 * 2, 4);
}
inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const Slot* all = exchange({'m', {a[0], a[1], a[2], a[3], b0, b1}, nullptr});
  for (int i = 0; i < 4; ++i) {
    const int row = now / 4, column = now % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const uint32_t left = all[4 * row + k % 8 / 2].word[k / 8 * 2 + i / 2];
      const uint32_t right = all[4 * column + k % 8 / 2].word[4 + k / 8];
      c[i] += half_in(left, k % 2) * half_in(right, k % 2);
    }
  }
}

} // namespace warp
} // namespace dss

#include "../../kernels/warp_trace.h"

namespace dss {

template <class Work>
void with_mlp(const Network& net, bool half, Work work) {
  auto run = [&](auto* type) {
    using Mlp = std::remove_pointer_t<decltype(type)>;
    std::vector<float> packed(Mlp::packed_size(net)), shared(Mlp::shared_bytes(net) / 4 + 8);
    for (size_t i = 0; i < packed.size(); ++i) packed[i] = Mlp::packed(net, i);
    char* aligned = (char*)(((uintptr_t)shared.data() + 15) / 16 * 16);
    for (int thread = 0; thread < 4; ++thread) Mlp::load(net, aligned, thread, 4);
    warp::run([&] {
      Mlp mlp(net, packed.data(), aligned, 1);
      work(mlp);
    });
  };
  const auto of_width = [&](auto width) {
    constexpr int columns = decltype(width)::value;
    if (!half) run((FusedMlpFloat<columns>*)nullptr);
    else if (net.silu) run((FusedMlpHalf<columns, true>*)nullptr);
    else run((FusedMlpHalf<columns, false>*)nullptr);
  };
  if (net.width <= 64) of_width(std::integral_constant<int, 64>());
  else of_width(std::integral_constant<int, 128>());
}

Shell shell_from(const float* spheres, int count, const float* tree) {
  int first_leaf = 0;
  for (int leaves = 1; leaves * kBranching < count; leaves *= kBranching) first_leaf += leaves;
  return {(const Record*)tree, spheres, first_leaf};
}

} // namespace dss

using namespace dss;

extern "C" void emulated_field(const float* spheres, Network net, bool half, int count,
                               const Point* points, const int* owners, float* values,
                               Point* gradients) {
  with_mlp(net, half, [&](auto& mlp) {
    for (int first = 0; first < count; first += 32) {
      const int i = first + warp::lane_index(), read = i < count ? i : first;
      Point gradient;
      const float value = predict(mlp, net, spheres, points[read], owners[read]);
      const float again = differentiate(mlp, net, spheres, points[read], owners[read], gradient);
      if (i >= count) continue;
      values[i] = fabsf(value - again) < 1e-6f ? value : NAN;
      gradients[i] = gradient;
    }
  });
}

extern "C" void emulated_trace(const float* spheres, int sphere_count, const float* tree,
                               Network net, bool half, TraceOptions options, int count,
                               Rays rays) {
  const Shell shell = shell_from(spheres, sphere_count, tree);
  int taken = 0, queued = 0, found = 0;
  std::vector<int> queue(count), hits(count);
  for (int i = 0; i < count; ++i) {
    Trace trace;
    trace.ray = rays.ray(i);
    rays.store(i, trace);
    if (trace.meets(shell)) queue[queued++] = i;
  }
  const Work work = {&taken, &queued, &found, queue.data(), hits.data()};
  with_mlp(net, half, [&](auto& mlp) {
    trace_rays(mlp, shell, net, options, rays, work);
    warp::sync();
    find_normals(mlp, shell, net, rays, work, 0, 1);
  });
}
