/*
 * Makes calls for ever, of the function that its input names (noop if empty), and awaits
 * none of them. A refusal does not stop it.
 */
#include <faasm.h>

#include <errno.h>

int32_t faasm_call(void) {
	size_t len;
	const char *name = faasm_input(&len);
	if (name == NULL)
		return errno;
	for (;;)
		faasm_chain(len > 0 ? name : "noop", NULL, 0);
}
