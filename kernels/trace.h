// The march of one ray: it says where the field is to be asked next, and takes the answer. Host and device, no torch.
#pragma once

#include "shell.h"

namespace dss {

constexpr float kPaper = 3e-4f; // the paper's eps: a hit is |f| < eps, or a mean of two values below 5 eps
constexpr float kFloor = 2e-4f; // least step of a ray that does not come closer; doubles every 32 queries
constexpr float kReach = 2e-3f; // the slope between two queries is trusted as far ahead as this
constexpr int kLimit = 256;     // queries per segment

struct March {
  int rule;        // of shell.h
  bool exact;      // bracket the change of sign; else the paper's hit rule
  bool everywhere; // rule kEvery: trace each interval, as if all ran in parallel, though an earlier one has a hit
  float tolerance; // of the hit's place along the ray
};

// Sphere tracing over a ray's segments, front to back. The exact rule: the domain's field is the owner's prediction, and
// solid from the first inner sphere on; a hit is where it first changes its sign. That may be inside a segment, at a seam
// between two, at the entry into an outer sphere, or where the inner sphere begins. With rule kEvery the segments overlap
// and are fields of their own: one that starts in the solid is left to the others, and the first hit of all counts.
class Trace {
 public:
  Ray ray;
  Chords chords;
  Segment segment;       // its sphere is to be asked
  float t = 0;           // where
  float hit = INFINITY;  // so far
  int sphere = -1;       // that the hit lies in
  int steps = 0;         // queries
  int segments = 0;

  // To the first query: true. Or the ray is done: false. The same holds for `take`.
  DSS_HD bool begin(const Shell& shell, const March& march) {
    chords.gather(shell, ray);
    if (chords.stop == 0) { // the origin lies inside an inner sphere
      hit = 0;
      sphere = chords.solid;
      return false;
    }
    return advance(shell, march);
  }

  // Whether `begin` finds anything, for less.
  DSS_HD bool meets(const Shell& shell) {
    chords.gather(shell, ray);
    return chords.count > 0 || chords.stop == 0;
  }

  DSS_HD bool take(const Shell& shell, const March& march, float value) {
    ++steps;
    ++count;
    return march.exact ? take_exact(shell, march, value) : take_paper(shell, march, value);
  }

 private:
  float low = 0, low_value = 0;           // the last query that saw the outside
  float high = 0, high_value = 0;         // the first one that did not
  float nearest = INFINITY, way = 0;      // of the hits so far: least t; path inside its sphere of the one chosen
  int count = 0;                          // queries in this segment
  int tail = -1;                          // sphere of the segment that ends where this one starts; while it is asked, of this one
  bool fresh = false;                     // no answer yet in this segment
  bool last = false;                      // this query is at the end of a segment with solid behind it
  bool bracketed = false;

  DSS_HD bool advance(const Shell& shell, const March& march) {
    if (march.rule != kEvery && hit < INFINITY) return false;
    const Segment before = segment;
    if (!chords.next(shell, ray, march.rule, segment)) return false;
    if (!march.everywhere && segment.start >= nearest + window(march)) return false; // as all that follow
    tail = segments > 0 && segment.start <= before.end ? before.sphere : -1;
    ++segments;
    t = segment.start;
    count = 0;
    fresh = true;
    last = bracketed = false;
    return true;
  }

  // Of hits closer together than this, the paper takes the one whose ray has been in its sphere for longest.
  DSS_HD static float window(const March& march) { return march.exact ? 0 : 5 * kPaper; }

  DSS_HD bool found(const Shell& shell, const March& march, float place) {
    const float inside = place - segment.start;
    nearest = least(nearest, place);
    if (hit - nearest > window(march) || (place - nearest < window(march) && inside > way)) {
      hit = place;
      sphere = segment.sphere;
      way = inside;
    }
    return advance(shell, march);
  }

  // dss.md, section 7, with its order of tests: a last step may leave the sphere by a little.
  DSS_HD bool take_paper(const Shell& shell, const March& march, float value) {
    if (fresh) {
      if (value < -5 * kPaper) return advance(shell, march);
      low_value = value;
      fresh = false;
    }
    t += value;
    if (fabsf(value) < kPaper || fabsf(value + low_value) / 2 < 5 * kPaper) return found(shell, march, t);
    low_value = value;
    return t < segment.end && count < kLimit ? true : advance(shell, march);
  }

  DSS_HD bool take_exact(const Shell& shell, const March& march, float value) {
    const bool outside = value > 0;
    if (!bracketed) {
      if (outside && !last) return step(shell, march, value);
      if (outside) { // solid begins here by the word of the next sphere, or of the inner one
        if (t < segment.end) segment.sphere = tail;
        return found(shell, march, t);
      }
      if (fresh && march.rule == kEvery) return advance(shell, march);
      if (fresh && tail < 0) return found(shell, march, t);
      if (fresh) { // has the segment before changed its sign between its last query and its end?
        const int next = segment.sphere;
        segment.sphere = tail;
        tail = next;
        fresh = false;
        last = true;
        return true;
      }
      bracketed = true;
      count = 0;
    }
    (outside ? low : high) = t;
    (outside ? low_value : high_value) = value;
    return refine(shell, march);
  }

  DSS_HD bool step(const Shell& shell, const March& march, float value) {
    const bool nearer = !fresh && value < low_value;
    const float reliable = nearer ? value * (t - low) / (low_value - value) + march.tolerance / 2 : value;
    const float floor = (nearer ? march.tolerance : kFloor) * (float)(1 << count / 32);
    const float next = t + most(least(reliable, most(value, kReach)), floor);
    low = t;
    low_value = value;
    fresh = false;
    if (count >= kLimit) return advance(shell, march);
    if (next >= segment.end && segment.end < chords.stop) return advance(shell, march);
    last = next >= segment.end;
    t = last ? segment.end : next;
    return true;
  }

  // The secant's root, or every third time the middle, until the bracket is no wider than the tolerance. Where the root
  // is as good as at one end, a query just beyond it closes the bracket.
  DSS_HD bool refine(const Shell& shell, const March& march) {
    const float width = high - low, root = low + width * (low_value / (low_value - high_value));
    const float tolerance = most(march.tolerance, 1e-6f * high);
    if (width <= tolerance || count >= kLimit) return found(shell, march, root);
    if (root - low < tolerance / 2) t = low + 0.75f * tolerance;
    else if (high - root < tolerance / 2) t = high - 0.75f * tolerance;
    else t = count % 3 == 2 ? low + width / 2 : root;
    return true;
  }
};

// What `shell_trace` is given and fills, for n rays.
struct Rays {
  const Point *origins, *directions; // (n, 3)
  float* t;                          // (n,) in units of the direction's length, inf: no hit
  int64_t* sphere;                   // (n,) that the hit lies in, -1: no hit
  Point* normal;                     // (n, 3)
  int32_t *steps, *segments;         // (n,)

  DSS_HD Ray ray(int64_t i) const { return Ray(origins[i], directions[i]); }
  DSS_HD void store(int64_t i, const Trace& trace) const {
    t[i] = trace.hit / trace.ray.length;
    sphere[i] = trace.sphere;
    normal[i] = {0, 0, 0};
    steps[i] = trace.steps;
    segments[i] = trace.segments;
  }
  DSS_HD void store(int64_t i, Point gradient) const {
    const float length = sqrtf(gradient.x * gradient.x + gradient.y * gradient.y + gradient.z * gradient.z);
    const float scale = 1 / most(length, 1e-12f);
    normal[i] = {gradient.x * scale, gradient.y * scale, gradient.z * scale};
  }
};

} // namespace dss
