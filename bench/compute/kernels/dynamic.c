// dynamic.c: dynamic programming over integers.
#include "kernel.h"

static inline int32_t min32(int32_t a, int32_t b) { return a < b ? a : b; }
static inline int32_t max32(int32_t a, int32_t b) { return a > b ? a : b; }

// floyd: shortest paths between all pairs of nodes of a directed graph (Floyd
// and Warshall, 1962).

static struct {
    void *d;
} floyd;

static void relax(int n, int32_t *restrict to, int32_t via,
                  const int32_t *restrict from) {
    INTERLEAVE
    for (int j = 0; j < n; j++)
        to[j] = min32(to[j], via + from[j]);
}

static void floyd_init(struct size s) {
    int n = s.n;
    int32_t(*d)[n] = floyd.d = take((size_t)n * n * sizeof(int32_t));
    // About one pair in eight has an edge; the others start too far apart to
    // matter, and not so far that a sum of two overflows.
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            uint64_t b = bits(1, (uint64_t)i * n + j);
            int32_t length = b % 8 ? 1 << 28 : 1 + (int32_t)(b >> 40) % 999;
            d[i][j] = i == j ? 0 : length;
        }
}

static void floyd_run(struct size s) {
    int n = s.n;
    int32_t(*d)[n] = floyd.d;
    for (int k = 0; k < n; k++)
        for (int i = 0; i < n; i++)
            if (i != k)
                relax(n, d[i], d[i][k], d[k]);
}

static uint64_t floyd_hash(struct size s) {
    return hash_ints(HASH_START, floyd.d, (size_t)s.n * s.n);
}

KERNEL(floyd, (350, 1), (960, 1));

// nussinov: the most base pairs that a strand of RNA can form without a knot
// (Nussinov and Jacobson, 1980). best[i][j] is the answer for bases i to j. For
// one i, the ends j are final in ascending order, and a final one is pushed
// into all longer strands that split behind it.

static struct {
    int32_t *base;
    void *best;
} nussinov;

// pairs says whether two bases (0 to 3: A, C, G, U) bind: A-U, C-G or G-U.
static inline int32_t pairs(int32_t a, int32_t b) {
    return a + b == 3 || a + b == 5;
}

static void push_split(int n, int32_t *restrict to, int32_t left,
                       const int32_t *restrict right) {
    INTERLEAVE
    for (int j = 0; j < n; j++)
        to[j] = max32(to[j], left + right[j]);
}

static void fold(int n, const int32_t base[restrict n],
                 int32_t best[restrict n][n]) {
    for (int i = n - 2; i >= 0; i--) {
        for (int j = i + 2; j < n; j++)
            best[i][j] = best[i + 1][j - 1] + pairs(base[i], base[j]);
        for (int k = i; k < n - 1; k++)
            push_split(n - k - 1, &best[i][k + 1], best[i][k],
                       &best[k + 1][k + 1]);
    }
}

static void nussinov_init(struct size s) {
    int n = s.n;
    nussinov.base = take(n * sizeof *nussinov.base);
    for (int i = 0; i < n; i++)
        nussinov.base[i] = bits(1, i) >> 62;
    nussinov.best = take((size_t)n * n * sizeof(int32_t));
}

static void nussinov_run(struct size s) {
    fold(s.n, nussinov.base, nussinov.best);
}

static uint64_t nussinov_hash(struct size s) {
    return hash_ints(HASH_START, nussinov.best, (size_t)s.n * s.n);
}

KERNEL(nussinov, (600, 1), (1560, 1));

// align: the best local alignment of two strings with affine gaps (Smith and
// Waterman, 1981; Gotoh, 1982). The table is made one diagonal i + j = d after
// the other, because the cells of a diagonal do not wait for each other. Arrays
// are indexed by i; the second string is held reversed, so that both strings
// are read upwards along a diagonal.

#define MATCH 5
#define MISMATCH (-4)
#define GAP_OPEN (-8)
#define GAP_EXTEND (-2)

static struct {
    int32_t *a, *reversed;  // n letters each
    int32_t *score[3];      // of this diagonal and the two before it
    int32_t *right;         // best score that ends in a gap of the first string
    int32_t *down[2];       // of the second; of this diagonal and the last
    int32_t *last;          // score[j] of the last row
    int32_t best;
} align;

// align_diagonal makes n cells. The pointers stand at the first of them, those
// called up at its neighbour in the row above.
static int32_t align_diagonal(int n, int32_t best, const int32_t *restrict a,
                              const int32_t *restrict reversed,
                              int32_t *restrict score,
                              const int32_t *restrict score_left,
                              const int32_t *restrict score_up,
                              const int32_t *restrict score_corner,
                              int32_t *restrict right, int32_t *restrict down,
                              const int32_t *restrict down_up) {
    for (int i = 0; i < n; i++) {
        int32_t pair = a[i] == reversed[i] ? MATCH : MISMATCH;
        int32_t r = max32(right[i] + GAP_EXTEND, score_left[i] + GAP_OPEN);
        int32_t d = max32(down_up[i] + GAP_EXTEND, score_up[i] + GAP_OPEN);
        int32_t s = max32(max32(score_corner[i] + pair, 0), max32(r, d));
        right[i] = r;
        down[i] = d;
        score[i] = s;
        best = max32(best, s);
    }
    return best;
}

static void align_init(struct size s) {
    int n = s.n;
    align.a = take(n * sizeof(int32_t));
    align.reversed = take(n * sizeof(int32_t));
    align.last = take((n + 1) * sizeof(int32_t));
    align.right = take((n + 1) * sizeof(int32_t));
    for (int k = 0; k < 3; k++)
        align.score[k] = take((n + 1) * sizeof(int32_t));
    for (int k = 0; k < 2; k++)
        align.down[k] = take((n + 1) * sizeof(int32_t));
    for (int i = 0; i <= n; i++)
        align.right[i] = align.down[0][i] = align.down[1][i] = GAP_OPEN;
    // The second string is the first with about one letter in four drawn anew.
    for (int i = 0; i < n; i++) {
        int32_t other = bits(3, i) >> 62;
        align.a[i] = bits(1, i) >> 62;
        align.reversed[n - 1 - i] = bits(2, i) % 4 ? align.a[i] : other;
    }
}

static void align_run(struct size s) {
    int n = s.n;
    align.best = 0;
    for (int d = 2; d <= 2 * n; d++) {
        int low = d > n ? d - n : 1, high = d > n ? n : d - 1;
        int32_t *score = align.score[d % 3], *before = align.score[(d + 2) % 3];
        int32_t *corner = align.score[(d + 1) % 3];
        int32_t *down = align.down[d % 2];
        int32_t *down_before = align.down[(d + 1) % 2];
        align.best = align_diagonal(
            high - low + 1, align.best, align.a + low - 1,
            align.reversed + n - d + low, score + low, before + low,
            before + low - 1, corner + low - 1, align.right + low, down + low,
            down_before + low - 1);
        if (high == n)
            align.last[d - n] = score[n];
    }
}

static uint64_t align_hash(struct size s) {
    uint64_t h = hash_ints(HASH_START, &align.best, 1);
    return hash_ints(h, align.last, s.n + 1);
}

KERNEL(align, (2600, 1), (11000, 1));
