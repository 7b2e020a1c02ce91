/*
 * A chain of calls, each awaiting the next. Input "N [NAME]": N calls below this one, of the
 * function NAME (this one, under the name it is uploaded with; chain_deep if left out). The
 * output is N plus the output of the call below, so N(N+1)/2 shows that all of them ran.
 */
#include <faasm.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "decimal/decimal.h"

int32_t faasm_call(void) {
	char *input = faasm_input(NULL);
	if (input == NULL)
		return errno;
	const char *rest = input;
	uint64_t n = decimal_take(&rest);
	if (n == 0) {
		decimal_output(0);
		return 0;
	}
	const char *name = *rest == ' ' && rest[1] != '\0' ? rest + 1 : "chain_deep";

	size_t name_len = strlen(name);
	char *below = malloc(20 + 1 + name_len);
	if (below == NULL)
		return ENOMEM;
	char *end = decimal_put(below, n - 1);
	*end++ = ' ';
	memcpy(end, name, name_len);
	end += name_len;

	int32_t call = faasm_chain(name, below, (size_t)(end - below));
	if (call < 0)
		return -call;
	faasm_status status;
	int32_t failed = faasm_await((faasm_handle)call, &status);
	if (failed < 0)
		return -failed;
	if (failed > 0) {
		faasm_output_str(faasm_status_name(status.kind));
		return 1;
	}
	const char *sum = faasm_output_of((faasm_handle)call, NULL);
	if (sum == NULL)
		return errno;
	decimal_output(n + decimal_take(&sum));
	return 0;
}
