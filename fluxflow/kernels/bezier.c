/* The Bézier activation of bezier.py and its gradient, for planes that lie in memory one after another.

   The input is `outer` groups of five planes [t | p0 | p1 | p2 | p3] of `plane` values each, the output `outer` planes.
   Work goes in tiles that stay in the first-level cache, so that memory is read and written once. Loops are plain, for
   the compiler to vectorise; it may fuse a product and a sum, but must not assume that values are finite: NaN and
   infinity reach the output, where training looks for them. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { TILE = 256 };
enum activation { NONE, SIGMOID, SILU, TANH, RELU }; /* in the order of bezier.ACTIVATIONS */
enum type { FLOAT32, BFLOAT16 };

#define INLINE static inline __attribute__((always_inline))

/* e^x within 2e-7 of its value: 2^n · e^r with |r| ≤ ln(2)/2, where e^r is the polynomial of degree 5 with the smallest
   error. Beyond ±87 it stays at e^±87, which no activation here tells from 0 and infinity. Adding 1.5·2^23 rounds to an
   integer n and leaves it in the lowest bits. */
INLINE float exponential(float x)
{
    const float rounding = 12582912.0f;
    x = x < -87.0f ? -87.0f : x;
    x = x > 87.0f ? 87.0f : x;
    float shifted = x * 1.44269504f + rounding, n = shifted - rounding;
    float r = x - n * 0.69314718f;
    float series = 8.31252039e-3f;
    series = series * r + 4.18901576e-2f;
    series = series * r + 0.166671147f;
    series = series * r + 0.499992315f;
    series = (series * r + 1.0f) * r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return series * power;
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

/* Near 0 its series, since 1 − 2/(e^2x + 1) has lost the digits there. */
INLINE float hyperbolic_tangent(float x)
{
    float square = x * x;
    float series = -5.70498872745e-3f;
    series = series * square + 2.06390887954e-2f;
    series = series * square - 5.37397155531e-2f;
    series = series * square + 1.33314422036e-1f;
    series = series * square - 3.33332819422e-1f;
    float near = series * square * x + x, far = 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f);
    return square < 0.39f ? near : far;
}

INLINE float widen(uint16_t value)
{
    uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

/* To the nearest, ties to even. */
INLINE uint16_t narrow(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (uint16_t)(value != value ? 0x7fc0 : rounded);
}

/* n values from `start` of an array, in place where they are floats already, else in `buffer`. */
static const float *load(const void *array, enum type type, size_t start, size_t n, float *restrict buffer)
{
    if (type == FLOAT32)
        return (const float *)array + start;
    const uint16_t *values = (const uint16_t *)array + start;
    for (size_t i = 0; i < n; i++)
        buffer[i] = widen(values[i]);
    return buffer;
}

/* Where to put n results for `start` of an array; `store` brings them there. */
static float *target(void *array, enum type type, size_t start, float *buffer)
{
    return type == FLOAT32 ? (float *)array + start : buffer;
}

static void store(void *array, enum type type, size_t start, size_t n, const float *restrict buffer)
{
    if (type == FLOAT32)
        return;
    uint16_t *values = (uint16_t *)array + start;
    for (size_t i = 0; i < n; i++)
        values[i] = narrow(buffer[i]);
}

/* f(x) of a tile, in `value` or, if f is the identity, in x itself. */
static const float *activate(enum activation kind, const float *restrict x, size_t n, float *restrict value)
{
    switch (kind) {
    case SIGMOID:
        for (size_t i = 0; i < n; i++)
            value[i] = sigmoid(x[i]);
        return value;
    case SILU:
        for (size_t i = 0; i < n; i++)
            value[i] = x[i] * sigmoid(x[i]);
        return value;
    case TANH:
        for (size_t i = 0; i < n; i++)
            value[i] = hyperbolic_tangent(x[i]);
        return value;
    case RELU:
        for (size_t i = 0; i < n; i++)
            value[i] = x[i] < 0.0f ? 0.0f : x[i];
        return value;
    default:
        return x;
    }
}

/* The same, and in `slope` f'(x). */
static const float *differentiate(enum activation kind, const float *restrict x, size_t n, float *restrict value,
                                  float *restrict slope)
{
    switch (kind) {
    case SILU:
        for (size_t i = 0; i < n; i++) {
            float gate = sigmoid(x[i]), product = x[i] * gate;
            value[i] = product;
            slope[i] = gate + product * (1.0f - gate);
        }
        return value;
    case SIGMOID:
        activate(kind, x, n, value);
        for (size_t i = 0; i < n; i++)
            slope[i] = value[i] * (1.0f - value[i]);
        return value;
    case TANH:
        activate(kind, x, n, value);
        for (size_t i = 0; i < n; i++)
            slope[i] = 1.0f - value[i] * value[i];
        return value;
    case RELU:
        activate(kind, x, n, value);
        for (size_t i = 0; i < n; i++)
            slope[i] = x[i] > 0.0f ? 1.0f : 0.0f;
        return value;
    default:
        for (size_t i = 0; i < n; i++)
            slope[i] = 1.0f;
        return x;
    }
}

static void forward_tile(const void *x, void *y, enum type type, enum activation of_t, enum activation of_p,
                         size_t from, size_t to, size_t plane, size_t n)
{
    float loaded[5][TILE], active[5][TILE], result[TILE];
    const float *value[5];
    for (int k = 0; k < 5; k++) {
        const float *tile = load(x, type, from + k * plane, n, loaded[k]);
        value[k] = activate(k == 0 ? of_t : of_p, tile, n, active[k]);
    }
    const float *restrict t = value[0], *restrict p0 = value[1], *restrict p1 = value[2], *restrict p2 = value[3],
                *restrict p3 = value[4];
    float *restrict out = target(y, type, to, result);
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float s = 1.0f - t[i];
        float middle = 3.0f * s * t[i] * (s * p1[i] + t[i] * p2[i]);
        out[i] = s * s * s * p0[i] + (middle + t[i] * t[i] * t[i] * p3[i]);
    }
    store(y, type, to, n, result);
}

static void backward_tile(const void *x, const void *grad, void *grad_x, enum type type, enum activation of_t,
                          enum activation of_p, size_t from, size_t to, size_t plane, size_t n)
{
    float loaded[5][TILE], active[5][TILE], slope[5][TILE], upstream[TILE], result[5][TILE];
    const float *value[5];
    float *out[5];
    for (int k = 0; k < 5; k++) {
        const float *tile = load(x, type, from + k * plane, n, loaded[k]);
        value[k] = differentiate(k == 0 ? of_t : of_p, tile, n, active[k], slope[k]);
        out[k] = target(grad_x, type, from + k * plane, result[k]);
    }
    const float *restrict g = load(grad, type, to, n, upstream);
    const float *restrict t = value[0], *restrict p0 = value[1], *restrict p1 = value[2], *restrict p2 = value[3],
                *restrict p3 = value[4];
    float *restrict g_t = out[0], *restrict g_0 = out[1], *restrict g_1 = out[2], *restrict g_2 = out[3],
          *restrict g_3 = out[4];
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float s = 1.0f - t[i], u = t[i], ss = s * s, su = s * u, uu = u * u;
        float curve = ss * (p1[i] - p0[i]) + (2.0f * su * (p2[i] - p1[i]) + uu * (p3[i] - p2[i]));
        g_t[i] = g[i] * 3.0f * curve * slope[0][i];
        g_0[i] = g[i] * (ss * s) * slope[1][i];
        g_1[i] = g[i] * (3.0f * ss * u) * slope[2][i];
        g_2[i] = g[i] * (3.0f * su * u) * slope[3][i];
        g_3[i] = g[i] * (uu * u) * slope[4][i];
    }
    for (int k = 0; k < 5; k++)
        store(grad_x, type, from + k * plane, n, result[k]);
}

/* Runs STATEMENT for each tile with `from` (first index in the input), `to` (in the output) and its length n. */
#define FOR_EACH_TILE(STATEMENT)                                                     \
    const int64_t tiles = (plane + TILE - 1) / TILE;                                 \
    _Pragma("omp parallel for num_threads(threads) if(threads > 1) schedule(static)") \
    for (int64_t index = 0; index < outer * tiles; index++) {                        \
        int64_t group = index / tiles, start = index % tiles * TILE;                 \
        size_t from = group * 5 * plane + start, to = group * plane + start;         \
        size_t n = plane - start < TILE ? plane - start : TILE;                      \
        STATEMENT;                                                                   \
    }

void bezier_forward(const void *x, void *y, int64_t outer, int64_t plane, int type, int of_t, int of_p, int threads)
{
    FOR_EACH_TILE(forward_tile(x, y, type, of_t, of_p, from, to, plane, n))
}

void bezier_backward(const void *x, const void *grad, void *grad_x, int64_t outer, int64_t plane, int type, int of_t,
                     int of_p, int threads)
{
    FOR_EACH_TILE(backward_tile(x, grad, grad_x, type, of_t, of_p, from, to, plane, n))
}
