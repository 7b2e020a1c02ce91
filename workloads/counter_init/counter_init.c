/*
 * Counts its calls from the 100 that initialisation sets. Each call runs in a fresh Faaslet
 * that starts from what initialisation left, so the output is always 101.
 */
#include <faasm.h>

#include "decimal/decimal.h"

static volatile uint32_t calls;

int32_t faasm_init(void) {
	calls = 100;
	return 0;
}

int32_t faasm_call(void) {
	calls++;
	decimal_output(calls);
	return 0;
}
