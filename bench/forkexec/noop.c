/* What fork+exec is measured with: a process that does nothing. */
int main(void) { return 0; }
