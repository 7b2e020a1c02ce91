/* The conveniences of faasm.h. Their contracts are there. */
#include <faasm.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

char *faasm_input(size_t *len) {
	size_t size;
	faasm_errno err = faasm_read_call_input(NULL, 0, &size);
	if (err != 0) {
		errno = err;
		return NULL;
	}
	/* The sum wraps for an input of 4 GiB - 1, which no memory can hold. */
	char *buf = size + 1 == 0 ? NULL : malloc(size + 1);
	if (buf == NULL) {
		errno = ENOMEM;
		return NULL;
	}
	err = faasm_read_call_input(buf, size, &size);
	if (err != 0) {
		free(buf);
		errno = err;
		return NULL;
	}
	buf[size] = '\0';
	if (len != NULL)
		*len = size;
	return buf;
}

faasm_errno faasm_output(const void *ptr, size_t len) {
	return faasm_write_call_output(ptr, len);
}

faasm_errno faasm_output_str(const char *s) {
	return faasm_write_call_output(s, strlen(s));
}

int32_t faasm_chain(const char *name, const void *input, size_t len) {
	faasm_handle call;
	faasm_errno err = faasm_chain_call(name, strlen(name), input, len, &call);
	return err != 0 ? -err : (int32_t)call;
}

int32_t faasm_chain_fn(int32_t (*func)(void), const void *input, size_t len) {
	faasm_handle call;
	faasm_errno err = faasm_chain_func(func, input, len, &call);
	return err != 0 ? -err : (int32_t)call;
}

int32_t faasm_await(faasm_handle call, faasm_status *status) {
	faasm_status own;
	if (status == NULL)
		status = &own;
	faasm_errno err = faasm_await_call(call, status);
	if (err != 0)
		return -err;
	return status->kind == FAASM_RETURNED && status->return_code == 0 ? 0 : 1;
}

char *faasm_output_of(faasm_handle call, size_t *len) {
	size_t size;
	faasm_errno err = faasm_get_call_output(call, NULL, 0, &size);
	if (err != 0) {
		errno = err;
		return NULL;
	}
	char *buf = size + 1 == 0 ? NULL : malloc(size + 1);
	if (buf == NULL) {
		errno = ENOMEM;
		return NULL;
	}
	err = faasm_get_call_output(call, buf, size, &size);
	if (err != 0) {
		free(buf);
		errno = err;
		return NULL;
	}
	buf[size] = '\0';
	if (len != NULL)
		*len = size;
	return buf;
}

const char *faasm_status_name(uint32_t kind) {
	static const char *const names[] = {
		[FAASM_RETURNED] = "returned",
		[FAASM_TRAPPED] = "trapped",
		[FAASM_DEADLINE] = "deadline",
		[FAASM_CANCELLED] = "cancelled",
		[FAASM_MEMORY_LIMIT] = "memory limit",
		[FAASM_NO_FUNCTION] = "no such function",
		[FAASM_HOST_LOST] = "host lost",
		[FAASM_REFUSED] = "refused",
	};
	return kind < sizeof names / sizeof names[0] ? names[kind] : "unknown";
}
