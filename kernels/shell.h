// The dual shell: rays and points against concentric spheres that hang in a tree. Host and device, no torch.
#pragma once

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define DSS_HD __host__ __device__ inline
#define DSS_CALLED __host__ __device__ __noinline__ // large: nvcc would copy it to every place that calls it
#else
#define DSS_HD inline
#define DSS_CALLED inline
#endif

namespace dss {

constexpr int kWide = 8;       // children of a node, spheres of a leaf
constexpr int kStack = 64;     // entries of a traversal: 7 per level and one, so 9 levels
constexpr int kChords = 16;    // spheres that a ray remembers; where it meets more, the tree is asked again
constexpr float kNone = 1e30f; // beyond any distance

enum Rule { kEvery, kSmallest, kRelative };

// What dss/ops.py packs. A record of the tree has six rows of eight. In a node they are its children's boxes: low x y z,
// high x y z; node n has the children 8 n + 1 + k. In a leaf they are spheres: x y z, inner and outer radius, index.
// Places without a child or sphere hold one that is out of reach.
struct Record {
  float row[6][kWide];
};

struct Shell {
  const Record* tree;
  const float* spheres; // (S, 5): x y z, inner and outer radius
  int first_leaf;
};

struct Point {
  float x, y, z;
};

DSS_HD float least(float a, float b) { return a < b ? a : b; }
DSS_HD float most(float a, float b) { return a > b ? a : b; }

struct Ray {
  Point origin, direction; // of length 1
  Point inverse;           // 1 / direction, finite
  float length;            // of the direction as given: results are in its units

  DSS_HD Ray() {}
  DSS_HD Ray(Point o, Point d) {
    length = sqrtf(d.x * d.x + d.y * d.y + d.z * d.z);
    const float scale = length > 0 ? 1 / length : 0;
    origin = o;
    direction = {d.x * scale, d.y * scale, d.z * scale};
    inverse = {inverted(direction.x), inverted(direction.y), inverted(direction.z)};
  }
  DSS_HD static float inverted(float value) { return fabsf(value) > 1 / kNone ? 1 / value : kNone; }
  DSS_HD Point at(float t) const {
    return {origin.x + t * direction.x, origin.y + t * direction.y, origin.z + t * direction.z};
  }
  DSS_HD bool valid() const { return length > 0 && length < INFINITY; } // false for NaN too
};

// Stack of a traversal, nearest on top.
struct Stack {
  int node[kStack];
  float bound[kStack];
  int size = 0;

  // Push so that the entries from `base` on stay sorted, the least bound on top.
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

// Visit the leaves whose path has bound(record, out[8]) < limit() all along, nearest first.
template <class Bound, class Limit, class Leaf>
DSS_HD void traverse(const Shell& shell, Bound bound, Limit limit, Leaf leaf) {
  Stack stack;
  stack.push(0, 0, -kNone);
  while (stack.size) {
    const int node = stack.node[--stack.size];
    if (!(stack.bound[stack.size] < limit())) continue;
    const Record& record = shell.tree[node];
    if (node >= shell.first_leaf) {
      leaf(record);
      continue;
    }
    float value[kWide];
    bound(record, value);
    const int base = stack.size;
    for (int k = 0; k < kWide; ++k)
      if (value[k] < limit()) stack.push(base, kWide * node + 1 + k, value[k]);
  }
}

// Distance from a point to the surface of each child's box, negative inside. A ball in a box is at least as far.
DSS_HD void box_distances(const Record& record, Point p, float* out) {
  for (int k = 0; k < kWide; ++k) {
    const float x = most(record.row[0][k] - p.x, p.x - record.row[3][k]);
    const float y = most(record.row[1][k] - p.y, p.y - record.row[4][k]);
    const float z = most(record.row[2][k] - p.z, p.z - record.row[5][k]);
    const float ox = most(x, 0), oy = most(y, 0), oz = most(z, 0);
    const float outside = ox * ox + oy * oy + oz * oz;
    out[k] = outside > 0 ? sqrtf(outside) : most(most(x, y), z);
  }
}

DSS_HD void center_distances(const Record& leaf, Point p, float* out) {
  for (int k = 0; k < kWide; ++k) {
    const float x = p.x - leaf.row[0][k], y = p.y - leaf.row[1][k], z = p.z - leaf.row[2][k];
    out[k] = sqrtf(x * x + y * y + z * z);
  }
}

// The sphere that answers for a point, -1 outside all outer spheres: the smallest that contains it, or the one with the
// least |x - c| / r. Ties go to the lower index.
DSS_HD int owner(const Shell& shell, Point p, int rule) {
  int best = -1;
  float score = kNone;
  traverse(
      shell, [&](const Record& record, float* out) { box_distances(record, p, out); }, [] { return 1e-6f; },
      [&](const Record& leaf) {
        float distance[kWide];
        center_distances(leaf, p, distance);
        for (int k = 0; k < kWide; ++k) {
          const float radius = leaf.row[4][k], value = rule == kSmallest ? radius : distance[k] / radius;
          const int index = (int)leaf.row[5][k];
          if (distance[k] < radius && (value < score || (value == score && index < best))) {
            score = value;
            best = index;
          }
        }
      });
  return best;
}

struct Gap {
  float value;
  int sphere;
};

// Least |x - c| - r over the inner (`row` 3) or outer (`row` 4) spheres, and that sphere.
DSS_HD Gap gap(const Shell& shell, Point p, int row) {
  Gap best = {kNone, -1};
  traverse(
      shell, [&](const Record& record, float* out) { box_distances(record, p, out); },
      [&] { return best.value + 1e-6f; }, // rounding of the bound
      [&](const Record& leaf) {
        float distance[kWide];
        center_distances(leaf, p, distance);
        for (int k = 0; k < kWide; ++k) {
          const float value = distance[k] - leaf.row[row][k];
          const int index = (int)leaf.row[5][k];
          if (value < best.value || (value == best.value && index < best.sphere)) best = {value, index};
        }
      });
  return best;
}

// The signed distance of every point of space needs the prediction in the interlayer only. Here is where it is asked for
// on behalf of a point, and what becomes of the answer.
struct Total {
  Point place;
  int sphere;
  float bound;  // interlayer: no surface beyond; outside all outer spheres: the distance to them
  bool outside; // of all outer spheres; no surface lies between the point and the nearest one, where the sign is asked for
  bool asked;   // false inside an inner sphere: the bound is the answer

  DSS_HD Total(const Shell& shell, Point p, int rule) : place(p), sphere(owner(shell, p, rule)) {
    const Gap nearest = gap(shell, p, sphere < 0 ? 4 : 3);
    bound = nearest.value;
    outside = sphere < 0;
    asked = outside || bound >= 0;
    if (!outside) return;
    sphere = nearest.sphere;
    const float* s = shell.spheres + 5 * sphere;
    const float x = p.x - s[0], y = p.y - s[1], z = p.z - s[2], scale = s[4] / most(sqrtf(x * x + y * y + z * z), 1e-12f);
    place = {s[0] + x * scale, s[1] + y * scale, s[2] + z * scale};
  }
  DSS_HD float value(float prediction) const {
    return !asked ? bound : outside ? (prediction < 0 ? -bound : bound) : least(prediction, bound);
  }
};

// A ray's way through one outer sphere: entry at middle - half, exit at middle + half.
struct Chord {
  float middle, half, radius;
  int sphere;

  DSS_HD float entry() const { return middle - half; }
  DSS_HD float exit() const { return middle + half; }
  // (|x(t) - c|^2 / r^2) - 1: negative inside, and least for the owner by the rule `relative`
  DSS_HD float depth(float t) const { return ((t - middle) * (t - middle) - half * half) / (radius * radius); }
  DSS_HD float slope(float t) const { return (t - middle) / (radius * radius); } // half of its derivative
};

// Visit the chord of every outer sphere that the ray meets before `stop`, the place where it enters its first inner
// sphere; `stop` shrinks on the way to its final value (0 for an origin inside an inner sphere, whose index is `solid`).
template <class Visit>
DSS_HD void each_chord(const Shell& shell, const Ray& ray, float& stop, int& solid, Visit visit) {
  const Point o = ray.origin, d = ray.direction, inv = ray.inverse;
  auto enter = [&](const Record& record, float* out) {
    for (int k = 0; k < kWide; ++k) {
      const float ax = (record.row[0][k] - o.x) * inv.x, bx = (record.row[3][k] - o.x) * inv.x;
      const float ay = (record.row[1][k] - o.y) * inv.y, by = (record.row[4][k] - o.y) * inv.y;
      const float az = (record.row[2][k] - o.z) * inv.z, bz = (record.row[5][k] - o.z) * inv.z;
      const float near = most(most(least(ax, bx), least(ay, by)), least(az, bz));
      const float far = least(least(most(ax, bx), most(ay, by)), most(az, bz));
      out[k] = far >= 0 && near <= far * 1.000001f ? near : kNone; // the factor covers rounding
    }
  };
  auto leaf = [&](const Record& record) {
    float middle[kWide], across[kWide];
    for (int k = 0; k < kWide; ++k) {
      const float x = record.row[0][k] - o.x, y = record.row[1][k] - o.y, z = record.row[2][k] - o.z;
      const float along = x * d.x + y * d.y + z * d.z;
      const float px = x - along * d.x, py = y - along * d.y, pz = z - along * d.z;
      middle[k] = along;
      across[k] = px * px + py * py + pz * pz; // more accurate than |x|^2 - along^2
    }
    for (int k = 0; k < kWide; ++k) {
      const float inner = record.row[3][k], outer = record.row[4][k];
      const float square = inner * inner - across[k];
      if (square > 0) {
        const float half = sqrtf(square), entry = most(middle[k] - half, 0);
        if (middle[k] + half > 0 && entry < stop) {
          stop = entry;
          solid = (int)record.row[5][k];
        }
      }
      const float wide = outer * outer - across[k];
      if (wide > 0) {
        const Chord chord = {middle[k], sqrtf(wide), outer, (int)record.row[5][k]};
        if (chord.exit() > 0 && chord.entry() < stop) visit(chord);
      }
    }
  };
  traverse(shell, enter, [&] { return least(stop, kNone); }, leaf);
}

// One stretch of a ray that one sphere answers for.
struct Segment {
  float start = 0, end = 0;
  int sphere = -1;
  float entry = -kNone; // where the ray enters the sphere, behind the origin too
};

// The outer spheres along a ray up to `stop`, and the segments that a rule makes of them, front to back.
struct Chords {
  Chord list[kChords];
  int count = 0; // may exceed kChords; then the list is of no use
  float stop = INFINITY;
  int solid = -1;

  DSS_CALLED void gather(const Shell& shell, const Ray& ray) {
    count = 0;
    stop = INFINITY;
    solid = -1;
    if (!ray.valid()) return;
    each_chord(shell, ray, stop, solid, [&](const Chord& chord) {
      if (count < kChords) list[count] = chord;
      ++count;
    });
  }

  template <class Visit>
  DSS_HD void each(const Shell& shell, const Ray& ray, Visit visit) const {
    if (count <= kChords) {
      for (int k = 0; k < count; ++k) visit(list[k]);
    } else {
      float end = stop;
      int sphere = solid;
      each_chord(shell, ray, end, sphere, visit);
    }
  }

  // Advance to the next segment; false where there is none.
  DSS_HD bool next(const Shell& shell, const Ray& ray, int rule, Segment& segment) const {
    return rule == kEvery ? next_chord(shell, ray, segment) : next_owner(shell, ray, rule, segment);
  }

  // Every sphere's chord as a whole, by entry, then by index.
  DSS_CALLED bool next_chord(const Shell& shell, const Ray& ray, Segment& segment) const {
    const Segment last = segment;
    segment.entry = kNone;
    each(shell, ray, [&](const Chord& chord) {
      const float entry = chord.entry();
      const bool later = entry > last.entry || (entry == last.entry && chord.sphere > last.sphere);
      const bool first = entry < segment.entry || (entry == segment.entry && chord.sphere < segment.sphere);
      if (later && first && most(entry, 0) < stop) segment = {most(entry, 0), least(chord.exit(), stop), chord.sphere, entry};
    });
    return segment.entry < kNone;
  }

  // The stretch after the last one's end in which one sphere owns the ray's points. The owner is looked for just behind
  // the start, so that rounding at the seams cannot hold the ray up; shorter stretches go to their neighbours. The depths
  // there may still tell the old owner where the seam has been passed: who overtook it, and sinks faster, has it.
  DSS_CALLED bool next_owner(const Shell& shell, const Ray& ray, int rule, Segment& segment) const {
    float start = segment.end;
    for (;;) {
      const float probe = start * 1.0000005f + 1e-6f;
      if (!(probe < stop)) return false;
      Chord best = {0, 0, 0, -1};
      float score = kNone, entry = kNone;
      each(shell, ray, [&](const Chord& chord) {
        if (chord.entry() > probe) {
          entry = least(entry, chord.entry());
        } else if (chord.exit() > probe) {
          const float value = rule == kSmallest ? chord.radius : chord.depth(probe);
          if (value < score || (value == score && chord.sphere < best.sphere)) {
            best = chord;
            score = value;
          }
        }
      });
      if (best.sphere < 0) {
        if (!(entry < least(stop, kNone))) return false;
        start = entry;
        continue;
      }
      float end;
      for (bool settled = false; !settled;) {
        settled = true;
        end = least(best.exit(), stop);
        each(shell, ray, [&](const Chord& chord) {
          const float t = rule == kSmallest ? overtaken_by_smaller(best, chord) : overtaken_by_nearer(best, chord);
          if (t > probe) end = least(end, t);
          if (rule == kSmallest || !(t <= probe && chord.exit() > probe && chord.slope(probe) < best.slope(probe))) return;
          best = chord;
          settled = false;
        });
      }
      segment = {start, end, best.sphere, best.entry()};
      return true;
    }
  }

  DSS_HD static float overtaken_by_smaller(const Chord& owner, const Chord& other) {
    const bool smaller = other.radius < owner.radius || (other.radius == owner.radius && other.sphere < owner.sphere);
    return smaller ? other.entry() : kNone;
  }

  // Where `other` becomes the deeper one: the root of other.depth - owner.depth = a u^2 + 2 b u + c, with u = t - middle
  // of the owner, at which it falls. There is one at most. NaN where there is none.
  DSS_HD static float overtaken_by_nearer(const Chord& owner, const Chord& other) {
    const float mine = 1 / (owner.radius * owner.radius), its = 1 / (other.radius * other.radius);
    const float shift = other.middle - owner.middle;
    const float a = its - mine, b = -its * shift;
    const float c = its * (shift * shift - other.half * other.half) + mine * owner.half * owner.half;
    const float root = sqrtf(b * b - a * c);
    return owner.middle + (b > 0 ? (-b - root) / a : c / (root - b));
  }
};

} // namespace dss
