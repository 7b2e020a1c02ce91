/*
 * The host interface that a function written in C or C++ sees: the Calls group of the
 * import module "faasm", and a few conveniences over it (libfaasm.a).
 *
 * It is not a C library: files, clocks, random numbers and the standard streams come from
 * wasi-libc, as in any WASI program.
 *
 * A function is either
 *   - a reactor: define faasm_call below, link with -mexec-model=reactor; or
 *   - an ordinary program with main: standard input is the call's input, standard output
 *     its output, and the exit status its return code. It needs this header only if it
 *     chains calls.
 *
 * Each call runs in a fresh Faaslet. Nothing written to memory by one call is seen by
 * another; what faasm_init left in memory is seen by all.
 *
 * Conventions of the raw imports (those that return faasm_errno):
 *   - the result is 0 or a WASI errno, whose numbers are those of wasi-libc's <errno.h>;
 *     C's errno variable is neither read nor written;
 *   - results are written through the pointers that end the parameter list, and only if
 *     the result is 0;
 *   - a pointer to bytes outside the memory is EFAULT, never a trap;
 *   - a name is 1 to 1,024 bytes of UTF-8, not ended by a NUL;
 *   - sizes are bytes.
 */
#ifndef FAASM_H
#define FAASM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FAASM_IMPORT(name) __attribute__((import_module("faasm"), import_name(name)))
#define FAASM_EXPORT(name) __attribute__((export_name(name)))

/* 0, or a positive errno as in <errno.h>. */
typedef int32_t faasm_errno;

/* A call that this Faaslet made. It means nothing in any other Faaslet. */
typedef uint32_t faasm_handle;

/* How a call ended. The numbers are part of the interface. */
enum faasm_status_kind {
	FAASM_RETURNED = 0,     /* it returned; return_code says what */
	FAASM_TRAPPED = 1,      /* a WebAssembly trap, such as unreachable */
	FAASM_DEADLINE = 2,     /* it ran past its deadline */
	FAASM_CANCELLED = 3,    /* somebody cancelled it, or a call above it */
	FAASM_MEMORY_LIMIT = 4, /* it needed more memory than its limit */
	FAASM_NO_FUNCTION = 5,  /* no function has that name */
	FAASM_HOST_LOST = 6,    /* the host that ran it is gone */
	FAASM_REFUSED = 7,      /* overload: it never started */
};

typedef struct {
	uint32_t kind;       /* enum faasm_status_kind */
	int32_t return_code; /* 0 unless kind is FAASM_RETURNED */
} faasm_status;

/* What faasm_call_info can tell of the running call. The numbers are part of the interface. */
enum faasm_info {
	FAASM_INFO_ID = 0,       /* 32 hexadecimal digits */
	FAASM_INFO_TENANT = 1,   /* text */
	FAASM_INFO_FUNCTION = 2, /* text */
	FAASM_INFO_PARENT = 3,   /* 32 hexadecimal digits, or empty if no call made this one */
	FAASM_INFO_DEADLINE = 4, /* nanoseconds left, 8 bytes little-endian; all ones for no deadline */
	FAASM_INFO_ATTEMPT = 5,  /* 4 bytes little-endian */
};

/*
 * Entry points. The author defines faasm_call (reactors only) and may define faasm_init.
 */

/*
 * faasm_call serves one call. Its result is the call's return code. Standard output is log
 * here, and nobody flushes it when faasm_call returns: call fflush after printf.
 */
FAASM_EXPORT("faasm_call") int32_t faasm_call(void);

/*
 * faasm_init (reactors only) runs once, when the function is uploaded, after the
 * constructors. The memory it leaves is what every call starts from. A result other than 0
 * fails the upload.
 */
FAASM_EXPORT("faasm_init") int32_t faasm_init(void);

/*
 * Raw imports.
 */

/*
 * faasm_read_call_input copies the first min(cap, *size) bytes of the call's input to buf
 * and sets *size to the size of the whole input, which does not change during a call. To
 * learn the size alone, pass cap 0.
 */
FAASM_IMPORT("read_call_input")
faasm_errno faasm_read_call_input(void *buf, size_t cap, size_t *size);

/*
 * faasm_write_call_output makes the len bytes at ptr the call's output, in place of what was
 * written before. In a program with main, standard output is then only log. EFBIG if that is
 * more than an output may be; the output is then as it was.
 */
FAASM_IMPORT("write_call_output")
faasm_errno faasm_write_call_output(const void *ptr, size_t len);

/* faasm_append_call_output adds len bytes to the end of the call's output. EFBIG as above. */
FAASM_IMPORT("append_call_output")
faasm_errno faasm_append_call_output(const void *ptr, size_t len);

/*
 * faasm_chain_call calls the function of that name of the same tenant, with a copy of the
 * input, and returns at once. A name that no function has is no error here: the call ends
 * with FAASM_NO_FUNCTION. EINVAL for a name of a wrong length, or not in UTF-8; EMFILE if this
 * Faaslet has made as many calls as it may.
 */
FAASM_IMPORT("chain_call")
faasm_errno faasm_chain_call(const char *name, size_t name_len, const void *input, size_t input_len,
                             faasm_handle *call);

/*
 * faasm_chain_func calls func, a function of this module, in a fresh Faaslet of the same
 * version of the function: func sees what faasm_init left in memory, not what the caller
 * has written since. In WebAssembly a C function pointer is an index into the module's
 * table, and that is what the host takes. EINVAL if it is no function of that type. In a
 * program with main, func runs without main, and without the constructors.
 */
FAASM_IMPORT("chain_func")
faasm_errno faasm_chain_func(int32_t (*func)(void), const void *input, size_t input_len,
                             faasm_handle *call);

/* faasm_await_call waits until the call has ended. EBADF if call is no handle of this Faaslet. */
FAASM_IMPORT("await_call")
faasm_errno faasm_await_call(faasm_handle call, faasm_status *status);

/*
 * faasm_await_any waits until one of the n calls has ended and sets *index to its place in
 * calls. It waits at most timeout_ns nanoseconds, then returns ETIMEDOUT; -1 waits for ever,
 * 0 does not wait. EINVAL if n is 0.
 */
FAASM_IMPORT("await_any")
faasm_errno faasm_await_any(const faasm_handle *calls, size_t n, int64_t timeout_ns, size_t *index,
                            faasm_status *status);

/*
 * faasm_get_call_output copies the first min(cap, *size) bytes of the output of a call that
 * has ended and sets *size to the size of the whole. EAGAIN if it has not ended.
 */
FAASM_IMPORT("get_call_output")
faasm_errno faasm_get_call_output(faasm_handle call, void *buf, size_t cap, size_t *size);

/* faasm_cancel_call cancels the call and those it made in turn. Its handle can still be awaited. */
FAASM_IMPORT("cancel_call")
faasm_errno faasm_cancel_call(faasm_handle call);

/*
 * faasm_call_info copies the first min(cap, *size) bytes of one fact about the running call,
 * in the form given at enum faasm_info, and sets *size to its whole size. EINVAL for a what
 * that is not listed there.
 */
FAASM_IMPORT("call_info")
faasm_errno faasm_call_info(uint32_t what, void *buf, size_t cap, size_t *size);

/*
 * Conveniences, in libfaasm.a. Those that can fail say how.
 */

/*
 * faasm_input returns the whole input in memory from malloc, with a NUL after it, and sets
 * *len (unless len is NULL) to its size without the NUL. It returns NULL with errno set to
 * ENOMEM if the memory has no room for it.
 */
char *faasm_input(size_t *len);

/* faasm_output makes the len bytes at ptr the call's output. It returns 0 or an errno. */
faasm_errno faasm_output(const void *ptr, size_t len);

/* faasm_output_str is faasm_output of a string, without its NUL. */
faasm_errno faasm_output_str(const char *s);

/*
 * faasm_chain calls the function of that name (ended by a NUL). It returns the handle, which
 * is never negative, or an errno, negated.
 */
int32_t faasm_chain(const char *name, const void *input, size_t len);

/* faasm_chain_fn calls a function of this module; see faasm_chain_func. Result as faasm_chain. */
int32_t faasm_chain_fn(int32_t (*func)(void), const void *input, size_t len);

/*
 * faasm_await waits until the call has ended. It returns 0 if it returned 0, 1 if it ended in
 * any other way, and an errno, negated, if it could not be awaited. status may be NULL.
 */
int32_t faasm_await(faasm_handle call, faasm_status *status);

/*
 * faasm_output_of returns the output of a call that has ended, in memory from malloc, with a
 * NUL after it, and sets *len (unless len is NULL) to its size without the NUL. It returns
 * NULL with errno set if there is no room, or call is no handle of a call that has ended.
 */
char *faasm_output_of(faasm_handle call, size_t *len);

/* faasm_status_name returns the kind's name in lower case: "returned", "trapped", and so on. */
const char *faasm_status_name(uint32_t kind);

#ifdef __cplusplus
}
#endif

#endif
