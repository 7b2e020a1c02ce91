// kernel.h is what every kernel of the bench is written against.
//
// A kernel is one piece of numeric mathematics with data of its own. The same
// sources make the guest (one Wasm command) and its native twin, and both must
// print the same checksum: operations are in one fixed order, no multiply and
// add is fused (-ffp-contract=off), and nothing is called from libm but sqrt,
// which IEEE 754 rounds exactly.
#ifndef KERNEL_H
#define KERNEL_H

#include <stddef.h>
#include <stdint.h>

// size says how much work a kernel does: n is the length of its main dimension,
// rounds how often a sweep is made where one sweep is too short to time.
struct size {
    int n, rounds;
};

// kernel is one entry of the table in main.c. init makes the data anew, run is
// the timed part and hash digests the results.
struct kernel {
    const char *name;
    struct size quick, medium;
    void (*init)(struct size);
    void (*run)(struct size);
    uint64_t (*hash)(struct size);
};

// KERNEL defines the entry of the kernel whose functions are id_init, id_run
// and id_hash; the two sizes are written (n, rounds).
#define KERNEL(id, q, m)                                                       \
    const struct kernel id##_kernel = {                                        \
        #id, KERNEL_SIZE q, KERNEL_SIZE m, id##_init, id##_run, id##_hash}
#define KERNEL_SIZE(n, rounds) {n, rounds}

// take returns zeroed memory aligned to 64 bytes, good until the next init. The
// zeroing touches every page, so run does not pay for page faults.
void *take(size_t bytes);

// reals takes count doubles and fills them from [-1, 1); floats does so with
// floats. The values depend on the seed alone.
void *reals(size_t count, uint64_t seed);
void *floats(size_t count, uint64_t seed);

// bits returns the i-th 64-bit word of the stream that seed names.
uint64_t bits(uint64_t seed, uint64_t i);

// hash_doubles and its siblings add count values to the digest h, exactly as
// they lie in memory. A NaN or an infinity ends the process with an error: its
// bits are not the same everywhere, and a kernel that makes one is wrong.
uint64_t hash_doubles(uint64_t h, const void *p, size_t count);
uint64_t hash_floats(uint64_t h, const void *p, size_t count);
uint64_t hash_ints(uint64_t h, const void *p, size_t count);

// HASH_START is the digest of nothing.
#define HASH_START UINT64_C(0xcbf29ce484222325)

// INTERLEAVE asks for two vectors a turn of the loop that follows. That is what
// clang takes by itself for most loops on x86-64, whose code it leaves as it
// was or a little faster; for Wasm it takes one, and the turn then costs more
// than the arithmetic.
#define INTERLEAVE _Pragma("clang loop interleave_count(2)")

// add_scaled computes y += s*x for rows of n elements that do not overlap.
void add_scaled(int n, double *restrict y, double s, const double *restrict x);

// dot sums x[j]*y[j] from the left. Without leave to reorder sums this is one
// chain of additions, on every target.
static inline double dot(int n, const double *x, const double *y) {
    double sum = 0;
    for (int j = 0; j < n; j++)
        sum += x[j] * y[j];
    return sum;
}

#endif
