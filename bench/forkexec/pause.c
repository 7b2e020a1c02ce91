/* A process that does nothing and stays, for its footprint. The byte says that it is there. */
#include <unistd.h>

int main(void) {
	write(1, "\n", 1);
	pause();
	return 0;
}
