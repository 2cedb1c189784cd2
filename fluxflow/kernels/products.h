/* Float32 matrix products by blocks of sums that stay in registers. The product of complex numbers takes three of real
   ones (Gauss):

       s = a_r·(b_r + b_i)        c_r = s − b_i·(a_r + a_i)        c_i = s − b_r·(a_r − a_i) */

#pragma once

#include <string.h>

#include "shares.h"

/* A block has ROWS rows, or those that make COMPLEX_BLOCK vectors of complex numbers. */
#if defined __AVX512F__
enum { WIDTH = 16, ROWS = 8, COMPLEX_BLOCK = 8, COMPLEX_VECTORS = 2 };
#elif defined __AVX__
enum { WIDTH = 8, ROWS = 6, COMPLEX_BLOCK = 4, COMPLEX_VECTORS = 1 };
#else
enum { WIDTH = 4, ROWS = 8, COMPLEX_BLOCK = 8, COMPLEX_VECTORS = 2 };
#endif
enum { VECTORS = 2, COLUMNS = VECTORS * WIDTH, DEPTH = 256, LINE = 16, AHEAD = 24, IN_L2 = 2, BAND = 512 };

typedef float vector __attribute__((vector_size(4 * WIDTH)));

/* Matrices in a tensor, and the distances from one to the next, from the real part to the imaginary one, from row to row
   and from column to column. */
typedef struct {
    float *data;
    int64_t next, part, row, column;
} matrices;

/* What begins at a matrix, row and column; nothing stays nothing. */
INLINE matrices from(matrices m, int64_t matrix, int64_t row, int64_t column)
{
    if (m.data) m.data += matrix * m.next + row * m.row + column * m.column;
    return m;
}

INLINE vector load(const float *p)
{
    vector v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Numbers that will be needed soon are asked for: of `a` a line each of the rows after these, or what is `later`; of `b`,
   when its first block is formed, what is `later`. Matrices of complex numbers are small, so that later is the next. */
INLINE void prefetch_rows(int rows, int64_t k, const float *a, int64_t row, int64_t column, int64_t later)
{
    if (column != 1)
        __builtin_prefetch(a + later, 0, IN_L2);
    else if (k % LINE == 0)
        for (int r = 0; r < rows; r++) __builtin_prefetch(a + (r + rows) * row);
}

INLINE void prefetch_vectors(int vectors, const float *b, int64_t later)
{
    for (int v = 0; v < vectors; v++) __builtin_prefetch(b + later + v * WIDTH, 0, IN_L2);
}

typedef vector sums[2][ROWS][VECTORS]; /* real and imaginary, of rows and vectors of columns */

/* Σ_k a[r][k] · b[k][v]. The sums begin one by one: an array that is cleared as a whole stays in memory. */
INLINE void sum_real(int first, int rows, int vectors, int64_t depth, matrices a, matrices b, sums sum)
{
    vector total[ROWS][VECTORS], right[VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) total[r][v] = (vector){0};
    for (int64_t k = 0; k < depth; k++, a.data += a.column, b.data += b.row) {
        prefetch_rows(rows, k, a.data, a.row, a.column, AHEAD * a.column);
        if (first) prefetch_vectors(vectors, b.data, AHEAD * b.row);
        for (int v = 0; v < vectors; v++) right[v] = load(b.data + v * WIDTH);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++) total[r][v] += a.data[r * a.row] * right[v];
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sum[0][r][v] = total[r][v];
}

INLINE void sum_complex(int first, int rows, int vectors, int64_t depth, matrices a, matrices b, sums sum)
{
    vector shared[COMPLEX_BLOCK], less_r[COMPLEX_BLOCK], less_i[COMPLEX_BLOCK];
    for (int i = 0; i < rows * vectors; i++) shared[i] = less_r[i] = less_i[i] = (vector){0};
    for (int64_t k = 0; k < depth; k++, a.data += a.column, b.data += b.row) {
        prefetch_rows(rows, k, a.data, a.row, a.column, a.next);
        prefetch_rows(rows, k, a.data + a.part, a.row, a.column, a.next);
        if (first) prefetch_vectors(vectors, b.data, b.next);
        if (first) prefetch_vectors(vectors, b.data + b.part, b.next);
        vector b_r[VECTORS], b_i[VECTORS], both[VECTORS];
        for (int v = 0; v < vectors; v++) {
            b_r[v] = load(b.data + v * WIDTH);
            b_i[v] = load(b.data + b.part + v * WIDTH);
            both[v] = b_r[v] + b_i[v];
        }
        for (int r = 0; r < rows; r++) {
            const float a_r = a.data[r * a.row], a_i = a.data[a.part + r * a.row];
            for (int v = 0; v < vectors; v++) {
                shared[r * vectors + v] += a_r * both[v];
                less_r[r * vectors + v] += (a_r + a_i) * b_i[v];
                less_i[r * vectors + v] += (a_r - a_i) * b_r[v];
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            sum[0][r][v] = shared[r * vectors + v] - less_r[r * vectors + v];
            sum[1][r][v] = shared[r * vectors + v] - less_i[r * vectors + v];
        }
}

/* c = plus + a · b for some rows and vectors of columns; `first` of those with this b. */
INLINE void block(int parts, int first, int rows, int vectors, int64_t depth, matrices a, matrices b, matrices plus,
                  matrices c)
{
    sums sum;
    if (parts == 1)
        sum_real(first, rows, vectors, depth, a, b, sum);
    else
        sum_complex(first, rows, vectors, depth, a, b, sum);
    for (int p = 0; p < parts; p++)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++) {
                const int64_t at = v * WIDTH;
                if (parts == 1) __builtin_prefetch(c.data + (r + rows) * c.row + at, 1);
                if (parts == 2) __builtin_prefetch(c.data + p * c.part + r * c.row + at + c.next, 1, IN_L2);
                if (plus.data) sum[p][r][v] += load(plus.data + p * plus.part + r * plus.row + at);
                memcpy(c.data + p * c.part + r * c.row + at, &sum[p][r][v], sizeof(vector));
            }
}

/* Rows and columns of one matrix, of both parts. It is not inlined: where sums are formed, it would take registers. */
__attribute__((noinline)) static void copy(int parts, int64_t rows, int columns, matrices source, matrices target)
{
    for (int p = 0; p < parts; p++)
        for (int j = 0; j < columns; j++)
            for (int64_t i = 0; i < rows; i++)
                target.data[p * target.part + i * target.row + j] =
                    source.data[p * source.part + i * source.row + j * source.column];
}

/* Some columns of c, from up to DEPTH terms. Columns of b that do not lie side by side, or are fewer than `vectors` have,
   are copied first; those of c and `plus` are then worked on in a copy of a block. The rows of a last block that is not
   full are taken half a block at a time, then singly. */
INLINE void panel(int parts, int vectors, int columns, int64_t rows, int64_t depth, matrices a, matrices b,
                  matrices plus, matrices c)
{
    float right[2 * DEPTH * COLUMNS], left[2 * ROWS * COLUMNS];
    const matrices copied = {right, 0, DEPTH * COLUMNS, COLUMNS, 1}, whole = {left, 0, ROWS * COLUMNS, COLUMNS, 1};
    const int at_once = parts == 1 ? ROWS : COMPLEX_BLOCK / vectors, partial = columns < vectors * WIDTH;
    if (partial) memset(right, 0, sizeof right), memset(left, 0, sizeof left);
    if (partial || b.column != 1) copy(parts, depth, columns, b, copied), b = copied;
    for (int64_t r = 0, some; r < rows; r += some) {
        const matrices factors = from(a, 0, r, 0), before = from(plus, 0, r, 0), after = from(c, 0, r, 0);
        some = rows - r < at_once / 2 ? 1 : rows - r < at_once ? at_once / 2 : at_once;
        if (partial && before.data) copy(parts, some, columns, before, whole);
        const matrices to = partial ? whole : after, base = partial && before.data ? whole : before;
        if (some == 1)
            block(parts, r == 0, 1, vectors, depth, factors, b, base, to);
        else if (some < at_once)
            block(parts, r == 0, at_once / 2, vectors, depth, factors, b, base, to);
        else
            block(parts, r == 0, at_once, vectors, depth, factors, b, base, to);
        if (partial) copy(parts, some, columns, whole, after);
    }
}

/* Panels of some rows of c, DEPTH terms at a time: what they take of `a` stays in the cache for all of them. */
INLINE void band(int parts, int64_t first, int64_t last, int64_t rows, int64_t columns, int64_t depth, matrices a,
                 matrices b, matrices plus, matrices c)
{
    const int vectors = parts == 1 ? VECTORS : COMPLEX_VECTORS, width = vectors * WIDTH;
    for (int64_t k = 0; k < depth; k += DEPTH, plus = c) {
        const int64_t now = depth - k < DEPTH ? depth - k : DEPTH;
        for (int64_t at = first * width; at < last * width; at += width) {
            const int some = columns - at < width ? (int)(columns - at) : width;
            const matrices factors = from(a, 0, 0, k), terms = from(b, 0, k, at);
            const matrices before = from(plus, 0, 0, at), after = from(c, 0, 0, at);
            if (some > WIDTH)
                panel(parts, vectors, some, rows, now, factors, terms, before, after);
            else
                panel(parts, 1, some, rows, now, factors, terms, before, after);
        }
    }
}

/* c = plus + a · b for `count` matrices [rows, depth] · [depth, columns]; the columns of c lie side by side, as those of
   `plus` do, which may be c, or have no data. Threads share the panels of all bands, and take those of a band together. */
INLINE void multiply_matrices(int parts, matrices a, matrices b, matrices plus, matrices c, int64_t count, int64_t rows,
                              int64_t columns, int64_t depth, int threads)
{
    const int width = (parts == 1 ? VECTORS : COMPLEX_VECTORS) * WIDTH;
    const int64_t panels = (columns + width - 1) / width, bands = (rows + BAND - 1) / BAND;
    const int64_t height = (rows + bands * ROWS - 1) / (bands * ROWS) * ROWS;
    FOR_EACH_PIECE(count * bands * panels)
        for (int64_t i = piece.first, last; i < piece.last; i += last - i % panels) {
            const int64_t matrix = i / panels / bands, row = i / panels % bands * height, first = i % panels;
            const int64_t some = rows - row < height ? rows - row : height;
            last = piece.last - i < panels - first ? first + piece.last - i : panels;
            band(parts, first, last, some, columns, depth, from(a, matrix, row, 0), from(b, matrix, 0, 0),
                 from(plus, matrix, row, 0), from(c, matrix, row, 0));
        }
}
