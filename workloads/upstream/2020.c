/*
 * A function as the original project's guests were in 2020: a command that speaks the older
 * "env" dialect, in which further functions of a program have an index, and the caller
 * brings the buffer for the output of a call. It does not export malloc.
 *
 * Index 0 takes the input "N [NAME]" (NAME, upstream_2020 if left out, is what it is uploaded
 * under) and adds the outputs of: index 1, which squares; index 2, which doubles; and, if N is
 * not 0, itself by name with N-1. So the output is the sum of k*k + 2*k for k from 0 to N. N is
 * at most 99.
 */
#include <stdlib.h>
#include <string.h>

#define ENV(name) __attribute__((import_module("env"), import_name(name)))

ENV("__faasm_read_input") int read_input(void *buf, int len);
ENV("__faasm_write_output") void write_output(const void *ptr, int len);
ENV("__faasm_chain_function") unsigned chain_function(const char *name, const void *input, int len);
ENV("__faasm_chain_this") unsigned chain_this(int idx, const void *input, int len);
ENV("__faasm_get_idx") int get_idx(void);
ENV("__faasm_await_call") int await_call(unsigned id);
ENV("__faasm_await_call_output") int await_call_output(unsigned id, void *buf, int cap);

static int write_number(unsigned n) {
	char digits[10];
	int at = sizeof digits;
	do {
		digits[--at] = (char)('0' + n % 10);
		n /= 10;
	} while (n != 0);
	write_output(digits + at, (int)sizeof digits - at);
	return 0;
}

/* number_of awaits a call whose output is a number. It adds that to *sum, or returns false. */
static int number_of(unsigned id, unsigned *sum) {
	char output[16] = "";
	if (await_call_output(id, output, sizeof output - 1) != 0)
		return 0;
	*sum += (unsigned)strtoul(output, NULL, 10);
	return 1;
}

int main(void) {
	char input[128] = "";
	if (read_input(NULL, 0) >= (int)sizeof input)
		return 1;
	read_input(input, sizeof input);
	char *name;
	unsigned n = (unsigned)strtoul(input, &name, 10);

	switch (get_idx()) {
	case 1:
		return write_number(n * n);
	case 2:
		return write_number(2 * n);
	case 3:
		return 7;
	}

	if (n > 99)
		return 1;
	name = *name == ' ' ? name + 1 : "upstream_2020";
	unsigned sum = 0;
	unsigned squared = chain_this(1, input, (int)strlen(input));
	unsigned doubled = chain_this(2, input, (int)strlen(input));
	if (!number_of(squared, &sum) || !number_of(doubled, &sum))
		return 2;
	if (await_call(chain_this(3, NULL, 0)) != 7)
		return 3;
	if (n > 0) {
		char below[128];
		n--;
		below[0] = (char)('0' + n / 10);
		below[1] = (char)('0' + n % 10);
		below[2] = ' ';
		if (strlen(name) > 100)
			return 1;
		strcpy(below + 3, name);
		if (!number_of(chain_function(name, below, (int)strlen(below)), &sum))
			return 4;
	}
	return write_number(sum);
}
