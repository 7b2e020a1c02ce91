/*
 * Draws 16 random bytes during initialisation, and in each call 16 more. The output is four
 * lines: "init HEX" and "call HEX", each of 32 hexadecimal digits, then "realtime NS" (since
 * 1970) and "monotonic NS", in nanoseconds. Only the first may be the same in two calls.
 */
#include <faasm.h>

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "decimal/decimal.h"

enum { DRAWN = 16 };

static uint8_t at_init[DRAWN];

int32_t faasm_init(void) {
	return getentropy(at_init, sizeof at_init) != 0 ? errno : 0;
}

static char *put_label(char *p, const char *label) {
	size_t len = strlen(label);
	memcpy(p, label, len);
	return p + len;
}

static char *put_drawn(char *p, const char *label, const uint8_t *drawn) {
	p = put_label(p, label);
	for (size_t i = 0; i < 2 * DRAWN; i++)
		*p++ = "0123456789abcdef"[drawn[i / 2] >> (i % 2 ? 0 : 4) & 15];
	*p++ = '\n';
	return p;
}

static char *put_time(char *p, const char *label, const struct timespec *t) {
	p = decimal_put(put_label(p, label), (uint64_t)t->tv_sec * 1000000000 + (uint64_t)t->tv_nsec);
	*p++ = '\n';
	return p;
}

int32_t faasm_call(void) {
	uint8_t drawn[DRAWN];
	struct timespec realtime, monotonic;
	if (getentropy(drawn, sizeof drawn) != 0 || clock_gettime(CLOCK_REALTIME, &realtime) != 0 ||
	    clock_gettime(CLOCK_MONOTONIC, &monotonic) != 0)
		return errno;
	char text[256];
	char *end = put_drawn(text, "init ", at_init);
	end = put_drawn(end, "call ", drawn);
	end = put_time(end, "realtime ", &realtime);
	end = put_time(end, "monotonic ", &monotonic);
	return faasm_output(text, (size_t)(end - text));
}
