/* Self-attention for attention.py and its gradient, head by head and some queries at a time, whose scores stay in the
   cache. With s = q·kᵀ / √dim, where q and k are turned by the rotary angles first, and l = log Σ exp s of each query:

       p = exp(s − l)        y = p·v        ∂v = pᵀ·∂y        ∂s = p ⊙ (∂y·vᵀ − Σ ∂y ⊙ y)        ∂q = ∂s·k        ∂k = ∂sᵀ·q

   All of a head's tokens are copied out of the projection [batch, token, (q, k, v), head, dim] before. */

#include <math.h>

#include "exponential.h"
#include "products.h"

enum { QUERIES = 128, SCORES = 1 << 16 }; /* at a time */

typedef struct {
    const float *cosine, *sine; /* [tokens, dim], or nothing */
    int64_t batch, tokens, heads, dim;
} layout;

INLINE int64_t whole(int64_t tokens) { return (tokens + COLUMNS - 1) / COLUMNS * COLUMNS; }

/* From one query to the next; not of a power of two, of which few fit into the cache. */
INLINE int64_t row_of(layout of) { return whole(of.tokens) + WIDTH; }

INLINE int64_t queries(layout of)
{
    const int64_t fit = SCORES / of.tokens / ROWS * ROWS;
    return fit < ROWS ? ROWS : fit < QUERIES ? fit : QUERIES;
}

/* Numbers that a thread needs space for. */
int64_t space(const layout *of) { return 7 * whole(of->tokens) * of->dim + 2 * queries(*of) * row_of(*of); }

INLINE matrices at(const float *data, int64_t row, int64_t column) { return (matrices){(float *)data, 0, 0, row, column}; }

/* c = plus + a·b, with the columns of b and c side by side, as in products.c. */
static void multiply(int64_t rows, int64_t columns, int64_t depth, matrices a, const float *b, int64_t row_b,
                     const float *plus, float *c, int64_t row_c)
{
    const int64_t panels = (columns + COLUMNS - 1) / COLUMNS;
    band(1, 0, panels, rows, columns, depth, a, at(b, row_b, 1), at(plus, row_c, 1), at(c, row_c, 1));
}

/* Copies a head's tokens, turned and scaled. */
static void gather(layout of, const float *x, int64_t step, int turned, float scale, float *restrict to)
{
    const int64_t half = of.dim / 2;
    for (int64_t t = 0; t < of.tokens; t++, x += step, to += of.dim)
        if (turned && of.cosine) {
            const float *cosine = of.cosine + t * of.dim, *sine = of.sine + t * of.dim;
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                to[i] = scale * (x[i] * cosine[i] + x[i + half] * sine[i]);
                to[i + half] = scale * (x[i + half] * cosine[i + half] + x[i] * sine[i + half]);
            }
        } else
            for (int64_t i = 0; i < of.dim; i++) to[i] = scale * x[i];
}

/* Its adjoint. */
static void scatter(layout of, const float *grad, int turned, float scale, float *restrict to, int64_t step)
{
    const int64_t half = of.dim / 2;
    for (int64_t t = 0; t < of.tokens; t++, grad += of.dim, to += step)
        if (turned && of.cosine) {
            const float *cosine = of.cosine + t * of.dim, *sine = of.sine + t * of.dim;
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                to[i] = scale * (grad[i] * cosine[i] + grad[i + half] * sine[i + half]);
                to[i + half] = scale * (grad[i + half] * cosine[i + half] + grad[i] * sine[i]);
            }
        } else
            for (int64_t i = 0; i < of.dim; i++) to[i] = scale * grad[i];
}

/* The transposed tokens in panels of COLUMNS, the last one filled up by zeros. */
static void transpose(layout of, const float *x, float *restrict panels)
{
    memset(panels, 0, whole(of.tokens) * of.dim * sizeof(float));
    for (int64_t t = 0; t < of.tokens; t++) {
        float *restrict to = panels + t / COLUMNS * COLUMNS * of.dim + t % COLUMNS;
        for (int64_t i = 0; i < of.dim; i++) to[i * COLUMNS] = x[t * of.dim + i];
    }
}

/* The products of some rows with all tokens of a head. */
static void scores(layout of, int64_t rows, const float *x, const float *panels, float *to)
{
    for (int64_t t = 0; t < of.tokens; t += COLUMNS)
        multiply(rows, COLUMNS, of.dim, at(x, of.dim, 1), panels + t * of.dim, COLUMNS, 0, to + t, row_of(of));
}

/* log Σ exp s; the scores become exp(s − l). */
static float normalise(int64_t tokens, float *restrict s)
{
    float most = s[0], total = 0.0f;
#pragma omp simd reduction(max : most)
    for (int64_t t = 0; t < tokens; t++) most = s[t] > most ? s[t] : most;
#pragma omp simd reduction(+ : total)
    for (int64_t t = 0; t < tokens; t++) total += s[t] = decay(clamp(most - s[t], NANS));
    const float share = 1.0f / total;
    for (int64_t t = 0; t < tokens; t++) s[t] *= share;
    return most + logf(total);
}

static void forward_head(layout of, const float *qkv, float *y, float *logs, float *space)
{
    const int64_t all = of.heads * of.dim, size = whole(of.tokens) * of.dim;
    float *q = space, *k = q + size, *panels = k + size, *v = panels + size, *s = v + size;
    gather(of, qkv, 3 * all, 1, 1.0f / sqrtf((float)of.dim), q);
    gather(of, qkv + all, 3 * all, 1, 1.0f, k);
    gather(of, qkv + 2 * all, 3 * all, 0, 1.0f, v);
    transpose(of, k, panels);
    for (int64_t t = 0, rows; t < of.tokens; t += rows) {
        rows = of.tokens - t < queries(of) ? of.tokens - t : queries(of);
        scores(of, rows, q + t * of.dim, panels, s);
        for (int64_t r = 0; r < rows; r++) logs[t + r] = normalise(of.tokens, s + r * row_of(of));
        multiply(rows, of.dim, of.tokens, at(s, row_of(of), 1), v, of.dim, 0, y + t * all, all);
    }
}

/* p and ∂s of a query, from its scores and ∂y·vᵀ. */
static void differentiate(int64_t tokens, float log, float along, float *restrict s, float *restrict grad)
{
#pragma omp simd
    for (int64_t t = 0; t < tokens; t++) {
        s[t] = decay(clamp(log - s[t], NANS));
        grad[t] = s[t] * (grad[t] - along);
    }
}

static void backward_head(layout of, const float *qkv, const float *y, const float *logs, const float *grad_y,
                          float *grad, float *space)
{
    const int64_t all = of.heads * of.dim, size = whole(of.tokens) * of.dim, row = row_of(of);
    const float scale = 1.0f / sqrtf((float)of.dim);
    float *q = space, *k = q + size, *v = k + size, *panels = v + size, *of_y = panels + size, *grad_k = of_y + size,
          *grad_v = grad_k + size, *s = grad_v + size, *grad_s = s + queries(of) * row, along[QUERIES];
    gather(of, qkv, 3 * all, 1, scale, q);
    gather(of, qkv + all, 3 * all, 1, 1.0f, k);
    gather(of, qkv + 2 * all, 3 * all, 0, 1.0f, grad_v);
    transpose(of, grad_v, v);
    transpose(of, k, panels);
    gather(of, grad_y, all, 0, 1.0f, of_y);
    for (int64_t t = 0, rows; t < of.tokens; t += rows) {
        rows = of.tokens - t < queries(of) ? of.tokens - t : queries(of);
        const float *q_rows = q + t * of.dim, *y_rows = of_y + t * of.dim;
        scores(of, rows, q_rows, panels, s);
        scores(of, rows, y_rows, v, grad_s);
        for (int64_t r = 0; r < rows; r++) {
            along[r] = 0.0f;
            for (int64_t i = 0; i < of.dim; i++) along[r] += y_rows[r * of.dim + i] * y[(t + r) * all + i];
            differentiate(of.tokens, logs[t + r], along[r], s + r * row, grad_s + r * row);
        }
        multiply(of.tokens, of.dim, rows, at(s, 1, row), y_rows, of.dim, t ? grad_v : 0, grad_v, of.dim);
        multiply(of.tokens, of.dim, rows, at(grad_s, 1, row), q_rows, of.dim, t ? grad_k : 0, grad_k, of.dim);
        multiply(rows, of.dim, of.tokens, at(grad_s, row, 1), k, of.dim, 0, q + t * of.dim, of.dim);
    }
    scatter(of, q, 1, scale, grad, 3 * all);
    scatter(of, grad_k, 1, 1.0f, grad + all, 3 * all);
    scatter(of, grad_v, 0, 1.0f, grad + 2 * all, 3 * all);
}

/* Where a head's numbers begin in a tensor of `parts` times [batch, token, head, dim]. */
INLINE int64_t start(layout of, int64_t head, int parts)
{
    return (head / of.heads * of.tokens * parts * of.heads + head % of.heads) * of.dim;
}

/* y [batch, token, head, dim] and l [batch, head, token] of the projection; `space` is of all threads. */
void attention_forward(const float *qkv, float *y, float *logs, float *scratch, const layout *of, int threads)
{
    FOR_EACH_PIECE(of->batch * of->heads)
        for (int64_t i = piece.first; i < piece.last; i++)
            forward_head(*of, qkv + start(*of, i, 3), y + start(*of, i, 1), logs + i * of->tokens,
                         scratch + thread * space(of));
}

/* The gradient of the projection. */
void attention_backward(const float *qkv, const float *y, const float *logs, const float *grad_y, float *grad,
                        float *scratch, const layout *of, int threads)
{
    FOR_EACH_PIECE(of->batch * of->heads)
        for (int64_t i = piece.first; i < piece.last; i++)
            backward_head(*of, qkv + start(*of, i, 3), y + start(*of, i, 1), logs + i * of->tokens,
                          grad_y + start(*of, i, 1), grad + start(*of, i, 3), scratch + thread * space(of));
}
