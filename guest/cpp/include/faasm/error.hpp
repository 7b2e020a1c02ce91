// What calls and objects return instead of throwing.
#ifndef FAASM_ERROR_HPP
#define FAASM_ERROR_HPP

#include <cerrno>

#include <faasm.h>

namespace faasm {

// Error is nothing, or one of WASI's errno numbers, as <cerrno> has them. It is true if
// something went wrong:
//
//	if (faasm::Error e = vector.push())
//		return e.number();
class [[nodiscard]] Error {
 public:
	constexpr Error(faasm_errno number = 0) : number_(number) {}

	constexpr explicit operator bool() const { return number_ != 0; }
	constexpr faasm_errno number() const { return number_; }

	friend constexpr bool operator==(Error a, Error b) { return a.number_ == b.number_; }
	friend constexpr bool operator!=(Error a, Error b) { return a.number_ != b.number_; }

 private:
	faasm_errno number_;
};

// What the objects here find themselves, or treat in a way of their own.
inline constexpr Error not_found{ENOENT};      // neither tier has the value
inline constexpr Error bad_content{EBADMSG};   // what is stored there is no such object
inline constexpr Error out_of_range{ERANGE};   // an index or a length beyond the end
inline constexpr Error too_large{EOVERFLOW};   // more than a memory can have
inline constexpr Error no_memory{ENOMEM};      // more than this memory has left
inline constexpr Error read_only{EROFS};       // a push of what is mapped to be read
inline constexpr Error timed_out{ETIMEDOUT};   // a global lock was not to be had in time

// Result is a value, which means something only if there is no error:
//
//	auto [total, error] = counter.value();
template <typename T>
struct [[nodiscard]] Result {
	T value;
	Error error;
};

}  // namespace faasm

#endif
