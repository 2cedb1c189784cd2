/* Batches of float32 matrix products for products.py. */

#include "products.h"

/* `multiply_matrices` of what is `given`, in the order a, b, plus, c. */
#define EXPORT(NAME, PARTS)                                                                                     \
    void NAME(const matrices *given, int64_t count, int64_t rows, int64_t columns, int64_t depth, int threads)  \
    {                                                                                                           \
        multiply_matrices(PARTS, given[0], given[1], given[2], given[3], count, rows, columns, depth, threads); \
    }

EXPORT(multiply_real, 1)
EXPORT(multiply_complex, 2)
