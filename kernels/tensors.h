// From torch's tensors to the plain structs of the other headers. dss/ops checks the arguments in
// full, with messages for users; here only what memory safety needs.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

#include "network.h"
#include "octree.h"
#include "trace.h"

namespace dss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Offsets, start, end, sphere, stop: the fields of dss.ops.Intervals.
using IntervalTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
// t, sphere, normal, steps, intervals: the fields of dss.ops.Traced; of dss.ops.VoxelHits those with
// voxels for spheres and intervals.
using TracedTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// The data of a contiguous tensor of shape (rows, columns), or (rows,) for columns = 0. Any number
// of rows is right for rows < 0.
template <class T>
const T* data(const Tensor& tensor, const char* name, int64_t rows, int64_t columns) {
  const bool fits = tensor.dim() == (columns ? 2 : 1) && (rows < 0 || tensor.size(0) == rows) &&
                    (!columns || tensor.size(1) == columns);
  STD_TORCH_CHECK(fits && tensor.is_contiguous(), name,
                  ": expected a contiguous tensor of shape (", rows, ", ", columns, ")");
  return tensor.const_data_ptr<T>();
}

inline const Point* points_of(const Tensor& tensor, const char* name, int64_t rows = -1) {
  return reinterpret_cast<const Point*>(data<float>(tensor, name, rows, 3));
}

inline Tensor empty(std::initializer_list<int64_t> shape, ScalarType type, const Tensor& like) {
  return torch::stable::empty(shape, type, std::nullopt, like.device());
}

inline Shell shell_of(const Tensor& spheres, const Tensor& tree) {
  int64_t first_leaf = 0, leaves = 1;
  for (; leaves * kBranching < spheres.size(0); leaves *= kBranching) first_leaf += leaves;
  const bool fits = spheres.size(0) > 0 && tree.dim() == 3 && tree.is_contiguous() &&
                    tree.size(0) == first_leaf + leaves && tree.size(1) == 6 &&
                    tree.size(2) == kBranching;
  STD_TORCH_CHECK(fits, "tree: expected the one that dss.ops.pack made of the spheres");
  return {reinterpret_cast<const Record*>(tree.const_data_ptr<float>()),
          data<float>(spheres, "spheres", -1, 5), (int)first_leaf};
}

inline Network network_of(const Tensor& spheres, const Tensor& table, const Tensor& weights,
                          const std::vector<int64_t>& sizes, double frequency) {
  STD_TORCH_CHECK(sizes.size() == 6 && sizes[0] > 0,
                  "sizes: expected layers, width, octaves, local, silu, radial");
  Network net;
  net.layers = (int)sizes[0];
  net.width = (int)sizes[1];
  net.octaves = (int)sizes[2];
  net.local = sizes[3] != 0;
  net.silu = sizes[4] != 0;
  net.radial = sizes[5] != 0;
  net.frequency = (float)frequency;
  net.table = data<float>(table, "table", spheres.size(0), net.width);
  net.weights = data<float>(weights, "weights", -1, 0);
  const float* end = net.output_row() + net.width + 1;
  STD_TORCH_CHECK(end == net.weights + weights.size(0),
                  "weights: expected as many as the sizes tell");
  return net;
}

inline Octree octree_of(const Tensor& nodes, const Tensor& corners, int64_t depth, double extent) {
  STD_TORCH_CHECK(0 < depth && depth <= kMaxDepth, "depth: expected 1 to ", kMaxDepth);
  return {data<int32_t>(nodes, "nodes", -1, 2), data<int32_t>(corners, "corners", -1, 8),
          (int)nodes.size(0), (int)depth, (float)extent};
}

inline Decoder decoder_of(const Tensor& table, const Tensor& output) {
  const int64_t width = output.size(0) - 1;
  STD_TORCH_CHECK(width > 0 && width % kPadding == 0, "output: expected a multiple of ", kPadding,
                  " weights, and one more");
  return {data<float>(table, "table", -1, width), data<float>(output, "output", -1, 0),
          (int)width};
}

// The results of `shell_trace`, and of `octree_trace`.
struct Traced {
  Tensor t, sphere, normal, steps, intervals;

  explicit Traced(const Tensor& origins) {
    const int64_t count = origins.size(0);
    t = empty({count}, ScalarType::Float, origins);
    sphere = empty({count}, ScalarType::Long, origins);
    normal = empty({count, 3}, ScalarType::Float, origins);
    steps = empty({count}, ScalarType::Int, origins);
    intervals = empty({count}, ScalarType::Int, origins);
  }
  Rays rays(const Tensor& origins, const Tensor& directions) {
    return {points_of(origins, "origins"),
            points_of(directions, "directions", origins.size(0)),
            t.mutable_data_ptr<float>(),
            sphere.mutable_data_ptr<int64_t>(),
            reinterpret_cast<Point*>(normal.mutable_data_ptr<float>()),
            steps.mutable_data_ptr<int32_t>(),
            intervals.mutable_data_ptr<int32_t>()};
  }
  TracedTensors tuple() { return {t, sphere, normal, steps, intervals}; }
};

} // namespace dss
