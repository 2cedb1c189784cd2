/* The pillars' input of gates.py and its gradient. Of each token, with means over the channels,

       z = gate ⊙ points        ẑ = (z − mean z)·d, d = 1 / √(mean (z − mean z)² + ε)        y = ẑ ⊙ (1 + γ) + β

       ∂ẑ = ∂y ⊙ (1 + γ)        ∂z = d·(∂ẑ − mean ∂ẑ − ẑ·mean(∂ẑ ⊙ ẑ)) */

#include <math.h>

#include "shares.h"

enum { PLANES = 4, TOKENS = 32 }; /* tokens of an example whose gradients of γ and β are summed at once */

typedef struct {
    int64_t batch, tokens, dim;
    float epsilon;
} sizes;

INLINE int64_t rows_of(sizes of, int64_t block, int64_t *first)
{
    const int64_t blocks = (of.tokens + TOKENS - 1) / TOKENS, start = block % blocks * TOKENS;
    *first = block / blocks * of.tokens + start;
    return of.tokens - start < TOKENS ? of.tokens - start : TOKENS;
}

/* The mean of z and its d. */
static void moments(sizes of, const float *gate, const float *points, float *mean, float *d)
{
    float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < of.dim; i++) sum += gate[i] * points[i];
    const float middle = sum / (float)of.dim;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < of.dim; i++) {
        const float z = gate[i] * points[i] - middle;
        squares += z * z;
    }
    *mean = middle;
    *d = 1.0f / sqrtf(squares / (float)of.dim + of.epsilon);
}

static void forward_row(sizes of, const float *gate, const float *points, const float *gamma, const float *beta,
                        float *restrict y, float *mean, float *d)
{
    moments(of, gate, points, mean, d);
    const float middle = *mean, scale = *d;
#pragma omp simd
    for (int64_t i = 0; i < of.dim; i++)
        y[i] = (gate[i] * points[i] - middle) * scale * (1.0f + gamma[i]) + beta[i];
}

static void backward_row(sizes of, const float *gate, const float *points, const float *gamma, float mean, float d,
                         const float *grad, float *restrict grad_gate, float *restrict grad_points,
                         float *restrict grad_gamma, float *restrict grad_beta)
{
    float sum = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : sum, along)
    for (int64_t i = 0; i < of.dim; i++) {
        const float normed = (gate[i] * points[i] - mean) * d, of_normed = grad[i] * (1.0f + gamma[i]);
        sum += of_normed;
        along += of_normed * normed;
        grad_gamma[i] += grad[i] * normed;
        grad_beta[i] += grad[i];
    }
    sum /= (float)of.dim, along /= (float)of.dim;
#pragma omp simd
    for (int64_t i = 0; i < of.dim; i++) {
        const float normed = (gate[i] * points[i] - mean) * d;
        const float of_z = d * (grad[i] * (1.0f + gamma[i]) - sum - normed * along);
        grad_points[i] = of_z * gate[i];
        grad_gate[i] += of_z * points[i];
    }
}

/* y and points [4, batch, token, dim], gate [batch, token, dim], γ and β [4, batch, dim]; the mean of z and its d
   [4, batch, token] are for the backward. */
void gates_forward(const float *gate, const float *points, const float *gamma, const float *beta, float *y, float *mean,
                   float *d, const sizes *given, int threads)
{
    const sizes of = *given;
    const int64_t all = of.batch * of.tokens, blocks = of.batch * ((of.tokens + TOKENS - 1) / TOKENS);
    FOR_EACH_PIECE(blocks)
        for (int64_t block = piece.first, first; block < piece.last; block++) {
            const int64_t rows = rows_of(of, block, &first);
            for (int64_t row = first; row < first + rows; row++)
                for (int64_t n = 0; n < PLANES; n++) {
                    const int64_t at = n * all + row, by = (n * of.batch + row / of.tokens) * of.dim;
                    forward_row(of, gate + row * of.dim, points + at * of.dim, gamma + by, beta + by, y + at * of.dim,
                                mean + at, d + at);
                }
        }
}

/* The gradients of gate and points, and what each block of tokens gives to those of γ and β,
   [batch, block, (γ, β), 4, dim], which is added to what is there, as the gradient of the gate is. */
void gates_backward(const float *gate, const float *points, const float *gamma, const float *mean, const float *d,
                    const float *grad, float *grad_gate, float *grad_points, float *grad_film, const sizes *given,
                    int threads)
{
    const sizes of = *given;
    const int64_t all = of.batch * of.tokens, blocks = of.batch * ((of.tokens + TOKENS - 1) / TOKENS);
    FOR_EACH_PIECE(blocks)
        for (int64_t block = piece.first, first; block < piece.last; block++) {
            const int64_t rows = rows_of(of, block, &first);
            for (int64_t row = first; row < first + rows; row++)
                for (int64_t n = 0; n < PLANES; n++) {
                    const int64_t at = n * all + row, by = (n * of.batch + row / of.tokens) * of.dim;
                    float *grad_gamma = grad_film + (block * 2 * PLANES + n) * of.dim;
                    backward_row(of, gate + row * of.dim, points + at * of.dim, gamma + by, mean[at], d[at],
                                 grad + at * of.dim, grad_gate + row * of.dim, grad_points + at * of.dim, grad_gamma,
                                 grad_gamma + PLANES * of.dim);
                }
        }
}
