/*
 * The host interface that a function written in C or C++ sees: the Calls and State groups
 * of the import module "faasm", and a few conveniences over them (libfaasm.a).
 *
 * It is not a C library: files, clocks, random numbers and the standard streams come from
 * wasi-libc, as in any WASI program. For C++ there are objects over state in guest/cpp.
 *
 * A function is either
 *   - a reactor: define faasm_call below, link with -mexec-model=reactor; or
 *   - an ordinary program with main: standard input is the call's input, standard output
 *     its output, and the exit status its return code. It needs this header only if it
 *     chains calls or uses state.
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
 * State: values that functions of one tenant share, under keys. Those on one host share the
 * memory itself, in the local tier; between hosts a value moves through the global tier, when
 * it is pushed and pulled. docs/STATE.md says what may be relied on.
 *
 * In addition to the conventions above:
 *   - a key is 1 to 1,024 bytes of UTF-8, of which each tenant has its own. EINVAL if it is not;
 *   - offsets and lengths that are int64_t reach further into a value than one memory can map.
 *     EINVAL if one is negative, or the range is not within the value;
 *   - ENOENT: neither tier has the value;
 *   - ENOMEM: the memory of this Faaslet, or that for state of this host, is used up;
 *   - EDQUOT: the tenant may store no more. ENOSPC, EIO: the global tier is full, or damaged;
 *   - EHOSTUNREACH: the global tier does not answer. A change may have taken effect, or may
 *     still do so. EAGAIN: the value changes too often, and nothing was done;
 *   - ENOTSUP: a function is being initialised, or the host keeps no state.
 *
 * A mapped value is memory that others may change at any moment. The compiler does not know:
 * a loop that waits for a change reads through a pointer to volatile. A number that says how
 * much memory to use is copied first, then checked, then used.
 */

/* How a value is mapped. The numbers are part of the interface. */
enum faasm_state_flag {
	FAASM_CREATE = 1,    /* make the value, of zeroes, if neither tier has it */
	FAASM_READ_ONLY = 2, /* what is written to the mapping stays private to this Faaslet */
	FAASM_PULL = 4,      /* have the global tier's bytes now; otherwise, on first need */
	FAASM_PUBLISHED = 8, /* the latest published version, which never changes; writes as above */
};

/* The elements of faasm_push_state_merge. The numbers are part of the interface. */
enum faasm_element {
	FAASM_I32 = 1,
	FAASM_I64 = 2,
	FAASM_F32 = 3,
	FAASM_F64 = 4,
};

/* How faasm_push_state_merge combines two. The numbers are part of the interface. */
enum faasm_merge {
	FAASM_SUM = 1, /* what was added here since the last pull or push is added there */
	FAASM_MIN = 2, /* of the elements that were changed here */
	FAASM_MAX = 3,
};

/* faasm_state_size sets *size to the value's size in bytes: the local tier's, else the global's. */
FAASM_IMPORT("state_size")
faasm_errno faasm_state_size(const char *key, size_t key_len, int64_t *size);

/*
 * faasm_get_state maps the value into this Faaslet's memory, and sets *addr to its first byte,
 * which is aligned to 64 KiB, and *len to its size. What is written there is seen at once by
 * every Faaslet of this host that has the value mapped, and reaches other hosts when it is
 * pushed. With FAASM_CREATE a value that is nowhere is made, with size bytes of zero; otherwise
 * size is not used. Asking again, with the same flags, gives the same address, unless the value
 * has grown; the mapping lasts until the call ends.
 *
 * The memory grows by it, in units of 64 KiB, up to its limit. A Faaslet maps at most 1,024 parts
 * of values. ENOMEM beyond.
 *
 * The import itself is faasm_import_get_state. This function, in libfaasm.a, first sees to it
 * that malloc has its heap: wasi-libc's takes all memory that is there when it is first used,
 * and so would take the mapping.
 */
faasm_errno faasm_get_state(const char *key, size_t key_len, uint32_t flags, size_t size,
                            void **addr, size_t *len);

FAASM_IMPORT("get_state")
faasm_errno faasm_import_get_state(const char *key, size_t key_len, uint32_t flags, size_t size,
                                   void **addr, size_t *len);

/*
 * faasm_get_state_offset maps only the chunks of 64 KiB that cover the len bytes at off, and
 * sets *addr to the byte at off. Nothing else is taken from the global tier. Otherwise as
 * faasm_get_state; FAASM_CREATE makes a value of off+len bytes.
 */
faasm_errno faasm_get_state_offset(const char *key, size_t key_len, uint32_t flags, int64_t off,
                                   size_t len, void **addr);

FAASM_IMPORT("get_state_offset")
faasm_errno faasm_import_get_state_offset(const char *key, size_t key_len, uint32_t flags,
                                          int64_t off, size_t len, void **addr);

/*
 * faasm_set_state makes the len bytes at ptr the value in the local tier, in place of what it
 * was, and len its size. The global tier is told by a push.
 */
FAASM_IMPORT("set_state")
faasm_errno faasm_set_state(const char *key, size_t key_len, const void *ptr, size_t len);

/* faasm_set_state_offset writes to part of the value in the local tier. The size stays. */
FAASM_IMPORT("set_state_offset")
faasm_errno faasm_set_state_offset(const char *key, size_t key_len, int64_t off, const void *ptr,
                                   size_t len);

/*
 * faasm_read_state_offset copies the bytes at off, up to len of them, to buf, and sets *n to how
 * many there were: fewer than len only at the end of the value.
 */
FAASM_IMPORT("read_state_offset")
faasm_errno faasm_read_state_offset(const char *key, size_t key_len, int64_t off, void *buf,
                                    size_t len, size_t *n);

/*
 * faasm_push_state makes the local value the global one, all of it and its size, at once for
 * those that pull. What others have pushed since the last pull is replaced.
 */
FAASM_IMPORT("push_state")
faasm_errno faasm_push_state(const char *key, size_t key_len);

/*
 * faasm_pull_state makes the global value the local one, of one version throughout. Whoever has
 * it mapped sees it change. What was written here and not pushed is lost.
 */
FAASM_IMPORT("pull_state")
faasm_errno faasm_pull_state(const char *key, size_t key_len);

/*
 * faasm_push_state_offset puts those bytes of a range into the global value that were changed on
 * this host since the last pull or push, and touches no other byte of it: two hosts that push
 * different bytes both keep theirs. A byte is changed if it is another than before, or flagged: two
 * hosts that change one number at the same time may each send other bytes of it, unless they flag it
 * (faasm_flag_state_dirty). It is atomic for each chunk of 64 KiB. A value that the global tier does
 * not have is made, with zeroes around the range.
 */
FAASM_IMPORT("push_state_offset")
faasm_errno faasm_push_state_offset(const char *key, size_t key_len, int64_t off, int64_t len);

/* faasm_pull_state_offset is faasm_pull_state for a range. */
FAASM_IMPORT("pull_state_offset")
faasm_errno faasm_pull_state_offset(const char *key, size_t key_len, int64_t off, int64_t len);

/*
 * faasm_push_state_mask pushes the bytes whose byte in another value, the mask, is not 0, and
 * then makes the mask's bytes 0.
 */
FAASM_IMPORT("push_state_mask")
faasm_errno faasm_push_state_mask(const char *key, size_t key_len, const char *mask_key,
                                  size_t mask_key_len);

/*
 * faasm_push_state_merge combines the value, as an array of enum faasm_element type, with the
 * global one, element by element, as enum faasm_merge op says, so that of many who do so none
 * is left out. Nothing is sent twice. The local value is left alone: pull to see what others have
 * merged. A value that the global tier does not have is pushed. EINVAL for a size that is not
 * whole elements.
 */
FAASM_IMPORT("push_state_merge")
faasm_errno faasm_push_state_merge(const char *key, size_t key_len, uint32_t type, uint32_t op);

/*
 * faasm_append_state adds the len bytes at ptr as one element at the end of the key's list, in
 * the global tier. A key's list is no part of its value. EFBIG for more than 16 MiB.
 */
FAASM_IMPORT("append_state")
faasm_errno faasm_append_state(const char *key, size_t key_len, const void *ptr, size_t len);

/*
 * faasm_read_appended_state copies up to n elements of the key's list, from the one with index
 * first, as they are at one moment. Each is preceded by its length, as 4 bytes little-endian.
 * It copies the first min(cap, *size) bytes and sets *size to the size of the whole. A list that
 * is not there has no elements.
 */
FAASM_IMPORT("read_appended_state")
faasm_errno faasm_read_appended_state(const char *key, size_t key_len, uint32_t first, uint32_t n,
                                      void *buf, size_t cap, size_t *size);

/* faasm_clear_appended_state removes all elements of the key's list. */
FAASM_IMPORT("clear_appended_state")
faasm_errno faasm_clear_appended_state(const char *key, size_t key_len);

/*
 * faasm_delete_state forgets the value, its list and its published versions, in both tiers. Who
 * has the value mapped keeps the memory, which is then shared with nobody new.
 */
FAASM_IMPORT("delete_state")
faasm_errno faasm_delete_state(const char *key, size_t key_len);

/*
 * faasm_publish_state pushes the value, if it was changed here, and gives what it then is a version that never changes,
 * which FAASM_PUBLISHED maps.
 */
FAASM_IMPORT("publish_state")
faasm_errno faasm_publish_state(const char *key, size_t key_len);

/*
 * faasm_flag_state_dirty says that a range was written through a pointer. The host finds such
 * writes without it; what is flagged counts as changed even if its bytes are what they were.
 */
FAASM_IMPORT("flag_state_dirty")
faasm_errno faasm_flag_state_dirty(const char *key, size_t key_len, int64_t off, int64_t len);

/*
 * Local locks, one for each key, among the Faaslets of this host: any number may hold it to
 * read, or one to write. They are given in the order of asking, and given up when the call ends.
 * EDEADLK for a lock that this Faaslet holds, ENOLCK if it holds 1,024 others, EPERM for letting
 * go of one that it does not hold.
 */
FAASM_IMPORT("lock_state_read")
faasm_errno faasm_lock_state_read(const char *key, size_t key_len);
FAASM_IMPORT("lock_state_write")
faasm_errno faasm_lock_state_write(const char *key, size_t key_len);
FAASM_IMPORT("unlock_state")
faasm_errno faasm_unlock_state(const char *key, size_t key_len);

/*
 * Global locks, one for each key, among all hosts; errors as of the local ones, which they have
 * nothing to do with. They wait at most timeout_ns nanoseconds, then return ETIMEDOUT; -1 waits as
 * long as the call may last, and 0 takes only a lock that is free. A host that is cut off from the
 * global tier loses its locks: what a Faaslet that held one pushes, merges, publishes or deletes
 * under the key is then refused with ESTALE, until it unlocks. Nothing is pulled or pushed by a
 * lock: a read-modify-write is lock, pull, change, push, unlock.
 */
FAASM_IMPORT("lock_state_global_read")
faasm_errno faasm_lock_state_global_read(const char *key, size_t key_len, int64_t timeout_ns);
FAASM_IMPORT("lock_state_global_write")
faasm_errno faasm_lock_state_global_write(const char *key, size_t key_len, int64_t timeout_ns);
/* ESTALE if the lock had been lost; it is not held after that. */
FAASM_IMPORT("unlock_state_global")
faasm_errno faasm_unlock_state_global(const char *key, size_t key_len);

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

/*
 * faasm_state maps the value under a key that ends with a NUL, made of size zero bytes if it is
 * nowhere, and sets *len (unless len is NULL) to its size. It returns NULL with errno set if that
 * is refused.
 */
void *faasm_state(const char *key, size_t size, size_t *len);

/* faasm_status_name returns the kind's name in lower case: "returned", "trapped", and so on. */
const char *faasm_status_name(uint32_t kind);

#ifdef __cplusplus
}
#endif

#endif
