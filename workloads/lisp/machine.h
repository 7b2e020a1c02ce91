/*
 * The machine: it runs what the compiler made.
 *
 * Calls do not nest on C's stack. What a function goes back to, three values, lies on the
 * machine's own stack beneath what the function pushes; a tail call leaves it as it is. So a
 * loop by tail calls takes no space, and recursion that is too deep ends in an error.
 */
#ifndef LISP_MACHINE_H
#define LISP_MACHINE_H

#include "compile.h"

/* A function in C. It takes n arguments at a, which is min to max of its row. */
typedef struct {
	const char *name;
	value (*run)(const value *a, size_t n);
	size_t min, max;
} builtin;

enum { MANY = CELLS };

/*
 * The first rows of builtins. The machine itself does apply and eval, and does not say of
 * error where the error was.
 */
enum { BUILTIN_APPLY, BUILTIN_EVAL, BUILTIN_ERROR };

static const builtin *builtin_of(value v);

static const char *builtin_name(value v) { return builtin_of(v)->name; }

static value fail_arguments(value f, size_t n) {
	print(&failure, f, true, 0);
	put_text(&failure, " does not take ");
	put_number(&failure, (int64_t)n);
	put_text(&failure, n == 1 ? " argument" : " arguments");
	return FAILED;
}

/* spread puts the items of a list on the stack at sp. It returns the new sp, or NULL. */
static value *spread(value *sp, value list) {
	for (; tag(list) == PAIR; list = CDR(list)) {
		if (sp == machine.stack + STACK_VALUES) {
			fail("too many arguments");
			return NULL;
		}
		*sp++ = CAR(list);
	}
	if (list == NIL)
		return sp;
	fail_with("the last argument of apply is not a list", list);
	return NULL;
}

/* fail_in adds to a failure where it was: the function called, unless that is NIL, and code. */
static value fail_in(value f, value code) {
	static bool known;
	if (known)
		return FAILED;
	known = true;
	if (f != NIL) {
		put_text(&failure, ", in ");
		put_text(&failure, builtin_name(f));
	}
	if (code != NIL && EXTRA(code) != NIL) {
		put_text(&failure, ", in ");
		print(&failure, EXTRA(code), true, 0);
	}
	return FAILED;
}

/*
 * run calls what is on the stack below n arguments, which in turn is above three values for its
 * own use. It pops all of that and returns the result.
 */
static value run(size_t n) {
	/* What runs now; the collector sees it after save. */
	value code = NIL, env = NIL;
	const value *pc = NULL;
	value *sp = machine.stack + machine.top;
	value *const stack_end = machine.stack + STACK_VALUES;
	value f;
	bool tail = true;
	/* Where the last function goes back to: nowhere, and beside it the registers of a run around this one. */
	value *outermost = sp - n - 4;
	outermost[0] = NIL;
	outermost[1] = machine.code;
	outermost[2] = machine.env;

#define SAVE() (machine.top = (size_t)(sp - machine.stack), machine.code = code, machine.env = env)
#define PUSH(v) \
	do { \
		if (sp == stack_end) \
			goto too_deep; \
		*sp++ = (v); \
	} while (0)
#define OPERAND(i) ((size_t)number(pc[i]))

	goto call;

	for (;;) {
		switch ((enum opcode)number(*pc++)) {
		case OP_CONST:
			PUSH(pc[0]);
			pc += 1;
			break;
		case OP_LOCAL:
			PUSH(items(env)[OPERAND(0)]);
			pc += 1;
			break;
		case OP_OUTER: {
			value e = env;
			for (size_t depth = OPERAND(0); depth > 0; depth--)
				e = EXTRA(e);
			PUSH(items(e)[OPERAND(1)]);
			pc += 2;
			break;
		}
		case OP_GLOBAL: {
			value v = SYMBOL_GLOBAL(pc[0]);
			if (v == UNBOUND) {
				fail_with("unknown symbol", pc[0]);
				return fail_in(NIL, code);
			}
			PUSH(v);
			pc += 1;
			break;
		}
		case OP_SET: {
			value e = env;
			for (size_t depth = OPERAND(0); depth > 0; depth--)
				e = EXTRA(e);
			store(&items(e)[OPERAND(1)], sp[-1]);
			sp[-1] = NOTHING;
			pc += 2;
			break;
		}
		case OP_SET_GLOBAL:
			if (SYMBOL_GLOBAL(pc[0]) == UNBOUND) {
				fail_with("unknown symbol", pc[0]);
				return fail_in(NIL, code);
			}
			store(&SYMBOL_GLOBAL(pc[0]), sp[-1]);
			sp[-1] = NOTHING;
			pc += 1;
			break;
		case OP_DEFINE:
			store(&SYMBOL_GLOBAL(pc[0]), sp[-1]);
			store(&SYMBOL_MACRO(pc[0]), UNBOUND);
			sp[-1] = NOTHING;
			pc += 1;
			break;
		case OP_MACRO:
			store(&SYMBOL_MACRO(pc[0]), sp[-1]);
			sp[-1] = NOTHING;
			pc += 1;
			break;
		case OP_JUMP:
			pc = items(code) + OPERAND(0);
			break;
		case OP_UNLESS:
			pc = *--sp == FALSE ? items(code) + OPERAND(0) : pc + 1;
			break;
		case OP_POP:
			sp--;
			break;
		case OP_CLOSURE:
			if (space.end - space.at < 1) {
				SAVE();
				if (!make_room(1))
					return fail_in(NIL, code);
			}
			PUSH(new_closure(pc[0], env));
			pc += 1;
			break;
		case OP_ENTER: {
			size_t count = OPERAND(0), size = OPERAND(1);
			if (space.end - space.at < vector_cells(size)) {
				SAVE();
				if (!make_room(vector_cells(size)))
					return fail_in(NIL, code);
			}
			env = new_vector(size, env);
			sp -= count;
			memcpy(items(env), sp, count * sizeof *sp);
			for (size_t i = count; i < size; i++)
				items(env)[i] = NOTHING;
			pc += 2;
			break;
		}
		case OP_LEAVE:
			env = EXTRA(env);
			break;
		case OP_CALL:
			n = OPERAND(0);
			pc += 1;
			tail = false;
			goto call;
		case OP_TAIL:
			n = OPERAND(0);
			tail = true;
			goto call;
		case OP_RETURN:
			goto give_back;
		}
		continue;

	call:
		f = sp[-(ptrdiff_t)n - 1];
		if (tag(f) == CLOSURE) {
			value to = CAR(f);
			const value *head = items(to);
			size_t params = (size_t)number(head[CODE_PARAMS]), size = (size_t)number(head[CODE_SIZE]);
			bool rest = head[CODE_REST] != integer(0);
			if (rest ? n < params : n != params) {
				fail_arguments(f, n);
				return fail_in(NIL, code);
			}
			size_t extra = n - params;
			if (space.end - space.at < vector_cells(size) + extra) {
				SAVE();
				if (!make_room(vector_cells(size) + extra))
					return fail_in(NIL, code);
			}
			value e = new_vector(size, CDR(f));
			value tail_list = NIL;
			for (; extra > 0; extra--)
				tail_list = cons(*--sp, tail_list);
			sp -= params;
			value *variable = items(e);
			for (size_t i = 0; i < params; i++)
				variable[i] = sp[i];
			size_t set = params;
			if (rest)
				variable[set++] = tail_list;
			for (; set < size; set++)
				variable[set] = NOTHING;
			sp--; /* f */
			if (!tail) {
				PUSH(code);
				PUSH(integer(pc - items(code)));
				PUSH(env);
			}
			code = to;
			env = e;
			pc = head + CODE_START;
			continue;
		}
		if (tag(f) != BUILTIN) {
			fail_with("not a function", f);
			return fail_in(NIL, code);
		}
		const builtin *b = builtin_of(f);
		if (n < b->min || n > b->max) {
			fail_arguments(f, n);
			return fail_in(NIL, code);
		}
		if (f == (BUILTIN_APPLY << 3 | BUILTIN)) {
			value list = *--sp;
			memmove(sp - n, sp - n + 1, (n - 1) * sizeof *sp);
			value *first = sp - n + 1;
			sp = spread(sp - 1, list);
			if (sp == NULL)
				return fail_in(NIL, code);
			n = (size_t)(sp - first);
			goto call;
		}
		if (f == (BUILTIN_EVAL << 3 | BUILTIN)) {
			/* From here as if a function without arguments had been called. */
			SAVE();
			f = compile_program(sp[-1]);
			if (f == FAILED)
				return fail_in(NIL, code);
			sp[-2] = f;
			sp--;
			n = 0;
			goto call;
		}
		SAVE();
		value result = b->run(sp - n, n);
		if (result == FAILED)
			return fail_in(f == (BUILTIN_ERROR << 3 | BUILTIN) ? NIL : f, code);
		sp -= n;
		sp[-1] = result;
		if (!tail)
			continue;

	give_back:
		result = *--sp;
		sp -= 3;
		code = sp[0];
		if (code == NIL) {
			machine.top = (size_t)(sp - machine.stack);
			machine.code = sp[1];
			machine.env = sp[2];
			return result;
		}
		pc = items(code) + number(sp[1]);
		env = sp[2];
		*sp++ = result;
	}

too_deep:
	fail("the recursion is too deep");
	return fail_in(NIL, code);

#undef SAVE
#undef PUSH
#undef OPERAND
}

#endif
