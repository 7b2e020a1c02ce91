// A small real program: loops, recursion, indirect calls, vector code, data, malloc.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int compare(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static float dot(const float *a, const float *b, int n) {
	float sum = 0;
#pragma clang loop vectorize(enable)
	for (int i = 0; i < n; i++) sum += a[i] * b[i];
	return sum;
}

static int words[] = {9, 3, 27, 81, 1, 243, 2, 4, 8, 16, 32, 64, 128};

int main(int argc, char **argv) {
	int n = sizeof words / sizeof *words;
	float *f = malloc(n * sizeof *f);
	qsort(words, n, sizeof *words, compare);
	for (int i = 0; i < n; i++) f[i] = words[i];
	char out[16];
	memset(out, '#', sizeof out);
	write(1, out, (int)dot(f, f, n) % 16);
	return argc - 1;
}
