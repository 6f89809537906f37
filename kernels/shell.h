// The dual shell: concentric spheres that hang in a tree, and the questions that points ask them.
// Host and device, no torch.
#pragma once

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define DSS_HD __host__ __device__ inline
#define DSS_HD_NOINLINE __host__ __device__ __noinline__ // large: nvcc would inline it everywhere
#else
#define DSS_HD inline
#define DSS_HD_NOINLINE inline
#endif

namespace dss {

constexpr int kBranching = 8;  // children of a node, and spheres of a leaf
constexpr int kStackSize = 64; // a traversal needs 7 entries per level and one: enough for 9 levels
constexpr float kFar = 1e30f;  // beyond any distance

// How a shell is cut into intervals and owners: see dss/ops.
enum Rule { kEvery, kSmallest, kRelative };

// One record of the tree that dss/ops/tree.py builds: six rows of eight places. In a node the rows
// are the boxes of its children: low x y z, high x y z; node n has the children 8 n + 1 + k. In a
// leaf they are spheres: x y z, and the three rows named below. Unused places hold a box or a
// sphere so far away that nothing reaches it.
struct Record {
  float row[6][kBranching];
};
enum LeafRow { kInnerRadius = 3, kOuterRadius = 4, kIndex = 5 };

struct Shell {
  const Record* tree;
  const float* spheres; // (S, 5): x y z, inner radius, outer radius
  int first_leaf;
};

struct Point {
  float x, y, z;
};

DSS_HD float min_of(float a, float b) { return a < b ? a : b; }
DSS_HD float max_of(float a, float b) { return a > b ? a : b; }

// The nodes that a traversal still has to visit, sorted from `base` on, the smallest bound on top.
struct Stack {
  int node[kStackSize];
  float bound[kStackSize];
  int size = 0;

  DSS_HD void push(int base, int child, float value) {
    int place = size++;
    for (; place > base && bound[place - 1] < value; --place) {
      node[place] = node[place - 1];
      bound[place] = bound[place - 1];
    }
    node[place] = child;
    bound[place] = value;
  }
};

// Visit the leaves, nearest first. `bounds(record, out)` gives a lower bound for each child of a
// node; a child is left out, with all below it, where its bound is not below `limit()`.
template <class Bounds, class Limit, class Leaf>
DSS_HD void traverse(const Shell& shell, Bounds bounds, Limit limit, Leaf leaf) {
  Stack stack;
  stack.push(0, 0, -kFar);
  while (stack.size) {
    const int node = stack.node[--stack.size];
    if (!(stack.bound[stack.size] < limit())) continue;
    const Record& record = shell.tree[node];
    if (node >= shell.first_leaf) {
      leaf(record);
      continue;
    }
    float value[kBranching];
    bounds(record, value);
    const int base = stack.size;
    for (int k = 0; k < kBranching; ++k)
      if (value[k] < limit()) stack.push(base, kBranching * node + 1 + k, value[k]);
  }
}

// Signed distance from a point to each child's box, negative inside. A ball that lies in the box
// is at least as far away.
DSS_HD void box_distances(const Record& record, Point p, float* out) {
  for (int k = 0; k < kBranching; ++k) {
    const float x = max_of(record.row[0][k] - p.x, p.x - record.row[3][k]);
    const float y = max_of(record.row[1][k] - p.y, p.y - record.row[4][k]);
    const float z = max_of(record.row[2][k] - p.z, p.z - record.row[5][k]);
    const float ox = max_of(x, 0), oy = max_of(y, 0), oz = max_of(z, 0);
    const float outside = ox * ox + oy * oy + oz * oz;
    out[k] = outside > 0 ? sqrtf(outside) : max_of(max_of(x, y), z);
  }
}

DSS_HD void center_distances(const Record& leaf, Point p, float* out) {
  for (int k = 0; k < kBranching; ++k) {
    const float x = p.x - leaf.row[0][k], y = p.y - leaf.row[1][k], z = p.z - leaf.row[2][k];
    out[k] = sqrtf(x * x + y * y + z * z);
  }
}

// The sphere that owns a point, -1 outside all outer spheres. kSmallest: the smallest outer sphere
// that contains it. kRelative: the one with the smallest |x - c| / r. Ties go to the lower index.
DSS_HD int owner(const Shell& shell, Point p, int rule) {
  int best = -1;
  float score = kFar;
  traverse(
      shell, [&](const Record& record, float* out) { box_distances(record, p, out); },
      [] { return 1e-6f; },
      [&](const Record& leaf) {
        float distance[kBranching];
        center_distances(leaf, p, distance);
        for (int k = 0; k < kBranching; ++k) {
          const float radius = leaf.row[kOuterRadius][k];
          const float value = rule == kSmallest ? radius : distance[k] / radius;
          const int index = (int)leaf.row[kIndex][k];
          const bool better = value < score || (value == score && index < best);
          if (distance[k] < radius && better) {
            score = value;
            best = index;
          }
        }
      });
  return best;
}

struct Nearest {
  float distance;
  int sphere;
};

// The SDF of the union of all inner or of all outer spheres, min |x - c| - r, and the sphere that
// attains it. (Inside the union it is a bound: the union's surface is at least as far away.) A
// point that is not finite, or beyond kFar, is infinitely far from sphere -1.
DSS_HD Nearest union_sdf(const Shell& shell, Point p, LeafRow radius) {
  Nearest best = {kFar, -1};
  traverse(
      shell, [&](const Record& record, float* out) { box_distances(record, p, out); },
      [&] { return best.distance + 1e-6f; }, // the bounds are rounded
      [&](const Record& leaf) {
        float distance[kBranching];
        center_distances(leaf, p, distance);
        for (int k = 0; k < kBranching; ++k) {
          const float value = distance[k] - leaf.row[radius][k];
          const int index = (int)leaf.row[kIndex][k];
          if (value < best.distance || (value == best.distance && index < best.sphere))
            best = {value, index};
        }
      });
  if (best.sphere < 0) best.distance = INFINITY;
  return best;
}

// The total signed distance of a point (docs/method.md, section 8). Inside an inner sphere it is
// the SDF of the inner union. In the interlayer it is the owner's prediction, but at most the SDF
// of the inner union. Outside all outer spheres it is the distance to their union; its sign is that
// of the prediction at the nearest point of that union, since no surface lies between. So the field
// is asked once, or not at all. A point that is not finite is infinitely far outside.
struct TotalDistance {
  Point place;      // where the field is asked
  int sphere;       // whose prediction is asked for
  float bound;      // the SDF of the inner union or, outside all outer spheres, of the outer union
  bool outside;     // of all outer spheres
  bool needs_field; // false inside an inner sphere

  DSS_HD TotalDistance(const Shell& shell, Point p, int rule)
      : place(p), sphere(owner(shell, p, rule)) {
    outside = sphere < 0;
    const Nearest nearest = union_sdf(shell, p, outside ? kOuterRadius : kInnerRadius);
    bound = nearest.distance;
    needs_field = nearest.sphere >= 0 && (outside || bound >= 0);
    if (!outside || !needs_field) return;
    sphere = nearest.sphere;
    const float* s = shell.spheres + 5 * sphere;
    const float x = p.x - s[0], y = p.y - s[1], z = p.z - s[2];
    const float scale = s[4] / max_of(sqrtf(x * x + y * y + z * z), 1e-12f);
    place = {s[0] + x * scale, s[1] + y * scale, s[2] + z * scale};
  }
  DSS_HD float value(float prediction) const {
    if (!needs_field) return bound;
    if (outside) return prediction < 0 ? -bound : bound;
    return min_of(prediction, bound);
  }
};

} // namespace dss
