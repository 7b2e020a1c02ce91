// rows.c: the one loop that half of the kernels spend their time in.
#include "kernel.h"

// Eight elements a turn are written out and the loop vectoriser is kept away,
// so that they are packed as they stand: native code is then as fast as from
// the plain loop and Wasm a quarter faster, because the offsets of the eight
// become part of its instructions. Inlined into a loop over rows they do not
// always: clang may then count with one index for both rows and add it to each
// address. Hence a function of its own, for both builds.
void add_scaled(int n, double *restrict y, double s,
                const double *restrict x) {
#pragma clang loop vectorize(disable) unroll(disable)
    for (; n >= 8; n -= 8, y += 8, x += 8) {
        y[0] += s * x[0];
        y[1] += s * x[1];
        y[2] += s * x[2];
        y[3] += s * x[3];
        y[4] += s * x[4];
        y[5] += s * x[5];
        y[6] += s * x[6];
        y[7] += s * x[7];
    }
    for (; n > 0; n--)
        *y++ += s * *x++;
}
