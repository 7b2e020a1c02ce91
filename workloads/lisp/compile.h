/*
 * The compiler: from a value that was read to code for the machine.
 *
 * Code is a vector of instructions and their operands. It grows on the stack, where its
 * constants are safe from the collector, and moves to the heap when it is whole; the code of
 * an inner lambda is by then a constant of the outer.
 *
 * Each call of a function has a vector for its variables, whose extra is the one around it. A
 * variable is therefore two numbers: how far out, and which.
 */
#ifndef LISP_COMPILE_H
#define LISP_COMPILE_H

#include "text.h"

enum opcode {
	OP_CONST,      /* VALUE: push it */
	OP_LOCAL,      /* I: push the variable I */
	OP_OUTER,      /* DEPTH I: push the variable I, DEPTH environments out */
	OP_GLOBAL,     /* SYMBOL: push its global value */
	OP_SET,        /* DEPTH I: set the variable to what is on top, which becomes NOTHING */
	OP_SET_GLOBAL, /* SYMBOL: the same for its global value, which it must have */
	OP_DEFINE,     /* SYMBOL: the same, and it need not */
	OP_MACRO,      /* SYMBOL: the same for its macro */
	OP_JUMP,       /* TO: go on there, counted from the start of the code */
	OP_UNLESS,     /* TO: pop; go on there if it was #f */
	OP_POP,        /* drop what is on top */
	OP_CLOSURE,    /* CODE: push a closure of it, here */
	OP_ENTER,      /* N SIZE: pop N values into a new environment of SIZE variables */
	OP_LEAVE,      /* go back to the environment around this one */
	OP_CALL,       /* N: call the function below N arguments; its result replaces them all */
	OP_TAIL,       /* N: the same in place of the running function */
	OP_RETURN,     /* give what is on top to whoever called */
};

/* The head of a function's code, before its first instruction. */
enum { CODE_PARAMS, CODE_REST, CODE_SIZE, CODE_START };

enum {
	/* Lists within lists, and expansions within them: the compiler is recursive on C's stack. */
	NESTING_MAX = 500,
	ARGUMENTS_MAX = 1000,
};

/*
 * The variables of one environment. names is a list of symbols or, in %let, of bindings, whose
 * first is the symbol. A symbol at the end of an improper list takes the rest of the
 * arguments. After these come the variables that forms of the body define.
 */
typedef struct scope {
	value names;
	bool bindings;
	value body;
	const struct scope *up;
} scope;

static value sym_define, sym_lambda;

static value run(size_t n);

static bool refuse(const char *what, value about) {
	fail_with(what, about);
	return false;
}

static bool emit(enum opcode op) { return push(integer(op)); }
static bool emit1(enum opcode op, value a) { return emit(op) && push(a); }
static bool emit2(enum opcode op, size_t a, size_t b) {
	return emit(op) && push(integer((int64_t)a)) && push(integer((int64_t)b));
}

/* list_length returns -1 for what is no list, or has no end that the compiler would reach. */
static int64_t list_length(value v) {
	int64_t n = 0;
	for (; tag(v) == PAIR && n <= 2 * (int64_t)CELLS; v = CDR(v))
		n++;
	return v == NIL ? n : -1;
}

/* defined returns the symbol that a form of a body defines, or NIL. */
static value defined(value form) {
	if (tag(form) != PAIR || CAR(form) != sym_define || tag(CDR(form)) != PAIR)
		return NIL;
	value target = CAR(CDR(form));
	if (tag(target) == PAIR)
		target = CAR(target);
	return tag(target) == SYMBOL ? target : NIL;
}

/*
 * place finds a symbol among the variables of one environment and sets *i to its number. If it
 * is none of them, *i is how many there are.
 */
static bool place(value symbol, const scope *s, size_t *i) {
	*i = 0;
	value names = s->names;
	for (; tag(names) == PAIR; names = CDR(names), ++*i)
		if ((s->bindings ? CAR(CAR(names)) : CAR(names)) == symbol)
			return true;
	if (names == symbol)
		return true;
	*i += names != NIL;
	for (value body = s->body; tag(body) == PAIR; body = CDR(body)) {
		value name = defined(CAR(body));
		if (name == symbol)
			return true;
		*i += name != NIL;
	}
	return false;
}

static size_t variables(const scope *s) {
	size_t n;
	place(FAILED, s, &n);
	return n;
}

static bool find(value symbol, const scope *s, size_t *depth, size_t *i) {
	for (*depth = 0; s != NULL; s = s->up, ++*depth)
		if (place(symbol, s, i))
			return true;
	return false;
}

/* Where on the stack the code begins that is being made. */
static size_t code_start;

static bool begin_code(size_t params, bool rest, size_t size) {
	code_start = machine.top;
	return push(integer((int64_t)params)) && push(integer(rest)) && push(integer((int64_t)size));
}

/* end_code returns what was emitted since begin_code, and goes on with the code around it. */
static value end_code(value name, size_t outer_start) {
	size_t n = machine.top - code_start;
	if (!make_room(vector_cells(n)))
		return FAILED;
	value code = new_vector(n, name);
	memcpy(items(code), &machine.stack[code_start], n * sizeof(value));
	machine.top = code_start;
	code_start = outer_start;
	return code;
}

static value here(void) { return integer((int64_t)(machine.top - code_start)); }

static bool compile(value form, const scope *s, bool tail);

/* finish ends a form whose value has been pushed, unless emitting that went wrong. */
static bool finish(bool ok, bool tail) { return ok && (!tail || emit(OP_RETURN)); }

static bool compile_constant(value v, bool tail) { return finish(emit1(OP_CONST, v), tail); }

static bool compile_variable(value symbol, const scope *s) {
	size_t depth, i;
	if (!find(symbol, s, &depth, &i))
		return emit1(OP_GLOBAL, symbol);
	return depth == 0 ? emit1(OP_LOCAL, integer((int64_t)i)) : emit2(OP_OUTER, depth, i);
}

static bool compile_body(value forms, const scope *s, bool tail) {
	if (list_length(forms) < 0)
		return refuse("not a list of expressions", forms);
	if (forms == NIL)
		return compile_constant(NOTHING, tail);
	for (; CDR(forms) != NIL; forms = CDR(forms))
		if (!compile(CAR(forms), s, false) || !emit(OP_POP))
			return false;
	return compile(CAR(forms), s, tail);
}

static bool compile_lambda(value params, value body, value name, const scope *s) {
	size_t n = 0;
	value rest = params;
	for (; tag(rest) == PAIR; rest = CDR(rest), n++)
		if (tag(CAR(rest)) != SYMBOL)
			return refuse("not a parameter", CAR(rest));
	if (rest != NIL && tag(rest) != SYMBOL)
		return refuse("not a parameter", rest);
	scope inner = {.names = params, .body = body, .up = s};
	size_t outer_start = code_start;
	if (!begin_code(n, rest != NIL, variables(&inner)) || !compile_body(body, &inner, true))
		return false;
	value code = end_code(name, outer_start);
	return code != FAILED && emit1(OP_CLOSURE, code);
}

/* (lambda (PARAMETER...) BODY...) */
static bool compile_function(value form, const scope *s, bool tail) {
	return finish(compile_lambda(CAR(CDR(form)), CDR(CDR(form)), NIL, s), tail);
}

/* (quote VALUE) */
static bool compile_quote(value form, const scope *s, bool tail) {
	(void)s;
	return compile_constant(CAR(CDR(form)), tail);
}

/* (begin FORM...) */
static bool compile_begin(value form, const scope *s, bool tail) {
	return compile_body(CDR(form), s, tail);
}

/* (if TEST THEN) or (if TEST THEN ELSE) */
static bool compile_if(value form, const scope *s, bool tail) {
	value then = CDR(CDR(form));
	if (!compile(CAR(CDR(form)), s, false) || !emit1(OP_UNLESS, NIL))
		return false;
	size_t to_else = machine.top - 1;
	if (!compile(CAR(then), s, tail) || (!tail && !emit1(OP_JUMP, NIL)))
		return false;
	size_t to_end = machine.top - 1;
	machine.stack[to_else] = here();
	if (CDR(then) == NIL ? !compile_constant(NOTHING, tail) : !compile(CAR(CDR(then)), s, tail))
		return false;
	if (!tail)
		machine.stack[to_end] = here();
	return true;
}

/* (define NAME), (define NAME VALUE) or (define (NAME PARAMETER...) BODY...) */
static bool compile_define(value form, const scope *s, bool tail) {
	value name = defined(form);
	if (name == NIL)
		return refuse("not a definition", form);
	value target = CAR(CDR(form)), rest = CDR(CDR(form));
	size_t i = 0;
	if (s != NULL && !place(name, s, &i))
		return refuse("a definition stands neither outermost nor directly in a body", form);
	bool ok;
	if (tag(target) == PAIR)
		ok = compile_lambda(CDR(target), rest, name, s);
	else if (rest == NIL)
		ok = compile_constant(NOTHING, false);
	else if (list_length(rest) != 1)
		return refuse("not a definition", form);
	else if (tag(CAR(rest)) == PAIR && CAR(CAR(rest)) == sym_lambda && tag(CDR(CAR(rest))) == PAIR)
		ok = compile_lambda(CAR(CDR(CAR(rest))), CDR(CDR(CAR(rest))), name, s);
	else
		ok = compile(CAR(rest), s, false);
	return finish(ok && (s == NULL ? emit1(OP_DEFINE, name) : emit2(OP_SET, 0, i)), tail);
}

/* (set! NAME VALUE) */
static bool compile_set(value form, const scope *s, bool tail) {
	value name = CAR(CDR(form));
	if (tag(name) != SYMBOL)
		return refuse("not a variable", name);
	if (!compile(CAR(CDR(CDR(form))), s, false))
		return false;
	size_t out, i;
	return finish(find(name, s, &out, &i) ? emit2(OP_SET, out, i) : emit1(OP_SET_GLOBAL, name), tail);
}

/* (%let ((NAME VALUE)...) BODY...) */
static bool compile_let(value form, const scope *s, bool tail) {
	value bindings = CAR(CDR(form)), body = CDR(CDR(form));
	int64_t n = list_length(bindings);
	if (n < 0 || n > ARGUMENTS_MAX)
		return refuse("not a list of bindings", bindings);
	for (value b = bindings; b != NIL; b = CDR(b)) {
		if (list_length(CAR(b)) != 2 || tag(CAR(CAR(b))) != SYMBOL)
			return refuse("not a binding", CAR(b));
		if (!compile(CAR(CDR(CAR(b))), s, false))
			return false;
	}
	scope inner = {.names = bindings, .bindings = true, .body = body, .up = s};
	return emit2(OP_ENTER, (size_t)n, variables(&inner)) && compile_body(body, &inner, tail) &&
	       (tail || emit(OP_LEAVE));
}

/* (define-macro (NAME PARAMETER...) BODY...) */
static bool compile_macro(value form, const scope *s, bool tail) {
	value target = CAR(CDR(form));
	if (s != NULL || tag(target) != PAIR || tag(CAR(target)) != SYMBOL)
		return refuse("not the definition of a macro, outermost", form);
	return finish(compile_lambda(CDR(target), CDR(CDR(form)), CAR(target), s) &&
	                  emit1(OP_MACRO, CAR(target)),
	              tail);
}

/* compile_expansion compiles what the macro makes of the form. */
static bool compile_expansion(value macro, value form, const scope *s, bool tail) {
	int64_t n = 0;
	if (!push(NIL) || !push(NIL) || !push(NIL) || !push(macro))
		return false;
	for (value rest = CDR(form); rest != NIL; rest = CDR(rest), n++)
		if (!push(CAR(rest)))
			return false;
	value made = run((size_t)n);
	if (made == FAILED || !push(made) || !make_room(1))
		return false;
	machine.top--;
	machine.kept = cons(made, machine.kept);
	return compile(made, s, tail);
}

static bool compile_call(value form, const scope *s, bool tail) {
	int64_t n = -1;
	for (; form != NIL; form = CDR(form), n++)
		if (n > ARGUMENTS_MAX)
			return refuse("more arguments than a call may have", integer(ARGUMENTS_MAX));
		else if (!compile(CAR(form), s, false))
			return false;
	return emit1(tail ? OP_TAIL : OP_CALL, integer(n));
}

/* The special forms. Each may be a list of min to max values, itself among them. */
enum { ANY = CELLS };
static struct special {
	const char *name;
	int64_t min, max;
	bool (*compile)(value form, const scope *s, bool tail);
	value symbol;
} specials[] = {
	{"quote", 2, 2, compile_quote, 0},     {"if", 3, 4, compile_if, 0},
	{"define", 2, ANY, compile_define, 0}, {"set!", 3, 3, compile_set, 0},
	{"lambda", 2, ANY, compile_function, 0}, {"begin", 1, ANY, compile_begin, 0},
	{"%let", 2, ANY, compile_let, 0},      {"define-macro", 2, ANY, compile_macro, 0},
};
enum { SPECIALS = sizeof specials / sizeof specials[0] };

static bool start_compiler(void) {
	for (size_t i = 0; i < SPECIALS; i++)
		if ((specials[i].symbol = intern(specials[i].name, strlen(specials[i].name))) == FAILED)
			return false;
	sym_define = intern("define", 6);
	sym_lambda = intern("lambda", 6);
	return true;
}

/* compile_list compiles what is in parentheses: a special form, a macro's use, or a call. */
static bool compile_list(value form, const scope *s, bool tail) {
	int64_t n = list_length(form);
	if (n <= 0)
		return refuse("not an expression", form);
	value head = CAR(form);
	size_t out, place;
	if (tag(head) != SYMBOL || find(head, s, &out, &place))
		return compile_call(form, s, tail);
	if (SYMBOL_MACRO(head) != UNBOUND)
		return compile_expansion(SYMBOL_MACRO(head), form, s, tail);
	for (size_t i = 0; i < SPECIALS; i++)
		if (specials[i].symbol == head)
			return n >= specials[i].min && n <= specials[i].max ? specials[i].compile(form, s, tail)
			                                                    : refuse("malformed", form);
	return compile_call(form, s, tail);
}

/*
 * compile emits code that pushes the value of form, or returns it if tail. What is a variable
 * here is no special form and no macro.
 */
static bool compile(value form, const scope *s, bool tail) {
	static int nesting;
	if (tag(form) == SYMBOL)
		return finish(compile_variable(form, s), tail);
	if (tag(form) != PAIR && form != NIL)
		return compile_constant(form, tail);
	if (nesting == NESTING_MAX) {
		fail("the program is nested too deeply");
		return false;
	}
	nesting++;
	bool ok = compile_list(form, s, tail);
	nesting--;
	return ok;
}

/* compile_program returns a closure that evaluates form where all variables are global. */
static value compile_program(value form) {
	size_t outer_start = code_start;
	if (!push(form) || !push(machine.kept))
		return FAILED;
	if (!begin_code(0, false, 0) || !compile(form, NULL, true))
		return FAILED;
	value code = end_code(NIL, outer_start);
	if (code == FAILED || !push(code) || !make_room(1))
		return FAILED;
	machine.top -= 3;
	machine.kept = machine.stack[machine.top + 1];
	return new_closure(code, NIL);
}

#endif
