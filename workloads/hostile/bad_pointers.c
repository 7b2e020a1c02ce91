/*
 * Calls every import of the Calls group with pointers, lengths, names and handles that are
 * wrong. Each must answer with an errno and none may trap or change anything.
 *
 * The output is "ok", or a line for each call that misbehaved, and the return code 1.
 */
#include <faasm.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define AT(address) ((void *)(uintptr_t)(address))

static char report[1 << 15];
static size_t report_len;

/* check notes a call whose errno is not one of the two that are wanted. */
static void check(const char *what, uint32_t a, uint32_t b, faasm_errno got, faasm_errno want,
                  faasm_errno or_want) {
	if (got == want || got == or_want)
		return;
	int n = snprintf(report + report_len, sizeof report - report_len,
	                 "%s(0x%x, 0x%x): errno %d, want %d or %d\n", what, (unsigned)a, (unsigned)b,
	                 (int)got, (int)want, (int)or_want);
	if (n > 0 && (size_t)n < sizeof report - report_len)
		report_len += (size_t)n;
}

#define BAD_MEMORY(what, a, b, got) check(what, (uint32_t)(a), (uint32_t)(b), got, EFAULT, EINVAL)
#define BAD_VALUE(what, a, b, got) check(what, (uint32_t)(a), (uint32_t)(b), got, EINVAL, EINVAL)
#define BAD_HANDLE(what, a, got) check(what, (uint32_t)(a), 0, got, EBADF, EINVAL)

/* answer is the call below, whose output is read: four bytes. */
static int32_t answer(void) {
	return faasm_output("four", 4);
}

/* In the table, as all functions whose address is taken, but of another type. */
static void wrong_type(int32_t a, int64_t b) {
	report_len += (size_t)(a + b);
}
static void (*volatile wrong_type_pointer)(int32_t, int64_t) = wrong_type;

int32_t faasm_call(void) {
	size_t size;
	faasm_status status;
	faasm_errno err = faasm_read_call_input(NULL, 0, &size);
	if (err != 0)
		return err;
	/* A copy of the input must reach the bad addresses, so with less than 4 bytes of it all is
	 * done in a call below, which has them. */
	if (size < 4) {
		int32_t below = faasm_chain_fn(faasm_call, "four", 4);
		if (below < 0)
			return -below;
		if (faasm_await((faasm_handle)below, &status) < 0)
			return EIO;
		size_t len;
		const char *output = faasm_output_of((faasm_handle)below, &len);
		if (output == NULL)
			return errno;
		faasm_output(output, len);
		return status.kind == FAASM_RETURNED ? status.return_code : 1;
	}
	const uint32_t end = (uint32_t)(__builtin_wasm_memory_size(0) * 65536);

	/* Ranges of 4 bytes or more that leave the memory: at its end, far beyond, wrapping. */
	const struct {
		uint32_t at, len;
	} ranges[] = {
		{0xffffffff, 0xffffffff}, {0xffffffff, 4}, {0xfffffffc, 4}, {0xfffffff0, 0x20},
		{0x80000000, 0x80000001}, {0x80000000, 4}, {end, 4},        {end - 1, 4},
		{end - 3, 4},
	};
	/* Lengths that leave the memory from a good address. Only for what the guest gives: a
	 * buffer's capacity may exceed what is copied to it. */
	const uint32_t lens[] = {0xffffffff, 0xfffffff0, 0x80000000, end};
	/* Places for a result of 4 bytes, or of 8. */
	const uint32_t outs[] = {0xffffffff, 0xfffffffd, 0xfffffffc, 0x80000000, end, end - 1, end - 3};

	faasm_handle call, child;
	size_t index;
	char buf[16];
	char name[2000];
	memset(name, 'n', sizeof name);

	err = faasm_chain_func(answer, NULL, 0, &child);
	if (err != 0)
		return err;

	for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
		uint32_t a = ranges[i].at, n = ranges[i].len;
		BAD_MEMORY("read_call_input", a, n, faasm_read_call_input(AT(a), n, &size));
		BAD_MEMORY("write_call_output", a, n, faasm_write_call_output(AT(a), n));
		BAD_MEMORY("append_call_output", a, n, faasm_append_call_output(AT(a), n));
		BAD_MEMORY("chain_call name", a, n, faasm_chain_call(AT(a), n, NULL, 0, &call));
		BAD_MEMORY("chain_call input", a, n, faasm_chain_call("noop", 4, AT(a), n, &call));
		BAD_MEMORY("chain_func input", a, n, faasm_chain_func(answer, AT(a), n, &call));
		BAD_MEMORY("await_any calls", a, n, faasm_await_any(AT(a), n, 0, &index, &status));
		BAD_MEMORY("call_info buf", a, n, faasm_call_info(FAASM_INFO_ID, AT(a), n, &size));
	}
	for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
		uint32_t n = lens[i];
		BAD_MEMORY("write_call_output", buf, n, faasm_write_call_output(buf, n));
		BAD_MEMORY("append_call_output", buf, n, faasm_append_call_output(buf, n));
		BAD_MEMORY("chain_call name", name, n, faasm_chain_call(name, n, NULL, 0, &call));
		BAD_MEMORY("chain_call input", buf, n, faasm_chain_call("noop", 4, buf, n, &call));
		BAD_MEMORY("chain_func input", buf, n, faasm_chain_func(answer, buf, n, &call));
		BAD_MEMORY("await_any calls", &child, n, faasm_await_any(&child, n, 0, &index, &status));
	}
	/* A count of handles whose size in bytes wraps to that of one. */
	BAD_MEMORY("await_any calls", &child, 0x40000001,
	           faasm_await_any(&child, 0x40000001, 0, &index, &status));
	for (size_t i = 0; i < sizeof outs / sizeof outs[0]; i++) {
		uint32_t o = outs[i];
		BAD_MEMORY("read_call_input size", o, 0, faasm_read_call_input(NULL, 0, AT(o)));
		BAD_MEMORY("chain_call call", o, 0, faasm_chain_call("noop", 4, NULL, 0, AT(o)));
		BAD_MEMORY("chain_func call", o, 0, faasm_chain_func(answer, NULL, 0, AT(o)));
		BAD_MEMORY("await_call status", o, 0, faasm_await_call(child, AT(o)));
		BAD_MEMORY("await_any index", o, 0, faasm_await_any(&child, 1, -1, AT(o), &status));
		BAD_MEMORY("await_any status", o, 0, faasm_await_any(&child, 1, -1, &index, AT(o)));
		BAD_MEMORY("call_info size", o, 0, faasm_call_info(FAASM_INFO_ID, buf, 0, AT(o)));
	}

	/* The failures above must have left the call as it was. */
	check("await_call after failures", child, 0, faasm_await_call(child, &status), 0, 0);
	check("return code after failures", child, status.kind, status.return_code, 0, 0);
	for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
		BAD_MEMORY("get_call_output buf", ranges[i].at, ranges[i].len,
		           faasm_get_call_output(child, AT(ranges[i].at), ranges[i].len, &size));
	for (size_t i = 0; i < sizeof outs / sizeof outs[0]; i++)
		BAD_MEMORY("get_call_output size", outs[i], 0,
		           faasm_get_call_output(child, buf, 0, AT(outs[i])));

	BAD_VALUE("chain_call name_len", name, 0, faasm_chain_call(name, 0, NULL, 0, &call));
	BAD_VALUE("chain_call name_len", name, 1025, faasm_chain_call(name, 1025, NULL, 0, &call));
	BAD_VALUE("chain_call not UTF-8", 0, 0, faasm_chain_call("\xff\xfe", 2, NULL, 0, &call));
	BAD_VALUE("chain_func null", 0, 0, faasm_chain_func(AT(0), NULL, 0, &call));
	BAD_VALUE("chain_func beyond", 1000, 0, faasm_chain_func(AT(1000), NULL, 0, &call));
	BAD_VALUE("chain_func beyond", -1, 0, faasm_chain_func(AT(0xffffffff), NULL, 0, &call));
	BAD_VALUE("chain_func type", (uintptr_t)wrong_type_pointer, 0,
	          faasm_chain_func((int32_t(*)(void))AT(wrong_type_pointer), NULL, 0, &call));
	BAD_VALUE("await_any n", 0, 0, faasm_await_any(&child, 0, 0, &index, &status));
	BAD_VALUE("call_info what", 6, 0, faasm_call_info(6, buf, sizeof buf, &size));
	BAD_VALUE("call_info what", -1, 0, faasm_call_info(0xffffffff, buf, sizeof buf, &size));

	const faasm_handle strangers[] = {0xffffffff, 0x80000000, 0x7fffffff, child + 1000};
	for (size_t i = 0; i < sizeof strangers / sizeof strangers[0]; i++) {
		faasm_handle h = strangers[i];
		BAD_HANDLE("await_call", h, faasm_await_call(h, &status));
		BAD_HANDLE("await_any", h, faasm_await_any(&h, 1, -1, &index, &status));
		BAD_HANDLE("get_call_output", h, faasm_get_call_output(h, buf, sizeof buf, &size));
		BAD_HANDLE("cancel_call", h, faasm_cancel_call(h));
	}

	if (report_len != 0) {
		faasm_output(report, report_len);
		return 1;
	}
	/* Nothing may have been appended by the calls that were refused. */
	err = faasm_append_call_output("ok", 2);
	return err;
}
