/* The exponential function by operations that a compiler vectorises. */

#pragma once

#include <string.h>

#include "parallel.h"

enum { NANS = 0x7fffff };

/* x between -87 and 87 (0x42ae0000 and 0xc2ae0000), compared as integers, which is cheaper: as signed ones positive
   floats keep their order, as unsigned ones negative floats are above them, in reverse order. Where `nans` is NANS, it
   moves both kinds of NaN across the end of their range, to where they stay; where it is 0, NaN becomes ±87. */
INLINE float clamp(float x, uint32_t nans)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    int32_t above = (int32_t)(bits + nans), most = (int32_t)(0x42ae0000 + nans);
    above = above < most ? above : most;
    uint32_t below = (uint32_t)above, least = 0xc2ae0000u + nans;
    below = below < least ? below : least;
    bits = below - nans;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* e^-x within 2e-7 of its value for x between -87 and 87: 2^n · e^-r with |r| ≤ ln(2)/2, where e^-r is the polynomial
   of degree 5 with the smallest error. Adding 1.5·2^23 rounds to an integer n and leaves it in the lowest bits. */
INLINE float decay(float x)
{
    const float rounding = 12582912.0f;
    float shifted = rounding - x * 1.44269504f, n = shifted - rounding;
    float r = x + n * 0.69314718f;
    float series = -8.31252039e-3f;
    series = series * r + 4.18901576e-2f;
    series = series * r - 0.166671147f;
    series = series * r + 0.499992315f;
    series = (series * r - 1.0f) * r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return series * power;
}
