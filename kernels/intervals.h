// A ray's intervals in the dual shell. Host and device, no torch.
#pragma once

#include "shell.h"

namespace dss {

constexpr int kMaxCrossings = 16; // that are remembered; a ray with more asks the tree again

struct Ray {
  Point origin, direction; // of length 1
  Point inverse;           // 1 / direction, finite
  float length;            // of the direction as given: results are in its units; 0: never a hit

  DSS_HD Ray() {}
  DSS_HD Ray(Point o, Point d) {
    length = sqrtf(d.x * d.x + d.y * d.y + d.z * d.z);
    if (!(length < INFINITY)) length = 0; // NaN too
    const float scale = length > 0 ? 1 / length : 0;
    origin = o;
    direction = {d.x * scale, d.y * scale, d.z * scale};
    inverse = {inverted(direction.x), inverted(direction.y), inverted(direction.z)};
  }
  DSS_HD static float inverted(float value) { return fabsf(value) > 1 / kFar ? 1 / value : kFar; }
  DSS_HD Point at(float t) const {
    return {origin.x + t * direction.x, origin.y + t * direction.y, origin.z + t * direction.z};
  }
};

// How a ray crosses one outer sphere: it enters at middle - half and leaves at middle + half.
struct Crossing {
  float middle, half, radius;
  int sphere;

  DSS_HD float entry() const { return middle - half; }
  DSS_HD float exit() const { return middle + half; }
  // (|x(t) - c| / r)^2 - 1: negative inside; the rule kRelative gives x to the sphere where it is
  // smallest.
  DSS_HD float relative(float t) const {
    return ((t - middle) * (t - middle) - half * half) / (radius * radius);
  }
  // Half of its derivative.
  DSS_HD float slope(float t) const { return (t - middle) / (radius * radius); }
};

// Visit the crossing of every outer sphere that the ray enters before `stop`, where it enters its
// first inner sphere, whose index is `solid`. `stop` starts as inf and shrinks on the way to its
// final value (0 for an origin inside an inner sphere), so a few crossings beyond it are visited.
template <class Visit>
DSS_HD void each_crossing(const Shell& shell, const Ray& ray, float& stop, int& solid,
                          Visit visit) {
  const Point o = ray.origin, d = ray.direction, inv = ray.inverse;
  auto box_entries = [&](const Record& record, float* out) {
    for (int k = 0; k < kBranching; ++k) {
      const float ax = (record.row[0][k] - o.x) * inv.x, bx = (record.row[3][k] - o.x) * inv.x;
      const float ay = (record.row[1][k] - o.y) * inv.y, by = (record.row[4][k] - o.y) * inv.y;
      const float az = (record.row[2][k] - o.z) * inv.z, bz = (record.row[5][k] - o.z) * inv.z;
      const float near = max_of(max_of(min_of(ax, bx), min_of(ay, by)), min_of(az, bz));
      const float far = min_of(min_of(max_of(ax, bx), max_of(ay, by)), max_of(az, bz));
      out[k] = far >= 0 && near <= far * 1.000001f ? near : kFar; // the factor covers rounding
    }
  };
  auto leaf = [&](const Record& record) {
    float middle[kBranching], across[kBranching]; // across: squared distance of centre and line
    for (int k = 0; k < kBranching; ++k) {
      const float x = record.row[0][k] - o.x, y = record.row[1][k] - o.y;
      const float z = record.row[2][k] - o.z;
      const float along = x * d.x + y * d.y + z * d.z;
      const float px = x - along * d.x, py = y - along * d.y, pz = z - along * d.z;
      middle[k] = along;
      across[k] = px * px + py * py + pz * pz; // more accurate than |x|^2 - along^2
    }
    for (int k = 0; k < kBranching; ++k) {
      const float inner = record.row[kInnerRadius][k], outer = record.row[kOuterRadius][k];
      const float inner_square = inner * inner - across[k];
      if (inner_square > 0) {
        const float half = sqrtf(inner_square), entry = max_of(middle[k] - half, 0);
        if (middle[k] + half > 0 && entry < stop) {
          stop = entry;
          solid = (int)record.row[kIndex][k];
        }
      }
      const float outer_square = outer * outer - across[k];
      if (outer_square > 0) {
        const int sphere = (int)record.row[kIndex][k];
        const Crossing crossing = {middle[k], sqrtf(outer_square), outer, sphere};
        if (crossing.exit() > 0 && crossing.entry() < stop) visit(crossing);
      }
    }
  };
  traverse(shell, box_entries, [&] { return min_of(stop, kFar); }, leaf);
}

// A part of a ray in which one sphere is asked.
struct Interval {
  float start = 0, end = 0;
  int sphere = -1;
  float entry = -kFar; // where the ray enters the sphere, which may be behind its origin
};

// The crossings of a ray up to `stop`, and the intervals that a rule makes of them, front to back.
struct Crossings {
  Crossing list[kMaxCrossings];
  int count = 0; // where it exceeds kMaxCrossings, `list` is incomplete and not used
  float stop = INFINITY;
  int solid = -1; // the inner sphere entered at `stop`

  DSS_HD_NOINLINE void gather(const Shell& shell, const Ray& ray) {
    count = 0;
    stop = INFINITY;
    solid = -1;
    if (ray.length == 0) return;
    each_crossing(shell, ray, stop, solid, [&](const Crossing& crossing) {
      if (count < kMaxCrossings) list[count] = crossing;
      ++count;
    });
  }

  // Advance to the next interval; false where there is none.
  DSS_HD bool next(const Shell& shell, const Ray& ray, int rule, Interval& interval) const {
    return rule == kEvery ? next_crossing(shell, ray, interval)
                          : next_owner(shell, ray, rule, interval);
  }

 private:
  template <class Visit>
  DSS_HD void each(const Shell& shell, const Ray& ray, Visit visit) const {
    if (count <= kMaxCrossings) {
      for (int k = 0; k < count; ++k) visit(list[k]);
    } else {
      float end = stop;
      int sphere = solid;
      each_crossing(shell, ray, end, sphere, visit);
    }
  }

  // Rule kEvery: each crossing is an interval, cut at the origin and at `stop`. They are sorted by
  // entry, then by index.
  DSS_HD_NOINLINE bool next_crossing(const Shell& shell, const Ray& ray, Interval& interval) const {
    const Interval last = interval;
    interval.entry = kFar;
    each(shell, ray, [&](const Crossing& crossing) {
      const float entry = crossing.entry();
      const bool later =
          entry > last.entry || (entry == last.entry && crossing.sphere > last.sphere);
      const bool first =
          entry < interval.entry || (entry == interval.entry && crossing.sphere < interval.sphere);
      if (later && first && max_of(entry, 0) < stop)
        interval = {max_of(entry, 0), min_of(crossing.exit(), stop), crossing.sphere, entry};
    });
    return interval.entry < kFar;
  }

  // The other rules: the next part of the ray in which one sphere owns all points.
  //
  // 1. The owner is looked for at `probe`, just behind the start, so that rounding at a seam cannot
  //    hold the ray up. An interval that would be shorter than that goes to its neighbour.
  // 2. Where no sphere contains the probe, the interval starts at the next entry instead.
  // 3. It ends where the ray leaves the owner, at `stop`, or where another sphere takes over.
  // 4. Close to a seam, rounding may name the old owner though the seam has been passed. A sphere
  //    that took over before the probe, and whose relative distance falls faster, then replaces it,
  //    and the end is looked for again.
  DSS_HD_NOINLINE bool next_owner(const Shell& shell, const Ray& ray, int rule,
                                  Interval& interval) const {
    float start = interval.end;
    for (;;) {
      const float probe = start * 1.0000005f + 1e-6f;
      if (!(probe < stop)) return false;
      Crossing owner = {0, 0, 0, -1};
      float score = kFar, next_entry = kFar;
      each(shell, ray, [&](const Crossing& crossing) {
        if (crossing.entry() > probe) {
          next_entry = min_of(next_entry, crossing.entry());
        } else if (crossing.exit() > probe) {
          const float value = rule == kSmallest ? crossing.radius : crossing.relative(probe);
          if (value < score || (value == score && crossing.sphere < owner.sphere)) {
            owner = crossing;
            score = value;
          }
        }
      });
      if (owner.sphere < 0) {
        if (!(next_entry < min_of(stop, kFar))) return false;
        start = next_entry;
        continue;
      }
      float end;
      for (bool settled = false; !settled;) {
        settled = true;
        end = min_of(owner.exit(), stop);
        each(shell, ray, [&](const Crossing& other) {
          const float t = rule == kSmallest ? smaller_takes_over(owner, other)
                                            : nearer_takes_over(owner, other);
          if (t > probe) end = min_of(end, t);
          if (rule == kSmallest) return;
          if (t <= probe && other.exit() > probe && other.slope(probe) < owner.slope(probe)) {
            owner = other;
            settled = false;
          }
        });
      }
      interval = {start, end, owner.sphere, owner.entry()};
      return true;
    }
  }

  // Where `other` takes over from `owner` by the rule kSmallest, kFar if it does not.
  DSS_HD static float smaller_takes_over(const Crossing& owner, const Crossing& other) {
    const bool smaller = other.radius < owner.radius ||
                         (other.radius == owner.radius && other.sphere < owner.sphere);
    return smaller ? other.entry() : kFar;
  }

  // Where `other` takes over by the rule kRelative. With u = t - owner.middle, the difference
  // other.relative - owner.relative is the parabola a u^2 + 2 b u + c. The result is its root at
  // which it falls; there is at most one. NaN where there is none.
  DSS_HD static float nearer_takes_over(const Crossing& owner, const Crossing& other) {
    const float mine = 1 / (owner.radius * owner.radius), its = 1 / (other.radius * other.radius);
    const float shift = other.middle - owner.middle;
    const float a = its - mine, b = -its * shift;
    const float c =
        its * (shift * shift - other.half * other.half) + mine * owner.half * owner.half;
    const float root = sqrtf(b * b - a * c);
    return owner.middle + (b > 0 ? (-b - root) / a : c / (root - b));
  }
};

} // namespace dss
