/* Traps three named calls deep: the backtrace must name them, the innermost first. */
#include <faasm.h>

/* The volatile depth keeps the calls from being merged into one function or a tail call. */
static volatile int depth;

__attribute__((noinline)) static int trap_inner(void) {
	depth++;
	__builtin_trap();
}

__attribute__((noinline)) static int trap_middle(void) {
	int r = trap_inner();
	depth++;
	return r;
}

__attribute__((noinline)) static int trap_outer(void) {
	int r = trap_middle();
	depth++;
	return r;
}

int32_t faasm_call(void) {
	return trap_outer();
}
