/*
 * Many calls at once. Input "N [NAME]": starts N calls of the function NAME (noop if left
 * out) with no input, then awaits them all. The output is the number of those that returned
 * 0; the return code is 0 if all of them did.
 */
#include <faasm.h>

#include <errno.h>
#include <stdlib.h>

#include "decimal/decimal.h"

int32_t faasm_call(void) {
	const char *rest = faasm_input(NULL);
	if (rest == NULL)
		return errno;
	uint64_t n = decimal_take(&rest);
	const char *name = *rest == ' ' && rest[1] != '\0' ? rest + 1 : "noop";

	if (n > SIZE_MAX / sizeof(int32_t))
		return EINVAL;
	int32_t *calls = malloc((size_t)n * sizeof *calls + 1);
	if (calls == NULL)
		return ENOMEM;
	for (size_t i = 0; i < n; i++)
		calls[i] = faasm_chain(name, NULL, 0);
	uint64_t succeeded = 0;
	for (size_t i = 0; i < n; i++)
		succeeded += calls[i] >= 0 && faasm_await((faasm_handle)calls[i], NULL) == 0;
	decimal_output(succeeded);
	return succeeded == n ? 0 : 1;
}
