// The raw calls of state in the types of C++; the objects in the other headers are built of it.
#ifndef FAASM_VALUE_HPP
#define FAASM_VALUE_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>

#include <faasm/error.hpp>

namespace faasm {

// Mode says what a value is mapped for.
enum class Mode : std::uint32_t {
	shared = 0,                    // writes are seen by all Faaslets of this host
	read_only = FAASM_READ_ONLY,   // writes stay with this Faaslet
	published = FAASM_PUBLISHED,   // the latest published version, which does not change
};

// Merge says how merging combines two elements.
enum class Merge : std::uint32_t { sum = FAASM_SUM, min = FAASM_MIN, max = FAASM_MAX };

// Mapping is a whole value in this Faaslet's memory, until the call ends.
struct Mapping {
	void *data = nullptr;
	std::size_t size = 0;  // bytes
};

// Value is the bytes under a key. Its functions are the calls of faasm.h, which says what they
// guarantee.
class Value {
 public:
	explicit Value(std::string_view key) : key_(key) {}

	const std::string &key() const { return key_; }

	Result<std::int64_t> size() const {
		std::int64_t n = 0;
		Error e = faasm_state_size(key_.data(), key_.size(), &n);
		return {n, e};
	}
	Result<Mapping> map(std::uint32_t flags, std::size_t create_size = 0) const {
		Mapping m;
		Error e = faasm_get_state(key_.data(), key_.size(), flags, create_size, &m.data, &m.size);
		return {m, e};
	}
	Result<void *> map(std::uint32_t flags, std::int64_t off, std::size_t len) const {
		void *at = nullptr;
		Error e = faasm_get_state_offset(key_.data(), key_.size(), flags, off, len, &at);
		return {at, e};
	}
	Result<std::size_t> read(std::int64_t off, void *buf, std::size_t len) const {
		std::size_t n = 0;
		Error e = faasm_read_state_offset(key_.data(), key_.size(), off, buf, len, &n);
		return {n, e};
	}
	Error set(const void *data, std::size_t len) const {
		return faasm_set_state(key_.data(), key_.size(), data, len);
	}
	Error set(std::int64_t off, const void *data, std::size_t len) const {
		return faasm_set_state_offset(key_.data(), key_.size(), off, data, len);
	}
	Error push() const { return faasm_push_state(key_.data(), key_.size()); }
	Error pull() const { return faasm_pull_state(key_.data(), key_.size()); }
	Error pull(std::int64_t off, std::int64_t len) const {
		return faasm_pull_state_offset(key_.data(), key_.size(), off, len);
	}
	Error push(std::int64_t off, std::int64_t len) const {
		return faasm_push_state_offset(key_.data(), key_.size(), off, len);
	}
	Error flag_dirty(std::int64_t off, std::int64_t len) const {
		return faasm_flag_state_dirty(key_.data(), key_.size(), off, len);
	}
	Error merge(faasm_element type, Merge op) const {
		return faasm_push_state_merge(key_.data(), key_.size(), type, static_cast<std::uint32_t>(op));
	}
	Error publish() const { return faasm_publish_state(key_.data(), key_.size()); }
	Error remove() const { return faasm_delete_state(key_.data(), key_.size()); }

 private:
	std::string key_;
};

namespace detail {

// Buffer is memory that may be refused, which std::vector's may not without exceptions.
template <typename T>
using Buffer = std::unique_ptr<T[]>;

template <typename T>
Buffer<T> allocate(std::size_t n) {
	std::size_t bytes;
	if (__builtin_mul_overflow(n, sizeof(T), &bytes))
		return nullptr;
	return Buffer<T>(new (std::nothrow) T[n]);
}

// element tells the type of an array's elements, for headers: their size, and what they are.
template <typename T>
constexpr std::uint32_t element() {
	std::uint32_t kind = std::is_floating_point_v<T> ? 1
	                     : !std::is_integral_v<T>    ? 2
	                     : std::is_signed_v<T>       ? 3
	                                                 : 4;
	return kind << 24 | static_cast<std::uint32_t>(sizeof(T));
}

// mergeable is the type's name for merging.
template <typename T>
constexpr faasm_element mergeable() {
	static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8) &&
	                  (std::is_floating_point_v<T> || std::is_signed_v<T>),
	              "only signed integers and floating point numbers of 4 or 8 bytes merge");
	if (std::is_floating_point_v<T>)
		return sizeof(T) == 4 ? FAASM_F32 : FAASM_F64;
	return sizeof(T) == 4 ? FAASM_I32 : FAASM_I64;
}

// Header is the beginning of a value that holds rows and columns. It takes 64 bytes, so that
// what follows is aligned as any array wants to be.
struct Header {
	std::uint32_t magic;
	std::uint32_t element;
	std::uint64_t rows;
	std::uint64_t columns;
	std::uint64_t entries;  // that are stored
	std::uint64_t unused[4];
};
static_assert(sizeof(Header) == 64);

}  // namespace detail

}  // namespace faasm

#endif
