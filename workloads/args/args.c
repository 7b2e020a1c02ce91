/* A plain WASI program: prints argc, then each argument, then each environment variable. */
#include <stdio.h>

extern char **environ;

int main(int argc, char **argv) {
	printf("argc %d\n", argc);
	for (int i = 0; i < argc; i++)
		printf("arg %d %s\n", i, argv[i]);
	for (char **e = environ; *e != NULL; e++)
		printf("env %s\n", *e);
	return 0;
}
