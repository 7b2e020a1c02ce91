/*
 * A function as the original project's guests are today: a command that speaks the "env"
 * dialect, chains by name and by function pointer, and exports malloc, with which the host
 * makes room for the output of a call.
 *
 * Input "N [NAME]" (NAME, upstream_today if left out, is what it is uploaded under): the Nth
 * Fibonacci number, each addend computed by a chained call.
 */
#include <stdlib.h>
#include <string.h>

#define ENV(name) __attribute__((import_module("env"), import_name(name)))

ENV("__faasm_read_input") int read_input(void *buf, int len);
ENV("__faasm_write_output") void write_output(const void *ptr, int len);
ENV("__faasm_chain_name") unsigned chain_name(const char *name, const void *input, int len);
ENV("__faasm_chain_ptr") unsigned chain_ptr(int (*func)(void), const void *input, int len);
ENV("__faasm_await_call") int await_call(unsigned id);
ENV("__faasm_await_call_output") int await_call_output(unsigned id, char **output, int *len);

static void write_number(unsigned n) {
	char digits[10];
	int at = sizeof digits;
	do {
		digits[--at] = (char)('0' + n % 10);
		n /= 10;
	} while (n != 0);
	write_output(digits + at, (int)sizeof digits - at);
}

static int seven(void) {
	return 7;
}

/* number_of awaits a call whose output is a number. It adds that to *sum, or returns false. */
static int number_of(unsigned id, unsigned *sum) {
	char *output;
	int len;
	if (await_call_output(id, &output, &len) != 0)
		return 0;
	unsigned n = 0;
	for (int i = 0; i < len; i++)
		n = n * 10 + (unsigned)(output[i] - '0');
	*sum += n;
	return 1;
}

static int fibonacci(void) {
	int len = read_input(NULL, 0);
	char *input = calloc((size_t)len + 1, 1);
	if (input == NULL || read_input(input, len) != len)
		return 1;
	char *name;
	unsigned n = (unsigned)strtoul(input, &name, 10);
	if (n < 2) {
		write_number(n);
		return 0;
	}
	name = *name == ' ' ? name + 1 : "upstream_today";

	char below[2][128];
	if (strlen(name) > 100 || n > 99)
		return 1;
	for (unsigned i = 0; i < 2; i++) {
		unsigned m = n - 1 - i;
		below[i][0] = (char)('0' + m / 10);
		below[i][1] = (char)('0' + m % 10);
		below[i][2] = ' ';
		strcpy(below[i] + 3, name);
	}
	unsigned by_name = chain_name(name, below[0], (int)strlen(below[0]));
	unsigned by_pointer = chain_ptr(fibonacci, below[1], (int)strlen(below[1]));
	unsigned sum = 0;
	if (!number_of(by_name, &sum) || !number_of(by_pointer, &sum))
		return 2;
	if (await_call(chain_ptr(seven, NULL, 0)) != 7)
		return 3;
	write_number(sum);
	return 0;
}

int main(void) {
	return fibonacci();
}
