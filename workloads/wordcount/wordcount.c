/*
 * Counts the words of a text in several Faaslets at once. The text is cut between words into
 * at most PARTS_MAX parts; each part is counted by a chained call of count_part, and the
 * counts are merged here.
 *
 * A word is a run of ASCII letters, with apostrophes between letters, folded to lower case.
 * The output is the most frequent words, at most TOP of them, a line "COUNT WORD" each,
 * ordered by count and then by the bytes of the word.
 */
#include <faasm.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "decimal/decimal.h"

enum {
	PARTS_MAX = 16,
	PART_BYTES_MIN = 1024, /* a call costs more than counting fewer */
	TOP = 20,
};

typedef struct {
	const char *word; /* not ended by a NUL; points into the text it was read from */
	size_t len;
	uint64_t count; /* 0 marks a free slot */
} slot;

/* A hash table with open addressing. Its owner frees slots. */
typedef struct {
	slot *slots;
	size_t cap; /* a power of two, or 0 */
	size_t used;
} table;

static size_t place(const table *t, const char *word, size_t len) {
	uint32_t hash = 2166136261u;
	for (size_t i = 0; i < len; i++)
		hash = (hash ^ (uint8_t)word[i]) * 16777619u;
	size_t at = hash & (t->cap - 1);
	while (t->slots[at].count != 0 &&
	       (t->slots[at].len != len || memcmp(t->slots[at].word, word, len) != 0))
		at = (at + 1) & (t->cap - 1);
	return at;
}

/* add returns false, and leaves t as it is, if there is no memory for another word. */
static bool add(table *t, const char *word, size_t len, uint64_t count) {
	if (t->used * 2 >= t->cap) {
		table bigger = {.cap = t->cap == 0 ? 256 : t->cap * 2, .used = t->used};
		bigger.slots = calloc(bigger.cap, sizeof *bigger.slots);
		if (bigger.slots == NULL)
			return false;
		for (size_t i = 0; i < t->cap; i++)
			if (t->slots[i].count != 0)
				bigger.slots[place(&bigger, t->slots[i].word, t->slots[i].len)] = t->slots[i];
		free(t->slots);
		*t = bigger;
	}
	slot *s = &t->slots[place(t, word, len)];
	if (s->count == 0) {
		s->word = word;
		s->len = len;
		t->used++;
	}
	s->count += count;
	return true;
}

static bool is_letter(char c) {
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_space(char c) {
	return c == ' ' || (c >= '\t' && c <= '\r');
}

/* write_lines makes "COUNT WORD\n" for each slot the call's output. It returns an errno. */
static int32_t write_lines(const slot *slots, size_t n) {
	size_t size = 0;
	for (size_t i = 0; i < n; i++)
		if (slots[i].count != 0)
			size += 20 + 1 + slots[i].len + 1;
	char *lines = malloc(size + 1);
	if (lines == NULL)
		return ENOMEM;
	char *end = lines;
	for (size_t i = 0; i < n; i++) {
		if (slots[i].count == 0)
			continue;
		end = decimal_put(end, slots[i].count);
		*end++ = ' ';
		memcpy(end, slots[i].word, slots[i].len);
		end += slots[i].len;
		*end++ = '\n';
	}
	return faasm_output(lines, (size_t)(end - lines));
}

/* count_part is a chained call: text in, a line for each of its words out, in any order. */
static int32_t count_part(void) {
	size_t len;
	char *text = faasm_input(&len);
	if (text == NULL)
		return errno;
	table words = {0};
	for (size_t i = 0; i < len;) {
		size_t start = i;
		while (is_letter(text[i]) || (i > start && text[i] == '\'' && is_letter(text[i + 1])))
			text[i++] |= 0x20; /* folds letters and leaves the apostrophe alone */
		if (i == start)
			i++;
		else if (!add(&words, text + start, i - start, 1))
			return ENOMEM;
	}
	return write_lines(words.slots, words.cap);
}

static int by_count_then_word(const void *a, const void *b) {
	const slot *x = a, *y = b;
	if (x->count != y->count)
		return x->count > y->count ? -1 : 1;
	int order = memcmp(x->word, y->word, x->len < y->len ? x->len : y->len);
	if (order != 0)
		return order;
	return x->len < y->len ? -1 : x->len > y->len;
}

int32_t faasm_call(void) {
	size_t len;
	const char *text = faasm_input(&len);
	if (text == NULL)
		return errno;

	faasm_handle calls[PARTS_MAX];
	size_t parts = 0;
	size_t part_bytes = len / PARTS_MAX + 1;
	if (part_bytes < PART_BYTES_MIN)
		part_bytes = PART_BYTES_MIN;
	for (size_t start = 0; start < len;) {
		size_t end = len - start > part_bytes ? start + part_bytes : len;
		while (end < len && !is_space(text[end]))
			end++;
		int32_t call = faasm_chain_fn(count_part, text + start, end - start);
		if (call < 0)
			return -call;
		calls[parts++] = (faasm_handle)call;
		start = end;
	}

	table words = {0};
	for (size_t i = 0; i < parts; i++) {
		if (faasm_await(calls[i], NULL) != 0)
			return EIO;
		/* The table keeps pointers into line, so it is not freed. */
		const char *line = faasm_output_of(calls[i], NULL);
		if (line == NULL)
			return errno;
		while (*line != '\0') {
			uint64_t count = decimal_take(&line);
			const char *word = ++line;
			while (*line != '\n')
				line++;
			if (!add(&words, word, (size_t)(line - word), count))
				return ENOMEM;
			line++;
		}
	}
	if (words.used > 0)
		qsort(words.slots, words.cap, sizeof *words.slots, by_count_then_word);
	return write_lines(words.slots, words.used < TOP ? words.used : TOP);
}
