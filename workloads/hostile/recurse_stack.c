/*
 * Overflows the stack that C keeps in the memory, as opposed to recurse_endless, which
 * overflows the engine's. The stack comes first in the memory, so that it runs below
 * address 0, which traps, and not into the program's data.
 */
#include <faasm.h>

__attribute__((noinline)) static uint32_t down(uint32_t depth) {
	volatile uint32_t frame[256];
	frame[depth % 256] = depth;
	uint32_t below = depth == UINT32_MAX ? 0 : down(depth + 1);
	return below + frame[depth % 256];
}

int32_t faasm_call(void) {
	return (int32_t)down(0);
}
