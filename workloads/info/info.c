/*
 * Its output is what the host tells of the call, a line "NAME VALUE" each, in this order:
 * id, tenant, function, parent (nothing after the space if there is none), deadline
 * (nanoseconds left, or "none"), attempt.
 */
#include <faasm.h>

#include <string.h>

#include "decimal/decimal.h"

enum { TEXT_MAX = 1024 }; /* the longest name there is */

static faasm_errno append_line(const char *name, const char *value, size_t len) {
	char line[16 + TEXT_MAX + 2];
	char *end = line;
	size_t name_len = strlen(name);
	memcpy(end, name, name_len);
	end += name_len;
	*end++ = ' ';
	memcpy(end, value, len);
	end += len;
	*end++ = '\n';
	return faasm_append_call_output(line, (size_t)(end - line));
}

static faasm_errno append_text(const char *name, uint32_t what) {
	char value[TEXT_MAX];
	size_t len;
	faasm_errno err = faasm_call_info(what, value, sizeof value, &len);
	return err != 0 ? err : append_line(name, value, len < sizeof value ? len : sizeof value);
}

static faasm_errno append_number(const char *name, uint32_t what) {
	uint64_t n = 0; /* the bytes are little-endian, as the memory is: four of them fit too */
	size_t len;
	faasm_errno err = faasm_call_info(what, &n, sizeof n, &len);
	if (err != 0)
		return err;
	if (what == FAASM_INFO_DEADLINE && n == UINT64_MAX)
		return append_line(name, "none", 4);
	char value[20];
	return append_line(name, value, (size_t)(decimal_put(value, n) - value));
}

int32_t faasm_call(void) {
	faasm_errno err = append_text("id", FAASM_INFO_ID);
	if (err == 0)
		err = append_text("tenant", FAASM_INFO_TENANT);
	if (err == 0)
		err = append_text("function", FAASM_INFO_FUNCTION);
	if (err == 0)
		err = append_text("parent", FAASM_INFO_PARENT);
	if (err == 0)
		err = append_number("deadline", FAASM_INFO_DEADLINE);
	if (err == 0)
		err = append_number("attempt", FAASM_INFO_ATTEMPT);
	return err;
}
