/* Batches of float32 matrix products for products.py. */

#include "products.h"

/* Threads share the panels of all bands, and take those of a band together. */
INLINE void run(int parts, matrices a, matrices b, matrices plus, matrices c, int64_t count, int64_t rows,
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

/* c = plus + a · b for `count` matrices [rows, depth] · [depth, columns]; the columns of c lie side by side, as those of
   `plus` do, which may be c, or have no data. The four are `given` in the order a, b, plus, c. */
#define EXPORT(NAME, PARTS)                                                                                       \
    void NAME(const matrices *given, int64_t count, int64_t rows, int64_t columns, int64_t depth, int threads)    \
    {                                                                                                             \
        run(PARTS, given[0], given[1], given[2], given[3], count, rows, columns, depth, threads);                 \
    }

EXPORT(multiply_real, 1)
EXPORT(multiply_complex, 2)
