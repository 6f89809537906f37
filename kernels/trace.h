// Sphere tracing of one ray. The network is evaluated elsewhere, for many rays at a time: a `Trace`
// says where the field is to be asked next, and takes the answer. Host and device, no torch.
#pragma once

#include "octree.h"

namespace dss {

constexpr float kPaperEpsilon = 3e-4f; // a hit of the paper's rule: |f| less than this, or the mean
                                       // of two successive f less than five times this
constexpr float kMinStep = 2e-4f;      // of a ray that comes no closer; doubles every 32 queries
constexpr float kTrustedReach = 2e-3f; // how far ahead the slope between two queries is trusted
constexpr float kSlopeMargin = 0.15f;  // the field may fall by this much more steeply than it did
constexpr float kTangentReach = 8;     // tolerances from the last query to the root for `close`
constexpr float kMinRatio = 0.25f;     // of each step to the one before, for queries at once
constexpr int kMaxQueries = 256;       // per interval

// Where several queries of one ray are to be: at t, then a step further, and so on.
struct Places {
  float t, step, ratio; // of a step to the one before

  DSS_HD void advance() {
    t += step;
    step *= ratio;
  }
};

// The k-th of `total` points between the inner and the outer spheres, all over the shell.
struct Sample {
  Point place;
  int sphere;

  DSS_HD Sample(const float* spheres, int count, int k, int total)
      : sphere((int)(k * 7919LL % count)) {
    const float* s = spheres + 5 * (size_t)sphere;
    const float z = 1 - (k + 0.5f) / (total / 2), across = sqrtf(1 - z * z), turn = 2.39996f * k;
    const float r = s[3] + (s[4] - s[3]) * (k % 11 + 0.5f) / 11;
    const Point to = {across * cosf(turn), across * sinf(turn), z};
    place = {s[0] + r * to.x, s[1] + r * to.y, s[2] + r * to.z};
  }
};

struct TraceOptions {
  int rule;        // of shell.h
  bool exact;      // bracket the change of sign; else the paper's rule for hits
  bool everywhere; // rule kEvery: trace every interval, though an earlier one has a hit, as if all
                   // ran in parallel
  float tolerance; // of the hit's place along the ray
};

// Traces the ray through its intervals, front to back.
//
// The exact rule: along the ray the field is the owner's prediction, and negative from the first
// inner sphere on. A hit is where it first changes its sign: within an interval, at the seam
// between two intervals, where the ray enters an outer sphere, or where it enters an inner one.
// With the rule kEvery the intervals overlap, and each is a field of its own. One that starts in
// the solid is then left to the others, and the first hit of all counts.
//
// The states say what the query in progress is for. "Outside" and "inside" are its answers
// (positive or not), "on" is the next interval or, where there is none, the end.
//
//   Start    at the interval's start
//              outside -> Step, or End if the step would pass `stop`, or on if it passes the end
//              inside  -> rule kEvery: on
//                         no interval ends here: a hit, here
//                         else: Seam
//   Step     further along
//              outside -> Step, End or on, as above; on after kMaxQueries
//              inside  -> Bracket
//   End      at the interval's end, which is `stop`, where an inner sphere begins
//              outside -> a hit, here
//              inside  -> Bracket
//   Seam     at the interval's start again, but the sphere of the interval before is asked: did it
//            change its sign between its last query and its end?
//              outside -> a hit, here, in the interval's own sphere
//              inside  -> Bracket, in the sphere of the interval before
//   Bracket  between `low`, the last query outside, and `high`, the first one inside
//              either  -> Bracket, or a hit once the bracket is narrow enough
//
// A query with the answer f proves that the ray is outside within f of its place, as far as the
// field is a distance. Steps are longer than that, and are kept where the proofs of both ends meet.
// Where they do not, whatever the answer was, the ray steps back to where the plain step would have
// led. So no step passes a solid that plain steps would have met.
//
// After a hit the ray is done; with the rule kEvery it goes on while an earlier hit is possible.
// The paper's rule knows Start and Step only: see take_paper.
class Trace {
 public:
  Ray ray;
  Crossings crossings;
  Interval interval;
  float t = 0;          // where the field is to be asked
  int asked = -1;       // which sphere is to be asked
  float hit = INFINITY; // so far
  int sphere = -1;      // that the hit lies in
  int steps = 0;        // queries
  int intervals = 0;
  float root = -1; // thought to be so near that `close` may do; else negative

  // Go to the first query. False: there is none, the ray is done. `take` returns the same.
  DSS_HD bool begin(const Shell& shell, const TraceOptions& options) {
    crossings.gather(shell, ray);
    if (crossings.stop == 0) { // the origin lies inside an inner sphere
      hit = 0;
      sphere = crossings.solid;
      return false;
    }
    return next_interval(shell, options);
  }

  // Whether there is anything to do for `begin`, found out more cheaply.
  DSS_HD bool meets(const Shell& shell) {
    crossings.gather(shell, ray);
    return crossings.count > 0 || crossings.stop == 0;
  }

  // A guess at the answer's size: 0 where its sign is in question, inf where nothing is known.
  DSS_HD float expected() const {
    if (state == kSeam || state == kBracket) return 0;
    return state == kStart && before < 0 ? INFINITY : low_value - slope * (t - low);
  }

  // End the bracket with a hit instead of a query, from the field's value at `root` and its slope
  // along the ray there, which comes with the normal. They must say that the surface is within the
  // tolerance: where the field is flat they do not. False: the query is needed after all.
  DSS_HD bool close(const TraceOptions& options, float value, float rise) {
    const float tolerance = max_of(options.tolerance, 1e-6f * root);
    if (!(fabsf(value) < tolerance * -rise)) return false;
    hit = root + value / -rise;
    sphere = asked;
    return true;
  }

  // Where the ray may ask `count` queries at once: across the bracket, or from t on with steps that
  // shrink as the field is thought to. In other states all are at t.
  DSS_HD Places places(int count) const {
    if (state == kBracket && count > 1) {
      const float step = (high - low) / (count + 1);
      return {low + step, step, 1};
    }
    if (state != kStep) return {t, 0, 1};
    const float ratio = min_of(max_of(expected() / low_value, kMinRatio), 1);
    return {t, max_of(ratio * (t - low), kMinStep), ratio};
  }

  // Take the first `count` of the answers to `asked` queries at once, as far as they are of use.
  template <class Answer>
  DSS_HD bool take(const Shell& shell, const TraceOptions& options, int asked, int count,
                   Answer answer) {
    Places next = places(asked);
    if (state != kBracket || asked == 1) {
      for (int k = 0; k < count; ++k, next.advance()) {
        const bool on = k == 0 || (state == kStep && low < next.t && next.t < interval.end);
        if (!on) return true;
        if (k > 0) relaxed = next.t > low + safe;
        t = next.t;
        if (!take(shell, options, answer(k))) return false;
        if (low != next.t) return true;
      }
      return true;
    }
    ++queries;
    root = -1;
    for (int k = 0; k < count; ++k, next.advance()) {
      const bool outside = answer(k) > 0;
      (outside ? low : high) = next.t;
      (outside ? low_value : high_value) = answer(k);
      ++steps;
      if (!outside) break;
    }
    return refine(shell, options);
  }

  // Take the answer to the query and go to the next one.
  DSS_HD bool take(const Shell& shell, const TraceOptions& options, float value) {
    ++steps;
    ++queries;
    root = -1;
    return options.exact ? take_exact(shell, options, value) : take_paper(shell, options, value);
  }

 private:
  enum State { kStart, kStep, kEnd, kSeam, kBracket };

  State state = kStart;
  int queries = 0;                // in this interval, or in this bracket
  int before = -1;                // sphere of the interval that ends where this one starts
  bool attempted = false;         // to `close` this bracket
  bool relaxed = false;           // the step from `low` is longer than `safe`
  float low = 0, low_value = 0;   // the last query outside
  float safe = 0;                 // how far the plain step from `low` leads
  float slope = 1;                // the field's fall per unit of length, between two queries
  float high = 0, high_value = 0; // the first query inside
  float nearest = INFINITY;       // the smallest t of all hits so far
  float way = 0;                  // from the chosen hit back to the start of its interval

  DSS_HD bool next_interval(const Shell& shell, const TraceOptions& options) {
    if (options.rule != kEvery && hit < INFINITY) return false;
    const Interval last = interval;
    if (!crossings.next(shell, ray, options.rule, interval)) return false;
    const bool too_late = interval.start >= nearest + window(options); // as are all that follow
    if (!options.everywhere && too_late) return false;
    before = intervals > 0 && interval.start <= last.end ? last.sphere : -1;
    ++intervals;
    t = interval.start;
    asked = interval.sphere;
    queries = 0;
    state = kStart;
    return true;
  }

  // Among hits closer together than this, the paper chooses the one with the longest way.
  DSS_HD static float window(const TraceOptions& options) {
    return options.exact ? 0 : 5 * kPaperEpsilon;
  }

  DSS_HD bool hit_at(const Shell& shell, const TraceOptions& options, float place) {
    const float inside = place - interval.start;
    nearest = min_of(nearest, place);
    const bool chosen_is_too_far = hit - nearest > window(options);
    if (chosen_is_too_far || (place - nearest < window(options) && inside > way)) {
      hit = place;
      sphere = asked;
      way = inside;
    }
    return next_interval(shell, options);
  }

  // docs/method.md, section 7, in the paper's order of tests: the last step may leave the sphere
  // by a little. An interval that starts well inside the solid is skipped. `low_value` is the
  // answer to the query before, of either sign.
  DSS_HD bool take_paper(const Shell& shell, const TraceOptions& options, float value) {
    if (state == kStart) {
      if (value < -5 * kPaperEpsilon) return next_interval(shell, options);
      low_value = value;
      state = kStep;
    }
    t += value;
    if (fabsf(value) < kPaperEpsilon || fabsf(value + low_value) / 2 < 5 * kPaperEpsilon)
      return hit_at(shell, options, t);
    low_value = value;
    return t < interval.end && queries < kMaxQueries ? true : next_interval(shell, options);
  }

  DSS_HD bool take_exact(const Shell& shell, const TraceOptions& options, float value) {
    const bool outside = value > 0;
    if (relaxed) {
      relaxed = false;
      if (!(low_value + value >= t - low)) { // the proofs do not meet: a step back
        state = kStep;
        t = low + safe;
        return true;
      }
    }
    if (outside && (state == kStart || state == kStep)) return step(shell, options, value);
    if (outside && (state == kEnd || state == kSeam)) {
      asked = interval.sphere;
      return hit_at(shell, options, t);
    }
    if (state == kStart) {
      if (options.rule == kEvery) return next_interval(shell, options);
      if (before < 0) return hit_at(shell, options, t);
      asked = before;
      state = kSeam;
      return true;
    }
    if (state != kBracket) {
      state = kBracket;
      queries = 0;
      attempted = false;
    }
    (outside ? low : high) = t;
    (outside ? low_value : high_value) = value;
    return refine(shell, options);
  }

  // The plain step is the prediction. Where the last query came closer than the one before, the
  // root of the secant through both is better; it may lead further ahead, but no further than
  // kTrustedReach. It may also be tiny, unless the secant before promised the same in vain: where
  // the field is flat, rounding would hold the ray up.
  //
  // With the slope s known, the proofs of both ends of a step meet if it is at most 2 f / (1 + s).
  DSS_HD bool step(const Shell& shell, const TraceOptions& options, float value) {
    const float gone = t - low, tolerance = max_of(options.tolerance, 1e-6f * t);
    if (state == kStep) slope = (low_value - value) / gone;
    else if (before < 0) slope = 1; // else that of the interval before
    const bool closer = state == kStep && value < low_value;
    const bool trusted = closer && value < low_value / 2 && gone > 4 * tolerance;
    const float reliable = closer ? value / slope + options.tolerance / 2 : value;
    const float min_step = (trusted ? options.tolerance : kMinStep) * (float)(1 << queries / 32);
    safe = max_of(min_of(reliable, max_of(value, kTrustedReach)), min_step);
    low = t;
    low_value = value;
    if (queries >= kMaxQueries) return next_interval(shell, options);
    const bool solid_behind = !(interval.end < crossings.stop);
    const bool passed = t + safe >= interval.end;
    if (passed && !solid_behind) return next_interval(shell, options);
    const float longer = 2 * value / max_of(1 + slope + kSlopeMargin, 1);
    relaxed = !passed && longer > safe;
    const float next = t + max_of(safe, longer);
    const bool at_end = next >= interval.end;
    state = at_end && solid_behind ? kEnd : kStep;
    t = at_end ? interval.end : next;
    return true;
  }

  // The secant's root, or every third time the middle, until the bracket is no wider than the
  // tolerance. Where the root is close to one end, a query just beyond it closes the bracket. If
  // that takes long, the field has a kink there, and every other query halves the bracket.
  DSS_HD bool refine(const Shell& shell, const TraceOptions& options) {
    const float width = high - low;
    const float zero = low + width * (low_value / (low_value - high_value));
    const float tolerance = max_of(options.tolerance, 1e-6f * high);
    if (width <= tolerance || queries >= kMaxQueries) return hit_at(shell, options, zero);
    const bool at_low = zero - low < tolerance / 2, at_high = high - zero < tolerance / 2;
    if (queries > 6 && queries % 2) {
      t = low + width / 2;
    } else if (at_low || at_high) {
      t = at_low ? low + 0.75f * tolerance : high - 0.75f * tolerance;
    } else {
      t = queries % 3 == 2 ? low + width / 2 : zero;
    }
    const bool is_close = min_of(zero - low, high - zero) < kTangentReach * tolerance;
    if (is_close && queries <= 1 && !attempted && options.rule != kEvery) {
      attempted = true;
      root = zero;
    }
    return true;
  }
};

// What `shell_trace` is given and fills, for n rays; `octree_trace` too, with voxels for spheres.
struct Rays {
  const Point *origins, *directions; // (n, 3)
  float* t;                          // (n,) in units of the direction's length, inf: no hit
  int64_t* sphere;                   // (n,) that the hit lies in, -1: no hit
  Point* normal;                     // (n, 3)
  int32_t *steps, *intervals;        // (n,)

  DSS_HD Ray ray(int64_t i) const { return Ray(origins[i], directions[i]); }
  DSS_HD void store(int64_t i, const Trace& trace) const {
    t[i] = trace.hit / trace.ray.length;
    sphere[i] = trace.sphere;
    normal[i] = {0, 0, 0};
    steps[i] = trace.steps;
    intervals[i] = trace.intervals;
  }
  DSS_HD void store_normal(int64_t i, Point gradient) const {
    const Point g = gradient;
    const float length = sqrtf(g.x * g.x + g.y * g.y + g.z * g.z);
    const float scale = 1 / max_of(length, 1e-12f);
    normal[i] = {g.x * scale, g.y * scale, g.z * scale};
  }
  // Trace a ray through an octree and store what it hits.
  DSS_HD void trace(int64_t i, const Octree& octree, const Decoder& decoder, float probe) const {
    const Ray ray(origins[i], directions[i]);
    const VoxelHit found = trace_voxels(octree, ray, decoder);
    const bool hit = found.voxel.index >= 0;
    t[i] = hit ? found.t / ray.length : INFINITY;
    sphere[i] = found.voxel.index;
    normal[i] = {0, 0, 0};
    steps[i] = found.steps;
    intervals[i] = found.voxels;
    if (hit)
      store_normal(i, central_differences(octree, found.voxel, ray.at(found.t), probe, decoder));
  }
};

} // namespace dss
