/*
 * Reads where they lie the numbers that state_share_writer shares, on the same host: its output is
 * how many there are, and their sum. Return code ENOENT if there are none.
 */
#include <faasm.h>

#include <string.h>

#include "decimal/decimal.h"

static const char key[] = "state_share";

static char *text(char *p, const char *s) {
	size_t n = strlen(s);
	memcpy(p, s, n);
	return p + n;
}

int32_t faasm_call(void) {
	void *at;
	size_t size;
	faasm_errno err = faasm_get_state(key, sizeof key - 1, 0, 0, &at, &size);
	if (err != 0)
		return err;
	const uint32_t *numbers = at;
	uint64_t sum = 0;
	for (size_t i = 0; i < size / sizeof *numbers; i++)
		sum += numbers[i];

	char line[80], *p = line;
	p = decimal_put(p, size / sizeof *numbers);
	p = text(p, " numbers, their sum is ");
	p = decimal_put(p, sum);
	p = text(p, "\n");
	return faasm_output(line, (size_t)(p - line));
}
