// From torch's tensors to the plain structs of the other headers. dss/ops.py checks the arguments in full and in words;
// here only what memory safety needs.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

#include "network.h"
#include "trace.h"

namespace dss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The data of a contiguous tensor of shape (rows, columns), or (rows,) for columns = 0; rows < 0: any number.
template <class T>
const T* data(const Tensor& tensor, const char* name, int64_t rows, int64_t columns) {
  const bool fits = tensor.dim() == (columns ? 2 : 1) && (rows < 0 || tensor.size(0) == rows) && (!columns || tensor.size(1) == columns);
  STD_TORCH_CHECK(fits && tensor.is_contiguous(), name, ": expected a contiguous tensor of shape (", rows, ", ", columns, ")");
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
  for (; leaves * kWide < spheres.size(0); leaves *= kWide) first_leaf += leaves;
  const bool fits = spheres.size(0) > 0 && tree.dim() == 3 && tree.is_contiguous() && tree.size(0) == first_leaf + leaves &&
                    tree.size(1) == 6 && tree.size(2) == kWide;
  STD_TORCH_CHECK(fits, "tree: expected the one that dss.ops.tree made of the spheres");
  return {reinterpret_cast<const Record*>(tree.const_data_ptr<float>()), data<float>(spheres, "spheres", -1, 5), (int)first_leaf};
}

// sizes: layers, width, octaves, local, silu, radial
inline Network network_of(const Tensor& spheres, const Tensor& table, const Tensor& weights, const std::vector<int64_t>& sizes, double frequency) {
  STD_TORCH_CHECK(sizes.size() == 6 && sizes[0] > 0, "sizes: expected layers, width, octaves, local, silu, radial");
  Network net = {nullptr, nullptr, (int)sizes[0], (int)sizes[1], (int)sizes[2], sizes[3] != 0, sizes[4] != 0, sizes[5] != 0, (float)frequency};
  net.table = data<float>(table, "table", spheres.size(0), net.width);
  net.weights = data<float>(weights, "weights", -1, 0);
  STD_TORCH_CHECK(net.output_row() + net.width + 1 == net.weights + weights.size(0), "weights: expected as many as the sizes tell");
  return net;
}

struct Traced {
  Tensor t, sphere, normal, steps, segments;

  explicit Traced(const Tensor& origins)
      : t(empty({origins.size(0)}, ScalarType::Float, origins)), sphere(empty({origins.size(0)}, ScalarType::Long, origins)),
        normal(empty({origins.size(0), 3}, ScalarType::Float, origins)), steps(empty({origins.size(0)}, ScalarType::Int, origins)),
        segments(empty({origins.size(0)}, ScalarType::Int, origins)) {}
  Rays rays(const Tensor& origins, const Tensor& directions) {
    return {points_of(origins, "origins"), points_of(directions, "directions", origins.size(0)),
            t.mutable_data_ptr<float>(), sphere.mutable_data_ptr<int64_t>(), reinterpret_cast<Point*>(normal.mutable_data_ptr<float>()),
            steps.mutable_data_ptr<int32_t>(), segments.mutable_data_ptr<int32_t>()};
  }
  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> tuple() { return {t, sphere, normal, steps, segments}; }
};

} // namespace dss
