// check.c asks of every kernel whether it computes what it says. It is compiled
// together with the kernels' own sources, makes each kernel's data at a small
// size, keeps what it needs of it, runs the kernel, and compares with the
// definition: sums over all indices, residuals of the equation that was solved,
// or the plainest algorithm there is. It prints one line a kernel that is wrong
// and returns 1 if there was one.
#define main kernels_main
#include "main.c"
#undef main
#include "dynamic.c"
#include "dynamics.c"
#include "orthogonal.c"
#include "products.c"
#include "rows.c"
#include "signal.c"
#include "solve.c"
#include "statistics.c"
#include "stencil.c"
#include "vectors.c"

#include <math.h>
#include <stdbool.h>

#define N 24     // the main dimension of most checks
#define ROUNDS 3 // the sweeps of those that make several

static int wrong;
static const char *checking;

static void expect(bool ok, const char *what, double got, double want) {
    if (ok)
        return;
    printf("%s: %s: got %.17g, want %.17g\n", checking, what, got, want);
    wrong = 1;
}

// near compares relative to the larger of want and one.
static void near(const char *what, double got, double want) {
    expect(fabs(got - want) <= 1e-9 * fmax(1, fabs(want)), what, got, want);
}

static void near_float(const char *what, double got, double want) {
    expect(fabs(got - want) <= 1e-4 * fmax(1, fabs(want)), what, got, want);
}

static void same(const char *what, int32_t got, int32_t want) {
    expect(got == want, what, got, want);
}

static struct size start(const struct kernel *k, int n, int rounds) {
    checking = k->name;
    arena_used = 0;
    struct size s = {n, rounds};
    k->init(s);
    return s;
}

// kept returns a copy of count doubles.
static void *kept(const void *p, size_t count) {
    void *copy = malloc(count * sizeof(double));
    if (!copy)
        die(1, "take memory:", "no memory for a copy");
    return memcpy(copy, p, count * sizeof(double));
}

typedef double square[N][N];

// product is element (i, j) of A*B, of order n; ta takes T(A) for A, tb T(B)
// for B.
static double product(int n, const double *a, bool ta, const double *b, bool tb,
                      int i, int j) {
    double sum = 0;
    for (int k = 0; k < n; k++)
        sum += (ta ? a[k * n + i] : a[i * n + k]) *
               (tb ? b[j * n + k] : b[k * n + j]);
    return sum;
}

static void check_products(void) {
    struct size s = start(&gemm_kernel, N, 1);
    double *c = kept(gemm.c, N * N);
    gemm_run(s);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            near("c", ((double *)gemm.c)[i * N + j],
                 0.75 * c[i * N + j] +
                     1.5 * product(N, gemm.a, 0, gemm.b, 0, i, j));

    s = start(&gemm3_kernel, N, 1);
    gemm3_run(s);
    square ab, cd;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            ab[i][j] = product(N, gemm3.a, 0, gemm3.b, 0, i, j);
            cd[i][j] = product(N, gemm3.c, 0, gemm3.d, 0, i, j);
        }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            near("g", ((double *)gemm3.g)[i * N + j],
                 product(N, *ab, 0, *cd, 0, i, j));

    s = start(&symm_kernel, N, 1);
    c = kept(symm.c, N * N);
    double *full = kept(symm.s, N * N);
    for (int i = 0; i < N; i++)
        for (int j = i + 1; j < N; j++)
            full[i * N + j] = full[j * N + i];
    symm_run(s);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            near("c", ((double *)symm.c)[i * N + j],
                 0.75 * c[i * N + j] +
                     1.5 * product(N, full, 0, symm.b, 0, i, j));

    s = start(&syrk_kernel, N, 1);
    c = kept(syrk.c, N * N);
    syrk_run(s);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double sum = product(N, syrk.a, 1, syrk.a, 0, i, j);
            near("c", ((double *)syrk.c)[i * N + j],
                 j > i ? c[i * N + j] : 0.75 * c[i * N + j] + 1.5 * sum);
        }

    s = start(&syr2k_kernel, N, 1);
    c = kept(syr2k.c, N * N);
    syr2k_run(s);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double sum = product(N, syr2k.a, 1, syr2k.b, 0, i, j) +
                         product(N, syr2k.b, 1, syr2k.a, 0, i, j);
            near("c", ((double *)syr2k.c)[i * N + j],
                 j > i ? c[i * N + j] : 0.75 * c[i * N + j] + 1.5 * sum);
        }

    s = start(&trmm_kernel, N, 1);
    double *b = kept(trmm.b, N * N), *l = trmm.l;
    for (int i = 0; i < N; i++)
        for (int j = i + 1; j < N; j++)
            l[i * N + j] = 0;
    trmm_run(s);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            near("b", ((double *)trmm.b)[i * N + j],
                 product(N, l, 0, b, 0, i, j));

    s = start(&contract_kernel, N, 1);
    double *t = kept(contract.t, N * N * N);
    contract_run(s);
    for (int p = 0; p < N; p++)
        for (int q = 0; q < N; q++)
            for (int j = 0; j < N; j++)
                near("t", ((double *)contract.t)[(p * N + q) * N + j],
                     product(N, t + p * N * N, 0, contract.m, 0, q, j));
}

static double row_times(const double *a, int i, const double *x) {
    double sum = 0;
    for (int j = 0; j < N; j++)
        sum += a[i * N + j] * x[j];
    return sum;
}

static double column_times(const double *a, int j, const double *x) {
    double sum = 0;
    for (int i = 0; i < N; i++)
        sum += a[i * N + j] * x[i];
    return sum;
}

static void check_vectors(void) {
    // An eigenvector of T(A)*A, whose eigenvalue is the square of the singular
    // value. Enough rounds make it one.
    struct size s = start(&power_kernel, N, 20000);
    power_run(s);
    double y[N], *x = power.x;
    for (int i = 0; i < N; i++)
        y[i] = row_times(power.a, i, x);
    for (int j = 0; j < N; j++)
        near("x", column_times(power.a, j, y),
             power.value * power.value * x[j]);

    s = start(&gemver_kernel, N, 1);
    double *a = kept(gemver.a, N * N), *w = gemver.w, *v = gemver.v1;
    double *u1 = gemver.u1, *u2 = gemver.u2, *v2 = gemver.v2;
    double *z = gemver.z;
    gemver_run(s);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            a[i * N + j] += u1[i] * v[j] + u2[i] * v2[j];
    x = gemver.x;
    for (int j = 0; j < N; j++)
        near("x", x[j], column_times(a, j, gemver.y) / 128 + z[j]);
    for (int i = 0; i < N; i++)
        near("w", w[i], row_times(a, i, x) / 64);

    s = start(&gesummv_kernel, N, 1);
    x = kept(gesummv.x, N);
    gesummv_run(s);
    for (int i = 0; i < N; i++)
        near("y", ((double *)gesummv.y)[i],
             1.5 * row_times(gesummv.a, i, x) +
                 0.75 * row_times(gesummv.b, i, x));

    s = start(&bicg_kernel, N, N);
    double *b = kept(bicg.r, N);
    bicg_run(s);
    for (int i = 0; i < N; i++)
        near("residual", row_times(bicg.a, i, bicg.x), b[i]);

    s = start(&cg_kernel, N, 5 * N);
    b = kept(cg.r, N * N);
    cg_run(s);
    double(*grid)[N] = (void *)cg.x;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double up = i > 0 ? grid[i - 1][j] : 0;
            double down = i < N - 1 ? grid[i + 1][j] : 0;
            double left = j > 0 ? grid[i][j - 1] : 0;
            double right = j < N - 1 ? grid[i][j + 1] : 0;
            near("residual", 4 * grid[i][j] - up - down - left - right,
                 b[i * N + j]);
        }
}

static void check_solve(void) {
    struct size s = start(&lu_kernel, N, 1);
    double *a = kept(lu.a, N * N);
    lu_run(s);
    double(*f)[N] = lu.a;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k <= i && k <= j; k++)
                sum += (k == i ? 1 : f[i][k]) * f[k][j];
            near("l*u", sum, a[i * N + j]);
        }

    s = start(&invert_kernel, N, 1);
    a = kept(invert.a, N * N);
    invert_run(s);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            near("a*inverse", product(N, a, 0, invert.a, 0, i, j), i == j);

    s = start(&cholesky_kernel, N, 1);
    a = kept(cholesky.a, N * N);
    cholesky_run(s);
    f = cholesky.a;
    for (int i = 0; i < N; i++)
        for (int j = i; j < N; j++) {
            double sum = 0;
            for (int k = 0; k <= i; k++)
                sum += f[k][i] * f[k][j];
            near("t(u)*u", sum, a[i * N + j]);
        }

    s = start(&trsm_kernel, N, 1);
    double *b = kept(trsm.b, N * N), *l = trsm.l;
    for (int i = 0; i < N; i++)
        for (int j = i + 1; j < N; j++)
            l[i * N + j] = 0;
    trsm_run(s);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            near("l*x", product(N, l, 0, trsm.b, 0, i, j), b[i * N + j]);

    s = start(&durbin_kernel, N, 1);
    durbin_run(s);
    double *r = durbin.r, *y = durbin.y;
    for (int i = 0; i < N; i++) {
        double sum = 0;
        for (int j = 0; j < N; j++)
            sum += r[i > j ? i - j : j - i] * y[j];
        near("t*y", sum, -r[i + 1]);
    }
}

static void check_orthogonal(void) {
    struct size s = start(&gramschmidt_kernel, N, 1);
    double *a = kept(gramschmidt.q, N * N);
    gramschmidt_run(s);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            near("t(q)*q",
                 product(N, gramschmidt.q, 1, gramschmidt.q, 0, i, j), i == j);
            near("q*r", product(N, gramschmidt.q, 0, gramschmidt.r, 0, i, j),
                 a[i * N + j]);
        }

    // T(A)*A = T(R)*R, and R has nothing to do with how Q is kept.
    s = start(&householder_kernel, N, 1);
    a = kept(householder.a, N * N);
    householder_run(s);
    square r = {0};
    for (int i = 0; i < N; i++)
        for (int j = i; j < N; j++)
            r[i][j] = ((double *)householder.a)[i * N + j];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            near("t(r)*r", product(N, *r, 1, *r, 0, i, j),
                 product(N, a, 1, a, 0, i, j));
}

static void check_stencil(void) {
    struct size s = start(&heat1_kernel, N, 1);
    double *u = kept(heat1.u, N), v[N * N * N], w[N * N * N];
    heat1_run(s);
    memcpy(v, u, N * sizeof *v);
    memcpy(w, u, N * sizeof *v);
    for (int i = 1; i < N - 1; i++)
        v[i] = 0.25 * u[i - 1] + 0.5 * u[i] + 0.25 * u[i + 1];
    for (int i = 1; i < N - 1; i++)
        w[i] = 0.25 * v[i - 1] + 0.5 * v[i] + 0.25 * v[i + 1];
    for (int i = 0; i < N; i++)
        near("u", ((double *)heat1.u)[i], w[i]);

    // In two and three dimensions neighbours lie N, and N*N, apart.
    s = start(&heat2_kernel, N, 1);
    u = kept(heat2.u, N * N);
    heat2_run(s);
    for (int step = 0; step < 2; step++) {
        memcpy(v, u, N * N * sizeof *v);
        for (int i = N; i < N * N - N; i++)
            if (i % N != 0 && i % N != N - 1)
                u[i] = 0.5 * v[i] + 0.125 * (v[i - 1] + v[i + 1] + v[i - N] +
                                             v[i + N]);
    }
    for (int i = 0; i < N * N; i++)
        near("u", ((double *)heat2.u)[i], u[i]);

    s = start(&heat3_kernel, N, 1);
    u = kept(heat3.u, N * N * N);
    heat3_run(s);
    for (int step = 0; step < 2; step++) {
        memcpy(v, u, sizeof v);
        for (int i = 0; i < N * N * N; i++) {
            int x = i % N, y = i / N % N, z = i / N / N;
            if (x % (N - 1) && y % (N - 1) && z % (N - 1))
                u[i] = 0.25 * v[i] +
                       0.125 * (v[i - 1] + v[i + 1] + v[i - N] + v[i + N] +
                                v[i - N * N] + v[i + N * N]);
        }
    }
    for (int i = 0; i < N * N * N; i++)
        near("u", ((double *)heat3.u)[i], u[i]);

    // Sweeps until nothing moves solve 20u = 4(sides) + corners + f.
    s = start(&seidel_kernel, N, 5000);
    seidel_run(s);
    u = seidel.u;
    for (int i = N; i < N * N - N; i++)
        if (i % N != 0 && i % N != N - 1)
            near("residual",
                 20 * u[i] - 4 * (u[i - 1] + u[i + 1] + u[i - N] + u[i + N]) -
                     u[i - N - 1] - u[i - N + 1] - u[i + N - 1] - u[i + N + 1],
                 ((double *)seidel.f)[i]);

    // Each half step satisfies its implicit equation: second differences, by
    // columns of what it makes and by rows of what it had, and the other way.
    s = start(&adi_kernel, N, 1);
    u = kept(adi.u, N * N);
    adi_run(s);
    double *half = adi.v, *full = adi.u;
    for (int i = N; i < N * N - N; i++) {
        if (i % N == 0 || i % N == N - 1)
            continue;
        near("columns",
             half[i] - ADI_R * (half[i - N] - 2 * half[i] + half[i + N]),
             u[i] + ADI_R * (u[i - 1] - 2 * u[i] + u[i + 1]));
        near("rows",
             full[i] - ADI_R * (full[i - 1] - 2 * full[i] + full[i + 1]),
             half[i] + ADI_R * (half[i - N] - 2 * half[i] + half[i + N]));
    }

    // The last magnetic step is undone; what it started from has the curl that
    // it added.
    s = start(&fdtd_kernel, N, 40);
    fdtd_run(s);
    double *e = kept(fdtd.e, N * N), *hx = kept(fdtd.hx, N * N);
    double *hy = kept(fdtd.hy, N * N), pulse = 0;
    s.rounds = 39;
    start(&fdtd_kernel, N, 39);
    fdtd_run(s);
    double *e0 = fdtd.e, *hx0 = fdtd.hx, *hy0 = fdtd.hy;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            int k = i * N + j;
            double want = e0[k];
            if (i > 0 && j > 0)
                want += 0.5 * ((hy0[k] - hy0[k - N]) - (hx0[k] - hx0[k - 1]));
            if (i == 0)
                want = 4.75 / (1 + 4.75 * 4.75);
            near("e", e[k], want);
            pulse = fmax(pulse, i > N / 2 ? fabs(e[k]) : 0);
            bool inside = i < N - 1 && j < N - 1;
            near("hx", hx[k],
                 hx0[k] - (inside ? 0.5 * (e[k + 1] - e[k]) : 0));
            near("hy", hy[k],
                 hy0[k] + (inside ? 0.5 * (e[k + N] - e[k]) : 0));
        }
    expect(pulse > 0.01, "pulse in the far half", pulse, 0.01);
}

// binds says whether two of the letters ACGU do.
static int32_t binds(int32_t a, int32_t b) {
    char two[3] = {"ACGU"[a], "ACGU"[b], 0};
    return strstr("AU UA CG GC GU UG", two) != NULL;
}

// strand is the answer of nussinov by its recurrence as it was published.
static int32_t strand(const int32_t *base, int32_t memo[N][N], int i, int j) {
    if (i >= j)
        return 0;
    if (memo[i][j] >= 0)
        return memo[i][j];
    int32_t best = 0;
    if (j - i > 1)
        best = strand(base, memo, i + 1, j - 1) + binds(base[i], base[j]);
    for (int k = i; k < j; k++)
        best = max32(best,
                     strand(base, memo, i, k) + strand(base, memo, k + 1, j));
    return memo[i][j] = best;
}

static void check_dynamic(void) {
    // Bellman and Ford's way, from each node.
    struct size s = start(&floyd_kernel, 2 * N, 1);
    int n = s.n;
    int32_t *d = kept(floyd.d, (size_t)n * n / 2);
    floyd_run(s);
    for (int from = 0; from < n; from++) {
        int32_t *best = d + from * n, cost[2 * N];
        memcpy(cost, best, sizeof cost);
        for (int round = 0; round < n; round++)
            for (int i = 0; i < n; i++)
                for (int j = 0; j < n; j++) {
                    int32_t edge = i == from ? best[j] : d[i * n + j];
                    cost[j] = min32(cost[j], cost[i] + edge);
                }
        for (int j = 0; j < n; j++)
            same("distance", ((int32_t *)floyd.d)[from * n + j], cost[j]);
    }

    s = start(&nussinov_kernel, N, 1);
    nussinov_run(s);
    int32_t memo[N][N];
    memset(memo, -1, sizeof memo);
    for (int i = 0; i < N; i++)
        for (int j = i; j < N; j++)
            same("best", ((int32_t *)nussinov.best)[i * N + j],
                 strand(nussinov.base, memo, i, j));

    // A gap of length k costs 8 + 2(k-1), tried for every k.
    s = start(&align_kernel, N, 1);
    align_run(s);
    int32_t *a = align.a, b[N], h[N + 1][N + 1] = {0}, best = 0;
    for (int j = 0; j < N; j++)
        b[j] = align.reversed[N - 1 - j];
    for (int i = 1; i <= N; i++)
        for (int j = 1; j <= N; j++) {
            int32_t x = h[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 5 : -4);
            for (int k = 1; k <= i; k++)
                x = max32(x, h[i - k][j] - 8 - 2 * (k - 1));
            for (int k = 1; k <= j; k++)
                x = max32(x, h[i][j - k] - 8 - 2 * (k - 1));
            h[i][j] = max32(x, 0);
            best = max32(best, h[i][j]);
        }
    same("best", align.best, best);
    for (int j = 0; j <= N; j++)
        same("last row", align.last[j], h[N][j]);
}

// smoothed is Deriche's response of a line of pixels, stride apart, at pixel i.
static double smoothed(const double *line, int stride, int i) {
    double a = 0.25, e = exp(-a), sum = 0;
    double k = (1 - e) * (1 - e) / (1 + 2 * a * e - e * e);
    for (int j = 0; j < N; j++)
        sum += k * (1 + a * abs(i - j)) * exp(-a * abs(i - j)) *
               line[j * stride];
    return sum;
}

static void check_signal(void) {
    struct size s = start(&deriche_kernel, N, 1);
    double in[N * N], rows[N * N];
    for (int i = 0; i < N * N; i++)
        in[i] = ((float *)deriche.image)[i];
    deriche_run(s);
    for (int i = 0; i < N * N; i++)
        rows[i] = smoothed(in + i / N * N, 1, i % N);
    for (int i = 0; i < N * N; i++)
        near_float("image", ((float *)deriche.image)[i],
                   smoothed(rows + i % N, N, i / N));

    s = start(&convolve_kernel, N, 1);
    for (int i = 0; i < N * N; i++)
        in[i] = ((float *)convolve.in)[i];
    convolve_run(s);
    for (int i = 2; i < N - 2; i++)
        for (int j = 2; j < N - 2; j++) {
            double sum = 0;
            for (int k = 0; k < 25; k++)
                sum += ((float *)convolve.weight)[k] *
                       in[(i + k / 5 - 2) * N + j + k % 5 - 2];
            near_float("out", ((float *)convolve.out)[i * N + j], sum);
        }

    // Forth alone, against the sum that defines the transform, then the run.
    enum { M = 16 };
    s = start(&fft_kernel, M, 1);
    double *re = kept(fft.re, M * M), *im = kept(fft.im, M * M);
    fft_image(M, 1);
    double turn = 2 * acos(-1) / M;
    for (int p = 0; p < M; p++)
        for (int q = 0; q < M; q++) {
            double x = 0, y = 0;
            for (int k = 0; k < M * M; k++) {
                double angle = -turn * (p * (k / M) + q * (k % M));
                x += re[k] * cos(angle) - im[k] * sin(angle);
                y += re[k] * sin(angle) + im[k] * cos(angle);
            }
            near("re", ((double *)fft.re)[p * M + q], x);
            near("im", ((double *)fft.im)[p * M + q], y);
        }
    start(&fft_kernel, M, 1);
    fft_run(s);
    for (int i = 0; i < M * M; i++) {
        near("re there and back", ((double *)fft.re)[i], re[i]);
        near("im there and back", ((double *)fft.im)[i], im[i]);
    }
}

// moment is the sum of products of the deviations of two columns.
static double moment(const double *x, int a, int b) {
    double ma = 0, mb = 0, sum = 0;
    for (int i = 0; i < N; i++) {
        ma += x[i * N + a] / N;
        mb += x[i * N + b] / N;
    }
    for (int i = 0; i < N; i++)
        sum += (x[i * N + a] - ma) * (x[i * N + b] - mb);
    return sum;
}

static void check_statistics(void) {
    struct size s = start(&correlation_kernel, N, 1);
    double *x = kept(correlation.x, N * N);
    correlation_run(s);
    for (int a = 0; a < N; a++)
        for (int b = a; b < N; b++)
            near("r", ((double *)correlation.r)[a * N + b],
                 moment(x, a, b) / sqrt(moment(x, a, a) * moment(x, b, b)));

    s = start(&covariance_kernel, N, 1);
    x = kept(covariance.x, N * N);
    covariance_run(s);
    for (int a = 0; a < N; a++)
        for (int b = a; b < N; b++)
            near("c", ((double *)covariance.c)[a * N + b],
                 moment(x, a, b) / (N - 1));

    // The last round's clusters are nearest to the centres of the round before,
    // and the new centres are their means.
    s = start(&kmeans_kernel, 400, ROUNDS - 1);
    kmeans_run(s);
    float before[CLUSTERS][DIMENSIONS];
    memcpy(before, kmeans.centre, sizeof before);
    s = start(&kmeans_kernel, 400, ROUNDS);
    kmeans_run(s);
    float *points = kmeans.x;
    int32_t *nearest = kmeans.nearest;
    double sum[CLUSTERS][DIMENSIONS] = {0}, count[CLUSTERS] = {0};
    for (int i = 0; i < s.n; i++) {
        double distance[CLUSTERS] = {0}, least = 1e9;
        for (int c = 0; c < CLUSTERS; c++) {
            for (int k = 0; k < DIMENSIONS; k++)
                distance[c] += pow(points[k * s.n + i] - before[c][k], 2);
            least = fmin(least, distance[c]);
        }
        near_float("distance", distance[nearest[i]], least);
        count[nearest[i]]++;
        for (int k = 0; k < DIMENSIONS; k++)
            sum[nearest[i]][k] += points[k * s.n + i];
    }
    for (int c = 0; c < CLUSTERS; c++)
        for (int k = 0; k < DIMENSIONS; k++)
            near_float("centre", kmeans.centre[c][k], sum[c][k] / count[c]);
}

static void check_dynamics(void) {
    // One step by Newton's law, and the momentum of many, which stays zero.
    struct size s = start(&nbody_kernel, N, 1);
    double *p = kept(nbody.position, 3 * N), *m = nbody.mass;
    nbody_run(s);
    for (int i = 0; i < N; i++)
        for (int d = 0; d < 3; d++) {
            double force = 0;
            for (int j = 0; j < N; j++) {
                double square = 1.0 / 64;
                for (int k = 0; k < 3; k++)
                    square += pow(p[k * N + j] - p[k * N + i], 2);
                force += m[j] * (p[d * N + j] - p[d * N + i]) *
                         pow(square, -1.5);
            }
            near("velocity", ((double *)nbody.velocity)[d * N + i],
                 force / 256);
            near("position", ((double *)nbody.position)[d * N + i],
                 p[d * N + i] + force / 256 / 256);
        }
    s = start(&nbody_kernel, N, 200);
    nbody_run(s);
    for (int d = 0; d < 3; d++) {
        double momentum = 0;
        for (int i = 0; i < N; i++)
            momentum += m[i] * ((double *)nbody.velocity)[d * N + i];
        near("momentum", momentum, 0);
    }

    // Known points: the set holds 0, -1 and i; 1 escapes after 0, 1, 2, 5; the
    // grid is symmetric about the real axis.
    checking = mandelbrot_kernel.name;
    same("escape of 0", escape(0, 0, 100), 100);
    same("escape of -1", escape(-1, 0, 100), 100);
    same("escape of i", escape(0, 1, 100), 100);
    same("escape of 1", escape(1, 0, 100), 3);
    same("escape of 3", escape(3, 0, 100), 1);
    s = start(&mandelbrot_kernel, N, 50);
    mandelbrot_run(s);
    int32_t *steps = mandelbrot.steps;
    for (int i = 1; i < N; i++)
        for (int j = 0; j < N; j++)
            same("mirrored", steps[i * N + j], steps[(N - i) * N + j]);
    same("centre", steps[N / 2 * N + 3 * N / 4], 50);
}

int main(void) {
    arena = aligned_alloc(ALIGNMENT, ARENA_BYTES);
    if (!arena)
        die(1, "take memory:", "no memory for the arena");
    check_products();
    check_vectors();
    check_solve();
    check_orthogonal();
    check_stencil();
    check_dynamic();
    check_signal();
    check_statistics();
    check_dynamics();
    return wrong;
}
