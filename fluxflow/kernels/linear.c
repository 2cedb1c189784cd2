/* Linear layers for linear.py, some of one size at once: x [layers, rows, inputs], weight [layers, outputs, inputs], bias
   [layers, outputs] and y [layers, rows, outputs], without gaps. */

#include "products.h"

enum { STRIPE = 64, RUN = 64 };

/* Matrices that lie one behind the other. */
INLINE matrices whole(const float *data, int64_t rows, int64_t columns)
{
    return (matrices){(float *)data, rows * columns, 0, columns, 1};
}

INLINE matrices transposed(matrices m)
{
    return (matrices){m.data, m.next, m.part, m.column, m.row};
}

/* The sums over the rows of each matrix, of STRIPE columns at a time; those of RUN rows are added up by themselves, which
   keeps rounding errors small. */
INLINE void sum_rows(const float *matrix, float *sums, int64_t count, int64_t rows, int64_t columns, int threads)
{
    const int64_t stripes = (columns + STRIPE - 1) / STRIPE;
    FOR_EACH_PIECE(count * stripes)
        for (int64_t i = piece.first; i < piece.last; i++) {
            const int64_t column = i % stripes * STRIPE, left = columns - column, some = left < STRIPE ? left : STRIPE;
            const float *from = matrix + i / stripes * rows * columns + column;
            float total[STRIPE] = {0};
            for (int64_t row = 0, end; row < rows; row = end) {
                float part[STRIPE] = {0};
                end = row + RUN < rows ? row + RUN : rows;
                for (int64_t r = row; r < end; r++)
                    for (int64_t j = 0; j < some; j++) part[j] += from[r * columns + j];
                for (int64_t j = 0; j < some; j++) total[j] += part[j];
            }
            memcpy(sums + i / stripes * columns + column, total, some * sizeof *total);
        }
}

static void product(matrices a, matrices b, matrices plus, matrices c, int64_t count, int64_t rows, int64_t columns,
                    int64_t depth, int threads)
{
    multiply_matrices(1, a, b, plus, c, count, rows, columns, depth, threads);
}

/* y = x · weightᵀ + bias. */
void linear_forward(const float *x, const float *weight, const float *bias, float *y, int64_t layers, int64_t rows,
                    int64_t inputs, int64_t outputs, int threads)
{
    const matrices base = {(float *)bias, outputs, 0, 0, 1};
    product(whole(x, rows, inputs), transposed(whole(weight, outputs, inputs)), base, whole(y, rows, outputs), layers, rows,
            outputs, inputs, threads);
}

/* The gradients of those arguments that have space for theirs, from that of y. */
void linear_backward(const float *x, const float *weight, const float *grad, float *grad_x, float *grad_weight,
                     float *grad_bias, int64_t layers, int64_t rows, int64_t inputs, int64_t outputs, int threads)
{
    const matrices of_y = whole(grad, rows, outputs), zero = {0};
    if (grad_x)
        product(of_y, whole(weight, outputs, inputs), zero, whole(grad_x, rows, inputs), layers, rows, inputs, outputs,
                threads);
    if (grad_weight)
        product(transposed(of_y), whole(x, rows, inputs), zero, whole(grad_weight, outputs, inputs), layers, outputs, inputs,
                rows, threads);
    if (grad_bias) sum_rows(grad, grad_bias, layers, rows, outputs, threads);
}
