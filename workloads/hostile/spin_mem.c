/* Runs for ever, touching memory in its loop. */
#include <faasm.h>

static volatile uint32_t sink[1024];

int32_t faasm_call(void) {
	for (uint32_t i = 0;; i++)
		sink[i % 1024] += i;
}
