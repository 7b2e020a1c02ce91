// A list to which many functions append.
#ifndef FAASM_LIST_HPP
#define FAASM_LIST_HPP

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include <faasm/value.hpp>

namespace faasm {

// List is a key's append list as one of T. It is in the global tier alone: an element is there for
// all hosts when append returns, and nothing needs to be pushed, pulled or locked. Of two that
// append at the same time both are in it.
template <typename T>
class List {
	static_assert(std::is_trivially_copyable_v<T>);

 public:
	explicit List(std::string_view key) : key_(key) {}

	Error append(const T &x) {
		return faasm_append_state(key_.data(), key_.size(), &x, sizeof x);
	}

	// read copies up to n elements from the one with index first, as they are at one moment, and
	// returns how many there were. bad_content if one of them is no T; what is in out is
	// undefined then.
	Result<std::size_t> read(std::uint32_t first, T *out, std::size_t n) const {
		if (n > UINT32_MAX)
			return {0, out_of_range};
		std::size_t room;
		if (__builtin_mul_overflow(n, stored, &room))
			return {0, too_large};
		auto buf = detail::allocate<char>(room);
		if (!buf)
			return {0, no_memory};
		std::size_t size = 0;
		Error e = faasm_read_appended_state(key_.data(), key_.size(), first, std::uint32_t(n),
		                                    buf.get(), room, &size);
		if (e)
			return {0, e};
		if (size > room || size % stored != 0)
			return {0, bad_content};
		for (std::size_t i = 0; i < size / stored; i++) {
			std::uint32_t len;
			std::memcpy(&len, &buf[i * stored], sizeof len);
			if (len != sizeof(T))
				return {0, bad_content};
			std::memcpy(&out[i], &buf[i * stored + sizeof len], sizeof(T));
		}
		return {size / stored, {}};
	}

	// size returns how many elements there are.
	Result<std::size_t> size() const {
		std::size_t bytes = 0;
		Error e = faasm_read_appended_state(key_.data(), key_.size(), 0, UINT32_MAX, nullptr, 0,
		                                    &bytes);
		if (!e && bytes % stored != 0)
			e = bad_content;
		return {bytes / stored, e};
	}

	// clear removes all elements.
	Error clear() { return faasm_clear_appended_state(key_.data(), key_.size()); }

 private:
	static constexpr std::size_t stored = sizeof(std::uint32_t) + sizeof(T);  // with its length

	std::string key_;
};

}  // namespace faasm

#endif
