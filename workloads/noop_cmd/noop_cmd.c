/* The least a plain WASI program can be. */
int main(void) {
	return 0;
}
