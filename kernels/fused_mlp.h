// The field's network, fused, on one warp: its 32 lanes evaluate the network together, on a matrix
// of activations with one row per lane. Include warp_intrinsics.h before, or, as the tests do, its
// emulation on the host.
//
// A fused MLP, `Mlp` below, has kRows rows. All lanes call `run` or `differentiate` together. Lane
// r passes the offset and the sphere of row r and receives its output; where there are fewer rows
// than lanes, lanes r and r + kRows pass the same.
#pragma once

#include "fused_mlp_float.h"
#include "fused_mlp_half.h"

namespace dss {

// Ask for the rows of all 32 lanes, so many at a time. answer(first, offset, sphere) has the offset
// and the sphere of row `lane % Mlp::kRows`, which belongs to lane first + lane % Mlp::kRows.
template <class Mlp, class Answer>
DSS_DEVICE_INLINE void each_tile(Point offset, int sphere, Answer answer) {
  for (int first = 0; first < 32; first += Mlp::kRows) {
    const int source = first + warp::lane_index() % Mlp::kRows;
    const Point place = warp::from_lane(offset, source);
    const int asked = warp::from_lane(sphere, source);
    answer(warp::lane_index() / Mlp::kRows == first / Mlp::kRows, place, asked);
  }
}

// The prediction of each lane's sphere at each lane's point.
template <bool accurate = false, class Mlp>
DSS_DEVICE float predict(const Mlp& mlp, const Network& net, const float* spheres, Point p,
                         int sphere) {
  const float* own = spheres + 5 * (size_t)sphere;
  float output = 0;
  each_tile<Mlp>(net.offset(own, p), sphere, [&](bool mine, Point offset, int asked) {
    const float answer = mlp.template run<accurate>(offset, asked);
    if (mine) output = answer;
  });
  return net.value(own, p, output);
}

// The same, and its gradient.
template <class Mlp>
DSS_DEVICE float differentiate(const Mlp& mlp, const Network& net, const float* spheres, Point p,
                               int sphere, Point& gradient) {
  const float* own = spheres + 5 * (size_t)sphere;
  float output = 0;
  Point slope = {0, 0, 0};
  each_tile<Mlp>(net.offset(own, p), sphere, [&](bool mine, Point offset, int asked) {
    Point by_offset;
    const float answer = mlp.differentiate(offset, asked, by_offset);
    if (mine) output = answer, slope = by_offset;
  });
  gradient = net.gradient(own, p, output, slope);
  return net.value(own, p, output);
}

} // namespace dss
