/* Divides by zero, which traps. */
#include <faasm.h>

int32_t faasm_call(void) {
	volatile int32_t one = 1, zero = 0; /* else the compiler divides in its own way */
	return one / zero;
}
