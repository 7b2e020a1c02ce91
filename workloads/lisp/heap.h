/*
 * Values, the heap they live in, and its collector.
 *
 * A value is 64 bits: three of tag, and 61 of an integer, a small number, or the address of
 * something in the heap. The heap is an array of cells of two values each. An object is a
 * run of cells:
 *
 *	pair      car, cdr
 *	closure   code, environment
 *	symbol    name, global value; macro, next symbol in its bucket
 *	string    length, 0; bytes
 *	vector    length, extra; items
 *
 * Code and environments are vectors too: extra is the name of the code, or the environment
 * around this one. So all but the bytes of strings is values, in pairs.
 *
 * Memory is found and freed without a free list, by a bit for each cell, which the collector
 * sets in the cells of all that it can reach. The bits lie apart from the heap, so that a
 * collection writes to no page of it.
 *
 * During initialisation the heap is frozen after each expression of the library: what lives
 * then stays for good, side by side, and later collections neither trace it nor free in it. A
 * write into a frozen cell clears that cell's bit, and the collector takes the two values of
 * such cells for roots.
 *
 * Nothing is freed except in make_room, and that is called only where all that lives is on
 * the stack or in a symbol. Between two calls of it C variables may hold values as they like.
 */
#ifndef LISP_HEAP_H
#define LISP_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint64_t value;

enum tag { INTEGER, PAIR, SYMBOL, STRING, VECTOR, CLOSURE, BUILTIN, CONSTANT };

static const value NIL = 0 << 3 | CONSTANT;
static const value FALSE = 1 << 3 | CONSTANT;
static const value TRUE = 2 << 3 | CONSTANT;
static const value NOTHING = 3 << 3 | CONSTANT; /* the value of (define x 1), printed as nothing */
static const value UNBOUND = 4 << 3 | CONSTANT; /* a global, or a macro, that a symbol lacks */
static const value FAILED = 5 << 3 | CONSTANT;  /* no value: fail said why, and all callers return it */

typedef struct {
	value word[2];
} cell;

enum {
	CELLS = 48 << 16,       /* 48 MiB; a multiple of 64 */
	STACK_VALUES = 1 << 18, /* 2 MiB */
	BUCKETS = 1 << 10,
	PENDING_MAX = 1 << 18,

	/* An eighth of what lives, and so many cells, must be free after a collection, or the heap grows. */
	SLACK = 2 << 16,
	/* A collection that is followed by another after fewer cells was fruitless. */
	FRUIT = SLACK / 4,
};

static _Alignas(4096) cell heap[CELLS];

static struct {
	uint64_t marks[CELLS / 64];
	uint64_t text[CELLS / 64]; /* of what is marked and not frozen, the cells of bytes */
	size_t at, end; /* the free cells that are given out next */
	size_t start;   /* where they began */
	size_t taken;   /* cells given out since the last collection, before those */
	size_t limit;   /* nothing is given out from here on, until make_room moves it */
	size_t frozen;  /* the cells below are frozen; a multiple of 64 */
	size_t live;    /* cells reached by the last collection */
} space;

/* The registers of the machine, as far as the collector is concerned. */
static struct {
	value stack[STACK_VALUES];
	size_t top;
	value code, env;
	value kept; /* a list of what macros made, while it is compiled */
	value symbols[BUCKETS];
} machine;

static value fail(const char *what);
static value fail_with(const char *what, value about);

static inline enum tag tag(value v) { return v & 7; }
static inline value integer(int64_t n) { return (value)n << 3; }
static inline int64_t number(value v) { return (int64_t)v >> 3; }
static inline value truth(bool b) { return b ? TRUE : FALSE; }

static inline bool in_heap(value v) {
	enum tag t = tag(v);
	return t >= PAIR && t <= CLOSURE;
}

static inline cell *cells(value v) { return (cell *)((uintptr_t)v & ~(uintptr_t)7); }
static inline value reference(cell *c, enum tag t) { return (uintptr_t)c | t; }

#define CAR(v) (cells(v)->word[0])
#define CDR(v) (cells(v)->word[1])
#define SYMBOL_NAME(v) (cells(v)[0].word[0])
#define SYMBOL_GLOBAL(v) (cells(v)[0].word[1])
#define SYMBOL_MACRO(v) (cells(v)[1].word[0])
#define SYMBOL_NEXT(v) (cells(v)[1].word[1])
#define EXTRA(v) (cells(v)->word[1])

static inline size_t length(value v) { return (size_t)number(cells(v)->word[0]); }
static inline value *items(value v) { return (value *)(cells(v) + 1); }
static inline char *bytes(value v) { return (char *)(cells(v) + 1); }

static inline size_t vector_cells(size_t items) { return 1 + (items + 1) / 2; }
static inline size_t string_cells(size_t bytes) { return 1 + (bytes + 15) / 16; }

static bool marked(size_t c) { return space.marks[c / 64] >> c % 64 & 1; }
static bool is_text(size_t c) { return space.text[c / 64] >> c % 64 & 1; }

static void set_bits(uint64_t *bits, size_t from, size_t to) {
	while (from < to)
		if (from % 64 == 0 && to - from >= 64) {
			bits[from / 64] = ~0ull;
			from += 64;
		} else {
			bits[from / 64] |= 1ull << from % 64;
			from++;
		}
}

/* store is how anything is written into an object that is not new. */
static inline void store(value *slot, value v) {
	*slot = v;
	size_t c = (size_t)((cell *)((uintptr_t)slot & ~(uintptr_t)15) - heap);
	if (c < space.frozen)
		space.marks[c / 64] &= ~(1ull << c % 64);
}

/* Objects whose words the collector has still to look at. */
typedef struct {
	const value *at;
	size_t left;
} pending;

/*
 * reach marks v, unless it is frozen or marked, and returns the words in it. An object's first
 * cell is marked if and only if all its cells are.
 */
static pending reach(value v) {
	pending none = {0};
	if (!in_heap(v))
		return none;
	cell *object = cells(v);
	size_t first = (size_t)(object - heap);
	if (first < space.frozen || marked(first))
		return none;
	pending p = {object->word, 2};
	size_t n = 1;
	switch (tag(v)) {
	case SYMBOL:
		n = 2;
		p.left = 4;
		break;
	case STRING:
		n = string_cells(length(v));
		p.left = 0;
		set_bits(space.text, first + 1, first + n);
		break;
	case VECTOR:
		n = vector_cells(length(v));
		p = (pending){&object->word[1], 1 + length(v)};
		break;
	default:
		break;
	}
	space.live += n;
	set_bits(space.marks, first, first + n);
	return p;
}

/*
 * trace marks all that v leads to. It returns false if that is nested deeper than the
 * collector can follow. An entry goes before its last word is followed, so that lists of any
 * length need one.
 */
static bool trace(value v) {
	static pending work[PENDING_MAX];
	size_t depth = 0;
	for (;;) {
		pending p = reach(v);
		if (p.left > 0) {
			if (depth == PENDING_MAX)
				return false;
			work[depth++] = p;
		}
		if (depth == 0)
			return true;
		pending *last = &work[depth - 1];
		while (last->left > 1 && !in_heap(*last->at))
			last->at++, last->left--;
		v = *last->at++;
		if (--last->left == 0)
			depth--;
	}
}

/* collect marks all that lives, and leaves nothing to give out: next_run comes next. */
static bool collect(void) {
	memset(&space.marks[space.frozen / 64], 0, (CELLS - space.frozen) / 8);
	memset(&space.text[space.frozen / 64], 0, (CELLS - space.frozen) / 8);
	space.live = space.taken = 0;
	space.start = space.at = space.end = space.frozen;
	bool ok = trace(machine.code) && trace(machine.env) && trace(machine.kept);
	for (size_t i = 0; ok && i < machine.top; i++)
		ok = trace(machine.stack[i]);
	for (size_t i = 0; ok && i < BUCKETS; i++)
		ok = trace(machine.symbols[i]);
	for (size_t i = 0; ok && i < space.frozen / 64; i++)
		for (uint64_t written = ~space.marks[i]; ok && written != 0; written &= written - 1) {
			const cell *c = &heap[i * 64 + (size_t)__builtin_ctzll(written)];
			ok = trace(c->word[0]) && trace(c->word[1]);
		}
	return ok;
}

/* boundary returns the first cell from c on that is marked, or free, or limit if there is none. */
static size_t boundary(size_t c, bool want_marked) {
	while (c < space.limit) {
		uint64_t word = space.marks[c / 64];
		word = (want_marked ? word : ~word) & ~0ull << c % 64;
		if (word != 0) {
			c = c / 64 * 64 + (size_t)__builtin_ctzll(word);
			return c < space.limit ? c : space.limit;
		}
		c = (c / 64 + 1) * 64;
	}
	return space.limit;
}

/* next_run goes on to the next free run of n cells or more. It returns false if there is none. */
static bool next_run(size_t n) {
	space.taken += space.at - space.start;
	do {
		space.start = space.at = boundary(space.end, false);
		space.end = boundary(space.start, true);
	} while (space.end < space.limit && space.end - space.at < n);
	return space.end - space.at >= n;
}

static void raise_limit(size_t limit) {
	if (limit > CELLS)
		limit = CELLS;
	if (limit > space.limit)
		space.limit = limit;
}

/* live_end returns the first cell behind all that are marked. */
static size_t live_end(void) {
	size_t c = space.limit;
	while (c > 0 && !marked(c - 1))
		c--;
	return c;
}

/* make_room sees to n free cells, all in one run, and collects for that if it must. */
static bool make_room(size_t n) {
	if (n <= space.end - space.at || next_run(n))
		return true;
	/* Then what is free lies in holes too small for what is asked, or there is hardly any. */
	bool fruitless = space.taken + n < FRUIT;
	if (!collect()) {
		fail("out of memory: the data is nested too deeply");
		return false;
	}
	size_t free = space.limit - space.frozen - space.live, wanted = space.live / 8 + SLACK;
	if (!fruitless || space.limit < CELLS) {
		raise_limit(space.limit + (fruitless ? SLACK : free < wanted ? wanted - free : 0));
		if (next_run(n))
			return true;
		raise_limit(live_end() + n);
		space.end = space.frozen;
		if (next_run(n))
			return true;
	}
	fail("out of memory");
	return false;
}

/* take gives out n cells that make_room has seen to. */
static inline cell *take(size_t n) {
	if (n > space.end - space.at)
		__builtin_trap();
	cell *c = &heap[space.at];
	space.at += n;
	return c;
}

static value cons(value car, value cdr) {
	cell *c = take(1);
	*c = (cell){{car, cdr}};
	return reference(c, PAIR);
}

static value new_closure(value code, value env) {
	return reference(cells(cons(code, env)), CLOSURE);
}

/* new_vector returns a vector whose items are not set: the caller sets them all. */
static value new_vector(size_t n, value extra) {
	cell *c = take(vector_cells(n));
	*c = (cell){{integer((int64_t)n), extra}};
	value v = reference(c, VECTOR);
	if (n % 2 != 0)
		items(v)[n] = 0;
	return v;
}

/* new_string returns a string of n bytes, copied from text unless that is NULL. */
static value new_string(const char *text, size_t n) {
	cell *c = take(string_cells(n));
	memset(c, 0, string_cells(n) * sizeof *c);
	c->word[0] = integer((int64_t)n);
	value v = reference(c, STRING);
	if (text != NULL)
		memcpy(bytes(v), text, n);
	return v;
}

static value new_symbol(value name, value next) {
	cell *c = take(2);
	c[0] = (cell){{name, UNBOUND}};
	c[1] = (cell){{UNBOUND, next}};
	return reference(c, SYMBOL);
}

static uint32_t hash_bytes(const char *text, size_t n) {
	uint32_t hash = 2166136261u;
	for (size_t i = 0; i < n; i++)
		hash = (hash ^ (uint8_t)text[i]) * 16777619u;
	return hash;
}

/* intern returns the symbol of that name: always the same one. It makes room by itself. */
static value intern(const char *name, size_t n) {
	value *bucket = &machine.symbols[hash_bytes(name, n) % BUCKETS];
	for (value s = *bucket; s != NIL; s = SYMBOL_NEXT(s))
		if (length(SYMBOL_NAME(s)) == n && memcmp(bytes(SYMBOL_NAME(s)), name, n) == 0)
			return s;
	if (!make_room(2 + string_cells(n)))
		return FAILED;
	return *bucket = new_symbol(new_string(name, n), *bucket);
}

static void start_heap(void) {
	for (size_t i = 0; i < BUCKETS; i++)
		machine.symbols[i] = NIL;
	machine.code = machine.env = machine.kept = NIL;
	raise_limit(SLACK);
}

/* Of each 64 cells, how many of those before them are marked and not frozen. */
static uint32_t marked_before[CELLS / 64];

/* slid returns v as freeze leaves it: what is marked moves down until it is without gaps. */
static value slid(value v) {
	size_t c = (size_t)(cells(v) - heap);
	if (!in_heap(v) || c < space.frozen)
		return v;
	size_t before = marked_before[c / 64] +
	                (size_t)__builtin_popcountll(space.marks[c / 64] & ~(~0ull << c % 64));
	return reference(&heap[space.frozen + before], tag(v));
}

static void slide_words(cell *c) {
	c->word[0] = slid(c->word[0]);
	c->word[1] = slid(c->word[1]);
}

/*
 * freeze makes all that lives now stay for good, side by side, and clears the rest, so that it
 * takes no place in a snapshot. It moves objects: neither the stack nor C may hold any, but
 * for symbols that were made before anything was garbage.
 */
static bool freeze(void) {
	if (machine.top != 0)
		__builtin_trap();
	if (!collect())
		return fail("out of memory: the data is nested too deeply"), false;
	uint32_t before = 0;
	for (size_t i = space.frozen / 64; i < CELLS / 64; i++) {
		marked_before[i] = before;
		before += (uint32_t)__builtin_popcountll(space.marks[i]);
	}
	for (size_t i = 0; i < BUCKETS; i++)
		machine.symbols[i] = slid(machine.symbols[i]);
	for (size_t c = 0; c < space.frozen; c++)
		if (!marked(c))
			slide_words(&heap[c]);
	size_t to = space.frozen;
	for (size_t c = space.frozen; c < space.limit; c++) {
		if (!marked(c))
			continue;
		bool text = is_text(c);
		heap[to] = heap[c];
		if (!text)
			slide_words(&heap[to]);
		to++;
	}
	memset(&heap[to], 0, (space.limit - to) * sizeof *heap);
	memset(space.text, 0, sizeof space.text);
	space.frozen = (to + 63) / 64 * 64;
	memset(space.marks, 0, sizeof space.marks);
	memset(space.marks, 0xff, space.frozen / 8);
	space.start = space.at = space.end = space.frozen;
	space.live = space.taken = space.limit = 0;
	raise_limit(space.frozen + SLACK);
	return next_run(1);
}

#endif
