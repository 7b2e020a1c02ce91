/* Reads beyond the end of its memory, which traps. */
#include <faasm.h>

int32_t faasm_call(void) {
	const volatile uint8_t *last = (const volatile uint8_t *)UINT32_C(0xffffffff);
	return *last;
}
