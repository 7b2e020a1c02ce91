/*
 * Estimates pi by throwing random points at a square, in several Faaslets at once. Input
 * "SAMPLES PARTS": each part is a chained call with a seed of its own. The output is pi with
 * six decimals, cut off, not rounded. All arithmetic is on integers, so that equal inputs
 * give equal outputs everywhere.
 */
#include <faasm.h>

#include <errno.h>

#include "decimal/decimal.h"

enum { PARTS_MAX = 1024 };

/* Four million times more still fits in 64 bits. */
#define SAMPLES_MAX UINT64_C(1000000000000)

/* SplitMix64, by Steele, Lea and Flood (OOPSLA 2014). */
static uint64_t next(uint64_t *state) {
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* throw_part is a chained call: "SAMPLES SEED" in, the number of points in the circle out. */
static int32_t throw_part(void) {
	const char *input = faasm_input(NULL);
	if (input == NULL)
		return errno;
	uint64_t samples = decimal_take(&input);
	uint64_t state = decimal_take(&input);
	uint64_t inside = 0;
	for (uint64_t i = 0; i < samples; i++) {
		/* Coordinates have 31 bits, so that the sum of their squares fits in 63. */
		uint64_t r = next(&state);
		uint64_t x = r >> 33, y = (r >> 2) & 0x7fffffff;
		inside += x * x + y * y < UINT64_C(1) << 62;
	}
	decimal_output(inside);
	return 0;
}

int32_t faasm_call(void) {
	const char *input = faasm_input(NULL);
	if (input == NULL)
		return errno;
	uint64_t samples = decimal_take(&input);
	uint64_t parts = decimal_take(&input);
	if (samples == 0 || samples > SAMPLES_MAX || parts == 0 || parts > PARTS_MAX)
		return EINVAL;

	faasm_handle calls[PARTS_MAX];
	for (uint64_t i = 0; i < parts; i++) {
		char part[20 + 1 + 20];
		char *end = decimal_put(part, samples / parts + (i < samples % parts));
		*end++ = ' ';
		end = decimal_put(end, i);
		int32_t call = faasm_chain_fn(throw_part, part, (size_t)(end - part));
		if (call < 0)
			return -call;
		calls[i] = (faasm_handle)call;
	}

	uint64_t inside = 0;
	for (uint64_t i = 0; i < parts; i++) {
		if (faasm_await(calls[i], NULL) != 0)
			return EIO;
		const char *output = faasm_output_of(calls[i], NULL);
		if (output == NULL)
			return errno;
		inside += decimal_take(&output);
	}

	uint64_t millionths = inside * 4000000 / samples;
	char text[32];
	char *end = decimal_put(text, millionths / 1000000);
	*end++ = '.';
	for (uint64_t place = 100000; place > 0; place /= 10)
		*end++ = (char)('0' + millionths / place % 10);
	return faasm_output(text, (size_t)(end - text));
}
