/* Its output is 16 random bytes, as 32 hexadecimal digits. */
#include <faasm.h>

#include <errno.h>
#include <unistd.h>

int32_t faasm_call(void) {
	uint8_t bytes[16];
	if (getentropy(bytes, sizeof bytes) != 0)
		return errno;
	char digits[2 * sizeof bytes];
	for (size_t i = 0; i < sizeof digits; i++)
		digits[i] = "0123456789abcdef"[bytes[i / 2] >> (i % 2 ? 0 : 4) & 15];
	return faasm_output(digits, sizeof digits);
}
