// The field's network around its matrix products: its inputs, its prediction, and their
// derivatives. Host and device, no torch.
#pragma once

#include "shell.h"

#ifdef __CUDACC__
#define DSS_DEVICE __device__ inline
#define DSS_DEVICE_INLINE __device__ __forceinline__
#define DSS_DEVICE_NOINLINE __device__ __noinline__
#else
#define DSS_DEVICE inline
#define DSS_DEVICE_INLINE inline
#define DSS_DEVICE_NOINLINE inline
#endif
#define DSS_UNROLL _Pragma("unroll")

namespace dss {

constexpr int kMaxOctaves = 10; // on CUDA
constexpr float kLeakySlope = 0.1f; // of the leaky rectifier

// Hidden layers of `width` on the encoded offset from the owner's centre. A latent enters through
// the first layer only, so its share of that layer, with the bias, is one row of `table` per
// sphere. `weights` holds one after the other: the first layer's columns for the encoding
// (width, 6 octaves); matrix (width, width) and bias of each further hidden layer; row and bias of
// the output.
struct Network {
  const float* table; // (S, width)
  const float* weights;
  int layers, width, octaves;
  bool local;      // the offset is divided by the outer radius
  bool silu;       // the hidden layers' activation is x / (1 + exp(-x)); else the leaky rectifier
  bool radial;     // the output counts thicknesses from the sphere midway between inner and outer;
                   // else its tanh is the prediction
  float frequency; // of the lowest octave

  DSS_HD int inputs() const { return 6 * octaves; }
  // Of hidden layer `layer`. Its bias follows it, except for layer 0.
  DSS_HD const float* matrix(int layer) const {
    return layer == 0 ? weights : weights + width * inputs() + (layer - 1) * (width + 1) * width;
  }
  DSS_HD const float* bias(int layer) const { return matrix(layer) + width * width; }
  DSS_HD const float* output_row() const { return matrix(layers); }

  DSS_HD float scale(const float* sphere) const { return local ? 1 / sphere[4] : 1.0f; }
  DSS_HD Point offset(const float* sphere, Point p) const {
    const float s = scale(sphere);
    return {(p.x - sphere[0]) * s, (p.y - sphere[1]) * s, (p.z - sphere[2]) * s};
  }
  // Input `axis * octaves + octave` is sin(rate(octave) offset[axis]). The cosines come after all
  // sines.
  DSS_HD float rate(int octave) const { return frequency * (float)(1 << octave); }

  // The prediction at a point, from the output of the last layer.
  DSS_HD float value(const float* sphere, Point p, float output) const {
    if (!radial) return tanhf(output);
    const float x = p.x - sphere[0], y = p.y - sphere[1], z = p.z - sphere[2];
    const float middle = (sphere[3] + sphere[4]) / 2, thickness = sphere[4] - sphere[3];
    return sqrtf(x * x + y * y + z * z) - middle + output * thickness;
  }
  // Its gradient, from the output and the output's derivatives by the offset.
  DSS_HD Point gradient(const float* sphere, Point p, float output, Point slope) const {
    const float bounded = radial ? 0 : tanhf(output);
    const float by_output = radial ? sphere[4] - sphere[3] : 1 - bounded * bounded;
    const float factor = scale(sphere) * by_output;
    Point result = {factor * slope.x, factor * slope.y, factor * slope.z};
    if (radial) {
      const float x = p.x - sphere[0], y = p.y - sphere[1], z = p.z - sphere[2];
      const float inverse = 1 / max_of(sqrtf(x * x + y * y + z * z), 1e-12f);
      result = {result.x + x * inverse, result.y + y * inverse, result.z + z * inverse};
    }
    return result;
  }
};

} // namespace dss
