/*
 * The functions that Lisp can't do by itself, or not fast enough. The rest of the library is
 * written in Lisp: prelude.lisp.
 */
#ifndef LISP_BUILTINS_H
#define LISP_BUILTINS_H

#include "machine.h"

#define CHECK(v, t, what) \
	do { \
		if (tag(v) != (t)) \
			return fail_with(what, (v)); \
	} while (0)
#define CHECK_INTEGERS() \
	do { \
		for (size_t i = 0; i < n; i++) \
			CHECK(a[i], INTEGER, "not an integer"); \
	} while (0)
/* For functions whose number of arguments the table fixes. */
#define UNUSED_N() (void)n

/* Integers are added as they are, tag and all: what overflows 64 bits does not fit in 61. */
static value add(const value *a, size_t n) {
	int64_t sum = 0;
	for (size_t i = 0; i < n; i++) {
		CHECK(a[i], INTEGER, "not an integer");
		if (__builtin_add_overflow(sum, (int64_t)a[i], &sum))
			return fail("an integer has more than 61 bits");
	}
	return (value)sum;
}

static value subtract(const value *a, size_t n) {
	CHECK(a[0], INTEGER, "not an integer");
	int64_t rest = n == 1 ? 0 : (int64_t)a[0];
	for (size_t i = n > 1; i < n; i++) {
		CHECK(a[i], INTEGER, "not an integer");
		if (__builtin_sub_overflow(rest, (int64_t)a[i], &rest))
			return fail("an integer has more than 61 bits");
	}
	return (value)rest;
}

static value multiply(const value *a, size_t n) {
	int64_t product = (int64_t)integer(1);
	for (size_t i = 0; i < n; i++) {
		CHECK(a[i], INTEGER, "not an integer");
		if (__builtin_mul_overflow(product, number(a[i]), &product))
			return fail("an integer has more than 61 bits");
	}
	return (value)product;
}

/* Divisions round toward zero, but modulo takes the sign of the divisor. */
static value quotient(const value *a, size_t n) {
	CHECK_INTEGERS();
	if (number(a[1]) == 0)
		return fail_with("division by zero", a[0]);
	int64_t q = number(a[0]) / number(a[1]);
	return number(integer(q)) == q ? integer(q) : fail("an integer has more than 61 bits");
}

static value remainder(const value *a, size_t n) {
	CHECK_INTEGERS();
	if (number(a[1]) == 0)
		return fail_with("division by zero", a[0]);
	return integer(number(a[0]) % number(a[1]));
}

static value modulo(const value *a, size_t n) {
	value r = remainder(a, n);
	return r != FAILED && r != 0 && (number(r) < 0) != (number(a[1]) < 0) ? r + a[1] : r;
}

#define COMPARISON(name, op) \
	static value name(const value *a, size_t n) { \
		CHECK_INTEGERS(); \
		for (size_t i = 1; i < n; i++) \
			if (!((int64_t)a[i - 1] op (int64_t)a[i])) \
				return FALSE; \
		return TRUE; \
	}
COMPARISON(equals, ==)
COMPARISON(less, <)
COMPARISON(greater, >)
COMPARISON(at_most, <=)
COMPARISON(at_least, >=)

#define PREDICATE(name, test) \
	static value name(const value *a, size_t n) { \
		UNUSED_N(); \
		return truth(test); \
	}
PREDICATE(is_null, a[0] == NIL)
PREDICATE(is_pair, tag(a[0]) == PAIR)
PREDICATE(is_symbol, tag(a[0]) == SYMBOL)
PREDICATE(is_string, tag(a[0]) == STRING)
PREDICATE(is_vector, tag(a[0]) == VECTOR)
PREDICATE(is_integer, tag(a[0]) == INTEGER)
PREDICATE(is_boolean, a[0] == TRUE || a[0] == FALSE)
PREDICATE(is_function, tag(a[0]) == CLOSURE || tag(a[0]) == BUILTIN)
PREDICATE(is_same, a[0] == a[1])
PREDICATE(is_false, a[0] == FALSE)

/* alike returns TRUE or FALSE, or fails for what is nested too deeply to tell. */
static value alike(value x, value y, int depth) {
	if (depth > PRINT_DEPTH_MAX)
		return fail("nested too deeply");
	for (; tag(x) == PAIR && tag(y) == PAIR && x != y; x = CDR(x), y = CDR(y)) {
		value r = alike(CAR(x), CAR(y), depth + 1);
		if (r != TRUE)
			return r;
	}
	if (x == y)
		return TRUE;
	if (tag(x) != tag(y) || (tag(x) != STRING && tag(x) != VECTOR) || length(x) != length(y))
		return FALSE;
	if (tag(x) == STRING)
		return truth(memcmp(bytes(x), bytes(y), length(x)) == 0);
	for (size_t i = 0; i < length(x); i++) {
		value r = alike(items(x)[i], items(y)[i], depth + 1);
		if (r != TRUE)
			return r;
	}
	return TRUE;
}

static value is_equal(const value *a, size_t n) {
	UNUSED_N();
	return alike(a[0], a[1], 0);
}

static uint32_t hash_of(value v, int depth) {
	switch (tag(v)) {
	case STRING:
		return hash_bytes(bytes(v), length(v));
	case SYMBOL:
		return hash_of(SYMBOL_NAME(v), depth) + 1;
	case PAIR:
		return depth > 8 ? 1 : hash_of(CAR(v), depth + 1) * 31 + hash_of(CDR(v), depth + 1);
	case INTEGER:
	case CONSTANT:
	case BUILTIN:
		return (uint32_t)((v * 0x9e3779b97f4a7c15) >> 32);
	default:
		return 2; /* vectors and functions: equal? ones must have equal hashes */
	}
}

static value hash(const value *a, size_t n) {
	UNUSED_N();
	return integer(hash_of(a[0], 0));
}

static value make_pair(const value *a, size_t n) {
	UNUSED_N();
	return make_room(1) ? cons(a[0], a[1]) : FAILED;
}

static value car(const value *a, size_t n) {
	UNUSED_N();
	CHECK(a[0], PAIR, "not a pair");
	return CAR(a[0]);
}

static value cdr(const value *a, size_t n) {
	UNUSED_N();
	CHECK(a[0], PAIR, "not a pair");
	return CDR(a[0]);
}

static value set_car(const value *a, size_t n) {
	UNUSED_N();
	CHECK(a[0], PAIR, "not a pair");
	store(&CAR(a[0]), a[1]);
	return NOTHING;
}

static value set_cdr(const value *a, size_t n) {
	UNUSED_N();
	CHECK(a[0], PAIR, "not a pair");
	store(&CDR(a[0]), a[1]);
	return NOTHING;
}

static value list(const value *a, size_t n) {
	if (!make_room(n))
		return FAILED;
	value v = NIL;
	for (size_t i = n; i > 0; i--)
		v = cons(a[i - 1], v);
	return v;
}

static value vector(const value *a, size_t n) {
	if (!make_room(vector_cells(n)))
		return FAILED;
	value v = new_vector(n, NIL);
	memcpy(items(v), a, n * sizeof *a);
	return v;
}

static value make_vector(const value *a, size_t n) {
	CHECK(a[0], INTEGER, "not a length");
	if (number(a[0]) < 0)
		return fail_with("not a length", a[0]);
	if (number(a[0]) > 2 * (int64_t)CELLS)
		return fail("out of memory");
	size_t size = (size_t)number(a[0]);
	if (!make_room(vector_cells(size)))
		return FAILED;
	value v = new_vector(size, NIL);
	for (size_t i = 0; i < size; i++)
		items(v)[i] = n == 2 ? a[1] : integer(0);
	return v;
}

static value vector_length(const value *a, size_t n) {
	UNUSED_N();
	CHECK(a[0], VECTOR, "not a vector");
	return integer((int64_t)length(a[0]));
}

/* is_index is whether v is an integer from 0 to max. */
static bool is_index(value v, size_t max) {
	return tag(v) == INTEGER && (uint64_t)number(v) <= max;
}

static value vector_ref(const value *a, size_t n) {
	UNUSED_N();
	CHECK(a[0], VECTOR, "not a vector");
	if (length(a[0]) == 0 || !is_index(a[1], length(a[0]) - 1))
		return fail_with("not an index of the vector", a[1]);
	return items(a[0])[number(a[1])];
}

static value vector_set(const value *a, size_t n) {
	UNUSED_N();
	CHECK(a[0], VECTOR, "not a vector");
	if (length(a[0]) == 0 || !is_index(a[1], length(a[0]) - 1))
		return fail_with("not an index of the vector", a[1]);
	store(&items(a[0])[number(a[1])], a[2]);
	return NOTHING;
}

static value string_length(const value *a, size_t n) {
	UNUSED_N();
	CHECK(a[0], STRING, "not a string");
	return integer((int64_t)length(a[0]));
}

static value string_append(const value *a, size_t n) {
	size_t size = 0;
	for (size_t i = 0; i < n; i++) {
		CHECK(a[i], STRING, "not a string");
		size += length(a[i]);
		if (size > sizeof heap)
			return fail("out of memory");
	}
	if (!make_room(string_cells(size)))
		return FAILED;
	value v = new_string(NULL, size);
	char *to = bytes(v);
	for (size_t i = 0; i < n; to += length(a[i]), i++)
		memcpy(to, bytes(a[i]), length(a[i]));
	return v;
}

/* (substring STRING FROM TO), in bytes; TO is its length if it is left out. */
static value substring(const value *a, size_t n) {
	CHECK(a[0], STRING, "not a string");
	value end = n == 3 ? a[2] : integer((int64_t)length(a[0]));
	if (!is_index(end, length(a[0])))
		return fail_with("not an index of the string", end);
	if (!is_index(a[1], (size_t)number(end)))
		return fail_with("not an index of the string", a[1]);
	size_t from = (size_t)number(a[1]), size = (size_t)number(end) - from;
	if (!make_room(string_cells(size)))
		return FAILED;
	return new_string(bytes(a[0]) + from, size);
}

/* (string-ref STRING I) is the byte there: there are no characters. */
static value string_ref(const value *a, size_t n) {
	UNUSED_N();
	CHECK(a[0], STRING, "not a string");
	if (length(a[0]) == 0 || !is_index(a[1], length(a[0]) - 1))
		return fail_with("not an index of the string", a[1]);
	return integer((uint8_t)bytes(a[0])[number(a[1])]);
}

static value string_less(const value *a, size_t n) {
	UNUSED_N();
	CHECK(a[0], STRING, "not a string");
	CHECK(a[1], STRING, "not a string");
	size_t x = length(a[0]), y = length(a[1]);
	int order = memcmp(bytes(a[0]), bytes(a[1]), x < y ? x : y);
	return truth(order < 0 || (order == 0 && x < y));
}

static value string_to_symbol(const value *a, size_t n) {
	UNUSED_N();
	CHECK(a[0], STRING, "not a string");
	return intern(bytes(a[0]), length(a[0]));
}

/* Its name must not change under a symbol, which nothing in the language could do. */
static value symbol_to_string(const value *a, size_t n) {
	UNUSED_N();
	CHECK(a[0], SYMBOL, "not a symbol");
	return SYMBOL_NAME(a[0]);
}

static value number_to_string(const value *a, size_t n) {
	UNUSED_N();
	CHECK(a[0], INTEGER, "not an integer");
	char digits[20];
	sink text = {.text = digits, .cap = sizeof digits};
	put_number(&text, number(a[0]));
	return make_room(string_cells(text.len)) ? new_string(digits, text.len) : FAILED;
}

/* (string->number STRING) is #f if that is none. */
static value string_to_number(const value *a, size_t n) {
	UNUSED_N();
	CHECK(a[0], STRING, "not a string");
	value v;
	return parse_integer(bytes(a[0]), length(a[0]), &v) && v != UNBOUND ? v : FALSE;
}

/* What the program prints. */
static char output_text[8192];
static sink output = {.text = output_text, .cap = sizeof output_text};

static value display(const value *a, size_t n) {
	for (size_t i = 0; i < n; i++)
		print(&output, a[i], true, 0);
	return output.closed ? fail("the output is full") : NOTHING;
}

static value write_value(const value *a, size_t n) {
	UNUSED_N();
	print(&output, a[0], false, 0);
	return output.closed ? fail("the output is full") : NOTHING;
}

/* (error MESSAGE VALUE...) ends the program. */
static value error(const value *a, size_t n) {
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			put(&failure, ' ');
		print(&failure, a[i], i == 0, 0);
	}
	return FAILED;
}

/* (gensym) is a symbol that nothing read from text is: its name is in no bucket. */
static value gensym(const value *a, size_t n) {
	static const char name[] = "temporary";
	(void)a, UNUSED_N();
	if (!make_room(2 + string_cells(sizeof name - 1)))
		return FAILED;
	return new_symbol(new_string(name, sizeof name - 1), NIL);
}

/* (live-bytes) collects, and returns what is left. */
static value live_bytes(const value *a, size_t n) {
	(void)a, UNUSED_N();
	if (!collect())
		return fail("out of memory: the data is nested too deeply");
	return integer((int64_t)((space.frozen + space.live) * sizeof(cell)));
}

/*
 * (touch N) writes a byte in each page of the first N bytes of the heap, and returns the
 * number of pages. The bytes stay as they are, but the pages become this Faaslet's own.
 */
static value touch(const value *a, size_t n) {
	UNUSED_N();
	if (!is_index(a[0], sizeof heap))
		return fail_with("not a number of bytes of the heap", a[0]);
	volatile char *byte = (volatile char *)heap;
	int64_t pages = 0;
	for (size_t i = 0; i < (size_t)number(a[0]); i += 4096, pages++)
		byte[i] = byte[i];
	return integer(pages);
}

static const builtin builtins[] = {
	[BUILTIN_APPLY] = {"apply", NULL, 2, MANY},
	[BUILTIN_EVAL] = {"eval", NULL, 1, 1},
	[BUILTIN_ERROR] = {"error", error, 1, MANY},
	{"+", add, 0, MANY},
	{"-", subtract, 1, MANY},
	{"*", multiply, 0, MANY},
	{"quotient", quotient, 2, 2},
	{"remainder", remainder, 2, 2},
	{"modulo", modulo, 2, 2},
	{"=", equals, 1, MANY},
	{"<", less, 1, MANY},
	{">", greater, 1, MANY},
	{"<=", at_most, 1, MANY},
	{">=", at_least, 1, MANY},
	{"null?", is_null, 1, 1},
	{"pair?", is_pair, 1, 1},
	{"symbol?", is_symbol, 1, 1},
	{"string?", is_string, 1, 1},
	{"vector?", is_vector, 1, 1},
	{"integer?", is_integer, 1, 1},
	{"boolean?", is_boolean, 1, 1},
	{"procedure?", is_function, 1, 1},
	{"eq?", is_same, 2, 2},
	{"equal?", is_equal, 2, 2},
	{"not", is_false, 1, 1},
	{"hash", hash, 1, 1},
	{"cons", make_pair, 2, 2},
	{"car", car, 1, 1},
	{"cdr", cdr, 1, 1},
	{"set-car!", set_car, 2, 2},
	{"set-cdr!", set_cdr, 2, 2},
	{"list", list, 0, MANY},
	{"vector", vector, 0, MANY},
	{"make-vector", make_vector, 1, 2},
	{"vector-length", vector_length, 1, 1},
	{"vector-ref", vector_ref, 2, 2},
	{"vector-set!", vector_set, 3, 3},
	{"string-length", string_length, 1, 1},
	{"string-append", string_append, 0, MANY},
	{"substring", substring, 2, 3},
	{"string-ref", string_ref, 2, 2},
	{"string<?", string_less, 2, 2},
	{"string->symbol", string_to_symbol, 1, 1},
	{"symbol->string", symbol_to_string, 1, 1},
	{"number->string", number_to_string, 1, 1},
	{"string->number", string_to_number, 1, 1},
	{"display", display, 0, MANY},
	{"write", write_value, 1, 1},
	{"gensym", gensym, 0, 0},
	{"live-bytes", live_bytes, 0, 0},
	{"touch", touch, 1, 1},
};

static const builtin *builtin_of(value v) { return &builtins[v >> 3]; }

static bool start_builtins(void) {
	for (size_t i = 0; i < sizeof builtins / sizeof builtins[0]; i++) {
		value symbol = intern(builtins[i].name, strlen(builtins[i].name));
		if (symbol == FAILED)
			return false;
		SYMBOL_GLOBAL(symbol) = (value)i << 3 | BUILTIN;
	}
	return true;
}

#endif
