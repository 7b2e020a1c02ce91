/* Leaves by exit(3) from within faasm_call, after it wrote "before": the return code is 3. */
#include <faasm.h>

#include <stdlib.h>

int32_t faasm_call(void) {
	faasm_output_str("before");
	exit(3);
}
