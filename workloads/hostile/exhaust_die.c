/* Takes and touches memory until it gets no more, and then aborts, as most programs do. */
#include <faasm.h>

#include <stdlib.h>

enum { BLOCK = 1 << 20, PAGE = 4096 };

int32_t faasm_call(void) {
	for (volatile uint8_t *block; (block = malloc(BLOCK)) != NULL;)
		for (size_t i = 0; i < BLOCK; i += PAGE)
			block[i] = 1;
	abort();
}
