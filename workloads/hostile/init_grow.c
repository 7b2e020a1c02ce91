/*
 * Its initialisation takes memory until it gets no more, and writes to each page of it. The
 * output of a call is the size of the memory that this left, in bytes.
 */
#include <faasm.h>

#include "decimal/decimal.h"

enum { STEP = 16, WASM_PAGE = 65536, PAGE = 4096 };

int32_t faasm_init(void) {
	for (size_t was; (was = __builtin_wasm_memory_grow(0, STEP)) != SIZE_MAX;) {
		volatile uint8_t *block = (volatile uint8_t *)(was * WASM_PAGE);
		for (size_t i = 0; i < STEP * WASM_PAGE; i += PAGE)
			block[i] = 1;
	}
	return 0;
}

int32_t faasm_call(void) {
	decimal_output((uint64_t)__builtin_wasm_memory_size(0) * WASM_PAGE);
	return 0;
}
