// The fused network (fused_mlp.h) without tensor cores.
#pragma once

#include "network.h"

namespace dss {

// The network in 32 bits: each lane computes width / 32 outputs of all 32 rows. The activations
// lie in shared memory; the weights come through the cache, transposed.
//
// Derivatives are computed with dual numbers: the rows p, p + 8, p + 16, p + 24 (p < 8) are then a
// value and its derivatives by x, y and z, from the inputs to the outputs.
template <int width>
class FusedMlpFloat {
 public:
  static constexpr int kWarps = 4; // of a block of threads
  static constexpr int kRows = 32;
  static constexpr bool kHasRough = false;
  static constexpr int kMaxLayers = INT32_MAX;

  static DSS_HD size_t shared_bytes(const Network&) { return 4 * (size_t)(kWarps * 32 * kStride); }

  // The weights in global memory: the transposed matrices, the biases of layers 1 and up, and the
  // output row, each of their rows padded with zeros to `width`.
  static DSS_HD size_t packed_bytes(const Network& net, size_t spheres) {
    return 4 * pack_count(net, spheres);
  }
  static DSS_HD size_t pack_count(const Network& net, size_t) {
    return (size_t)width * (net.inputs() + (net.layers - 1) * width + net.layers);
  }
  static DSS_DEVICE void pack(const Network& net, size_t, char* packed, size_t i) {
    ((float*)packed)[i] = entry(net, i);
  }
  static DSS_DEVICE void load(const Network&, const char*, char*, int, int) {}

  DSS_DEVICE FusedMlpFloat(const Network& net, size_t, const char* packed, char* shared,
                           int warp_index)
      : net(net), weights((const float*)packed),
        activations((float*)shared + warp_index * 32 * kStride) {}

  template <bool accurate = true>
  DSS_DEVICE float run(Point offset, int sphere) const {
    encode(offset, 0);
    return forward<false>(sphere);
  }

  // In four passes of eight points.
  DSS_DEVICE float differentiate(Point offset, int sphere, Point& slope) const {
    const int lane = warp::lane_index();
    float dual[4] = {0, 0, 0, 0}; // output at this lane's point, and its derivatives
    for (int first = 0; first < 32; first += 8) {
      const int source = first + lane % 8;
      encode(warp::from_lane(offset, source), lane / 8);
      const float output = forward<true>(warp::from_lane(sphere, source));
      for (int part = 0; part < 4; ++part) {
        const float value = warp::from_lane(output, 8 * part + lane % 8);
        if (lane / 8 == first / 8) dual[part] = value;
      }
    }
    slope = {dual[1], dual[2], dual[3]};
    return dual[0];
  }

 private:
  static constexpr int kOutputs = width / 32;
  static constexpr int kMaxInputs = 6 * kMaxOctaves;
  static constexpr int kMaxColumns = width > kMaxInputs ? width : kMaxInputs;
  static constexpr int kStride = kMaxColumns | 1; // odd: a column lies in 32 memory banks

  const Network& net;
  const float* weights;
  float* activations; // of this warp

  static DSS_HD float entry(const Network& net, size_t i) {
    const int column = i % width, row = i / width;
    const int inputs = net.inputs(), biases = inputs + (net.layers - 1) * width;
    if (column >= net.width) return 0;
    if (row < inputs) return net.matrix(0)[column * inputs + row];
    if (row >= biases) {
      const int layer = row - biases + 1;
      return (layer < net.layers ? net.bias(layer) : net.output_row())[column];
    }
    const int layer = (row - inputs) / width + 1, input = (row - inputs) % width;
    return input < net.width ? net.matrix(layer)[column * net.width + input] : 0;
  }

  // Set this lane's row: the encoding of an offset (part 0), or its derivative by x, y or z (part
  // 1, 2 or 3).
  DSS_DEVICE void encode(Point offset, int part) const {
    const float at[3] = {offset.x, offset.y, offset.z};
    float* row = activations + warp::lane_index() * kStride;
    for (int axis = 0; axis < 3; ++axis)
      for (int k = 0; k < net.octaves; ++k) {
        const float rate = net.rate(k), factor = part == axis + 1 ? rate : 0;
        float sine, cosine;
        sincosf(rate * at[axis], &sine, &cosine);
        row[axis * net.octaves + k] = part ? factor * cosine : sine;
        row[(axis + 3) * net.octaves + k] = part ? -factor * sine : cosine;
      }
  }

  template <bool dual>
  DSS_DEVICE_NOINLINE float forward(int sphere) const {
    const int lane = warp::lane_index();
    const float* matrix = weights;
    const float* vector = weights + (size_t)width * (net.inputs() + (net.layers - 1) * width);
    for (int layer = 0; layer < net.layers; ++layer, vector += width) {
      const int inputs = layer ? width : net.inputs();
      float sum[kOutputs][32];
      DSS_UNROLL
      for (int r = 0; r < 32; ++r) {
        const float* table_row = net.table + (size_t)warp::from_lane(sphere, r) * net.width;
        DSS_UNROLL
        for (int j = 0; j < kOutputs; ++j) {
          const int column = lane + 32 * j;
          sum[j][r] = 0;
          if (!dual || r < 8)
            sum[j][r] =
                layer ? vector[column - width] : column < net.width ? table_row[column] : 0;
        }
      }
      warp::sync(); // all rows are written
      for (int k = 0; k < inputs; ++k) {
        float weight[kOutputs];
        DSS_UNROLL
        for (int j = 0; j < kOutputs; ++j) weight[j] = matrix[(size_t)k * width + lane + 32 * j];
        DSS_UNROLL
        for (int r = 0; r < 32; ++r)
          DSS_UNROLL
          for (int j = 0; j < kOutputs; ++j) sum[j][r] += activations[r * kStride + k] * weight[j];
      }
      warp::sync(); // all rows are read
      DSS_UNROLL
      for (int j = 0; j < kOutputs; ++j)
        DSS_UNROLL
        for (int r = 0; r < (dual ? 8 : 32); ++r) {
          const int column = lane + 32 * j;
          float slope;
          activations[r * kStride + column] = net.silu ? activated<true>(sum[j][r], slope)
                                                       : activated<false>(sum[j][r], slope);
          if (dual)
            DSS_UNROLL
            for (int d = r + 8; d < 32; d += 8)
              activations[d * kStride + column] = sum[j][d] * slope;
        }
      matrix += (size_t)inputs * width;
    }
    warp::sync();
    float result = !dual || lane < 8 ? net.output_row()[net.width] : 0;
    for (int k = 0; k < width; ++k) result += activations[lane * kStride + k] * vector[k - width];
    warp::sync();
    return result;
  }

  template <bool silu>
  static DSS_DEVICE float activated(float x, float& slope) {
    if (!silu) {
      slope = x > 0 ? 1 : kLeakySlope;
      return x * slope;
    }
    const float sigmoid = 1 / (1 + expf(-x)), result = x * sigmoid;
    slope = sigmoid + result * (1 - sigmoid);
    return result;
  }
};

} // namespace dss
