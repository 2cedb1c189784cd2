/* The transforms of fourier.py: windows of a tensor to their spectra, and the adjoint of that, as gradients need it.

   The compiler is told TAPS, the side of a kernel, and TILE, that of the outputs that are computed together. Windows are
   patches of the input (SIDE² numbers), kernels (TAPS²) or tiles of the output (TILE²), seen as SIDE² with zeros in the
   rest. A spectrum is NUMBERS of them: the frequencies of a half plane, first the four that are real, then the real parts
   of the OTHERS, then their imaginary parts. LANES windows are transformed at once, first along their rows, then along their
   columns, by products with `basis`, where symmetry saves half of the operations. */

#include <math.h>
#include <string.h>

#include "parallel.h"

enum { SIDE = TILE + TAPS - TAPS % 2, HALF = SIDE / 2, NUMBERS = SIDE * SIDE, OTHERS = (NUMBERS - 4) / 2, LANES = 16 };
enum kind { PATCH, KERNEL, OUTPUT };

typedef float lanes __attribute__((vector_size(4 * LANES)));

/* Where windows lie in a tensor: window (o, i) begins at outer[o] + inner[i]. Its `size` rows and columns are those from
   first_row and first_column on of the kind's, the others are zero. In fourier.py as well. */
typedef struct {
    const int64_t *outer, *inner;
    int64_t outer_count, inner_count, row_step, column_step, size, first_row, first_column;
} windows;

static float basis[SIDE][SIDE]; /* cos(2πuj/SIDE) for u from 0 to HALF, then sin(2πuj/SIDE) for u from 1 to HALF − 1 */

__attribute__((constructor)) static void fill_basis(void)
{
    for (int u = 0; u < SIDE; u++)
        for (int j = 0; j < SIDE; j++) {
            double angle = 6.283185307179586 / SIDE * ((u <= HALF ? u : u - HALF) * j % SIDE);
            basis[u][j] = (float)(u <= HALF ? cos(angle) : sin(angle));
        }
}

/* out[u] = Σ_j basis[u][j] · in[j], with both vectors in steps. HALF − u has the terms of u, every second with another
   sign: the odd ones of a cosine, the even ones of a sine. */
INLINE void transform(const lanes *in, lanes *out, int n, int in_step, int out_step)
{
    for (int u = 0; u <= HALF / 2; u++) {
        lanes even = {0}, odd = {0};
        for (int j = 0; j < n; j += 2) even += basis[u][j] * in[j * in_step];
        for (int j = 1; j < n; j += 2) odd += basis[u][j] * in[j * in_step];
        out[u * out_step] = even + odd;
        out[(HALF - u) * out_step] = even - odd;
    }
    for (int u = 1; u <= HALF / 2; u++) {
        lanes even = {0}, odd = {0};
        for (int j = 2; j < n; j += 2) even += basis[HALF + u][j] * in[j * in_step];
        for (int j = 1; j < n; j += 2) odd += basis[HALF + u][j] * in[j * in_step];
        out[(HALF + u) * out_step] = even + odd;
        out[(SIDE - u) * out_step] = odd - even;
    }
}

/* out[j] = Σ_u basis[u][j] · in[u], likewise. */
INLINE void transform_adjoint(const lanes *in, lanes *out, int n, int in_step, int out_step)
{
    lanes sums[SIDE], differences[SIDE];
    for (int u = 0; 2 * u <= HALF; u++) {
        lanes cosine = in[u * in_step], mirrored = 2 * u < HALF ? in[(HALF - u) * in_step] : (lanes){0};
        sums[u] = cosine + mirrored;
        differences[u] = cosine - mirrored;
    }
    for (int u = 1; 2 * u <= HALF; u++) {
        lanes sine = in[(HALF + u) * in_step], mirrored = 2 * u < HALF ? in[(SIDE - u) * in_step] : (lanes){0};
        sums[HALF + u] = sine + mirrored;
        differences[HALF + u] = sine - mirrored;
    }
    for (int j = 0; j < n; j++) {
        const lanes *cosines = j % 2 ? differences : sums, *sines = j % 2 ? sums : differences;
        lanes sum = {0};
        for (int u = 0; u <= HALF / 2; u++) sum += basis[u][j] * cosines[u];
        for (int u = 1; u <= HALF / 2; u++) sum += basis[HALF + u][j] * sines[HALF + u];
        out[j * out_step] = sum;
    }
}

/* An output weighs a frequency by its share in the inverse transform; one that is complex stands for its conjugate too. */
static const float share = 1.0f / (SIDE * SIDE);

/* The frequency r + i·√−1 as it is kept. Kernels are kept conjugated, which makes a product a correlation, and so is
   what gradients are analysed to: then their products, too, conjugate nothing. */
INLINE void keep(enum kind kind, lanes r, lanes i, lanes *kept)
{
    const float scale = kind == OUTPUT ? 2 * share : 1.0f;
    kept[0] = scale * r, kept[1] = kind == PATCH ? i : -scale * i;
}

/* The adjoint, for what is kept of a gradient, or of an output. */
INLINE void keep_adjoint(enum kind kind, const lanes *kept, lanes *r, lanes *i)
{
    const float scale = kind == OUTPUT ? 2 * share : 1.0f;
    *r = scale * kept[0], *i = kind == PATCH ? -kept[1] : scale * kept[1];
}

INLINE float *put(lanes value, float *to, int64_t step, int count)
{
    if (count == LANES)
        memcpy(to, &value, sizeof value);
    else
        memcpy(to, &value, count * sizeof *to);
    return to + step;
}

INLINE float *put_complex(enum kind kind, lanes r, lanes i, float *to, int64_t step, int count)
{
    lanes kept[2];
    keep(kind, r, i, kept);
    put(kept[1], to + OTHERS * step, step, count);
    return put(kept[0], to, step, count);
}

INLINE const float *get(const float *from, lanes *value, int64_t step, int count)
{
    *value = (lanes){0};
    if (count == LANES)
        memcpy(value, from, sizeof *value);
    else
        memcpy(value, from, count * sizeof *from);
    return from + step;
}

INLINE const float *get_complex(enum kind kind, const float *from, lanes *r, lanes *i, int64_t step, int count)
{
    lanes kept[2];
    get(from + OTHERS * step, kept + 1, step, count);
    from = get(from, kept, step, count);
    keep_adjoint(kind, kept, r, i);
    return from;
}

#define AT(u, v) sums[(u) * SIDE + (v)]

/* Writes the numbers of a half plane from the sums over cosines and sines of both directions. */
INLINE void split(enum kind kind, const lanes *sums, float *to, int64_t step, int count)
{
    const float real = kind == OUTPUT ? share : 1.0f;
    for (int v = 0; v <= HALF; v += HALF)
        for (int u = 0; u <= HALF; u += HALF) to = put(real * AT(u, v), to, step, count);
    for (int v = 0; v <= HALF; v += HALF)
        for (int u = 1; u < HALF; u++) to = put_complex(kind, AT(u, v), -AT(HALF + u, v), to, step, count);
    for (int v = 1; v < HALF; v++) {
        for (int u = 0; u <= HALF; u += HALF) to = put_complex(kind, AT(u, v), -AT(u, HALF + v), to, step, count);
        for (int u = 1; u < HALF; u++) {
            lanes cc = AT(u, v), cs = AT(u, HALF + v), sc = AT(HALF + u, v), ss = AT(HALF + u, HALF + v);
            to = put_complex(kind, cc - ss, -sc - cs, to, step, count);
            to = put_complex(kind, cc + ss, sc - cs, to, step, count);
        }
    }
}

INLINE void split_adjoint(enum kind kind, const float *from, int64_t step, int count, lanes *sums)
{
    const float real = kind == OUTPUT ? share : 1.0f;
    lanes r, i, mirrored_r, mirrored_i;
    for (int v = 0; v <= HALF; v += HALF)
        for (int u = 0; u <= HALF; u += HALF) {
            from = get(from, &r, step, count);
            AT(u, v) = real * r;
        }
    for (int v = 0; v <= HALF; v += HALF)
        for (int u = 1; u < HALF; u++) {
            from = get_complex(kind, from, &r, &i, step, count);
            AT(u, v) = r, AT(HALF + u, v) = -i;
        }
    for (int v = 1; v < HALF; v++) {
        for (int u = 0; u <= HALF; u += HALF) {
            from = get_complex(kind, from, &r, &i, step, count);
            AT(u, v) = r, AT(u, HALF + v) = -i;
        }
        for (int u = 1; u < HALF; u++) {
            from = get_complex(kind, from, &r, &i, step, count);
            from = get_complex(kind, from, &mirrored_r, &mirrored_i, step, count);
            AT(u, v) = r + mirrored_r, AT(HALF + u, HALF + v) = mirrored_r - r;
            AT(HALF + u, v) = mirrored_i - i, AT(u, HALF + v) = -i - mirrored_i;
        }
    }
}

/* LANES windows of an o from `first` on, of which `done` were in the group before: the last group begins where LANES
   windows are left, so that `count` is less only where there are less at all. */
typedef struct {
    int64_t first;
    int done, count;
} group;

INLINE group group_at(int64_t next, int64_t inner)
{
    int64_t first = next + LANES <= inner || inner < LANES ? next : inner - LANES;
    return (group){first, (int)(next - first), inner < LANES ? (int)inner : LANES};
}

/* Runs STATEMENT for the numbers of the windows of a group from lane FROM on, with the `lane` of each, its place in the
   tensor and where it is in the window. Lines of the window after the next are asked for, to be written if WRITE is 1. */
#define FOR_EACH_NUMBER(FROM, WRITE, STATEMENT)                                                            \
    for (int lane = FROM; lane < now.count; lane++) {                                                      \
        const int64_t w = now.first + lane, other = w + 2 < inner ? w + 2 : inner - 1;                     \
        int64_t place = start + where->inner[w], soon = start + where->inner[other];                       \
        for (int i = 0; i < size; i++, place += where->row_step, soon += where->row_step)                  \
            for (int j = 0; j < size; j++) {                                                               \
                int64_t number = place + j * where->column_step;                                           \
                int at = (i + where->first_row) * n + j + where->first_column;                             \
                if (j % 8 == 0) __builtin_prefetch(tensor + soon + j * where->column_step, WRITE);         \
                STATEMENT;                                                                                 \
            }                                                                                              \
    }

/* The spectra of the windows in a tensor, [NUMBERS, outer_count, inner_count], in rows of whole lines. */
INLINE void analyse(enum kind kind, int n, int size, const float *tensor, float *spectra, const windows *where, int threads)
{
    const int64_t inner = where->inner_count, row = (inner + LANES - 1) / LANES * LANES, step = where->outer_count * row;
    FOR_EACH_PIECE(where->outer_count) for (int64_t o = piece.first; o < piece.last; o++) {
        const int64_t start = where->outer[o];
        lanes window[SIDE * SIDE], rows[SIDE * SIDE], sums[SIDE * SIDE];
        memset(window, 0, sizeof window);
        for (int64_t next = 0; next < inner; next += LANES) {
            const group now = group_at(next, inner);
            FOR_EACH_NUMBER(0, 0, window[at][lane] = tensor[number])
            for (int i = 0; i < n; i++) transform(window + i * n, rows + i * SIDE, n, 1, 1);
            for (int v = 0; v < SIDE; v++) transform(rows + v, sums + v, n, SIDE, SIDE);
            split(kind, sums, spectra + o * row + now.first, step, now.count);
        }
    }
}

/* The adjoint of `analyse`, which writes windows from spectra; patches overlap and are added up. */
INLINE void synthesise(enum kind kind, int n, int size, const float *spectra, float *tensor, const windows *where,
                       int threads)
{
    const int64_t inner = where->inner_count, row = (inner + LANES - 1) / LANES * LANES, step = where->outer_count * row;
    FOR_EACH_PIECE(where->outer_count) for (int64_t o = piece.first; o < piece.last; o++) {
        const int64_t start = where->outer[o];
        lanes sums[SIDE * SIDE], rows[SIDE * SIDE], window[SIDE * SIDE];
        for (int64_t next = 0; next < inner; next += LANES) {
            const group now = group_at(next, inner);
            split_adjoint(kind, spectra + o * row + now.first, step, now.count, sums);
            for (int v = 0; v < SIDE; v++) transform_adjoint(sums + v, rows + v, n, SIDE, SIDE);
            for (int i = 0; i < n; i++) transform_adjoint(rows + i * SIDE, window + i * n, n, 1, 1);
            if (kind == PATCH)
                FOR_EACH_NUMBER(now.done, 1, tensor[number] += window[at][lane])
            else
                FOR_EACH_NUMBER(now.done, 1, tensor[number] = window[at][lane])
        }
    }
}

/* The sizes that occur are N and one less, which the compiler knows then. */
#define EXPORT(NAME, KIND, N)                                                                      \
    void analyse_##NAME(const float *tensor, float *spectra, const windows *where, int threads)    \
    {                                                                                              \
        if (where->size == N)                                                                      \
            analyse(KIND, N, N, tensor, spectra, where, threads);                                  \
        else                                                                                       \
            analyse(KIND, N, N - 1, tensor, spectra, where, threads);                              \
    }                                                                                              \
    void synthesise_##NAME(const float *spectra, float *tensor, const windows *where, int threads) \
    {                                                                                              \
        if (where->size == N)                                                                      \
            synthesise(KIND, N, N, spectra, tensor, where, threads);                               \
        else                                                                                       \
            synthesise(KIND, N, N - 1, spectra, tensor, where, threads);                           \
    }

EXPORT(patches, PATCH, SIDE)
EXPORT(kernels, KERNEL, TAPS)
EXPORT(tiles, OUTPUT, TILE)
