/*
 * Waits for the first of several calls and cancels the rest: two that never end, and between
 * them one that returns 42. The output is "timed out, winner 1 returned 42, cancelled 2".
 */
#include <faasm.h>

#include <errno.h>
#include <string.h>

#include "decimal/decimal.h"

enum { CALLS = 3, WINNER = 1 };

static int32_t never(void) {
	for (volatile uint32_t i = 0;; i++) {
	}
}

static int32_t forty_two(void) {
	return 42;
}

static char *put(char *p, const char *label, uint64_t n) {
	size_t len = strlen(label);
	memcpy(p, label, len);
	return decimal_put(p + len, n);
}

int32_t faasm_call(void) {
	faasm_handle calls[CALLS];
	for (int i = 0; i < CALLS; i++) {
		faasm_errno err = faasm_chain_func(i == WINNER ? forty_two : never, NULL, 0, &calls[i]);
		if (err != 0)
			return err;
	}

	char text[128];
	char *end = text;
	size_t index;
	faasm_status status;
	/* The last call never ends, so a millisecond passes whatever the host is doing. */
	faasm_errno err = faasm_await_any(&calls[CALLS - 1], 1, 1000000, &index, &status);
	if (err != ETIMEDOUT)
		return err != 0 ? err : EPROTO;
	memcpy(end, "timed out", 9);
	end += 9;

	err = faasm_await_any(calls, CALLS, -1, &index, &status);
	if (err != 0)
		return err;
	if (status.kind != FAASM_RETURNED)
		return EPROTO;
	end = put(end, ", winner ", index);
	end = put(end, " returned ", (uint64_t)status.return_code);

	uint64_t cancelled = 0;
	for (int i = 0; i < CALLS; i++) {
		if (i == (int)index)
			continue;
		err = faasm_cancel_call(calls[i]);
		if (err == 0)
			err = faasm_await_call(calls[i], &status);
		if (err != 0)
			return err;
		cancelled += status.kind == FAASM_CANCELLED;
	}
	end = put(end, ", cancelled ", cancelled);
	return faasm_output(text, (size_t)(end - text));
}
