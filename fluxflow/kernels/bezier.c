/* The Bézier activation of bezier.py and its gradient, for planes that lie in memory one after another.

   The input is `outer` groups of five planes [t | p0 | p1 | p2 | p3] of `plane` values each, the output `outer` planes.
   The compiler is told T_KIND and P_KIND, the activations of t and of the control points, and BFLOAT16 for such values:
   each loop is then one pass over memory without a branch, and can be vectorised. A product and a sum may be fused, but
   values must not be taken for finite: NaN and infinity reach the output, where training looks for them. */

#include <stddef.h>
#include <string.h>

#include "exponential.h"
#include "parallel.h"

enum { TILE = 1024 }; /* values of a plane that a thread takes at a time */
enum activation { NONE, SIGMOID, SILU, TANH, RELU }; /* in the order of bezier.ACTIVATIONS */

#ifdef BFLOAT16
typedef uint16_t value;

INLINE float load(value narrow)
{
    uint32_t bits = (uint32_t)narrow << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

/* To the nearest, ties to even. */
INLINE value store(float wide)
{
    uint32_t bits;
    memcpy(&bits, &wide, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (value)(wide != wide ? 0x7fc0 : rounded);
}
#else
typedef float value;

INLINE float load(value x) { return x; }
INLINE value store(float x) { return x; }
#endif

/* Beyond ±87 it is 1 or 2e-38. */
INLINE float sigmoid(float x, uint32_t nans) { return 1.0f / (1.0f + decay(clamp(x, nans))); }

/* Near 0 its series, since 2σ(2x) − 1 has lost the digits there. */
INLINE float hyperbolic_tangent(float x)
{
    float square = x * x;
    float series = -5.70498872745e-3f;
    series = series * square + 2.06390887954e-2f;
    series = series * square - 5.37397155531e-2f;
    series = series * square + 1.33314422036e-1f;
    series = series * square - 3.33332819422e-1f;
    float near = series * square * x + x, far = 2.0f * sigmoid(2.0f * x, NANS) - 1.0f;
    return square < 0.39f ? near : far;
}

/* f(x), and f'(x) in `slope`. */
INLINE float activate(enum activation kind, float x, float *slope)
{
    float y = x;
    *slope = 1.0f;
    switch (kind) {
    case SIGMOID:
        y = sigmoid(x, NANS);
        *slope = y * (1.0f - y);
        break;
    case SILU: {
        float gate = sigmoid(x, 0); /* the product with x brings NaN back */
        y = x * gate;
        *slope = gate + y * (1.0f - gate);
        break;
    }
    case TANH:
        y = hyperbolic_tangent(x);
        *slope = 1.0f - y * y;
        break;
    case RELU:
        y = x < 0.0f ? 0.0f : x;
        *slope = x > 0.0f ? 1.0f : 0.0f;
        break;
    case NONE:
        break;
    }
    return y;
}

static void forward_tile(const value *x, value *restrict y, size_t plane, size_t n)
{
    const value *restrict x_t = x, *restrict x_0 = x + plane, *restrict x_1 = x_0 + plane, *restrict x_2 = x_1 + plane,
                *restrict x_3 = x_2 + plane;
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float slope, t = activate(T_KIND, load(x_t[i]), &slope), s = 1.0f - t;
        float p0 = activate(P_KIND, load(x_0[i]), &slope), p1 = activate(P_KIND, load(x_1[i]), &slope),
              p2 = activate(P_KIND, load(x_2[i]), &slope), p3 = activate(P_KIND, load(x_3[i]), &slope);
        float middle = 3.0f * s * t * (s * p1 + t * p2);
        y[i] = store(s * s * s * p0 + (middle + t * t * t * p3));
    }
}

static void backward_tile(const value *x, const value *restrict grad, value *grad_x, size_t plane, size_t n)
{
    const value *restrict x_t = x, *restrict x_0 = x + plane, *restrict x_1 = x_0 + plane, *restrict x_2 = x_1 + plane,
                *restrict x_3 = x_2 + plane;
    value *restrict g_t = grad_x, *restrict g_0 = grad_x + plane, *restrict g_1 = g_0 + plane,
          *restrict g_2 = g_1 + plane, *restrict g_3 = g_2 + plane;
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float of_t, of_0, of_1, of_2, of_3, g = load(grad[i]);
        float t = activate(T_KIND, load(x_t[i]), &of_t), s = 1.0f - t, ss = s * s, st = s * t, tt = t * t;
        float p0 = activate(P_KIND, load(x_0[i]), &of_0), p1 = activate(P_KIND, load(x_1[i]), &of_1),
              p2 = activate(P_KIND, load(x_2[i]), &of_2), p3 = activate(P_KIND, load(x_3[i]), &of_3);
        float curve = ss * (p1 - p0) + (2.0f * st * (p2 - p1) + tt * (p3 - p2)), three = 3.0f * g, middle = three * st;
        g_t[i] = store(three * curve * of_t);
        g_0[i] = store(g * ss * s * of_0);
        g_1[i] = store(middle * s * of_1);
        g_2[i] = store(middle * t * of_2);
        g_3[i] = store(g * tt * t * of_3);
    }
}

/* Runs STATEMENT for each tile with `from` (first index in the input), `to` (in the output) and its length n. */
#define FOR_EACH_TILE(STATEMENT)                                             \
    const int64_t tiles = (plane + TILE - 1) / TILE;                         \
    FOR_EACH_PIECE(outer * tiles)                                            \
    for (int64_t index = piece.first; index < piece.last; index++) {         \
        int64_t group = index / tiles, start = index % tiles * TILE;         \
        size_t from = group * 5 * plane + start, to = group * plane + start; \
        size_t n = plane - start < TILE ? plane - start : TILE;              \
        STATEMENT;                                                           \
    }

void bezier_forward(const value *x, value *y, int64_t outer, int64_t plane, int threads)
{
    FOR_EACH_TILE(forward_tile(x + from, y + to, plane, n))
}

void bezier_backward(const value *x, const value *grad, value *grad_x, int64_t outer, int64_t plane, int threads)
{
    FOR_EACH_TILE(backward_tile(x + from, grad + to, grad_x + from, plane, n))
}
