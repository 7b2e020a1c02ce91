/*
 * Each call makes two more and awaits them. Its input is the name it is uploaded under;
 * hostile_chain_bomb if empty. The return code is that of the first failure below it.
 */
#include <faasm.h>

#include <errno.h>

int32_t faasm_call(void) {
	size_t len;
	const char *name = faasm_input(&len);
	if (name == NULL)
		return errno;
	int32_t calls[2];
	for (int i = 0; i < 2; i++)
		calls[i] = faasm_chain(len > 0 ? name : "hostile_chain_bomb", name, len);
	int32_t worst = 0;
	for (int i = 0; i < 2; i++) {
		int32_t failed = calls[i] < 0 ? -calls[i] : faasm_await((faasm_handle)calls[i], NULL);
		if (worst == 0)
			worst = failed;
	}
	return worst;
}
