/*
 * A plain WASI program, with no word of Faasm in it. It greets the name on its command line
 * or, if there is none, the one on the first line of its standard input.
 */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
	char line[256] = "";
	const char *name = "world";
	if (argc > 1) {
		name = argv[1];
	} else if (fgets(line, sizeof line, stdin) != NULL) {
		line[strcspn(line, "\r\n")] = '\0';
		if (line[0] != '\0')
			name = line;
	}
	printf("hello, %s\n", name);
	return 0;
}
