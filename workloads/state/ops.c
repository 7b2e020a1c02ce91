/*
 * The raw calls of state, as commands: what tests of histories and of hostile callers are made
 * with. The input is lines, "OPERATION ARGUMENT ...", done in order in this one Faaslet. For each
 * the output has a line: the errno, and after a 0 what the operation returned.
 *
 *	get KEY FLAGS SIZE          LENGTH ADDRESS    flags: letters of c create, r read only, p pull,
 *	get_at KEY FLAGS OFF LEN    ADDRESS           v published version; or -
 *	peek KEY OFF LEN            BYTES             through a pointer, of what is mapped
 *	poke KEY OFF BYTES                            the same
 *	poke_fill KEY OFF LEN BYTE                    the same; BYTE is a number
 *	add KEY OFF DELTA           SUM               the same, 8 bytes as a number
 *	sum KEY OFF LEN             SUM               of the bytes, through a pointer
 *	wait KEY OFF BYTES MS                         until the bytes are there; ETIMEDOUT
 *	size KEY                    SIZE
 *	set KEY BYTES
 *	set_fill KEY LEN BYTE
 *	set_at KEY OFF BYTES
 *	read KEY OFF LEN            BYTES
 *	push KEY | pull KEY | publish KEY | delete KEY
 *	push_range KEY OFF LEN | pull_range KEY OFF LEN | flag KEY OFF LEN
 *	push_dirty KEY                                upstream's push_state_partial; traps on errors
 *	push_mask KEY MASK_KEY
 *	merge KEY i32|i64|f32|f64 sum|min|max
 *	append KEY BYTES | clear_list KEY
 *	read_list KEY FIRST N       BYTES ...
 *	lock KEY read|write | unlock KEY
 *	lock_global KEY read|write MS | unlock_global KEY     MS -1: no time-out
 *	sleep MS | spin MS
 *	times                                         from here on, each line of the output ends with
 *	                                              " @BEGIN END", the realtime clock in ns
 *
 * Keys and bytes are text in which %XX is a byte, and - is nothing; so they are in the output.
 * Peek and its like use the latest mapping that has the range; EINVAL if there is none.
 */
#include <faasm.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "decimal/decimal.h"

/* Of the original project's dialect: it pushes what was changed, wherever. It returns nothing. */
__attribute__((import_module("env"), import_name("__faasm_push_state_partial"))) void
push_state_partial(const char *key);

/* bytes is a piece of memory. */
typedef struct {
	char *at;
	size_t len;
} bytes;

/* Output that was not handed over yet. */
static char out[1 << 16];
static size_t out_len;

static void flush(void) {
	if (faasm_append_call_output(out, out_len) != 0)
		abort();
	out_len = 0;
}

static void put_char(char c) {
	if (out_len == sizeof out)
		flush();
	out[out_len++] = c;
}

static void put_number(int64_t n) {
	char digits[20];
	if (n < 0)
		put_char('-');
	char *end = decimal_put(digits, n < 0 ? 0 - (uint64_t)n : (uint64_t)n);
	for (char *p = digits; p < end; p++)
		put_char(*p);
}

static void put_bytes(const volatile char *b, size_t len) {
	if (len == 0)
		put_char('-');
	for (size_t i = 0; i < len; i++) {
		uint8_t c = (uint8_t)b[i];
		if (c > ' ' && c < 0x7f && c != '%' && c != '-') {
			put_char((char)c);
		} else {
			put_char('%');
			put_char("0123456789abcdef"[c >> 4]);
			put_char("0123456789abcdef"[c & 15]);
		}
	}
}

/* Input: the rest of the line that is done. */
static char *rest;

static char *word(void) {
	while (*rest == ' ')
		rest++;
	char *w = rest;
	while (*rest != ' ' && *rest != '\0')
		rest++;
	if (*rest != '\0')
		*rest++ = '\0';
	return w;
}

static int64_t number(void) {
	const char *w = word();
	bool negative = *w == '-';
	w += negative;
	uint64_t n = decimal_take(&w);
	return (int64_t)(negative ? 0 - n : n);
}

static int hex(char c) {
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 0;
}

/* decoded takes a word and decodes it in place. */
static bytes decoded(void) {
	char *w = word();
	bytes b = {w, 0};
	if (strcmp(w, "-") == 0)
		return b;
	for (; *w != '\0'; w++) {
		if (*w == '%' && w[1] != '\0' && w[2] != '\0') {
			b.at[b.len++] = (char)(hex(w[1]) << 4 | hex(w[2]));
			w += 2;
		} else {
			b.at[b.len++] = *w;
		}
	}
	return b;
}

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static uint32_t flags(void) {
	uint32_t f = 0;
	for (const char *w = word(); *w != '\0'; w++)
		f |= *w == 'c' ? FAASM_CREATE : *w == 'r' ? FAASM_READ_ONLY : *w == 'p' ? FAASM_PULL : *w == 'v' ? FAASM_PUBLISHED : 0;
	return f;
}

/* What is mapped, the latest last. */
static struct {
	bytes key;
	int64_t off, len;
	char *at;
} mappings[2048];
static size_t mapping_count;

static void remember(bytes key, int64_t off, int64_t len, void *at) {
	if (mapping_count == sizeof mappings / sizeof mappings[0])
		return;
	mappings[mapping_count].key = key;
	mappings[mapping_count].off = off;
	mappings[mapping_count].len = len;
	mappings[mapping_count++].at = at;
}

/* pointer is where len bytes at off of a value are mapped, or NULL. */
static volatile char *pointer(bytes key, int64_t off, int64_t len) {
	for (size_t i = mapping_count; i-- > 0;) {
		bytes k = mappings[i].key;
		int64_t in = off - mappings[i].off;
		if (k.len == key.len && memcmp(k.at, key.at, k.len) == 0 && off >= mappings[i].off && len >= 0 &&
		    in <= mappings[i].len && len <= mappings[i].len - in)
			return mappings[i].at + in;
	}
	return NULL;
}

static int64_t now(clockid_t clock) {
	struct timespec t;
	clock_gettime(clock, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void sleep_ms(int64_t ms) {
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000 * 1000000)};
	nanosleep(&t, NULL);
}

/* What an operation returned, numbers. */
static int64_t result_numbers[2];
static int result_count;

static void result(int64_t n) { result_numbers[result_count++] = n; }

/* through does an operation through a pointer. */
static faasm_errno through(const char *op, bytes key) {
	int64_t off = number();
	if (is(op, "peek") || is(op, "sum")) {
		int64_t len = number();
		volatile char *at = pointer(key, off, len);
		if (at == NULL)
			return EINVAL;
		if (is(op, "peek")) {
			put_char('0');
			put_char(' ');
			put_bytes(at, (size_t)len);
			return -1;
		}
		int64_t sum = 0;
		for (int64_t i = 0; i < len; i++)
			sum += (uint8_t)at[i];
		result(sum);
		return 0;
	}
	if (is(op, "poke_fill")) {
		int64_t len = number();
		volatile char *at = pointer(key, off, len);
		if (at == NULL)
			return EINVAL;
		memset((void *)at, (int)number(), (size_t)len);
		return 0;
	}
	if (is(op, "add")) {
		volatile char *at = pointer(key, off, 8);
		if (at == NULL)
			return EINVAL;
		volatile int64_t *n = (volatile int64_t *)at;
		int64_t sum = (int64_t)((uint64_t)*n + (uint64_t)number());
		*n = sum;
		result(sum);
		return 0;
	}
	bytes want = decoded();
	volatile char *at = pointer(key, off, (int64_t)want.len);
	if (at == NULL)
		return EINVAL;
	if (is(op, "poke")) {
		for (size_t i = 0; i < want.len; i++)
			at[i] = want.at[i];
		return 0;
	}
	for (int64_t end = now(CLOCK_MONOTONIC) + number() * 1000000;;) {
		size_t i = 0;
		while (i < want.len && at[i] == want.at[i])
			i++;
		if (i == want.len)
			return 0;
		if (now(CLOCK_MONOTONIC) >= end)
			return ETIMEDOUT;
		sleep_ms(1);
	}
}

static faasm_errno read_value(bytes key) {
	int64_t off = number(), len = number();
	char *buf = len < 0 || len > 1 << 30 ? NULL : malloc((size_t)len + 1);
	if (buf == NULL)
		return ENOMEM;
	size_t n;
	faasm_errno err = faasm_read_state_offset(key.at, key.len, off, buf, (size_t)len, &n);
	if (err == 0) {
		put_char('0');
		put_char(' ');
		put_bytes(buf, n);
		err = -1;
	}
	free(buf);
	return err;
}

static faasm_errno set_fill(bytes key) {
	int64_t len = number();
	char *buf = len < 0 || len > 1 << 30 ? NULL : malloc((size_t)len + 1);
	if (buf == NULL)
		return ENOMEM;
	memset(buf, (int)number(), (size_t)len);
	faasm_errno err = faasm_set_state(key.at, key.len, buf, (size_t)len);
	free(buf);
	return err;
}

static faasm_errno read_list(bytes key) {
	uint32_t first = (uint32_t)number(), n = (uint32_t)number();
	/* The list can have grown between the two calls; what does not fit is left out. */
	size_t cap;
	faasm_errno err = faasm_read_appended_state(key.at, key.len, first, n, NULL, 0, &cap);
	if (err != 0)
		return err;
	char *buf = malloc(cap + 1);
	if (buf == NULL)
		return ENOMEM;
	size_t size;
	err = faasm_read_appended_state(key.at, key.len, first, n, buf, cap, &size);
	if (err == 0) {
		put_char('0');
		size = size < cap ? size : cap;
		for (size_t at = 0; size - at >= 4;) {
			uint32_t len;
			memcpy(&len, buf + at, sizeof len);
			at += 4;
			if (len > size - at)
				break;
			put_char(' ');
			put_bytes(buf + at, len);
			at += len;
		}
		err = -1;
	}
	free(buf);
	return err;
}

/*
 * perform does one operation. It returns the errno, with results to print after a 0, or -1 if it
 * has printed all itself.
 */
static faasm_errno perform(void) {
	const char *op = word();
	if (is(op, "sleep")) {
		sleep_ms(number());
		return 0;
	}
	if (is(op, "spin")) {
		for (int64_t end = now(CLOCK_MONOTONIC) + number() * 1000000; now(CLOCK_MONOTONIC) < end;) {
		}
		return 0;
	}
	bytes key = decoded();
	const char *k = key.at;
	size_t n = key.len;
	if (is(op, "get")) {
		uint32_t f = flags();
		void *at;
		size_t len;
		faasm_errno err = faasm_get_state(k, n, f, (size_t)number(), &at, &len);
		if (err == 0) {
			remember(key, 0, (int64_t)len, at);
			result((int64_t)len);
			result((int64_t)(uintptr_t)at);
		}
		return err;
	}
	if (is(op, "get_at")) {
		uint32_t f = flags();
		int64_t off = number();
		size_t len = (size_t)number();
		void *at;
		faasm_errno err = faasm_get_state_offset(k, n, f, off, len, &at);
		if (err == 0) {
			remember(key, off, (int64_t)len, at);
			result((int64_t)(uintptr_t)at);
		}
		return err;
	}
	if (is(op, "peek") || is(op, "poke") || is(op, "poke_fill") || is(op, "add") || is(op, "sum") || is(op, "wait"))
		return through(op, key);
	if (is(op, "size")) {
		int64_t size;
		faasm_errno err = faasm_state_size(k, n, &size);
		if (err == 0)
			result(size);
		return err;
	}
	if (is(op, "set")) {
		bytes b = decoded();
		return faasm_set_state(k, n, b.at, b.len);
	}
	if (is(op, "set_fill"))
		return set_fill(key);
	if (is(op, "set_at")) {
		int64_t off = number();
		bytes b = decoded();
		return faasm_set_state_offset(k, n, off, b.at, b.len);
	}
	if (is(op, "read"))
		return read_value(key);
	if (is(op, "push"))
		return faasm_push_state(k, n);
	if (is(op, "pull"))
		return faasm_pull_state(k, n);
	if (is(op, "publish"))
		return faasm_publish_state(k, n);
	if (is(op, "delete"))
		return faasm_delete_state(k, n);
	if (is(op, "push_range") || is(op, "pull_range") || is(op, "flag")) {
		int64_t off = number(), len = number();
		return is(op, "flag")         ? faasm_flag_state_dirty(k, n, off, len)
		       : is(op, "push_range") ? faasm_push_state_offset(k, n, off, len)
		                              : faasm_pull_state_offset(k, n, off, len);
	}
	if (is(op, "push_dirty")) {
		char name[1025];
		if (n >= sizeof name)
			return EINVAL;
		memcpy(name, k, n);
		name[n] = '\0';
		push_state_partial(name);
		return 0;
	}
	if (is(op, "push_mask")) {
		bytes mask = decoded();
		return faasm_push_state_mask(k, n, mask.at, mask.len);
	}
	if (is(op, "merge")) {
		const char *t = word(), *how = word();
		return faasm_push_state_merge(k, n,
		                              is(t, "i32")   ? FAASM_I32
		                              : is(t, "i64") ? FAASM_I64
		                              : is(t, "f32") ? FAASM_F32
		                              : is(t, "f64") ? FAASM_F64
		                                             : 99,
		                              is(how, "sum")   ? FAASM_SUM
		                              : is(how, "min") ? FAASM_MIN
		                              : is(how, "max") ? FAASM_MAX
		                                               : 99);
	}
	if (is(op, "append")) {
		bytes b = decoded();
		return faasm_append_state(k, n, b.at, b.len);
	}
	if (is(op, "read_list"))
		return read_list(key);
	if (is(op, "clear_list"))
		return faasm_clear_appended_state(k, n);
	if (is(op, "lock"))
		return is(word(), "read") ? faasm_lock_state_read(k, n) : faasm_lock_state_write(k, n);
	if (is(op, "unlock"))
		return faasm_unlock_state(k, n);
	if (is(op, "lock_global")) {
		bool read = is(word(), "read");
		int64_t ms = number(), ns = ms < 0 ? -1 : ms * 1000000;
		return read ? faasm_lock_state_global_read(k, n, ns) : faasm_lock_state_global_write(k, n, ns);
	}
	if (is(op, "unlock_global"))
		return faasm_unlock_state_global(k, n);
	return ENOSYS;
}

int32_t faasm_call(void) {
	char *line = faasm_input(NULL);
	if (line == NULL)
		return errno;
	bool times = false;
	for (char *next; line != NULL; line = next) {
		next = strchr(line, '\n');
		if (next != NULL)
			*next++ = '\0';
		if (*line == '\0')
			continue;
		int64_t begin = now(CLOCK_REALTIME);
		rest = line;
		result_count = 0;
		faasm_errno err = 0;
		if (is(line, "times"))
			times = true;
		else
			err = perform();
		int64_t end = now(CLOCK_REALTIME);
		if (err >= 0)
			put_number(err);
		for (int i = 0; err == 0 && i < result_count; i++) {
			put_char(' ');
			put_number(result_numbers[i]);
		}
		if (times) {
			put_char(' ');
			put_char('@');
			put_number(begin);
			put_char(' ');
			put_number(end);
		}
		put_char('\n');
	}
	flush();
	return 0;
}
