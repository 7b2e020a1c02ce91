/*
 * Does with state what must be refused, or must do no harm: wrong pointers in every import of the
 * State group, ranges that wrap, keys that look alike, locks that are not held, mapping before malloc is used, and mapping until
 * there is no more. Its values are under keys that begin with "hostile".
 *
 * The output is "ok", or a line for each thing that went wrong, and the return code 1. A trap is
 * wrong too.
 */
#include <faasm.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(address) ((void *)(uintptr_t)(address))

static char report[1 << 15];
static size_t report_len;

/* check notes an errno that is neither of the two that are wanted. */
static void check(const char *what, int64_t a, int64_t b, faasm_errno got, faasm_errno want,
                  faasm_errno or_want) {
	if (got == want || got == or_want)
		return;
	int n = snprintf(report + report_len, sizeof report - report_len,
	                 "%s(%lld, %lld): errno %d, want %d or %d\n", what, (long long)a, (long long)b,
	                 (int)got, (int)want, (int)or_want);
	if (n > 0 && (size_t)n < sizeof report - report_len)
		report_len += (size_t)n;
}

/* A value that is there, of 100,000 bytes 'v', in two chunks. */
static const char key[] = "hostile";
enum { KEY = sizeof key - 1, SIZE = 100000 };

static void make_value(void) {
	char *bytes = malloc(SIZE);
	if (bytes == NULL)
		abort();
	memset(bytes, 'v', SIZE);
	check("set_state", 0, 0, faasm_set_state(key, KEY, bytes, SIZE), 0, 0);
	free(bytes);
}

/* The value must be as it was made. */
static void check_value(const char *after) {
	int64_t size = 0;
	char *bytes = malloc(SIZE);
	size_t n = 0;
	if (bytes == NULL)
		abort();
	check(after, 0, 0, faasm_state_size(key, KEY, &size), 0, 0);
	check(after, 0, 0, faasm_read_state_offset(key, KEY, 0, bytes, SIZE, &n), 0, 0);
	int64_t wrong = 0;
	for (size_t i = 0; i < n; i++)
		wrong += bytes[i] != 'v';
	if (size != SIZE || n != SIZE || wrong != 0)
		check(after, size, wrong, -1, 0, 0);
	free(bytes);
}

/* malloc, asked for the first time after a value was mapped, must not hand out the value's memory. */
static void map_before_malloc(void) {
	static const char first[] = "hostile/first";
	enum { N = sizeof first - 1, BYTES = 200000, BLOCK = 50000 };
	void *at;
	size_t len;
	check("create", 0, 0, faasm_get_state(first, N, FAASM_CREATE, BYTES, &at, &len), 0, 0);
	if (report_len != 0)
		return;
	for (int i = 0; i < 20; i++) {
		volatile char *block = malloc(BLOCK);
		for (int j = 0; block != NULL && j < BLOCK; j++)
			block[j] = 'm';
	}
	int64_t wrong = 0;
	for (size_t i = 0; i < BYTES; i++)
		wrong += ((volatile char *)at)[i] != 0;
	if (wrong != 0)
		check("malloc gave what is mapped", wrong, 0, -1, 0, 0);
	check("delete_state", 0, 0, faasm_delete_state(first, N), 0, ENOENT);
}

/* Ranges of memory that leave it: every import must say so, and touch nothing. */
static void bad_pointers(void) {
	uint32_t end = (uint32_t)(__builtin_wasm_memory_size(0) * 65536);
	const uint32_t places[] = {end - 3, end, end + 4, 0x7ffffffc, 0xfffffffc, 0xffffffff};
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		void *p = AT(places[i]);
		const char *k = p;
		int64_t *size = p;
		void **addr = p, *a;
		size_t *len = p, n;
#define BAD(what, call) check(what, places[i], 0, call, EFAULT, EINVAL)
		BAD("state_size key", faasm_state_size(k, 8, &(int64_t){0}));
		BAD("state_size size", faasm_state_size(key, KEY, size));
		BAD("get_state key", faasm_get_state(k, 8, 0, 0, &a, &n));
		BAD("get_state addr", faasm_get_state(key, KEY, 0, 0, addr, &n));
		BAD("get_state len", faasm_get_state(key, KEY, 0, 0, &a, len));
		BAD("get_state_offset key", faasm_get_state_offset(k, 8, 0, 0, 1, &a));
		BAD("get_state_offset addr", faasm_get_state_offset(key, KEY, 0, 0, 1, addr));
		BAD("set_state key", faasm_set_state(k, 8, "x", 1));
		BAD("set_state ptr", faasm_set_state(key, KEY, p, 8));
		BAD("set_state_offset key", faasm_set_state_offset(k, 8, 0, "x", 1));
		BAD("set_state_offset ptr", faasm_set_state_offset(key, KEY, 0, p, 8));
		BAD("read_state_offset key", faasm_read_state_offset(k, 8, 0, &a, 1, &n));
		BAD("read_state_offset buf", faasm_read_state_offset(key, KEY, 0, p, 8, &n));
		BAD("read_state_offset n", faasm_read_state_offset(key, KEY, 0, &a, 1, len));
		BAD("push_state", faasm_push_state(k, 8));
		BAD("pull_state", faasm_pull_state(k, 8));
		BAD("push_state_offset", faasm_push_state_offset(k, 8, 0, 1));
		BAD("pull_state_offset", faasm_pull_state_offset(k, 8, 0, 1));
		BAD("push_state_mask key", faasm_push_state_mask(k, 8, key, KEY));
		BAD("push_state_mask mask", faasm_push_state_mask(key, KEY, k, 8));
		BAD("push_state_merge", faasm_push_state_merge(k, 8, FAASM_I32, FAASM_SUM));
		BAD("append_state key", faasm_append_state(k, 8, "x", 1));
		BAD("append_state ptr", faasm_append_state(key, KEY, p, 8));
		BAD("read_appended_state key", faasm_read_appended_state(k, 8, 0, 1, &a, 4, &n));
		BAD("read_appended_state buf", faasm_read_appended_state(key, KEY, 0, 1, p, 8, &n));
		BAD("read_appended_state size", faasm_read_appended_state(key, KEY, 0, 1, &a, 4, len));
		BAD("clear_appended_state", faasm_clear_appended_state(k, 8));
		BAD("delete_state", faasm_delete_state(k, 8));
		BAD("publish_state", faasm_publish_state(k, 8));
		BAD("flag_state_dirty", faasm_flag_state_dirty(k, 8, 0, 1));
		BAD("lock_state_read", faasm_lock_state_read(k, 8));
		BAD("lock_state_write", faasm_lock_state_write(k, 8));
		BAD("unlock_state", faasm_unlock_state(k, 8));
		BAD("lock_state_global_read", faasm_lock_state_global_read(k, 8, 0));
		BAD("lock_state_global_write", faasm_lock_state_global_write(k, 8, 0));
		BAD("unlock_state_global", faasm_unlock_state_global(k, 8));
	}
	/* Lengths that reach out of memory, or around it. */
	const uint32_t lengths[] = {0x80000000, 0xfffffff0, 0xffffffff};
	for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
		size_t n;
		check("key length", lengths[i], 0, faasm_push_state(key, lengths[i]), EFAULT, EINVAL);
		check("set_state length", lengths[i], 0, faasm_set_state(key, KEY, key, lengths[i]), EFAULT, EINVAL);
		check("append_state length", lengths[i], 0, faasm_append_state(key, KEY, key, lengths[i]), EFAULT, EFBIG);
		check("read_state_offset length", lengths[i], 0, faasm_read_state_offset(key, KEY, 0, report, lengths[i], &n), EFAULT, EINVAL);
	}
	check_value("after bad pointers");
}

/* Offsets and lengths that are not within the value, however one adds them. */
static void bad_ranges(void) {
	const struct {
		int64_t off, len;
	} ranges[] = {
		{-1, 1}, {0, -1}, {-1, -1}, {INT64_MIN, 1}, {0, INT64_MIN}, {INT64_MIN, INT64_MIN},
		{INT64_MAX, 1}, {1, INT64_MAX}, {INT64_MAX, INT64_MAX}, {INT64_MAX - 3, 8},
		{SIZE, 1}, {SIZE - 1, 2}, {SIZE + 1, 0}, {0, SIZE + 1}, {1, SIZE}, {65536, SIZE},
		{1LL << 32, 1}, {0, 1LL << 32}, {(1LL << 32) - 1, 1LL << 32}, {1LL << 40, 1LL << 40},
	};
	for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
		int64_t off = ranges[i].off, len = ranges[i].len;
		check("push_state_offset", off, len, faasm_push_state_offset(key, KEY, off, len), EINVAL, EINVAL);
		check("pull_state_offset", off, len, faasm_pull_state_offset(key, KEY, off, len), EINVAL, EINVAL);
		check("flag_state_dirty", off, len, faasm_flag_state_dirty(key, KEY, off, len), EINVAL, EINVAL);
		if (len < 0 || len > UINT32_MAX)
			continue;
		void *addr = AT(0xbad);
		check("get_state_offset", off, len, faasm_get_state_offset(key, KEY, 0, off, (size_t)len, &addr), EINVAL, EINVAL);
		if (addr != AT(0xbad))
			check("get_state_offset wrote addr", off, len, -1, 0, 0);
		if (len <= SIZE + 1) {
			static char zeroes[SIZE + 1];
			check("set_state_offset", off, len, faasm_set_state_offset(key, KEY, off, zeroes, (size_t)len), EINVAL, EINVAL);
		}
	}
	size_t n;
	char byte;
	const int64_t offsets[] = {-1, SIZE + 1, 1LL << 32, INT64_MAX, INT64_MIN};
	for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++)
		check("read_state_offset", offsets[i], 1, faasm_read_state_offset(key, KEY, offsets[i], &byte, 1, &n), EINVAL, EINVAL);
	void *addr;
	size_t len;
	check("get_state flags", 16, 0, faasm_get_state(key, KEY, 16, 0, &addr, &len), EINVAL, EINVAL);
	check("get_state flags", -1, 0, faasm_get_state(key, KEY, UINT32_MAX, 0, &addr, &len), EINVAL, EINVAL);
	check("push_state_merge", 5, 1, faasm_push_state_merge(key, KEY, 5, FAASM_SUM), EINVAL, EINVAL);
	check("push_state_merge", 1, 4, faasm_push_state_merge(key, KEY, FAASM_I32, 4), EINVAL, EINVAL);
	check("push_state_merge", 0, 0, faasm_push_state_merge(key, KEY, 0, 0), EINVAL, EINVAL);
	check("push_state_merge", -1, -1, faasm_push_state_merge(key, KEY, UINT32_MAX, UINT32_MAX), EINVAL, EINVAL);
	check_value("after bad ranges");
}

/* Keys that a careless store would take for one another: each keeps a value of its own. */
static void lookalike_keys(void) {
#define K(text) {text, sizeof text - 1}
	static const struct {
		const char *at;
		size_t len;
	} keys[] = {
		K("hostile/a"), K("hostile:a"), K("hostile\0a"), K("hostile\0"), K("hostile/"), K("hostile//a"),
		K("hostile/../hostile/a"), K("hostile/a/"), K("hostile/A"), K("hostile/a "), K(" hostile/a"),
		K("hostile/\xc3\xa9"), K("hostile/e\xcc\x81"), K("hostile/{a}"), K("hostile/{a"), K("hostile}/a"),
		K("hostile/*"), K("hostile/a\n"), K("hostile/a\r\n"), K("hostile/%61"), K("hostile/\xef\xbb\xbf" "a"),
		K("hostile/\xd0\xb0"), K("hostile/a\0b"), K("hostile/a\xe2\x80\x8b"),
	};
	enum { KEYS = sizeof keys / sizeof keys[0] };
	for (uint32_t i = 0; i < KEYS; i++) {
		check("set_state of key", i, 0, faasm_set_state(keys[i].at, keys[i].len, &i, sizeof i), 0, 0);
		check("push_state of key", i, 0, faasm_push_state(keys[i].at, keys[i].len), 0, 0);
		check("append_state of key", i, 0, faasm_append_state(keys[i].at, keys[i].len, &i, sizeof i), 0, 0);
	}
	for (uint32_t i = 0; i < KEYS; i++) {
		uint32_t got = KEYS, list[2] = {0, KEYS};
		size_t n;
		check("pull_state of key", i, 0, faasm_pull_state(keys[i].at, keys[i].len), 0, 0);
		check("read_state_offset of key", i, 0, faasm_read_state_offset(keys[i].at, keys[i].len, 0, &got, sizeof got, &n), 0, 0);
		check("read_appended_state of key", i, 0, faasm_read_appended_state(keys[i].at, keys[i].len, 0, 9, list, sizeof list, &n), 0, 0);
		if (got != i || n != sizeof list || list[1] != i)
			check("keys meet", i, got, -1, 0, 0);
	}
	for (uint32_t i = 0; i < KEYS; i++)
		check("delete_state of key", i, 0, faasm_delete_state(keys[i].at, keys[i].len), 0, 0);
	static const struct {
		const char *at;
		size_t len;
	} none[] = {
		K(""), K("\xff"), K("hostile\xc3"), K("\xed\xa0\x80"), K("\xc0\xaf"), K("\xf4\x90\x80\x80"), K("\x80"),
	};
	for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
		check("a key that is none", (int64_t)i, 0, faasm_set_state(none[i].at, none[i].len, "x", 1), EINVAL, EINVAL);
	char longest[1025];
	memset(longest, 'h', sizeof longest);
	check("a key of 1025 bytes", 0, 0, faasm_set_state(longest, 1025, "x", 1), EINVAL, EINVAL);
	check("a key of 1024 bytes", 0, 0, faasm_set_state(longest, 1024, "x", 1), 0, 0);
	check("delete of 1024 bytes", 0, 0, faasm_delete_state(longest, 1024), 0, 0);
	check_value("after keys");
}

static void wrong_locks(void) {
	check("unlock_state not held", 0, 0, faasm_unlock_state(key, KEY), EPERM, EPERM);
	check("unlock_state_global not held", 0, 0, faasm_unlock_state_global(key, KEY), EPERM, EPERM);
	check("lock_state_write", 0, 0, faasm_lock_state_write(key, KEY), 0, 0);
	check("lock_state_write twice", 0, 0, faasm_lock_state_write(key, KEY), EDEADLK, EDEADLK);
	check("lock_state_read on top", 0, 0, faasm_lock_state_read(key, KEY), EDEADLK, EDEADLK);
	check("lock_state_global_write", 0, 0, faasm_lock_state_global_write(key, KEY, -1), 0, 0);
	check("lock_state_global_read on top", 0, 0, faasm_lock_state_global_read(key, KEY, INT64_MAX), EDEADLK, EDEADLK);
	check("unlock_state_global", 0, 0, faasm_unlock_state_global(key, KEY), 0, 0);
	check("unlock_state", 0, 0, faasm_unlock_state(key, KEY), 0, 0);
	check("unlock_state twice", 0, 0, faasm_unlock_state(key, KEY), EPERM, EPERM);
}

/* What was deleted while it is mapped stays memory, and is nobody else's. */
static void deleted_under(void) {
	static const char gone[] = "hostile/gone";
	enum { N = sizeof gone - 1 };
	void *at, *again;
	size_t len;
	check("create", 0, 0, faasm_get_state(gone, N, FAASM_CREATE, 70000, &at, &len), 0, 0);
	if (report_len != 0)
		return;
	memset(at, 'g', 70000);
	check("delete_state", 0, 0, faasm_delete_state(gone, N), 0, ENOENT);
	memset(at, 'G', 70000);
	check("create again", 0, 0, faasm_get_state(gone, N, FAASM_CREATE, 10, &again, &len), 0, 0);
	if (len != 10 || *(volatile char *)again != 0)
		check("what was deleted is seen", (int64_t)len, *(char *)again, -1, 0, 0);
	check("delete_state again", 0, 0, faasm_delete_state(gone, N), 0, ENOENT);
}

/* Mapping ends with an errno, whatever is there stays usable, and memory is still to be had. */
static void until_the_limit(void) {
	enum { BLOCK = 1 << 20, BLOCKS_MAX = 5000 };
	static volatile uint8_t *blocks[BLOCKS_MAX];
	int n = 0;
	faasm_errno err = 0;
	char name[32];
	void *spare = malloc(64);
	while (n < BLOCKS_MAX) {
		void *at;
		size_t len;
		snprintf(name, sizeof name, "hostile/block%d", n);
		err = faasm_get_state(name, strlen(name), FAASM_CREATE, BLOCK, &at, &len);
		if (err != 0)
			break;
		blocks[n++] = at;
	}
	check("get_state until the limit", n, 0, err, ENOMEM, ENOMEM);
	for (int i = 0; i < n; i++)
		for (size_t at = 0; at < BLOCK; at += 4096)
			blocks[i][at] = (uint8_t)i;
	for (int i = 0; i < n; i++)
		for (size_t at = 0; at < BLOCK; at += 4096)
			if (blocks[i][at] != (uint8_t)i)
				check("a block is not what was written", i, (int64_t)at, -1, 0, 0);
	/* Asking again takes nothing. */
	void *first;
	size_t len;
	check("get_state of what is mapped", 0, 0, faasm_get_state("hostile/block0", 14, 0, 0, &first, &len), 0, 0);
	if (first != (void *)blocks[0])
		check("the address changed", 0, 0, -1, 0, 0);
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof name, "hostile/block%d", i);
		check("delete_state of block", i, 0, faasm_delete_state(name, strlen(name)), 0, ENOENT);
	}
	void *huge;
	check("create 4 GiB", 0, 0, faasm_get_state("hostile/huge", 12, FAASM_CREATE, 0xffffffff, &huge, &len), ENOMEM, ENOMEM);
	faasm_delete_state("hostile/huge", 12); /* it may have been made all the same */
	free(spare);
}

int32_t faasm_call(void) {
	map_before_malloc(); /* first of all */
	make_value();
	bad_pointers();
	bad_ranges();
	lookalike_keys();
	wrong_locks();
	deleted_under();
	until_the_limit();
	check("delete_state at the end", 0, 0, faasm_delete_state(key, KEY), 0, ENOENT);
	if (report_len == 0)
		return faasm_output_str("ok\n");
	faasm_output(report, report_len);
	return 1;
}
