/*
 * Decimal numbers without printf, which would be ten times the size of the small modules
 * here. Not a general text library.
 */
#ifndef DECIMAL_H
#define DECIMAL_H

#include <faasm.h>

/* decimal_put writes n at p, without a NUL, and returns the end: at most 20 bytes further. */
static inline char *decimal_put(char *p, uint64_t n) {
	char digits[20];
	int i = 0;
	do {
		digits[i++] = (char)('0' + n % 10);
		n /= 10;
	} while (n != 0);
	while (i > 0)
		*p++ = digits[--i];
	return p;
}

/*
 * decimal_take reads the number at *p, past spaces, and moves *p behind it. It returns 0 and
 * leaves *p at the first other character if there is none; numbers wrap at 64 bits.
 */
static inline uint64_t decimal_take(const char **p) {
	uint64_t n = 0;
	while (**p == ' ' || **p == '\n')
		++*p;
	for (; **p >= '0' && **p <= '9'; ++*p)
		n = n * 10 + (uint64_t)(**p - '0');
	return n;
}

/* decimal_output makes n in decimal, and nothing else, the call's output. */
static inline void decimal_output(uint64_t n) {
	char digits[20];
	faasm_output(digits, (size_t)(decimal_put(digits, n) - digits));
}

#endif
