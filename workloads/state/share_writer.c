/*
 * Shares a value with state_share_reader without a copy of it anywhere. Input: how many numbers
 * to share, a million if there is none. They are 4 bytes each, the squares of 0, 1, 2 ... modulo
 * 2^32, in the value "state_share" of this host. It is not pushed: other hosts do not see it.
 */
#include <faasm.h>

#include <errno.h>

#include "decimal/decimal.h"

static const char key[] = "state_share";

int32_t faasm_call(void) {
	const char *input = faasm_input(NULL);
	if (input == NULL)
		return errno;
	uint64_t n = decimal_take(&input);
	if (n == 0)
		n = 1000000;
	if (n > SIZE_MAX / sizeof(uint32_t))
		return ENOMEM;
	size_t size;
	uint32_t *numbers = faasm_state(key, (size_t)n * sizeof *numbers, &size);
	if (numbers == NULL)
		return errno;
	/* It may have been there, and of another size. */
	n = size / sizeof *numbers;
	for (uint32_t i = 0; i < n; i++)
		numbers[i] = i * i;

	static const char end[] = " numbers are shared\n";
	char text[20 + sizeof end];
	char *p = decimal_put(text, n);
	for (const char *c = end; *c != '\0'; c++)
		*p++ = *c;
	return faasm_output(text, (size_t)(p - text));
}
