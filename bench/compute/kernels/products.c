// products.c: products of dense, symmetric and triangular matrices, and of a
// tensor with a matrix. Loops run along rows, so that every inner loop is a
// multiple of one row added to another.
#include "kernel.h"

// gemm: C := beta*C + alpha*A*B.

static struct {
    void *a, *b, *c;
} gemm;

static void multiply_add(int n, double c[restrict n][n], double beta,
                         double alpha, const double a[restrict n][n],
                         const double b[restrict n][n]) {
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++)
            c[i][j] *= beta;
        for (int k = 0; k < n; k++)
            add_scaled(n, c[i], alpha * a[i][k], b[k]);
    }
}

static void gemm_init(struct size s) {
    size_t n = s.n;
    gemm.a = reals(n * n, 1);
    gemm.b = reals(n * n, 2);
    gemm.c = reals(n * n, 3);
}

static void gemm_run(struct size s) {
    multiply_add(s.n, gemm.c, 0.75, 1.5, gemm.a, gemm.b);
}

static uint64_t gemm_hash(struct size s) {
    return hash_doubles(HASH_START, gemm.c, (size_t)s.n * s.n);
}

KERNEL(gemm, (300, 1), (880, 1));

// gemm3: G := (A*B)*(C*D), three products of which the last waits for both
// others.

static struct {
    void *a, *b, *c, *d, *ab, *cd, *g;
} gemm3;

static void gemm3_init(struct size s) {
    size_t n = s.n;
    gemm3.a = reals(n * n, 1);
    gemm3.b = reals(n * n, 2);
    gemm3.c = reals(n * n, 3);
    gemm3.d = reals(n * n, 4);
    gemm3.ab = take(n * n * sizeof(double));
    gemm3.cd = take(n * n * sizeof(double));
    gemm3.g = take(n * n * sizeof(double));
}

static void gemm3_run(struct size s) {
    multiply_add(s.n, gemm3.ab, 0, 1, gemm3.a, gemm3.b);
    multiply_add(s.n, gemm3.cd, 0, 1, gemm3.c, gemm3.d);
    multiply_add(s.n, gemm3.g, 0, 1, gemm3.ab, gemm3.cd);
}

static uint64_t gemm3_hash(struct size s) {
    return hash_doubles(HASH_START, gemm3.g, (size_t)s.n * s.n);
}

KERNEL(gemm3, (210, 1), (600, 1));

// symm: C := beta*C + alpha*S*B, where S is symmetric and only its lower
// triangle is stored. Each stored element serves two rows of C.

static struct {
    void *s, *b, *c;
} symm;

static void symmetric_multiply(int n, double c[restrict n][n], double beta,
                               double alpha, const double s[restrict n][n],
                               const double b[restrict n][n]) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            c[i][j] *= beta;
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < i; k++) {
            double x = alpha * s[i][k];
            add_scaled(n, c[i], x, b[k]);
            add_scaled(n, c[k], x, b[i]);
        }
        add_scaled(n, c[i], alpha * s[i][i], b[i]);
    }
}

static void symm_init(struct size s) {
    size_t n = s.n;
    symm.s = reals(n * n, 1);
    symm.b = reals(n * n, 2);
    symm.c = reals(n * n, 3);
}

static void symm_run(struct size s) {
    symmetric_multiply(s.n, symm.c, 0.75, 1.5, symm.s, symm.b);
}

static uint64_t symm_hash(struct size s) {
    return hash_doubles(HASH_START, symm.c, (size_t)s.n * s.n);
}

KERNEL(symm, (300, 1), (880, 1));

// syrk: the lower triangle of C := beta*C + alpha*T(A)*A.

static struct {
    void *a, *c;
} syrk;

static void rank_k(int n, double c[restrict n][n], double beta, double alpha,
                   const double a[restrict n][n]) {
    for (int i = 0; i < n; i++) {
        for (int j = 0; j <= i; j++)
            c[i][j] *= beta;
        for (int k = 0; k < n; k++)
            add_scaled(i + 1, c[i], alpha * a[k][i], a[k]);
    }
}

static void syrk_init(struct size s) {
    size_t n = s.n;
    syrk.a = reals(n * n, 1);
    syrk.c = reals(n * n, 2);
}

static void syrk_run(struct size s) { rank_k(s.n, syrk.c, 0.75, 1.5, syrk.a); }

static uint64_t syrk_hash(struct size s) {
    return hash_doubles(HASH_START, syrk.c, (size_t)s.n * s.n);
}

KERNEL(syrk, (360, 1), (1000, 1));

// syr2k: the lower triangle of C := beta*C + alpha*(T(A)*B + T(B)*A).

static struct {
    void *a, *b, *c;
} syr2k;

static void rank_2k(int n, double c[restrict n][n], double beta, double alpha,
                    const double a[restrict n][n],
                    const double b[restrict n][n]) {
    for (int i = 0; i < n; i++) {
        for (int j = 0; j <= i; j++)
            c[i][j] *= beta;
        for (int k = 0; k < n; k++) {
            double x = alpha * a[k][i], y = alpha * b[k][i];
            INTERLEAVE
            for (int j = 0; j <= i; j++)
                c[i][j] += x * b[k][j] + y * a[k][j];
        }
    }
}

static void syr2k_init(struct size s) {
    size_t n = s.n;
    syr2k.a = reals(n * n, 1);
    syr2k.b = reals(n * n, 2);
    syr2k.c = reals(n * n, 3);
}

static void syr2k_run(struct size s) {
    rank_2k(s.n, syr2k.c, 0.75, 1.5, syr2k.a, syr2k.b);
}

static uint64_t syr2k_hash(struct size s) {
    return hash_doubles(HASH_START, syr2k.c, (size_t)s.n * s.n);
}

KERNEL(syr2k, (300, 1), (840, 1));

// trmm: B := L*B in place, L lower triangular. Row i needs only rows above it,
// so rows are finished from the last to the first.

static struct {
    void *l, *b;
} trmm;

static void triangular_multiply(int n, double b[restrict n][n],
                                const double l[restrict n][n]) {
    for (int i = n - 1; i >= 0; i--) {
        for (int j = 0; j < n; j++)
            b[i][j] *= l[i][i];
        for (int k = 0; k < i; k++)
            add_scaled(n, b[i], l[i][k], b[k]);
    }
}

static void trmm_init(struct size s) {
    size_t n = s.n;
    trmm.l = reals(n * n, 1);
    trmm.b = reals(n * n, 2);
}

static void trmm_run(struct size s) {
    triangular_multiply(s.n, trmm.b, trmm.l);
}

static uint64_t trmm_hash(struct size s) {
    return hash_doubles(HASH_START, trmm.b, (size_t)s.n * s.n);
}

KERNEL(trmm, (380, 1), (1080, 1));

// contract: T[p][q][.] := T[p][q][.] * M, the last index of a rank-3 tensor
// contracted with a matrix, in place through one row of scratch, rounds times.

static struct {
    void *t, *m, *row;
} contract;

static void contract_last(int n, double t[restrict n][n][n],
                          const double m[restrict n][n],
                          double row[restrict n]) {
    for (int p = 0; p < n; p++)
        for (int q = 0; q < n; q++) {
            for (int j = 0; j < n; j++)
                row[j] = 0;
            for (int k = 0; k < n; k++)
                add_scaled(n, row, t[p][q][k], m[k]);
            for (int j = 0; j < n; j++)
                t[p][q][j] = row[j];
        }
}

static void contract_init(struct size s) {
    size_t n = s.n;
    contract.t = reals(n * n * n, 1);
    contract.m = reals(n * n, 2);
    contract.row = take(n * sizeof(double));
}

static void contract_run(struct size s) {
    for (int r = 0; r < s.rounds; r++)
        contract_last(s.n, contract.t, contract.m, contract.row);
}

static uint64_t contract_hash(struct size s) {
    return hash_doubles(HASH_START, contract.t, (size_t)s.n * s.n * s.n);
}

KERNEL(contract, (72, 1), (128, 2));
