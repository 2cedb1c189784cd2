/* Loops that threads share. The cores of a processor differ in speed from moment to moment, with what else runs on the
   machine, and of equal parts the slowest would be waited for: each thread takes pieces of its own part, which it finds
   in its cache, and then of the others'. Who computes a number is open, and does not change it. */

#pragma once

#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

enum { PIECES = 16 }; /* of each thread */

typedef struct {
    int64_t first, last;
} range;

typedef struct {
    int64_t count, pieces, *next; /* of the loop; of that in all; the next piece of each thread */
    int threads;
} shared;

/* A loop over 0 to count − 1; `next` has space for each thread. */
INLINE shared divide(int64_t count, int threads, int64_t *next)
{
    const int64_t most = (int64_t)PIECES * threads, pieces = count < most ? count : most;
    for (int thread = 0; thread < threads; thread++) next[thread] = pieces * thread / threads;
    return (shared){count, pieces, next, threads};
}

/* What this thread does next; returns 0 where nothing is left. */
INLINE int take(const shared *loop, int thread, range *taken)
{
    for (int other = 0; other < loop->threads; other++) {
        const int of = (thread + other) % loop->threads;
        int64_t piece;
#pragma omp atomic capture
        piece = loop->next[of]++;
        if (piece < loop->pieces * (of + 1) / loop->threads) {
            *taken = (range){loop->count * piece / loop->pieces, loop->count * (piece + 1) / loop->pieces};
            return 1;
        }
    }
    return 0;
}

/* What follows is run for each `piece` of a loop over 0 to COUNT − 1, on `threads` threads. */
#define FOR_EACH_PIECE(COUNT)                                                         \
    int64_t next_pieces[threads];                                                     \
    const shared loop = divide(COUNT, threads, next_pieces);                          \
    _Pragma("omp parallel for num_threads(threads) if(threads > 1) schedule(static)") \
    for (int thread = 0; thread < threads; thread++)                                  \
        for (range piece; take(&loop, thread, &piece);)
