// vectors.c: matrices times vectors, and the iterations that are made of little
// else: the power method, biconjugate gradients, conjugate gradients.
#include "kernel.h"

#include <math.h>

// power: the largest singular value of A by the power method on T(A)*A. The
// product with A runs down its rows as dot products, the one with T(A) as sums
// of rows.

static struct {
    void *a, *x, *y;
    double value;
} power;

static double power_method(int n, int rounds, const double a[restrict n][n],
                           double x[restrict n], double y[restrict n]) {
    double norm = 0;
    for (int r = 0; r < rounds; r++) {
        for (int i = 0; i < n; i++)
            y[i] = dot(n, a[i], x);
        for (int j = 0; j < n; j++)
            x[j] = 0;
        for (int i = 0; i < n; i++)
            add_scaled(n, x, y[i], a[i]);
        norm = sqrt(dot(n, x, x));
        for (int j = 0; j < n; j++)
            x[j] /= norm;
    }
    return sqrt(norm);
}

static void power_init(struct size s) {
    size_t n = s.n;
    power.a = reals(n * n, 1);
    power.x = reals(n, 2);
    power.y = take(n * sizeof(double));
}

static void power_run(struct size s) {
    power.value = power_method(s.n, s.rounds, power.a, power.x, power.y);
}

static uint64_t power_hash(struct size s) {
    uint64_t h = hash_doubles(HASH_START, &power.value, 1);
    return hash_doubles(h, power.x, s.n);
}

KERNEL(power, (320, 50), (640, 300));

// gemver: A := A + u1*T(v1) + u2*T(v2), then x := x + beta*T(A)*y + z and
// w := alpha*A*x.

static struct {
    void *a, *u1, *v1, *u2, *v2, *x, *y, *z, *w;
} gemver;

static void update_rank_two(int n, double a[restrict n][n],
                            const double u1[restrict n],
                            const double v1[restrict n],
                            const double u2[restrict n],
                            const double v2[restrict n]) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            a[i][j] += u1[i] * v1[j] + u2[i] * v2[j];
}

static void apply_both_ways(int n, const double a[restrict n][n],
                            double x[restrict n], const double y[restrict n],
                            const double z[restrict n], double w[restrict n]) {
    const double alpha = 1.0 / 64, beta = 1.0 / 128;
    for (int i = 0; i < n; i++)
        add_scaled(n, x, beta * y[i], a[i]);
    for (int j = 0; j < n; j++)
        x[j] += z[j];
    for (int i = 0; i < n; i++)
        w[i] = alpha * dot(n, a[i], x);
}

static void gemver_init(struct size s) {
    size_t n = s.n;
    gemver.a = reals(n * n, 1);
    gemver.u1 = reals(n, 2);
    gemver.v1 = reals(n, 3);
    gemver.u2 = reals(n, 4);
    gemver.v2 = reals(n, 5);
    gemver.x = take(n * sizeof(double));
    gemver.y = reals(n, 6);
    gemver.z = reals(n, 7);
    gemver.w = take(n * sizeof(double));
}

static void gemver_run(struct size s) {
    for (int r = 0; r < s.rounds; r++) {
        update_rank_two(s.n, gemver.a, gemver.u1, gemver.v1, gemver.u2,
                        gemver.v2);
        apply_both_ways(s.n, gemver.a, gemver.x, gemver.y, gemver.z, gemver.w);
    }
}

static uint64_t gemver_hash(struct size s) {
    uint64_t h = hash_doubles(HASH_START, gemver.x, s.n);
    return hash_doubles(h, gemver.w, s.n);
}

KERNEL(gemver, (320, 40), (640, 240));

// gesummv: y := alpha*A*x + beta*B*x, and x := y scaled for the next round.

static struct {
    void *a, *b, *x, *y;
} gesummv;

static void sum_of_products(int n, const double a[restrict n][n],
                            const double b[restrict n][n],
                            const double x[restrict n], double y[restrict n]) {
    for (int i = 0; i < n; i++) {
        double ax = 0, bx = 0;
        for (int j = 0; j < n; j++) {
            ax += a[i][j] * x[j];
            bx += b[i][j] * x[j];
        }
        y[i] = 1.5 * ax + 0.75 * bx;
    }
}

static void gesummv_init(struct size s) {
    size_t n = s.n;
    gesummv.a = reals(n * n, 1);
    gesummv.b = reals(n * n, 2);
    gesummv.x = reals(n, 3);
    gesummv.y = take(n * sizeof(double));
}

static void gesummv_run(struct size s) {
    double *x = gesummv.x, *y = gesummv.y;
    for (int r = 0; r < s.rounds; r++) {
        sum_of_products(s.n, gesummv.a, gesummv.b, x, y);
        for (int j = 0; j < s.n; j++)
            x[j] = y[j] * (1.0 / 32);
    }
}

static uint64_t gesummv_hash(struct size s) {
    return hash_doubles(HASH_START, gesummv.y, s.n);
}

KERNEL(gesummv, (320, 60), (640, 330));

// bicg: biconjugate gradients (Fletcher, 1976) for A*x = b, A not symmetric.
// One sweep over A serves both products of a step.

static struct {
    void *a, *x, *r, *rt, *p, *pt, *q, *qt;
} bicg;

static void bicg_products(int n, const double a[restrict n][n],
                          const double p[restrict n],
                          const double pt[restrict n], double q[restrict n],
                          double qt[restrict n]) {
    for (int j = 0; j < n; j++)
        qt[j] = 0;
    for (int i = 0; i < n; i++) {
        q[i] = dot(n, a[i], p);
        add_scaled(n, qt, pt[i], a[i]);
    }
}

static void bicg_init(struct size s) {
    int n = s.n;
    bicg.a = reals((size_t)n * n, 1);
    bicg.x = take(n * sizeof(double));
    bicg.r = reals(n, 2);
    bicg.rt = reals(n, 3);
    bicg.p = reals(n, 2);
    bicg.pt = reals(n, 3);
    bicg.q = take(n * sizeof(double));
    bicg.qt = take(n * sizeof(double));
    // The diagonal keeps the spectrum away from zero, without making the
    // iteration end before its rounds do.
    double(*a)[n] = bicg.a;
    for (int i = 0; i < n; i++)
        a[i][i] += 2 * sqrt(n);
}

static void bicg_run(struct size s) {
    int n = s.n;
    double *x = bicg.x, *r = bicg.r, *rt = bicg.rt;
    double *p = bicg.p, *pt = bicg.pt, *q = bicg.q, *qt = bicg.qt;
    double rho = dot(n, rt, r);
    for (int k = 0; k < s.rounds; k++) {
        bicg_products(n, bicg.a, p, pt, q, qt);
        double alpha = rho / dot(n, pt, q);
        add_scaled(n, x, alpha, p);
        add_scaled(n, r, -alpha, q);
        add_scaled(n, rt, -alpha, qt);
        double next = dot(n, rt, r), beta = next / rho;
        rho = next;
        for (int j = 0; j < n; j++) {
            p[j] = r[j] + beta * p[j];
            pt[j] = rt[j] + beta * pt[j];
        }
    }
}

static uint64_t bicg_hash(struct size s) {
    uint64_t h = hash_doubles(HASH_START, bicg.x, s.n);
    return hash_doubles(h, bicg.r, s.n);
}

KERNEL(bicg, (400, 30), (1200, 80));

// cg: conjugate gradients (Hestenes and Stiefel, 1952) for the five-point
// Laplacian of an n by n grid, held as a sparse matrix: row i owns the elements
// first[i] to first[i+1] of value and column.

static struct {
    int32_t *first, *column;
    double *value, *x, *r, *p, *q;
} cg;

static void sparse_multiply(int rows, const int32_t *restrict first,
                            const int32_t *restrict column,
                            const double *restrict value,
                            const double *restrict p, double *restrict q) {
    for (int i = 0; i < rows; i++) {
        double sum = 0;
        for (int e = first[i]; e < first[i + 1]; e++)
            sum += value[e] * p[column[e]];
        q[i] = sum;
    }
}

static void cg_init(struct size s) {
    int n = s.n;
    size_t rows = (size_t)n * n;
    cg.first = take((rows + 1) * sizeof *cg.first);
    cg.column = take(5 * rows * sizeof *cg.column);
    cg.value = take(5 * rows * sizeof *cg.value);
    cg.x = take(rows * sizeof *cg.x);
    cg.r = reals(rows, 1);
    cg.p = reals(rows, 1);
    cg.q = take(rows * sizeof *cg.q);
    int e = 0;
    for (int y = 0; y < n; y++)
        for (int x = 0; x < n; x++) {
            const int at[5][2] = {
                {y - 1, x}, {y, x - 1}, {y, x}, {y, x + 1}, {y + 1, x}};
            cg.first[y * n + x] = e;
            for (int k = 0; k < 5; k++) {
                if (at[k][0] < 0 || at[k][0] >= n || at[k][1] < 0 ||
                    at[k][1] >= n)
                    continue;
                cg.column[e] = at[k][0] * n + at[k][1];
                cg.value[e] = k == 2 ? 4 : -1;
                e++;
            }
        }
    cg.first[rows] = e;
}

static void cg_run(struct size s) {
    int rows = s.n * s.n;
    double rho = dot(rows, cg.r, cg.r);
    for (int k = 0; k < s.rounds; k++) {
        sparse_multiply(rows, cg.first, cg.column, cg.value, cg.p, cg.q);
        double alpha = rho / dot(rows, cg.p, cg.q);
        add_scaled(rows, cg.x, alpha, cg.p);
        add_scaled(rows, cg.r, -alpha, cg.q);
        double next = dot(rows, cg.r, cg.r), beta = next / rho;
        rho = next;
        for (int j = 0; j < rows; j++)
            cg.p[j] = cg.r[j] + beta * cg.p[j];
    }
}

static uint64_t cg_hash(struct size s) {
    return hash_doubles(HASH_START, cg.x, (size_t)s.n * s.n);
}

KERNEL(cg, (128, 60), (256, 400));
