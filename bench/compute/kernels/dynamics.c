// dynamics.c: bodies that attract each other, and the iteration of one number.
#include "kernel.h"

#include <math.h>

// nbody: bodies of different mass under softened gravity, every pair of them,
// by leapfrog steps. Body j pulls at all bodies in one loop.

static struct {
    void *mass, *position, *velocity, *force;
} nbody;

static void pull(int n, double mass, double x, double y, double z,
                 const double position[restrict 3][n],
                 double force[restrict 3][n]) {
    const double softening = 1.0 / 64;
    for (int i = 0; i < n; i++) {
        double dx = x - position[0][i];
        double dy = y - position[1][i];
        double dz = z - position[2][i];
        double square = dx * dx + dy * dy + dz * dz + softening;
        double scale = mass / (square * sqrt(square));
        force[0][i] += scale * dx;
        force[1][i] += scale * dy;
        force[2][i] += scale * dz;
    }
}

static void nbody_init(struct size s) {
    int n = s.n;
    double *mass = nbody.mass = reals(n, 1);
    for (int i = 0; i < n; i++)
        mass[i] = (mass[i] + 1) / n;
    nbody.position = reals((size_t)3 * n, 2);
    nbody.velocity = take((size_t)3 * n * sizeof(double));
    nbody.force = take((size_t)3 * n * sizeof(double));
}

static void nbody_run(struct size s) {
    const double dt = 1.0 / 256;
    int n = s.n;
    double *mass = nbody.mass, *v = nbody.velocity, *f = nbody.force;
    double(*p)[n] = nbody.position;
    for (int r = 0; r < s.rounds; r++) {
        for (int i = 0; i < 3 * n; i++)
            f[i] = 0;
        for (int j = 0; j < n; j++)
            pull(n, mass[j], p[0][j], p[1][j], p[2][j], nbody.position,
                 nbody.force);
        add_scaled(3 * n, v, dt, f);
        add_scaled(3 * n, p[0], dt, v);
    }
}

static uint64_t nbody_hash(struct size s) {
    uint64_t h = hash_doubles(HASH_START, nbody.position, (size_t)3 * s.n);
    return hash_doubles(h, nbody.velocity, (size_t)3 * s.n);
}

KERNEL(nbody, (500, 10), (1000, 54));

// mandelbrot: how long z := z*z + c stays within distance two of zero, up to
// rounds, for the points c of an n by n grid.

static struct {
    void *steps;
} mandelbrot;

static int32_t escape(double re, double im, int limit) {
    double x = 0, y = 0;
    int32_t k = 0;
    while (k < limit && x * x + y * y <= 4) {
        double t = x * x - y * y + re;
        y = 2 * x * y + im;
        x = t;
        k++;
    }
    return k;
}

static void mandelbrot_init(struct size s) {
    mandelbrot.steps = take((size_t)s.n * s.n * sizeof(int32_t));
}

static void mandelbrot_run(struct size s) {
    int32_t *steps = mandelbrot.steps;
    for (int i = 0; i < s.n; i++)
        for (int j = 0; j < s.n; j++)
            steps[i * s.n + j] = escape(3.0 * j / s.n - 2.25,
                                        3.0 * i / s.n - 1.5, s.rounds);
}

static uint64_t mandelbrot_hash(struct size s) {
    return hash_ints(HASH_START, mandelbrot.steps, (size_t)s.n * s.n);
}

KERNEL(mandelbrot, (180, 300), (680, 500));
