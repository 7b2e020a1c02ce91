// statistics.c: what is known of a table of observations, one a row.
#include "kernel.h"

#include <math.h>

// correlation: Pearson's coefficients of all pairs of columns, in two passes:
// columns brought to mean zero and length one, then their inner products.

static struct {
    void *x, *r, *mean, *scale;
} correlation;

static void standardize(int n, double x[restrict n][n], double mean[restrict n],
                        double scale[restrict n]) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            mean[j] += x[i][j];
    for (int j = 0; j < n; j++)
        mean[j] /= n;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            x[i][j] -= mean[j];
            scale[j] += x[i][j] * x[i][j];
        }
    for (int j = 0; j < n; j++)
        scale[j] = 1 / sqrt(scale[j]);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            x[i][j] *= scale[j];
}

static void correlation_init(struct size s) {
    size_t n = s.n;
    correlation.x = reals(n * n, 1);
    correlation.r = take(n * n * sizeof(double));
    correlation.mean = take(n * sizeof(double));
    correlation.scale = take(n * sizeof(double));
}

static void correlation_run(struct size s) {
    int n = s.n;
    double(*x)[n] = correlation.x, (*r)[n] = correlation.r;
    standardize(n, x, correlation.mean, correlation.scale);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n; k++)
            add_scaled(n - i, &r[i][i], x[k][i], &x[k][i]);
}

static uint64_t correlation_hash(struct size s) {
    return hash_doubles(HASH_START, correlation.r, (size_t)s.n * s.n);
}

KERNEL(correlation, (380, 1), (960, 1));

// covariance: the upper triangle of the covariance matrix in one pass: each
// observation moves the means and adds a matrix of rank one (Welford, 1962).

static struct {
    void *x, *c, *mean, *before, *after;
} covariance;

static void observe(int n, int seen, const double x[restrict n],
                    double c[restrict n][n], double mean[restrict n],
                    double before[restrict n], double after[restrict n]) {
    double share = 1.0 / seen;
    for (int j = 0; j < n; j++) {
        before[j] = x[j] - mean[j];
        mean[j] += before[j] * share;
        after[j] = x[j] - mean[j];
    }
    for (int i = 0; i < n; i++)
        add_scaled(n - i, &c[i][i], before[i], &after[i]);
}

static void covariance_init(struct size s) {
    size_t n = s.n;
    covariance.x = reals(n * n, 1);
    covariance.c = take(n * n * sizeof(double));
    covariance.mean = take(n * sizeof(double));
    covariance.before = take(n * sizeof(double));
    covariance.after = take(n * sizeof(double));
}

static void covariance_run(struct size s) {
    int n = s.n;
    double(*x)[n] = covariance.x, *c = covariance.c;
    for (int k = 0; k < n; k++)
        observe(n, k + 1, x[k], covariance.c, covariance.mean,
                covariance.before, covariance.after);
    for (int i = 0; i < n * n; i++)
        c[i] *= 1.0 / (n - 1);
}

static uint64_t covariance_hash(struct size s) {
    return hash_doubles(HASH_START, covariance.c, (size_t)s.n * s.n);
}

KERNEL(covariance, (380, 1), (940, 1));

// kmeans: Lloyd's iteration (1982) for points in eight dimensions and sixteen
// clusters. Points lie one dimension a row; a point is compared with one centre
// at a time.

#define DIMENSIONS 8
#define CLUSTERS 16

static struct {
    void *x, *distance, *nearest;
    float centre[CLUSTERS][DIMENSIONS];
} kmeans;

static void compare(int n, int32_t cluster,
                    const float x[restrict DIMENSIONS][n],
                    const float centre[restrict DIMENSIONS],
                    float distance[restrict n], int32_t nearest[restrict n]) {
    for (int i = 0; i < n; i++) {
        float sum = 0;
        for (int d = 0; d < DIMENSIONS; d++) {
            float t = x[d][i] - centre[d];
            sum += t * t;
        }
        nearest[i] = sum < distance[i] ? cluster : nearest[i];
        distance[i] = sum < distance[i] ? sum : distance[i];
    }
}

static void recentre(int n, const float x[restrict DIMENSIONS][n],
                     const int32_t nearest[restrict n],
                     float centre[restrict CLUSTERS][DIMENSIONS]) {
    int32_t count[CLUSTERS] = {0};
    float sum[CLUSTERS][DIMENSIONS] = {0};
    for (int i = 0; i < n; i++)
        count[nearest[i]]++;
    for (int d = 0; d < DIMENSIONS; d++)
        for (int i = 0; i < n; i++)
            sum[nearest[i]][d] += x[d][i];
    for (int c = 0; c < CLUSTERS; c++)
        for (int d = 0; d < DIMENSIONS; d++)
            if (count[c] > 0)
                centre[c][d] = sum[c][d] / (float)count[c];
}

static void kmeans_init(struct size s) {
    int n = s.n;
    float(*x)[n] = kmeans.x = floats((size_t)DIMENSIONS * n, 1);
    kmeans.distance = take(n * sizeof(float));
    kmeans.nearest = take(n * sizeof(int32_t));
    for (int c = 0; c < CLUSTERS; c++)
        for (int d = 0; d < DIMENSIONS; d++)
            kmeans.centre[c][d] = x[d][c];
}

static void kmeans_run(struct size s) {
    float *distance = kmeans.distance;
    for (int r = 0; r < s.rounds; r++) {
        for (int i = 0; i < s.n; i++)
            distance[i] = 4 * DIMENSIONS + 1;
        for (int c = 0; c < CLUSTERS; c++)
            compare(s.n, c, kmeans.x, kmeans.centre[c], distance,
                    kmeans.nearest);
        recentre(s.n, kmeans.x, kmeans.nearest, kmeans.centre);
    }
}

static uint64_t kmeans_hash(struct size s) {
    uint64_t h = hash_ints(HASH_START, kmeans.nearest, s.n);
    return hash_floats(h, kmeans.centre, CLUSTERS * DIMENSIONS);
}

KERNEL(kmeans, (10000, 5), (40000, 25));
