/* Its initialisation never ends. */
#include <faasm.h>

static volatile uint32_t x;

int32_t faasm_init(void) {
	for (;;)
		x++;
}

int32_t faasm_call(void) {
	return 0;
}
