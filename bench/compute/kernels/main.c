// main.c reads one line from standard input, "KERNEL SIZE REPEATS", where SIZE
// is quick or medium, and prints one line: the checksum as 16 hexadecimal
// digits, then the nanoseconds of each repeat. Making the data is not timed.
// The line "list" prints the names of all kernels instead.
//
// It returns 2 for a line it does not understand, and 1 if a kernel went wrong.
#define _POSIX_C_SOURCE 199309L // for clock_gettime

#include "kernel.h"
#include "list.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DECLARE(id) extern const struct kernel id##_kernel;
KERNELS(DECLARE)

#define ENTRY(id) &id##_kernel,
static const struct kernel *const kernels[] = {KERNELS(ENTRY)};
static const size_t kernels_count = sizeof kernels / sizeof kernels[0];

// ARENA_BYTES is more than the hungriest kernel takes at its medium size.
#define ARENA_BYTES ((size_t)24 << 20)
#define ALIGNMENT ((size_t)64)
#define REPEATS_MAX 100

static unsigned char *arena;
static size_t arena_used;

static _Noreturn void die(int status, const char *what, const char *operand) {
    fprintf(stderr, "kernels: %s %s\n", what, operand);
    exit(status);
}

void *take(size_t bytes) {
    bytes = (bytes + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
    if (bytes > ARENA_BYTES - arena_used)
        die(1, "take memory:", "arena exhausted");
    void *p = arena + arena_used;
    arena_used += bytes;
    return memset(p, 0, bytes);
}

// The mixing function is SplitMix64's (Steele, Lea and Flood, 2014).
uint64_t bits(uint64_t seed, uint64_t i) {
    uint64_t z = (seed << 40) + (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

void *reals(size_t count, uint64_t seed) {
    double *x = take(count * sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = (double)(int64_t)(bits(seed, i) >> 11) * 0x1p-52 - 1;
    return x;
}

void *floats(size_t count, uint64_t seed) {
    float *x = take(count * sizeof *x);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)(int32_t)(bits(seed, i) >> 40) * 0x1p-23f - 1;
    return x;
}

// mix is a step of FNV-1a over a whole word, with a rotation so that high bits
// come to matter.
static uint64_t mix(uint64_t h, uint64_t word) {
    h = (h ^ word) * UINT64_C(0x100000001b3);
    return h << 29 | h >> 35;
}

uint64_t hash_doubles(uint64_t h, const void *p, size_t count) {
    const double *x = p;
    for (size_t i = 0; i < count; i++) {
        uint64_t word;
        if (!isfinite(x[i]))
            die(1, "hash results:", "not a finite number");
        memcpy(&word, &x[i], sizeof word);
        h = mix(h, word);
    }
    return h;
}

uint64_t hash_floats(uint64_t h, const void *p, size_t count) {
    const float *x = p;
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        if (!isfinite(x[i]))
            die(1, "hash results:", "not a finite number");
        memcpy(&word, &x[i], sizeof word);
        h = mix(h, word);
    }
    return h;
}

uint64_t hash_ints(uint64_t h, const void *p, size_t count) {
    const int32_t *x = p;
    for (size_t i = 0; i < count; i++)
        h = mix(h, (uint32_t)x[i]);
    return h;
}

static int64_t now(void) {
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t) != 0)
        die(1, "read clock:", "no monotonic clock");
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void measure(const struct kernel *k, struct size size, int repeats) {
    int64_t ns[REPEATS_MAX];
    uint64_t first = 0;
    arena = aligned_alloc(ALIGNMENT, ARENA_BYTES);
    if (!arena)
        die(1, "take memory:", "no memory for the arena");
    for (int i = 0; i < repeats; i++) {
        arena_used = 0;
        k->init(size);
        int64_t start = now();
        k->run(size);
        ns[i] = now() - start;
        uint64_t h = k->hash(size);
        if (i == 0)
            first = h;
        if (h != first)
            die(1, "repeat: checksum changed in", k->name);
    }
    printf("%016llx", (unsigned long long)first);
    for (int i = 0; i < repeats; i++)
        printf(" %lld", (long long)ns[i]);
    printf("\n");
}

int main(void) {
    char line[128];
    if (!fgets(line, sizeof line, stdin))
        die(2, "read request:", "no line");
    const char *space = " \r\n";
    const char *name = strtok(line, space);
    if (!name)
        die(2, "read request:", "empty line");
    if (strcmp(name, "list") == 0) {
        for (size_t i = 0; i < kernels_count; i++)
            puts(kernels[i]->name);
        return 0;
    }

    const struct kernel *k = NULL;
    for (size_t i = 0; i < kernels_count; i++)
        if (strcmp(name, kernels[i]->name) == 0)
            k = kernels[i];
    if (!k)
        die(2, "unknown kernel", name);

    const char *which = strtok(NULL, space);
    struct size size;
    if (which && strcmp(which, "quick") == 0)
        size = k->quick;
    else if (which && strcmp(which, "medium") == 0)
        size = k->medium;
    else
        die(2, "unknown size", which ? which : "(none)");

    const char *count = strtok(NULL, space);
    char *end = NULL;
    long repeats = count ? strtol(count, &end, 10) : 0;
    if (!count || *end || repeats < 1 || repeats > REPEATS_MAX)
        die(2, "repeats out of range:", count ? count : "(none)");
    const char *rest = strtok(NULL, space);
    if (rest)
        die(2, "unexpected word", rest);

    measure(k, size, (int)repeats);
    return 0;
}
