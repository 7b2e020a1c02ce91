/*
 * What image1 and image32 have in common: a function whose initialisation leaves IMAGE_MIB MiB
 * of memory in which no page is like another. A call writes a byte in each page of the first
 * P percent of them, P being its input, a number such as 10 or 0.5; none if the input is empty.
 * It has no output.
 */
#include <faasm.h>

#include <errno.h>

enum { PAGE = 4096, PAGES = (IMAGE_MIB << 20) / PAGE, WORDS = PAGE / 4 };

/* Volatile, since nobody reads it, and yet it must be written. */
static _Alignas(PAGE) volatile uint32_t image[PAGES][WORDS];

int32_t faasm_init(void) {
	uint32_t x = 1;
	for (size_t page = 0; page < PAGES; page++)
		for (size_t i = 0; i < WORDS; i++)
			image[page][i] = (x = x * 1664525 + 1013904223) | 1;
	return 0;
}

/* The input's P in millionths of a percent, or -1 if it is no number from 0 to 100. */
static int64_t take_percent(const char *text, size_t len) {
	int64_t whole = 0, part = 0, unit = 1000000;
	size_t i = 0;
	for (; i < len && text[i] >= '0' && text[i] <= '9' && whole <= 100; i++)
		whole = whole * 10 + (text[i] - '0');
	if (i < len && text[i] == '.')
		for (i++; i < len && text[i] >= '0' && text[i] <= '9'; i++)
			part += (text[i] - '0') * (unit /= 10);
	if (i < len && text[i] == '\n')
		i++;
	int64_t p = whole * 1000000 + part;
	return i == len && p <= 100000000 ? p : -1;
}

int32_t faasm_call(void) {
	char text[32];
	size_t len;
	faasm_errno err = faasm_read_call_input(text, sizeof text, &len);
	if (err != 0)
		return err;
	int64_t percent = len <= sizeof text ? take_percent(text, len) : -1;
	if (percent < 0)
		return EINVAL;
	size_t pages = (size_t)(PAGES * percent / 100000000);
	for (size_t page = 0; page < pages; page++)
		*(volatile uint8_t *)image[page] = 0xff;
	return 0;
}
