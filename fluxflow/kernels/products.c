/* Batches of float32 matrix products for products.py, by blocks of ROWS × COLUMNS sums that stay in registers. */

#include <stdint.h>
#include <string.h>

#if defined __AVX512F__
enum { WIDTH = 16, ROWS = 8 };
#elif defined __AVX__
enum { WIDTH = 8, ROWS = 6 };
#else
enum { WIDTH = 4, ROWS = 8 };
#endif
enum { COLUMNS = 2 * WIDTH, DEPTH = 256, LINE = 16, AHEAD = 24 };

#define INLINE static inline __attribute__((always_inline))
typedef float vector __attribute__((vector_size(4 * WIDTH)));

/* Matrices in a tensor: the distances from one to the next, from row to row and from column to column. */
typedef struct {
    float *data;
    int64_t next, row, column;
} matrices;

/* Asks for numbers of `a` that will be needed soon: a line each of the rows after these, or a later column. */
INLINE void prefetch(int rows, int64_t k, const float *a, int64_t row, int64_t column)
{
    if (column != 1)
        __builtin_prefetch(a + AHEAD * column);
    else if (k % LINE == 0)
        for (int r = 0; r < rows; r++) __builtin_prefetch(a + (r + rows) * row);
}

/* c[r][v] = plus[r][v] + Σ_k a[r][k] · b[k][v] for some rows and vectors of columns; `plus` may be c, or null. */
INLINE void block(int rows, int vectors, int64_t depth, const float *a, int64_t a_row, int64_t a_column, const float *b,
                  int64_t b_row, const float *plus, int64_t plus_row, float *c, int64_t c_row)
{
    vector sums[ROWS][2] = {0}, right[2];
    for (int64_t k = 0; k < depth; k++, a += a_column, b += b_row) {
        prefetch(rows, k, a, a_row, a_column);
        for (int v = 0; v < vectors; v++) memcpy(&right[v], b + v * WIDTH, sizeof right[v]);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++) sums[r][v] += a[r * a_row] * right[v];
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) {
            vector sum = {0};
            if (plus) memcpy(&sum, plus + r * plus_row + v * WIDTH, sizeof sum);
            sum += sums[r][v];
            memcpy(c + r * c_row + v * WIDTH, &sum, sizeof sum);
        }
}

/* The block of as many rows as are left, which the compiler wants to know. */
INLINE void product(int64_t rows, int vectors, int64_t depth, const float *a, const matrices *as, const float *b,
                    int64_t b_row, const float *plus, int64_t plus_row, float *c, int64_t c_row)
{
    if (rows == ROWS)
        block(ROWS, vectors, depth, a, as->row, as->column, b, b_row, plus, plus_row, c, c_row);
    else
        block(1, vectors, depth, a, as->row, as->column, b, b_row, plus, plus_row, c, c_row);
}

/* Some columns of c, DEPTH terms at a time. Columns of b that do not lie side by side, or are fewer than `vectors` have,
   are copied first; those of c are then written by way of a whole block. */
INLINE void panel(int vectors, int columns, int64_t rows, int64_t depth, const float *a, const matrices *as,
                  const float *b, const matrices *bs, const float *plus, int64_t plus_row, float *c, int64_t c_row)
{
    float copied[DEPTH * COLUMNS], whole[ROWS * COLUMNS];
    const int partial = columns < vectors * WIDTH, copy = partial || bs->column != 1;
    if (partial) memset(copied, 0, sizeof copied);
    for (int64_t k = 0; k < depth; k += DEPTH, plus = c, plus_row = c_row) {
        const int64_t now = depth - k < DEPTH ? depth - k : DEPTH;
        const float *right = b + k * bs->row;
        for (int j = 0; copy && j < columns; j++)
            for (int64_t i = 0; i < now; i++) copied[i * COLUMNS + j] = right[i * bs->row + j * bs->column];
        const int64_t right_row = copy ? COLUMNS : bs->row;
        if (copy) right = copied;
        for (int64_t r = 0, some; r < rows; r += some) {
            const float *left = a + r * as->row + k * as->column, *before = plus ? plus + r * plus_row : plus;
            float *to = c + r * c_row;
            some = rows - r < ROWS ? 1 : ROWS;
            if (partial) {
                product(some, vectors, now, left, as, right, right_row, 0, 0, whole, COLUMNS);
                for (int i = 0; i < some; i++)
                    for (int j = 0; j < columns; j++)
                        to[i * c_row + j] = whole[i * COLUMNS + j] + (before ? before[i * plus_row + j] : 0);
            } else
                product(some, vectors, now, left, as, right, right_row, before, plus_row, to, c_row);
        }
    }
}

/* c = plus + a · b for `count` matrices [rows, depth] · [depth, columns]; the columns of c lie side by side, as those of
   `plus` do, which may be c, or have no data. */
void multiply(const matrices *a, const matrices *b, const matrices *plus, const matrices *c, int64_t count,
              int64_t rows, int64_t columns, int64_t depth, int threads)
{
    const int64_t panels = (columns + COLUMNS - 1) / COLUMNS;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t i = 0; i < count * panels; i++) {
        const int64_t matrix = i / panels, first = i % panels * COLUMNS;
        const int some = columns - first < COLUMNS ? (int)(columns - first) : COLUMNS;
        const float *left = a->data + matrix * a->next, *right = b->data + matrix * b->next + first * b->column;
        const float *before = plus->data ? plus->data + matrix * plus->next + first : 0;
        float *to = c->data + matrix * c->next + first;
        if (some > WIDTH)
            panel(2, some, rows, depth, left, a, right, b, before, plus->row, to, c->row);
        else
            panel(1, some, rows, depth, left, a, right, b, before, plus->row, to, c->row);
    }
}
