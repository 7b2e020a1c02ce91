// signal.c: filters and transforms of images.
#include "kernel.h"

#include <math.h>

// deriche: an image smoothed by Deriche's recursive filter (1990) of second
// order, forth and back along each row, then down and up the columns. The
// result of the two directions is added.

static struct {
    void *image, *rows, *ahead, *back;
} deriche;

// The response is (1 + a|x|) e^(-a|x|) with a = 1/4; DERICHE_E is e^(-1/4).
#define DERICHE_A 0.25f
#define DERICHE_E 0.7788007830714049f

struct recursion {
    float x0, x1, x1_back, x2_back, y1, y2;
};

static struct recursion deriche_weights(void) {
    float a = DERICHE_A, e = DERICHE_E;
    float k = (1 - e) * (1 - e) / (1 + 2 * a * e - e * e);
    return (struct recursion){k,           k * e * (a - 1), k * e * (a + 1),
                              -k * e * e, 2 * e,           -e * e};
}

static void deriche_rows(int n, float out[restrict n][n],
                         const float in[restrict n][n],
                         float ahead[restrict n][n]) {
    struct recursion w = deriche_weights();
    for (int i = 0; i < n; i++) {
        float x1 = 0, y1 = 0, y2 = 0;
        for (int j = 0; j < n; j++) {
            float y = w.x0 * in[i][j] + w.x1 * x1 + w.y2 * y2 + w.y1 * y1;
            x1 = in[i][j];
            y2 = y1;
            y1 = y;
            ahead[i][j] = y;
        }
        float x2 = 0;
        x1 = y1 = y2 = 0;
        for (int j = n - 1; j >= 0; j--) {
            float y = w.x1_back * x1 + w.x2_back * x2 + w.y2 * y2 + w.y1 * y1;
            x2 = x1;
            x1 = in[i][j];
            y2 = y1;
            y1 = y;
            out[i][j] = ahead[i][j] + y;
        }
    }
}

static void recur(int n, float *restrict y, float wx, const float *restrict x,
                  float wz, const float *restrict z, float w1,
                  const float *restrict y1, float w2,
                  const float *restrict y2) {
    INTERLEAVE
    for (int j = 0; j < n; j++)
        y[j] = wx * x[j] + wz * z[j] + w1 * y1[j] + w2 * y2[j];
}

// deriche_columns has two rows of zeros above and below the image in, two above
// ahead and two below back: what lies outside is dark.
static void deriche_columns(int n, float out[restrict n][n],
                            const float in[restrict n + 4][n],
                            float ahead[restrict n + 2][n],
                            float back[restrict n + 2][n]) {
    struct recursion w = deriche_weights();
    for (int i = 0; i < n; i++)
        recur(n, ahead[i + 2], w.x0, in[i + 2], w.x1, in[i + 1], w.y1,
              ahead[i + 1], w.y2, ahead[i]);
    for (int i = n - 1; i >= 0; i--)
        recur(n, back[i], w.x1_back, in[i + 3], w.x2_back, in[i + 4], w.y1,
              back[i + 1], w.y2, back[i + 2]);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            out[i][j] = ahead[i + 2][j] + back[i][j];
}

static void deriche_init(struct size s) {
    size_t n = s.n;
    deriche.image = floats(n * n, 1);
    deriche.rows = take((n + 4) * n * sizeof(float));
    deriche.ahead = take((n + 2) * n * sizeof(float));
    deriche.back = take((n + 2) * n * sizeof(float));
}

static void deriche_run(struct size s) {
    int n = s.n;
    float(*rows)[n] = deriche.rows, (*ahead)[n] = deriche.ahead;
    for (int r = 0; r < s.rounds; r++) {
        deriche_rows(n, rows + 2, deriche.image, ahead + 2);
        deriche_columns(n, deriche.image, rows, ahead, deriche.back);
    }
}

static uint64_t deriche_hash(struct size s) {
    return hash_floats(HASH_START, deriche.image, (size_t)s.n * s.n);
}

KERNEL(deriche, (400, 8), (800, 42));

// convolve: an image convolved with a kernel of 5 by 5 weights that do not
// separate into rows and columns. The border of two pixels stays dark.

static struct {
    void *in, *out, *weight;
} convolve;

static void convolve_row(int n, float *restrict out, const float *restrict in,
                         const float w[restrict 5]) {
    INTERLEAVE
    for (int j = 2; j < n - 2; j++)
        out[j] += w[0] * in[j - 2] + w[1] * in[j - 1] + w[2] * in[j] +
                  w[3] * in[j + 1] + w[4] * in[j + 2];
}

static void convolve_image(int n, float out[restrict n][n],
                           const float in[restrict n][n],
                           const float w[restrict 5][5]) {
    for (int i = 2; i < n - 2; i++) {
        for (int j = 0; j < n; j++)
            out[i][j] = 0;
        for (int k = 0; k < 5; k++)
            convolve_row(n, out[i], in[i + k - 2], w[k]);
    }
}

static void convolve_init(struct size s) {
    size_t n = s.n;
    convolve.in = floats(n * n, 1);
    convolve.out = take(n * n * sizeof(float));
    float *w = convolve.weight = floats(25, 2);
    for (int k = 0; k < 25; k++)
        w[k] *= 0.125f;
}

static void convolve_run(struct size s) {
    for (int r = 0; r < s.rounds; r++) {
        convolve_image(s.n, convolve.out, convolve.in, convolve.weight);
        convolve_image(s.n, convolve.in, convolve.out, convolve.weight);
    }
}

static uint64_t convolve_hash(struct size s) {
    return hash_floats(HASH_START, convolve.in, (size_t)s.n * s.n);
}

KERNEL(convolve, (320, 14), (640, 80));

// fft: the Fourier transform of a complex image and back, radix 2 (Cooley and
// Tukey, 1965). A transform runs down the columns, so that one butterfly is a
// combination of two rows; between the two directions the image is transposed.
// Real and imaginary parts lie apart.

static struct {
    void *re, *im;
    double *cosine, *sine;
} fft;

static void butterfly(int n, double *restrict pr, double *restrict pi,
                      double *restrict qr, double *restrict qi, double wr,
                      double wi) {
    for (int j = 0; j < n; j++) {
        double tr = wr * qr[j] - wi * qi[j];
        double ti = wr * qi[j] + wi * qr[j];
        qr[j] = pr[j] - tr;
        qi[j] = pi[j] - ti;
        pr[j] += tr;
        pi[j] += ti;
    }
}

static void exchange(int n, double *restrict x, double *restrict y) {
    for (int j = 0; j < n; j++) {
        double t = x[j];
        x[j] = y[j];
        y[j] = t;
    }
}

// fft_columns transforms every column; direction is 1, or -1 for the inverse
// without its factor 1/n. cosine and sine hold half a turn in n/2 steps.
static void fft_columns(int n, double re[n][n], double im[n][n],
                        const double *cosine, const double *sine,
                        double direction) {
    for (int i = 1, r = 0; i < n; i++) {
        int bit = n >> 1;
        for (; r & bit; bit >>= 1)
            r ^= bit;
        r |= bit;
        if (i < r) {
            exchange(n, re[i], re[r]);
            exchange(n, im[i], im[r]);
        }
    }
    for (int half = 1; half < n; half *= 2)
        for (int top = 0; top < n; top += 2 * half)
            for (int k = 0; k < half; k++) {
                int p = top + k, q = p + half, turn = k * (n / 2 / half);
                butterfly(n, re[p], im[p], re[q], im[q], cosine[turn],
                          -direction * sine[turn]);
            }
}

static void transpose(int n, double a[n][n]) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < i; j++) {
            double t = a[i][j];
            a[i][j] = a[j][i];
            a[j][i] = t;
        }
}

static void fft_image(int n, double direction) {
    for (int pass = 0; pass < 2; pass++) {
        fft_columns(n, fft.re, fft.im, fft.cosine, fft.sine, direction);
        transpose(n, fft.re);
        transpose(n, fft.im);
    }
}

static void fft_init(struct size s) {
    size_t n = s.n;
    fft.re = reals(n * n, 1);
    fft.im = reals(n * n, 2);
    fft.cosine = take(n / 2 * sizeof(double));
    fft.sine = take(n / 2 * sizeof(double));
    // Roots of unity by halving angles from a quarter turn, then by adding the
    // halved angle to each that is known: no sine of libm, which is not the
    // same everywhere.
    double c = 0, d = 1;
    fft.cosine[0] = 1;
    fft.sine[0] = 0;
    for (size_t step = n / 4; step >= 1; step /= 2) {
        for (size_t k = step; k < n / 2; k += 2 * step) {
            double pc = fft.cosine[k - step], ps = fft.sine[k - step];
            fft.cosine[k] = pc * c - ps * d;
            fft.sine[k] = ps * c + pc * d;
        }
        double half = sqrt((1 + c) / 2);
        d = d / (2 * half);
        c = half;
    }
}

static void fft_run(struct size s) {
    int n = s.n;
    double scale = 1.0 / ((double)n * n), *re = fft.re, *im = fft.im;
    for (int r = 0; r < s.rounds; r++) {
        fft_image(n, 1);
        for (int i = 0; i < n * n; i++) {
            re[i] *= scale;
            im[i] *= scale;
        }
        fft_image(n, -1);
    }
}

static uint64_t fft_hash(struct size s) {
    size_t count = (size_t)s.n * s.n;
    uint64_t h = hash_doubles(HASH_START, fft.re, count);
    return hash_doubles(h, fft.im, count);
}

KERNEL(fft, (256, 2), (512, 8));
