// solve.c: factorisations and solvers of dense linear systems.
#include "kernel.h"

#include <math.h>

// dominant takes a random matrix whose diagonal outweighs the rest of its row,
// so that elimination needs no pivots.
static void *dominant(int n, uint64_t seed) {
    double(*a)[n] = reals((size_t)n * n, seed);
    for (int i = 0; i < n; i++)
        a[i][i] += n;
    return a;
}

// lu: A = L*U in place by Gaussian elimination, L with a unit diagonal.

static struct {
    void *a;
} lu;

static void eliminate(int n, double a[n][n]) {
    for (int k = 0; k < n; k++)
        for (int i = k + 1; i < n; i++) {
            a[i][k] /= a[k][k];
            add_scaled(n - k - 1, &a[i][k + 1], -a[i][k], &a[k][k + 1]);
        }
}

static void lu_init(struct size s) { lu.a = dominant(s.n, 1); }

static void lu_run(struct size s) { eliminate(s.n, lu.a); }

static uint64_t lu_hash(struct size s) {
    return hash_doubles(HASH_START, lu.a, (size_t)s.n * s.n);
}

KERNEL(lu, (410, 1), (1120, 1));

// invert: the inverse of A by Gauss-Jordan elimination with partial pivoting,
// in place: the column of each pivot makes room for a column of the inverse.

static struct {
    void *a;
    int32_t *pivot;
} invert;

static void swap_rows(int n, double *restrict x, double *restrict y) {
    for (int j = 0; j < n; j++) {
        double t = x[j];
        x[j] = y[j];
        y[j] = t;
    }
}

static void gauss_jordan(int n, double a[n][n], int32_t pivot[n]) {
    for (int k = 0; k < n; k++) {
        int best = k;
        for (int i = k + 1; i < n; i++)
            if (fabs(a[i][k]) > fabs(a[best][k]))
                best = i;
        pivot[k] = best;
        if (best != k)
            swap_rows(n, a[k], a[best]);

        double scale = 1 / a[k][k];
        a[k][k] = 1;
        for (int j = 0; j < n; j++)
            a[k][j] *= scale;
        for (int i = 0; i < n; i++) {
            if (i == k)
                continue;
            double x = a[i][k];
            a[i][k] = 0;
            add_scaled(n, a[i], -x, a[k]);
        }
    }
    // Row swaps of A are column swaps of its inverse, undone last to first.
    for (int k = n - 1; k >= 0; k--) {
        int c = pivot[k];
        if (c == k)
            continue;
        for (int i = 0; i < n; i++) {
            double t = a[i][k];
            a[i][k] = a[i][c];
            a[i][c] = t;
        }
    }
}

static void invert_init(struct size s) {
    invert.a = reals((size_t)s.n * s.n, 1);
    invert.pivot = take(s.n * sizeof *invert.pivot);
}

static void invert_run(struct size s) {
    gauss_jordan(s.n, invert.a, invert.pivot);
}

static uint64_t invert_hash(struct size s) {
    uint64_t h = hash_ints(HASH_START, invert.pivot, s.n);
    return hash_doubles(h, invert.a, (size_t)s.n * s.n);
}

KERNEL(invert, (310, 1), (860, 1));

// cholesky: A = T(U)*U of a symmetric positive definite matrix, in the upper
// triangle.

static struct {
    void *a;
} cholesky;

static void factor(int n, double a[n][n]) {
    for (int k = 0; k < n; k++) {
        double root = sqrt(a[k][k]), scale = 1 / root;
        a[k][k] = root;
        for (int j = k + 1; j < n; j++)
            a[k][j] *= scale;
        for (int i = k + 1; i < n; i++)
            add_scaled(n - i, &a[i][i], -a[k][i], &a[k][i]);
    }
}

static void cholesky_init(struct size s) { cholesky.a = dominant(s.n, 1); }

static void cholesky_run(struct size s) { factor(s.n, cholesky.a); }

static uint64_t cholesky_hash(struct size s) {
    return hash_doubles(HASH_START, cholesky.a, (size_t)s.n * s.n);
}

KERNEL(cholesky, (500, 1), (1360, 1));

// trsm: L*X = B for X in the place of B, L lower triangular: forward
// substitution for all right-hand sides together.

static struct {
    void *l, *b;
} trsm;

static void substitute(int n, const double l[restrict n][n],
                       double b[restrict n][n]) {
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < i; k++)
            add_scaled(n, b[i], -l[i][k], b[k]);
        double scale = 1 / l[i][i];
        for (int j = 0; j < n; j++)
            b[i][j] *= scale;
    }
}

static void trsm_init(struct size s) {
    trsm.l = dominant(s.n, 1);
    trsm.b = reals((size_t)s.n * s.n, 2);
}

static void trsm_run(struct size s) { substitute(s.n, trsm.l, trsm.b); }

static uint64_t trsm_hash(struct size s) {
    return hash_doubles(HASH_START, trsm.b, (size_t)s.n * s.n);
}

KERNEL(trsm, (390, 1), (1100, 1));

// durbin: the Yule-Walker equations T*y = -(r[1], ..., r[n]) of a symmetric
// Toeplitz matrix by Durbin's recursion. The coefficients r are convex and
// decreasing, which makes T positive definite (Polya's criterion).

static struct {
    void *r, *y, *z;
} durbin;

static void levinson_durbin(int n, const double r[restrict n + 1],
                            double y[restrict n], double z[restrict n]) {
    double error = r[0];
    for (int k = 0; k < n; k++) {
        double sum = r[k + 1];
        for (int i = 0; i < k; i++)
            sum += r[k - i] * y[i];
        double reflection = -sum / error;
        INTERLEAVE
        for (int i = 0; i < k; i++)
            z[i] = y[i] + reflection * y[k - 1 - i];
        for (int i = 0; i < k; i++)
            y[i] = z[i];
        y[k] = reflection;
        error *= 1 - reflection * reflection;
    }
}

static void durbin_init(struct size s) {
    int n = s.n;
    double *r = take((n + 1) * sizeof *r);
    for (int i = 0; i <= n; i++)
        r[i] = 8.0 / (8 + i);
    r[0] += 0.125;
    durbin.r = r;
    durbin.y = take(n * sizeof(double));
    durbin.z = take(n * sizeof(double));
}

static void durbin_run(struct size s) {
    levinson_durbin(s.n, durbin.r, durbin.y, durbin.z);
}

static uint64_t durbin_hash(struct size s) {
    return hash_doubles(HASH_START, durbin.y, s.n);
}

KERNEL(durbin, (3000, 1), (14000, 1));
