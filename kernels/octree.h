// Sphere tracing in the voxels of a sparse octree, by NGLOD's rule (docs/method.md, section 10), and
// the decoder that is asked in them. Host and device, no torch.
#pragma once

#include "intervals.h"

namespace dss {

constexpr int kMaxDepth = 8;         // of an octree
constexpr int kMaxVoxelQueries = 256; // per ray
constexpr float kVoxelStop = 3e-4f;  // a hit has |f| less than this, or a mean of two successive f
                                     // less than three times this
constexpr int kPadding = 16;         // floats: the width of a decoder is a multiple of this

// As dss/ops/octree.py describes it.
struct Octree {
  const int32_t* nodes;   // (node_count, 2): number of the first child, mask of the children
  const int32_t* corners; // (V, 8)
  int node_count, depth;
  float extent;
};

struct Voxel {
  int index = -1;
  int cell[3];
  float entry, exit; // of a ray
};

// The voxels on a ray, front to back.
class VoxelWalk {
 public:
  DSS_HD VoxelWalk(const Octree& octree, const Ray& ray) : octree(octree), ray(ray) {
    const Point o = ray.origin, d = ray.direction;
    const bool is_near = fabsf(o.x) < kFar && fabsf(o.y) < kFar && fabsf(o.z) < kFar; // not NaN
    if (ray.length > 0 && is_near && octree.node_count > 0) stack[size++] = {0, 0, 2, {0, 0, 0}};
    nearest = 4 * (d.x < 0) + 2 * (d.y < 0) + (d.z < 0);
  }

  // Go to the next voxel that the ray leaves after `t`; false where there is none.
  DSS_HD bool next(float t, Voxel& voxel) {
    while (size > 0) {
      const Node node = stack[--size];
      float entry = 0, exit = kFar;
      clip(node, ray.origin.x, ray.inverse.x, 0, entry, exit);
      clip(node, ray.origin.y, ray.inverse.y, 1, entry, exit);
      clip(node, ray.origin.z, ray.inverse.z, 2, entry, exit);
      if (!(entry < exit) || !(t < exit)) continue;
      if (node.level == octree.depth) {
        voxel = {node.number - octree.node_count, {node.cell[0], node.cell[1], node.cell[2]},
                 entry, exit};
        return true;
      }
      push_children(node);
    }
    return false;
  }

 private:
  struct Node {
    int number, level;
    float width; // of the cube, whose own is 2
    int cell[3];
  };
  const Octree& octree;
  const Ray& ray;
  int nearest; // the child of any node that lies first in the ray's direction
  int size = 0;
  Node stack[7 * kMaxDepth + 1];

  DSS_HD void clip(const Node& node, float origin, float inverse, int axis, float& entry,
                   float& exit) const {
    const float low = ((float)node.cell[axis] * node.width - 1) * octree.extent;
    const float high = ((float)(node.cell[axis] + 1) * node.width - 1) * octree.extent;
    const float a = (low - origin) * inverse, b = (high - origin) * inverse;
    entry = max_of(entry, min_of(a, b));
    exit = min_of(exit, max_of(a, b));
  }

  // Front to back means: the nearest child, then those whose numbers differ from it in bit 0, in bit
  // 1, in both, and so on.
  DSS_HD void push_children(const Node& node) {
    const int mask = octree.nodes[2 * node.number + 1];
    int number[8] = {octree.nodes[2 * node.number]};
    for (int k = 0; k < 7; ++k) number[k + 1] = number[k] + (mask >> k & 1);
    for (int i = 7; i >= 0; --i) { // the last one that is pushed is visited first
      const int child = i ^ nearest;
      if (!(mask >> child & 1)) continue;
      stack[size++] = {number[child],
                       node.level + 1,
                       node.width / 2,
                       {2 * node.cell[0] + (child >> 2), 2 * node.cell[1] + (child >> 1 & 1),
                        2 * node.cell[2] + (child & 1)}};
    }
  }
};

// f = b + sum_k w_k relu(h_k), where h is trilinear in a voxel.
struct Decoder {
  const float* table;  // (C, width): h at the corners
  const float* output; // (width + 1,): w and b
  int width;

  // In the voxel, or extrapolated from it.
  DSS_HD float operator()(const Octree& octree, const Voxel& voxel, Point p) const {
    const float half = (float)(1 << octree.depth) / 2, scale = half / octree.extent;
    const float x = p.x * scale + half - voxel.cell[0], y = p.y * scale + half - voxel.cell[1];
    const float z = p.z * scale + half - voxel.cell[2];
    const float* rows[8];
    float weights[8];
    for (int k = 0; k < 8; ++k) {
      rows[k] = table + (size_t)octree.corners[8 * (size_t)voxel.index + k] * width;
      weights[k] = (k & 4 ? x : 1 - x) * (k & 2 ? y : 1 - y) * (k & 1 ? z : 1 - z);
    }
    float total[kPadding] = {}; // as many sums as a compiler likes to keep in a vector
    for (int first = 0; first < width; first += kPadding)
      for (int i = 0; i < kPadding; ++i) {
        const int o = first + i;
        const float hidden = weights[0] * rows[0][o] + weights[1] * rows[1][o] +
                             weights[2] * rows[2][o] + weights[3] * rows[3][o] +
                             weights[4] * rows[4][o] + weights[5] * rows[5][o] +
                             weights[6] * rows[6][o] + weights[7] * rows[7][o];
        total[i] += max_of(hidden, 0) * output[o];
      }
    float result = output[width];
    for (int i = 0; i < kPadding; ++i) result += total[i];
    return result;
  }
};

// The first hit of a ray, if any.
struct VoxelHit {
  Voxel voxel; // that was asked for the hit; its index is -1 without a hit
  float t = INFINITY;
  int steps = 0, voxels = 0; // queries, and voxels in which there were any
};

// In a voxel the ray goes as far ahead as the field says, but never back beyond where it entered.
// Where it enters and the field is negative, the octree's wall cuts the solid: that is a hit.
template <class Field>
DSS_HD VoxelHit trace_voxels(const Octree& octree, const Ray& ray, const Field& field) {
  VoxelHit result;
  VoxelWalk walk(octree, ray);
  float t = 0, before = 0;
  for (Voxel voxel; walk.next(t, voxel);) {
    t = max_of(t, voxel.entry);
    ++result.voxels;
    while (t < voxel.exit) {
      const float value = field(octree, voxel, ray.at(t));
      if (result.steps++ == 0) before = value;
      const bool wall = value < 0 && t <= voxel.entry;
      t = max_of(t + value, voxel.entry);
      if (wall || fabsf(value) < kVoxelStop || fabsf(value + before) / 2 < 3 * kVoxelStop) {
        result.voxel = voxel;
        result.t = t;
        return result;
      }
      if (result.steps >= kMaxVoxelQueries) return result;
      before = value;
    }
  }
  return result;
}

// Central differences of the field in a voxel, with the step `probe`.
template <class Field>
DSS_HD Point central_differences(const Octree& octree, const Voxel& voxel, Point p, float probe,
                                 const Field& field) {
  auto rise = [&](float x, float y, float z) {
    return field(octree, voxel, {p.x + x, p.y + y, p.z + z}) -
           field(octree, voxel, {p.x - x, p.y - y, p.z - z});
  };
  return {rise(probe, 0, 0), rise(0, probe, 0), rise(0, 0, probe)};
}

} // namespace dss
