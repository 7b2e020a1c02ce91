/*
 * Takes and touches memory until it gets no more. The output is the number of bytes that it
 * got, and the return code is 0: a refusal is no fault.
 */
#include <faasm.h>

#include <stdlib.h>

#include "decimal/decimal.h"

enum { BLOCK = 1 << 20, PAGE = 4096 };

int32_t faasm_call(void) {
	uint64_t got = 0;
	for (volatile uint8_t *block; (block = malloc(BLOCK)) != NULL; got += BLOCK)
		for (size_t i = 0; i < BLOCK; i += PAGE)
			block[i] = 1;
	decimal_output(got);
	return 0;
}
