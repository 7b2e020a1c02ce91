/*
 * Counts its calls in a variable of its own. Each call runs in a fresh Faaslet, so the
 * output is always 1; anything else means that memory leaked from one call to another.
 */
#include <faasm.h>

#include "decimal/decimal.h"

static volatile uint32_t calls;

int32_t faasm_call(void) {
	calls++;
	decimal_output(calls);
	return 0;
}
