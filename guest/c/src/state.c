/* The part of faasm.h's State group that is more than imports. Its contracts are there. */
#include <faasm.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/*
 * When wasi-libc's malloc is first called, it takes what lies between the program's data and the
 * end of memory as its heap. Memory that was mapped before would be part of that. What is mapped
 * later is not: malloc asks for more memory, and copes with somebody else having had some.
 */
static void begin_heap(void) {
	static bool begun;
	if (begun)
		return;
	void *volatile block = malloc(1); /* volatile: the pair is not to be optimised away */
	free(block);
	begun = true;
}

faasm_errno faasm_get_state(const char *key, size_t key_len, uint32_t flags, size_t size,
                            void **addr, size_t *len) {
	begin_heap();
	return faasm_import_get_state(key, key_len, flags, size, addr, len);
}

faasm_errno faasm_get_state_offset(const char *key, size_t key_len, uint32_t flags, int64_t off,
                                   size_t len, void **addr) {
	begin_heap();
	return faasm_import_get_state_offset(key, key_len, flags, off, len, addr);
}

void *faasm_state(const char *key, size_t size, size_t *len) {
	void *addr;
	size_t own;
	faasm_errno err = faasm_get_state(key, strlen(key), FAASM_CREATE, size, &addr, &own);
	if (err != 0) {
		errno = err;
		return NULL;
	}
	if (len != NULL)
		*len = own;
	return addr;
}
