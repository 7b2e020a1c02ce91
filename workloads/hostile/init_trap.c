/* Its initialisation traps, in a function whose name the backtrace must tell: fill_table. */
#include <faasm.h>

static volatile int depth;

__attribute__((noinline)) static int fill_table(void) {
	depth++;
	__builtin_trap();
}

int32_t faasm_init(void) {
	int r = fill_table();
	depth++;
	return r;
}

int32_t faasm_call(void) {
	return 0;
}
