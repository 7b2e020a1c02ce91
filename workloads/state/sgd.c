/*
 * Trains a linear model by stochastic gradient descent, in parallel and without a lock, as in
 * "Hogwild!" (Recht, Ré, Wright, Niu, NIPS 2011): calls map the same weights, and each reads and
 * writes them as it likes. Now and then one overwrites what another has just written; the descent
 * gets there all the same.
 *
 * The model is logistic regression with a penalty (lambda / 2 of the squared weights), so that
 * there is one best answer. The data is wdbc.csv: 569 tumours by 30 measures of their cells'
 * nuclei, malignant or benign; see README.md. faasm_init reads it and scales each measure to mean
 * 0 and deviation 1, once for all calls.
 *
 * Input, one of:
 *
 *	train KEY FROM TO SHARD SHARDS [merge]
 *		runs the epochs from FROM up to TO (their step shrinks from one to the next) over every
 *		SHARDS-th sample from SHARD. With merge, after each epoch what was learnt here is added
 *		to the global value, and what others have learnt is pulled: that is for several hosts.
 *	loss KEY
 *	sequential TO
 *		trains on all samples, TO epochs, weights of its own
 *
 * The output of the last two is "loss X accuracy Y", over all samples.
 */
#include <faasm.h>

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "decimal/decimal.h"

enum { SAMPLES = 569, MEASURES = 30, WEIGHTS = MEASURES + 1 };

static const double lambda = 0.01;

static const char csv[] = {
#embed "wdbc.csv"
	, '\0'};

static double samples[SAMPLES][WEIGHTS]; /* the last measure of each is 1 */
static double sign[SAMPLES];             /* 1 benign, -1 malignant */

/* take_number reads the decimal fraction at *p, and moves *p behind it and a comma. */
static double take_number(const char **p) {
	double mantissa = 0, scale = 1;
	bool point = false;
	for (; (**p >= '0' && **p <= '9') || **p == '.'; ++*p) {
		if (**p == '.') {
			point = true;
			continue;
		}
		mantissa = mantissa * 10 + (**p - '0');
		scale *= point ? 10 : 1;
	}
	if (**p == ',' || **p == '\n')
		++*p;
	return mantissa / scale;
}

int32_t faasm_init(void) {
	const char *p = strchr(csv, '\n') + 1;
	for (int i = 0; i < SAMPLES; i++) {
		for (int j = 0; j < MEASURES; j++)
			samples[i][j] = take_number(&p);
		samples[i][MEASURES] = 1;
		sign[i] = take_number(&p) == 1 ? 1 : -1;
	}
	if (*p != '\0')
		return EILSEQ;
	for (int j = 0; j < MEASURES; j++) {
		double sum = 0, squares = 0;
		for (int i = 0; i < SAMPLES; i++)
			sum += samples[i][j];
		double mean = sum / SAMPLES;
		for (int i = 0; i < SAMPLES; i++)
			squares += (samples[i][j] - mean) * (samples[i][j] - mean);
		double deviation = sqrt(squares / SAMPLES);
		for (int i = 0; i < SAMPLES; i++)
			samples[i][j] = (samples[i][j] - mean) / deviation;
	}
	return 0;
}

static double score(const volatile double *w, int i) {
	double sum = 0;
	for (int j = 0; j < WEIGHTS; j++)
		sum += w[j] * samples[i][j];
	return sum;
}

/* epoch goes once over a shard, in an order that depends on the epoch. */
static void epoch(volatile double *w, int number, int shard, int shards) {
	static int order[SAMPLES];
	int n = 0;
	for (int i = shard; i < SAMPLES; i += shards)
		order[n++] = i;
	uint64_t random = (uint64_t)number * 2654435761u + (uint64_t)shard + 1;
	for (int i = n - 1; i > 0; i--) {
		random = random * 6364136223846793005u + 1442695040888963407u;
		int j = (int)((random >> 33) % (uint64_t)(i + 1)), t = order[i];
		order[i] = order[j];
		order[j] = t;
	}
	double step = 0.05 / (1 + 0.1 * number);
	for (int k = 0; k < n; k++) {
		int i = order[k];
		double slope = -sign[i] / (1 + exp(sign[i] * score(w, i)));
		for (int j = 0; j < WEIGHTS; j++)
			w[j] -= step * (slope * samples[i][j] + lambda * w[j]);
	}
}

static char *put(char *p, const char *s) {
	size_t n = strlen(s);
	memcpy(p, s, n);
	return p + n;
}

/* put_fraction writes x, from 0 to 1 million, with six decimals. */
static char *put_fraction(char *p, double x) {
	uint64_t millionths = (uint64_t)(x * 1e6 + 0.5);
	p = decimal_put(p, millionths / 1000000);
	*p++ = '.';
	for (uint64_t unit = 100000; unit > 0; unit /= 10)
		*p++ = (char)('0' + millionths / unit % 10);
	return p;
}

/* report is for weights that others may be changing: it looks at a copy. */
static int32_t report(const volatile double *shared) {
	double w[WEIGHTS], penalty = 0, loss = 0;
	for (int j = 0; j < WEIGHTS; j++) {
		w[j] = shared[j];
		penalty += lambda / 2 * w[j] * w[j];
	}
	int right = 0;
	for (int i = 0; i < SAMPLES; i++) {
		double margin = sign[i] * score(w, i);
		loss += log1p(exp(-margin)) / SAMPLES;
		right += margin > 0;
	}
	loss += penalty;
	if (!(loss < 1e6))
		return ERANGE;
	char text[64], *p = put(text, "loss ");
	p = put(put_fraction(p, loss), " accuracy ");
	p = put(put_fraction(p, (double)right / SAMPLES), "\n");
	return faasm_output(text, (size_t)(p - text));
}

/* word takes the next word of a line, in place. */
static char *word(char **p) {
	while (**p == ' ')
		++*p;
	char *w = *p;
	while (**p != '\0' && **p != ' ' && **p != '\n')
		++*p;
	if (**p != '\0')
		*(*p)++ = '\0';
	return w;
}

static int number(char **p) {
	const char *w = word(p);
	uint64_t n = decimal_take(&w);
	return n < 1000000 ? (int)n : 1000000;
}

int32_t faasm_call(void) {
	char *input = faasm_input(NULL);
	if (input == NULL)
		return errno;
	const char *what = word(&input);
	if (strcmp(what, "sequential") == 0) {
		static double own[WEIGHTS];
		for (int e = 0, to = number(&input); e < to; e++)
			epoch(own, e, 0, 1);
		return report(own);
	}
	const char *key = word(&input);
	size_t size;
	volatile double *w = faasm_state(key, WEIGHTS * sizeof(double), &size);
	if (w == NULL)
		return errno;
	if (size != WEIGHTS * sizeof(double))
		return EBADMSG;
	if (strcmp(what, "loss") == 0)
		return report(w);
	if (strcmp(what, "train") != 0)
		return ENOSYS;
	int from = number(&input), to = number(&input), shard = number(&input), shards = number(&input);
	bool merge = strcmp(word(&input), "merge") == 0;
	if (shards == 0 || shard >= shards)
		return EINVAL;
	for (int e = from; e < to; e++) {
		epoch(w, e, shard, shards);
		if (!merge)
			continue;
		faasm_errno err = faasm_push_state_merge(key, strlen(key), FAASM_F64, FAASM_SUM);
		if (err == 0)
			err = faasm_pull_state(key, strlen(key));
		if (err != 0)
			return err;
	}
	return 0;
}
