/*
 * Writes as many bytes of memory as its input, a number, says: byte i is i modulo 251. The
 * output is the sum of the bytes as they are read back.
 */
#include <faasm.h>

#include <errno.h>
#include <stdlib.h>

#include "decimal/decimal.h"

int32_t faasm_call(void) {
	const char *input = faasm_input(NULL);
	if (input == NULL)
		return errno;
	uint64_t size = decimal_take(&input);
	uint8_t *bytes = size > SIZE_MAX ? NULL : malloc((size_t)size + (size == 0));
	if (bytes == NULL)
		return ENOMEM;
	for (size_t i = 0; i < size; i++)
		bytes[i] = (uint8_t)(i % 251);
	/* Without this the compiler may see that nobody else reads the bytes, and not write them. */
	__asm__ volatile("" : : "r"(bytes) : "memory");
	uint64_t sum = 0;
	for (size_t i = 0; i < size; i++)
		sum += bytes[i];
	decimal_output(sum);
	return 0;
}
