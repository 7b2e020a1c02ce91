/*
 * Does its work at upload: a constructor sets a seed, faasm_init fills a table of 256 KiB
 * from it, and a call only adds the table up. The output is
 *
 *	constructors 1 inits 1 checksum 2534703104
 *
 * whatever number of calls came before; other counts mean that a step was left out, or
 * done again for the call.
 */
#include <faasm.h>

#include <string.h>

#include "decimal/decimal.h"

static volatile uint32_t constructors, inits, seed;
static uint32_t table[65536];

__attribute__((constructor)) static void construct(void) {
	constructors++;
	seed = 1;
}

int32_t faasm_init(void) {
	inits++;
	uint32_t x = seed;
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
		table[i] = x = x * 1664525 + 1013904223;
	return 0;
}

static char *put(char *p, const char *label, uint64_t n) {
	size_t len = strlen(label);
	memcpy(p, label, len);
	return decimal_put(p + len, n);
}

int32_t faasm_call(void) {
	uint32_t sum = 0;
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
		sum += table[i];
	char text[128];
	char *end = put(text, "constructors ", constructors);
	end = put(end, " inits ", inits);
	end = put(end, " checksum ", sum);
	return faasm_output(text, (size_t)(end - text));
}
