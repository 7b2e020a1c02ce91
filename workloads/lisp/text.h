/*
 * Values from text and back: the reader, the printer, and the messages of errors.
 */
#ifndef LISP_TEXT_H
#define LISP_TEXT_H

#include "heap.h"

/* A sink takes text. If flush is NULL it keeps what it has place for, and drops the rest. */
typedef struct {
	char *text;
	size_t len, cap;
	bool (*flush)(const char *text, size_t len);
	bool closed;   /* nothing more is taken */
	bool mid_line; /* the last byte was no newline */
} sink;

static void flush(sink *s) {
	if (s->flush == NULL || !s->flush(s->text, s->len))
		s->closed = true;
	else
		s->len = 0;
}

static void put(sink *s, char c) {
	if (s->len == s->cap)
		flush(s);
	if (s->closed)
		return;
	s->text[s->len++] = c;
	s->mid_line = c != '\n';
}

static void put_text(sink *s, const char *text) {
	while (*text != '\0')
		put(s, *text++);
}

static void put_bytes(sink *s, value string) {
	for (size_t i = 0; i < length(string); i++)
		put(s, bytes(string)[i]);
}

static void put_number(sink *s, int64_t n) {
	char digits[20];
	size_t i = 0;
	uint64_t rest = n < 0 ? -(uint64_t)n : (uint64_t)n;
	do
		digits[i++] = (char)('0' + rest % 10);
	while ((rest /= 10) != 0);
	if (n < 0)
		put(s, '-');
	while (i > 0)
		put(s, digits[--i]);
}

static void put_quoted(sink *s, value string) {
	put(s, '"');
	for (size_t i = 0; i < length(string); i++) {
		char c = bytes(string)[i];
		if (c == '"' || c == '\\')
			put(s, '\\');
		if (c == '\n')
			put_text(s, "\\n");
		else
			put(s, c);
	}
	put(s, '"');
}

static const char *builtin_name(value v);

enum { PRINT_DEPTH_MAX = 200 };

/* print writes v: strings in quotes, or as they are if plain. Deep structure ends in "...". */
static void print(sink *s, value v, bool plain, int depth) {
	static const char *const constants[] = {"()", "#f", "#t", "#<nothing>", "#<unbound>"};
	if (depth > PRINT_DEPTH_MAX) {
		put_text(s, "...");
		return;
	}
	switch (tag(v)) {
	case INTEGER:
		put_number(s, number(v));
		break;
	case SYMBOL:
		put_bytes(s, SYMBOL_NAME(v));
		break;
	case STRING:
		if (plain)
			put_bytes(s, v);
		else
			put_quoted(s, v);
		break;
	case PAIR:
		put(s, '(');
		print(s, CAR(v), plain, depth + 1);
		/* A list that ends in itself goes on until the sink has enough. */
		for (v = CDR(v); tag(v) == PAIR && !s->closed; v = CDR(v)) {
			put(s, ' ');
			print(s, CAR(v), plain, depth + 1);
		}
		if (v != NIL && !s->closed) {
			put_text(s, " . ");
			print(s, v, plain, depth + 1);
		}
		put(s, ')');
		break;
	case VECTOR:
		put_text(s, "#(");
		for (size_t i = 0; i < length(v) && !s->closed; i++) {
			if (i > 0)
				put(s, ' ');
			print(s, items(v)[i], plain, depth + 1);
		}
		put(s, ')');
		break;
	case CLOSURE:
		put_text(s, "#<function");
		if (EXTRA(CAR(v)) != NIL) {
			put(s, ' ');
			print(s, EXTRA(CAR(v)), true, depth + 1);
		}
		put(s, '>');
		break;
	case BUILTIN:
		put_text(s, "#<builtin ");
		put_text(s, builtin_name(v));
		put(s, '>');
		break;
	case CONSTANT:
		put_text(s, constants[v >> 3]);
		break;
	}
}

/* The message of the error that ends the program. */
static char failure_text[400];
static sink failure = {.text = failure_text, .cap = sizeof failure_text};

static value fail(const char *what) {
	put_text(&failure, what);
	return FAILED;
}

static value fail_with(const char *what, value about) {
	put_text(&failure, what);
	put_text(&failure, ": ");
	print(&failure, about, false, 0);
	return FAILED;
}

static value fail_at(const char *what, int64_t line) {
	put_text(&failure, "line ");
	put_number(&failure, line);
	put_text(&failure, ": ");
	put_text(&failure, what);
	return FAILED;
}

/* A text that is read. */
typedef struct {
	const char *at, *end;
	int64_t line;
} source;

/* What the reader leaves on the stack besides values. */
static const value END = 6 << 3 | CONSTANT; /* no value: the text is over */
static const value DOT = 7 << 3 | CONSTANT;
static const value OPEN = 8 << 3 | CONSTANT;        /* after it comes its line */
static const value OPEN_VECTOR = 9 << 3 | CONSTANT; /* the same */
static const value PREFIX = 10 << 3 | CONSTANT;     /* after it comes the symbol, such as quote */

static bool is_mark(value v) { return tag(v) == CONSTANT && v >= DOT; }

static bool push(value v) {
	if (machine.top == STACK_VALUES) {
		fail("the program is too long or too deep");
		return false;
	}
	machine.stack[machine.top++] = v;
	return true;
}

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static bool ends_word(char c) { return is_space(c) || (c != '\0' && strchr("()'`,\";", c) != NULL); }

static void skip_space(source *in) {
	for (bool comment = false; in->at < in->end; in->at++) {
		if (*in->at == '\n') {
			in->line++;
			comment = false;
		} else if (*in->at == ';') {
			comment = true;
		} else if (!comment && !is_space(*in->at)) {
			return;
		}
	}
}

/* read_string reads what follows the first quote. */
static value read_string(source *in) {
	int64_t line = in->line;
	const char *start = in->at;
	size_t n = 0;
	for (; in->at < in->end && *in->at != '"'; in->at++, n++) {
		if (*in->at == '\n')
			in->line++;
		if (*in->at == '\\' && ++in->at == in->end)
			break;
	}
	if (in->at == in->end)
		return fail_at("a string is never closed", line);
	if (!make_room(string_cells(n)))
		return FAILED;
	value v = new_string(NULL, n);
	for (char *to = bytes(v); start < in->at; start++) {
		if (*start == '\\')
			start++, *to++ = *start == 'n' ? '\n' : *start == 't' ? '\t' : *start;
		else
			*to++ = *start;
	}
	in->at++;
	return v;
}

/* parse_integer sets *v if the whole text is an integer; UNBOUND if it is one too large. */
static bool parse_integer(const char *text, size_t n, value *v) {
	size_t i = n > 1 && (text[0] == '-' || text[0] == '+');
	if (i == n)
		return false;
	int64_t sum = 0;
	bool fits = true;
	for (; i < n; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		/* Downwards, since there is one more negative number. */
		fits = fits && !__builtin_mul_overflow(sum, 10, &sum) &&
		       !__builtin_sub_overflow(sum, text[i] - '0', &sum);
	}
	if (text[0] != '-')
		sum = (int64_t)-(uint64_t)sum;
	*v = fits && number(integer(sum)) == sum ? integer(sum) : UNBOUND;
	return true;
}

/* read_word reads an integer, a symbol, #t, #f, or the dot before a list's tail. */
static value read_word(source *in) {
	const char *start = in->at;
	while (in->at < in->end && !ends_word(*in->at))
		in->at++;
	size_t n = (size_t)(in->at - start);
	value v;
	if (parse_integer(start, n, &v))
		return v != UNBOUND ? v : fail_at("an integer has more than 61 bits", in->line);
	if (n == 1 && *start == '.')
		return DOT;
	if (*start == '#')
		return n == 2 && start[1] == 't'   ? TRUE
		       : n == 2 && start[1] == 'f' ? FALSE
		                                   : fail_at("# begins #t, #f or #(", in->line);
	return intern(start, n);
}

/* close_list makes a list or vector of what is above its mark on the stack, and pops both. */
static value close_list(source *in, size_t base) {
	size_t first = machine.top;
	while (first > base && machine.stack[first - 1] != OPEN && machine.stack[first - 1] != OPEN_VECTOR)
		first--;
	if (first == base)
		return fail_at("')' closes nothing", in->line);
	bool vector = machine.stack[first++ - 1] == OPEN_VECTOR; /* past the line */
	size_t n = machine.top - first;
	bool dotted = !vector && n >= 3 && machine.stack[machine.top - 2] == DOT;
	for (size_t i = 0; i < n; i++)
		if (is_mark(machine.stack[first + i]) && !(dotted && i == n - 2))
			return fail_at("a dot or quote has nothing to belong to", in->line);
	if (!make_room(vector ? vector_cells(n) : n))
		return FAILED;
	const value *read = &machine.stack[first];
	value v;
	if (vector) {
		v = new_vector(n, NIL);
		memcpy(items(v), read, n * sizeof *read);
	} else {
		v = dotted ? read[n - 1] : NIL;
		for (size_t i = dotted ? n - 2 : n; i > 0; i--)
			v = cons(read[i - 1], v);
	}
	machine.top = first - 2;
	return v;
}

/*
 * read_value returns the next value of the text, or END. What is not complete waits on the stack, so
 * nothing here is recursive, and a program may be nested as deeply as it likes.
 */
static value read_value(source *in) {
	size_t base = machine.top;
	for (;;) {
		skip_space(in);
		if (in->at == in->end) {
			if (machine.top == base)
				return END;
			for (size_t i = machine.top; i > base; i--)
				if (machine.stack[i - 1] == OPEN || machine.stack[i - 1] == OPEN_VECTOR)
					return fail_at("'(' is never closed", number(machine.stack[i]));
			return fail_at("a quote has nothing to belong to", in->line);
		}
		const char *prefix = NULL;
		value v = NIL;
		switch (*in->at) {
		case '(':
			in->at++;
			if (!push(OPEN) || !push(integer(in->line)))
				return FAILED;
			continue;
		case '\'':
			prefix = "quote";
			break;
		case '`':
			prefix = "quasiquote";
			break;
		case ',':
			prefix = in->at + 1 < in->end && in->at[1] == '@' ? "unquote-splicing" : "unquote";
			in->at += prefix[7] == '-';
			break;
		case ')':
			in->at++;
			v = close_list(in, base);
			break;
		case '"':
			in->at++;
			v = read_string(in);
			break;
		case '#':
			if (in->at + 1 < in->end && in->at[1] == '(') {
				in->at += 2;
				if (!push(OPEN_VECTOR) || !push(integer(in->line)))
					return FAILED;
				continue;
			}
			v = read_word(in);
			break;
		default:
			v = read_word(in);
		}
		if (prefix != NULL) {
			in->at++;
			v = intern(prefix, strlen(prefix));
			if (v == FAILED || !push(PREFIX) || !push(v))
				return FAILED;
			continue;
		}
		if (v == FAILED)
			return FAILED;
		while (v != DOT && machine.top - base >= 2 && machine.stack[machine.top - 2] == PREFIX) {
			if (!push(v) || !make_room(2))
				return FAILED;
			machine.top -= 3;
			v = cons(machine.stack[machine.top + 1], cons(v, NIL));
		}
		if (machine.top == base)
			return v != DOT ? v : fail_at("a dot stands alone", in->line);
		if (!push(v))
			return FAILED;
	}
}

#endif
