/*
 * A small Lisp, as an example of what is dear to start and cheap to use: a language's runtime.
 *
 * At upload, faasm_init sets up a heap, reads a library written in Lisp (prelude.lisp) and
 * evaluates it. That takes more than a second, since the library computes tables, and leaves
 * about 32 MiB of live data. A call starts from there: its input is a program, and its output
 * is what that prints and then, on a line of its own, the value of its last expression. If the
 * program is wrong, standard error says why and the return code is 1.
 *
 * The language is a small Scheme: lexical scope, tail calls, macros (which are not hygienic),
 * 61-bit integers, strings of bytes, symbols, pairs and vectors. Of values, only #f is false.
 *
 * To read it, go from heap.h (values and the collector) to text.h (reader and printer),
 * compile.h, machine.h, builtins.h, and then prelude.lisp.
 */
#include <faasm.h>

#include <unistd.h>

#include "builtins.h"

enum { INPUT_MAX = 256 << 10 };

static bool to_output(const char *text, size_t len) {
	return faasm_append_call_output(text, len) == 0;
}

static bool to_stdout(const char *text, size_t len) {
	return write(STDOUT_FILENO, text, len) == (ssize_t)len;
}

static bool to_stderr(const char *text, size_t len) {
	return write(STDERR_FILENO, text, len) == (ssize_t)len;
}

/*
 * evaluate returns the value of the last expression of a text, or NOTHING if it has none. If
 * lasting, what each leaves behind is frozen, and the value is not to be used.
 */
static value evaluate(const char *text, size_t len, bool lasting) {
	source in = {text, text + len, 1};
	value result = NOTHING;
	for (;;) {
		value form = read_value(&in);
		if (form == END)
			return result;
		if (form == FAILED)
			return FAILED;
		value program = compile_program(form);
		if (program == FAILED || !push(NIL) || !push(NIL) || !push(NIL) || !push(program))
			return FAILED;
		result = run(0);
		if (result == FAILED || (lasting && !freeze()))
			return FAILED;
	}
}

/* give_up says on standard error what went wrong, and returns the code of a call that failed. */
static int32_t give_up(void) {
	char text[sizeof failure_text + 16];
	sink line = {.text = text, .cap = sizeof text, .flush = to_stderr};
	put_text(&line, "error: ");
	for (size_t i = 0; i < failure.len; i++)
		put(&line, failure_text[i]);
	put(&line, '\n');
	flush(&line);
	return 1;
}

int32_t faasm_init(void) {
	static const char prelude[] = {
#embed "prelude.lisp"
	};
	output.flush = to_stdout;
	start_heap();
	bool ok = start_builtins() && start_compiler() &&
	          evaluate(prelude, sizeof prelude, true) != FAILED;
	if (output.len > 0)
		flush(&output);
	output = (sink){.text = output_text, .cap = sizeof output_text, .flush = to_output};
	return ok ? 0 : give_up();
}

int32_t faasm_call(void) {
	static char program[INPUT_MAX];
	size_t len;
	if (faasm_read_call_input(program, sizeof program, &len) != 0)
		return 1;
	value result = len <= sizeof program ? evaluate(program, len, false) : fail("the program is longer than 256 KiB");
	if (result != FAILED && result != NOTHING) {
		if (output.mid_line)
			put(&output, '\n');
		print(&output, result, false, 0);
		put(&output, '\n');
	}
	if (output.len > 0)
		flush(&output);
	if (result != FAILED && output.closed)
		result = fail("the output is full");
	return result == FAILED ? give_up() : 0;
}
