// orthogonal.c: A = Q*R in two ways.
#include "kernel.h"

#include <math.h>

// gramschmidt: the columns of A made orthonormal by the modified Gram-Schmidt
// process. Projections onto column k are taken of all later columns together,
// row by row.

static struct {
    void *q, *r;
} gramschmidt;

static void orthonormalize(int n, double q[restrict n][n],
                           double r[restrict n][n]) {
    for (int k = 0; k < n; k++) {
        double sum = 0;
        for (int i = 0; i < n; i++)
            sum += q[i][k] * q[i][k];
        r[k][k] = sqrt(sum);
        double scale = 1 / r[k][k];
        for (int i = 0; i < n; i++)
            q[i][k] *= scale;

        int rest = n - k - 1;
        for (int i = 0; i < n; i++)
            add_scaled(rest, &r[k][k + 1], q[i][k], &q[i][k + 1]);
        for (int i = 0; i < n; i++)
            add_scaled(rest, &q[i][k + 1], -q[i][k], &r[k][k + 1]);
    }
}

static void gramschmidt_init(struct size s) {
    size_t n = s.n;
    gramschmidt.q = reals(n * n, 1);
    gramschmidt.r = take(n * n * sizeof(double));
}

static void gramschmidt_run(struct size s) {
    orthonormalize(s.n, gramschmidt.q, gramschmidt.r);
}

static uint64_t gramschmidt_hash(struct size s) {
    size_t count = (size_t)s.n * s.n;
    uint64_t h = hash_doubles(HASH_START, gramschmidt.q, count);
    return hash_doubles(h, gramschmidt.r, count);
}

KERNEL(gramschmidt, (280, 1), (780, 1));

// householder: R in the upper triangle of A, by reflections I - tau*v*T(v). The
// reflectors v stay below the diagonal, their first element in head.

static struct {
    void *a, *v, *w, *head;
} householder;

static void reflect(int n, double a[restrict n][n], double v[restrict n],
                    double w[restrict n], double head[restrict n]) {
    for (int k = 0; k < n - 1; k++) {
        double sum = 0;
        for (int i = k; i < n; i++) {
            v[i] = a[i][k];
            sum += v[i] * v[i];
        }
        double norm = sqrt(sum);
        if (v[k] > 0)
            norm = -norm;
        v[k] -= norm;
        double tau = -1 / (norm * v[k]);

        int rest = n - k - 1;
        for (int j = k + 1; j < n; j++)
            w[j] = 0;
        for (int i = k; i < n; i++)
            add_scaled(rest, &w[k + 1], tau * v[i], &a[i][k + 1]);
        for (int i = k; i < n; i++)
            add_scaled(rest, &a[i][k + 1], -v[i], &w[k + 1]);
        a[k][k] = norm;
        head[k] = v[k];
    }
}

static void householder_init(struct size s) {
    size_t n = s.n;
    householder.a = reals(n * n, 1);
    householder.v = take(n * sizeof(double));
    householder.w = take(n * sizeof(double));
    householder.head = take(n * sizeof(double));
}

static void householder_run(struct size s) {
    reflect(s.n, householder.a, householder.v, householder.w,
            householder.head);
}

static uint64_t householder_hash(struct size s) {
    uint64_t h = hash_doubles(HASH_START, householder.head, s.n);
    return hash_doubles(h, householder.a, (size_t)s.n * s.n);
}

KERNEL(householder, (320, 1), (900, 1));
