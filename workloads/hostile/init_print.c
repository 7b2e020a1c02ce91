/* Prints 16 MiB while it is initialised, half of it to standard error; then all is well. */
#include <faasm.h>

#include <string.h>
#include <unistd.h>

int32_t faasm_init(void) {
	static char line[1024];
	memset(line, 'x', sizeof line - 1);
	line[sizeof line - 1] = '\n';
	for (int i = 0; i < 8192; i++)
		if (write(STDOUT_FILENO, line, sizeof line) < 0 || write(STDERR_FILENO, line, sizeof line) < 0)
			return 1;
	return 0;
}

int32_t faasm_call(void) {
	return faasm_output_str("ok");
}
