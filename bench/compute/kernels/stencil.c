// stencil.c: partial differential equations on grids of one to three
// dimensions. Borders are held at their initial value unless said otherwise.
#include "kernel.h"

// heat1: the heat equation on a rod, explicit steps from one array to the
// other.

static struct {
    void *u, *v;
} heat1;

static void heat1_step(int n, double v[restrict n],
                       const double u[restrict n]) {
    INTERLEAVE
    for (int i = 1; i < n - 1; i++)
        v[i] = u[i] + 0.25 * (u[i - 1] - 2 * u[i] + u[i + 1]);
}

static void heat1_init(struct size s) {
    heat1.u = reals(s.n, 1);
    heat1.v = reals(s.n, 1);
}

static void heat1_run(struct size s) {
    for (int r = 0; r < s.rounds; r++) {
        heat1_step(s.n, heat1.v, heat1.u);
        heat1_step(s.n, heat1.u, heat1.v);
    }
}

static uint64_t heat1_hash(struct size s) {
    return hash_doubles(HASH_START, heat1.u, s.n);
}

KERNEL(heat1, (8000, 900), (8000, 18000));

// heat2: the heat equation on a plate, five points.

static struct {
    void *u, *v;
} heat2;

static void heat2_step(int n, double v[restrict n][n],
                       const double u[restrict n][n]) {
    for (int i = 1; i < n - 1; i++)
        INTERLEAVE
        for (int j = 1; j < n - 1; j++)
            v[i][j] = u[i][j] + 0.125 * (u[i - 1][j] + u[i + 1][j] +
                                         u[i][j - 1] + u[i][j + 1] -
                                         4 * u[i][j]);
}

static void heat2_init(struct size s) {
    size_t n = s.n;
    heat2.u = reals(n * n, 1);
    heat2.v = reals(n * n, 1);
}

static void heat2_run(struct size s) {
    for (int r = 0; r < s.rounds; r++) {
        heat2_step(s.n, heat2.v, heat2.u);
        heat2_step(s.n, heat2.u, heat2.v);
    }
}

static uint64_t heat2_hash(struct size s) {
    return hash_doubles(HASH_START, heat2.u, (size_t)s.n * s.n);
}

KERNEL(heat2, (200, 120), (400, 700));

// heat3: the heat equation in a cube, seven points.

static struct {
    void *u, *v;
} heat3;

static void heat3_step(int n, double v[restrict n][n][n],
                       const double u[restrict n][n][n]) {
    for (int i = 1; i < n - 1; i++)
        for (int j = 1; j < n - 1; j++)
            INTERLEAVE
            for (int k = 1; k < n - 1; k++)
                v[i][j][k] =
                    u[i][j][k] + 0.125 * (u[i - 1][j][k] + u[i + 1][j][k] +
                                          u[i][j - 1][k] + u[i][j + 1][k] +
                                          u[i][j][k - 1] + u[i][j][k + 1] -
                                          6 * u[i][j][k]);
}

static void heat3_init(struct size s) {
    size_t n = s.n;
    heat3.u = reals(n * n * n, 1);
    heat3.v = reals(n * n * n, 1);
}

static void heat3_run(struct size s) {
    for (int r = 0; r < s.rounds; r++) {
        heat3_step(s.n, heat3.v, heat3.u);
        heat3_step(s.n, heat3.u, heat3.v);
    }
}

static uint64_t heat3_hash(struct size s) {
    return hash_doubles(HASH_START, heat3.u, (size_t)s.n * s.n * s.n);
}

KERNEL(heat3, (40, 60), (96, 90));

// seidel: Poisson's equation by Gauss-Seidel sweeps with the nine-point
// stencil, in place: each point waits for its left neighbour.

static struct {
    void *u, *f;
} seidel;

static void seidel_sweep(int n, double u[restrict n][n],
                         const double f[restrict n][n]) {
    for (int i = 1; i < n - 1; i++)
        for (int j = 1; j < n - 1; j++) {
            double corners = u[i - 1][j - 1] + u[i - 1][j + 1] +
                             u[i + 1][j - 1] + u[i + 1][j + 1];
            double sides = u[i - 1][j] + u[i + 1][j] + u[i][j + 1];
            double known = corners + 4 * sides + f[i][j];
            u[i][j] = 0.05 * (known + 4 * u[i][j - 1]);
        }
}

static void seidel_init(struct size s) {
    size_t n = s.n;
    seidel.u = take(n * n * sizeof(double));
    seidel.f = reals(n * n, 1);
}

static void seidel_run(struct size s) {
    for (int r = 0; r < s.rounds; r++)
        seidel_sweep(s.n, seidel.u, seidel.f);
}

static uint64_t seidel_hash(struct size s) {
    return hash_doubles(HASH_START, seidel.u, (size_t)s.n * s.n);
}

KERNEL(seidel, (200, 50), (400, 280));

// adi: the heat equation on a plate by alternating directions (Peaceman and
// Rachford, 1955): half a step is implicit down the columns, the other along
// the rows. Both are tridiagonal systems with the constant bands
// (-ADI_R, 1+2*ADI_R, -ADI_R), so one table of pivots serves all of them. The
// border is zero.

static struct {
    void *u, *v, *pivot;
} adi;

#define ADI_R 0.5

static void adi_columns(int n, double v[restrict n][n],
                        const double u[restrict n][n],
                        const double pivot[restrict n]) {
    for (int i = 1; i < n - 1; i++)
        INTERLEAVE
        for (int j = 1; j < n - 1; j++) {
            double right = u[i][j] + ADI_R * (u[i][j - 1] - 2 * u[i][j] +
                                              u[i][j + 1]);
            v[i][j] = (right + ADI_R * v[i - 1][j]) * pivot[i];
        }
    for (int i = n - 3; i >= 1; i--)
        add_scaled(n - 2, &v[i][1], ADI_R * pivot[i], &v[i + 1][1]);
}

static void adi_rows(int n, double v[restrict n][n],
                     const double u[restrict n][n],
                     const double pivot[restrict n]) {
    for (int i = 1; i < n - 1; i++) {
        for (int j = 1; j < n - 1; j++) {
            double right = u[i][j] + ADI_R * (u[i - 1][j] - 2 * u[i][j] +
                                              u[i + 1][j]);
            v[i][j] = (right + ADI_R * v[i][j - 1]) * pivot[j];
        }
        for (int j = n - 3; j >= 1; j--)
            v[i][j] += ADI_R * pivot[j] * v[i][j + 1];
    }
}

static void adi_init(struct size s) {
    int n = s.n;
    double(*u)[n] = adi.u = reals((size_t)n * n, 1);
    for (int i = 0; i < n; i++)
        u[i][0] = u[i][n - 1] = u[0][i] = u[n - 1][i] = 0;
    adi.v = take((size_t)n * n * sizeof(double));
    double *pivot = adi.pivot = take(n * sizeof(double));
    for (int i = 1; i < n - 1; i++)
        pivot[i] = 1 / (1 + 2 * ADI_R - ADI_R * ADI_R * pivot[i - 1]);
}

static void adi_run(struct size s) {
    for (int r = 0; r < s.rounds; r++) {
        adi_columns(s.n, adi.v, adi.u, adi.pivot);
        adi_rows(s.n, adi.u, adi.v, adi.pivot);
    }
}

static uint64_t adi_hash(struct size s) {
    return hash_doubles(HASH_START, adi.u, (size_t)s.n * s.n);
}

KERNEL(adi, (200, 26), (400, 140));

// fdtd: Maxwell's equations in two dimensions (Yee, 1966): the electric field
// e stands out of the plane, the magnetic field (hx, hy) lies in it, half a
// cell and half a step away. A pulse enters along the first row.

static struct {
    void *e, *hx, *hy;
} fdtd;

static void fdtd_electric(int n, double e[restrict n][n],
                          const double hx[restrict n][n],
                          const double hy[restrict n][n]) {
    for (int i = 1; i < n; i++)
        INTERLEAVE
        for (int j = 1; j < n; j++)
            e[i][j] += 0.5 * (hy[i][j] - hy[i - 1][j] - hx[i][j] +
                              hx[i][j - 1]);
}

static void fdtd_magnetic(int n, const double e[restrict n][n],
                          double hx[restrict n][n],
                          double hy[restrict n][n]) {
    for (int i = 0; i < n - 1; i++)
        INTERLEAVE
        for (int j = 0; j < n - 1; j++) {
            hx[i][j] -= 0.5 * (e[i][j + 1] - e[i][j]);
            hy[i][j] += 0.5 * (e[i + 1][j] - e[i][j]);
        }
}

static void fdtd_init(struct size s) {
    size_t bytes = (size_t)s.n * s.n * sizeof(double);
    fdtd.e = take(bytes);
    fdtd.hx = take(bytes);
    fdtd.hy = take(bytes);
}

static void fdtd_run(struct size s) {
    double *first = fdtd.e;
    for (int t = 0; t < s.rounds; t++) {
        double x = 0.25 * (t - 20), pulse = x / (1 + x * x);
        for (int j = 0; j < s.n; j++)
            first[j] = pulse;
        fdtd_electric(s.n, fdtd.e, fdtd.hx, fdtd.hy);
        fdtd_magnetic(s.n, fdtd.e, fdtd.hx, fdtd.hy);
    }
}

static uint64_t fdtd_hash(struct size s) {
    size_t count = (size_t)s.n * s.n;
    uint64_t h = hash_doubles(HASH_START, fdtd.e, count);
    h = hash_doubles(h, fdtd.hx, count);
    return hash_doubles(h, fdtd.hy, count);
}

KERNEL(fdtd, (200, 120), (400, 700));
