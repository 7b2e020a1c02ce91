/* The least a function can be: what a call costs with no work in it. One page of memory. */
#include <faasm.h>

int32_t faasm_call(void) {
	return 0;
}
