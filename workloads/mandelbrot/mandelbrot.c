/*
 * Draws the Mandelbrot set. Input "WIDTH HEIGHT [ITERATIONS]" (256 iterations if left out);
 * the output is a PNG, sent in pieces as it is made, so that its size is not bound by the
 * memory.
 *
 * PNG is that of RFC 2083; the compressed data inside it are of RFC 1950 and RFC 1951, in
 * one block with the fixed Huffman codes, in which the only matches are runs of one byte.
 */
#include <faasm.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "decimal/decimal.h"

enum {
	SIDE_MAX = 1 << 16,
	ITERATIONS_MAX = 1 << 24,
	IDAT_BYTES = 1 << 15,
	RUN_MAX = 258, /* the longest match of deflate */
	ADLER_MOD = 65521,
};

/* Two neighbouring pixels are computed at once, in one SIMD register. */
typedef double pair __attribute__((vector_size(16)));
typedef int64_t pair_mask __attribute__((vector_size(16)));

static uint32_t crc_table[256];

/* The state of the compressor. */
static struct {
	uint8_t idat[IDAT_BYTES];
	size_t used;         /* bytes of idat */
	uint64_t bits;       /* not yet in idat, the first one lowest */
	unsigned bit_count;  /* of bits, less than 8 between calls */
	uint32_t adler_a, adler_b;
	int byte;            /* of the run that has been seen last; -1 for none */
	unsigned run;        /* its length */
	faasm_errno err;     /* of the first piece that could not be sent */
} z;

int32_t faasm_init(void) {
	for (uint32_t n = 0; n < 256; n++) {
		uint32_t c = n;
		for (int k = 0; k < 8; k++)
			c = c & 1 ? UINT32_C(0xedb88320) ^ (c >> 1) : c >> 1;
		crc_table[n] = c;
	}
	return 0;
}

static uint32_t crc(uint32_t c, const void *data, size_t len) {
	const uint8_t *p = data;
	while (len-- > 0)
		c = crc_table[(c ^ *p++) & 0xff] ^ (c >> 8);
	return c;
}

static void put_u32(uint8_t *p, uint32_t n) {
	p[0] = (uint8_t)(n >> 24);
	p[1] = (uint8_t)(n >> 16);
	p[2] = (uint8_t)(n >> 8);
	p[3] = (uint8_t)n;
}

static void send(const void *data, size_t len) {
	if (z.err == 0)
		z.err = faasm_append_call_output(data, len);
}

/* send_chunk sends one PNG chunk; type is its four letters. */
static void send_chunk(const char *type, const void *data, size_t len) {
	uint8_t head[8], tail[4];
	put_u32(head, (uint32_t)len);
	memcpy(head + 4, type, 4);
	put_u32(tail, ~crc(crc(~UINT32_C(0), type, 4), data, len));
	send(head, sizeof head);
	send(data, len);
	send(tail, sizeof tail);
}

static void put_byte(uint8_t b) {
	if (z.used == IDAT_BYTES) {
		send_chunk("IDAT", z.idat, z.used);
		z.used = 0;
	}
	z.idat[z.used++] = b;
}

static void put_bits(uint32_t value, unsigned count) {
	z.bits |= (uint64_t)value << z.bit_count;
	z.bit_count += count;
	while (z.bit_count >= 8) {
		put_byte((uint8_t)z.bits);
		z.bits >>= 8;
		z.bit_count -= 8;
	}
}

/* put_code writes a Huffman code, whose highest bit comes first. */
static void put_code(uint32_t code, unsigned count) {
	uint32_t reversed = 0;
	for (unsigned i = 0; i < count; i++)
		reversed |= (code >> i & 1) << (count - 1 - i);
	put_bits(reversed, count);
}

static void put_literal(unsigned b) {
	if (b < 144)
		put_code(0x30 + b, 8);
	else
		put_code(0x190 + b - 144, 9);
}

/* put_match repeats the last byte len times, 3 to RUN_MAX. */
static void put_match(unsigned len) {
	unsigned symbol, extra_bits = 0, extra = 0;
	if (len == RUN_MAX) {
		symbol = 285;
	} else if (len < 11) {
		symbol = 254 + len;
	} else {
		/* Each four symbols share a number of extra bits; see RFC 1951, 3.2.5. */
		unsigned n = len - 3;
		extra_bits = 29 - (unsigned)__builtin_clz(n);
		symbol = 257 + 4 * extra_bits + (n >> extra_bits);
		extra = n & ((1u << extra_bits) - 1);
	}
	if (symbol < 280)
		put_code(symbol - 256, 7);
	else
		put_code(0xc0 + symbol - 280, 8);
	put_bits(extra, extra_bits);
	put_code(0, 5); /* distance 1 */
}

static void end_run(void) {
	if (z.run == 0)
		return;
	put_literal((unsigned)z.byte);
	unsigned left = z.run - 1;
	if (left >= 3) {
		put_match(left);
	} else {
		while (left-- > 0)
			put_literal((unsigned)z.byte);
	}
	z.run = 0;
}

static void deflate(const uint8_t *data, size_t len) {
	for (size_t i = 0; i < len; i++) {
		z.adler_a = (z.adler_a + data[i]) % ADLER_MOD;
		z.adler_b = (z.adler_b + z.adler_a) % ADLER_MOD;
		if (data[i] != z.byte || z.run == RUN_MAX + 1)
			end_run();
		z.byte = data[i];
		z.run++;
	}
}

/*
 * escape_times writes, for two points, the number of iterations after which they left the
 * circle of radius 2; 0 for those that did not within max.
 */
static void escape_times(pair cx, pair cy, uint32_t max, uint32_t out[2]) {
	pair x = {0, 0}, y = {0, 0};
	out[0] = out[1] = 0;
	for (uint32_t n = 1; n <= max; n++) {
		pair xx = x * x, yy = y * y;
		y = 2 * x * y + cy;
		x = xx - yy + cx;
		pair_mask gone = x * x + y * y > 4;
		if (gone[0] | gone[1]) {
			if (gone[0] && out[0] == 0)
				out[0] = n;
			if (gone[1] && out[1] == 0)
				out[1] = n;
			if (out[0] != 0 && out[1] != 0)
				return;
		}
	}
}

/* send_palette sends 256 colours: black for the set, and a smooth ring of others around it. */
static void send_palette(void) {
	uint8_t rgb[256 * 3] = {0};
	for (unsigned i = 1; i < 256; i++) {
		for (unsigned c = 0; c < 3; c++) {
			unsigned phase = (i * 5 + c * 85) % 255; /* a triangle wave of each colour */
			rgb[3 * i + c] = (uint8_t)(phase < 128 ? 2 * phase : 2 * (254 - phase));
		}
	}
	send_chunk("PLTE", rgb, sizeof rgb);
}

int32_t faasm_call(void) {
	const char *input = faasm_input(NULL);
	if (input == NULL)
		return errno;
	uint64_t width = decimal_take(&input), height = decimal_take(&input);
	uint64_t iterations = decimal_take(&input);
	if (iterations == 0)
		iterations = 256;
	if (width == 0 || width > SIDE_MAX || height == 0 || height > SIDE_MAX ||
	    iterations > ITERATIONS_MAX)
		return EINVAL;

	/* A row is a byte for its filter (0, none), its pixels, and room for an odd one. */
	uint8_t *row = calloc((size_t)width + 2, 1);
	if (row == NULL)
		return ENOMEM;

	send("\x89PNG\r\n\x1a\n", 8);
	/* Eight bits a pixel, indices into a palette, not interlaced. */
	uint8_t header[13] = {[8] = 8, [9] = 3};
	put_u32(header, (uint32_t)width);
	put_u32(header + 4, (uint32_t)height);
	send_chunk("IHDR", header, sizeof header);
	send_palette();

	z.adler_a = 1;
	z.byte = -1;
	put_byte(0x78); /* deflate, with a window of 32 KiB */
	put_byte(0x01); /* makes the two bytes a multiple of 31 */
	put_bits(1, 1); /* the last block */
	put_bits(1, 2); /* with the fixed codes */
	/* The picture shows the square around -0.75 of side 3, or more along the longer side. */
	double step = 3.0 / (double)(width < height ? width : height);
	for (uint64_t j = 0; j < height; j++) {
		double cy = ((double)j - (double)height / 2 + 0.5) * step;
		for (uint64_t i = 0; i < width; i += 2) {
			double cx = ((double)i - (double)width / 2 + 0.5) * step - 0.75;
			uint32_t times[2];
			escape_times((pair){cx, cx + step}, (pair){cy, cy}, (uint32_t)iterations, times);
			for (int k = 0; k < 2; k++)
				row[1 + i + k] = times[k] == 0 ? 0 : (uint8_t)(1 + (times[k] - 1) % 255);
		}
		deflate(row, (size_t)width + 1);
	}
	end_run();
	put_code(0, 7); /* the end of the block */
	put_bits(0, (8 - z.bit_count) % 8);
	uint8_t adler[4];
	put_u32(adler, z.adler_b << 16 | z.adler_a);
	for (int i = 0; i < 4; i++)
		put_byte(adler[i]);
	send_chunk("IDAT", z.idat, z.used);
	send_chunk("IEND", NULL, 0);
	return z.err;
}
