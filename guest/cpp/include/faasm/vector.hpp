// A value as an array.
#ifndef FAASM_VECTOR_HPP
#define FAASM_VECTOR_HPP

#include <cstddef>
#include <string_view>
#include <type_traits>

#include <faasm/value.hpp>

namespace faasm {

// Vector is an array of T that functions share: the whole value under a key, without a header,
// as it lies in memory. It is mapped when it is made. After an error it has no elements.
//
// Elements are read and written as memory is, at once for all Faaslets of this host that have
// the value; one that is written and read at the same time is racy as among threads. Others get
// them by push and pull.
template <typename T>
class Vector {
	static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 64);

 public:
	// Maps the value that is there. bad_content if its size is not whole elements.
	explicit Vector(std::string_view key, Mode mode = Mode::shared) : value_(key), mode_(mode) {
		error_ = attach(0, 0);
	}

	// Maps the value that is there, or makes one of n elements, all bits zero. bad_content if
	// it does not have n elements.
	Vector(std::string_view key, std::size_t n) : value_(key), mode_(Mode::shared) {
		std::size_t bytes;
		if (__builtin_mul_overflow(n, sizeof(T), &bytes)) {
			error_ = too_large;
			return;
		}
		error_ = attach(FAASM_CREATE, bytes);
		if (!error_ && size_ != n)
			detach(bad_content);
	}

	// error says why there are no elements.
	Error error() const { return error_; }

	std::size_t size() const { return size_; }
	T *data() { return data_; }
	const T *data() const { return data_; }
	T *begin() { return data_; }
	T *end() { return data_ + size_; }
	const T *begin() const { return data_; }
	const T *end() const { return data_ + size_; }
	// i is less than size().
	T &operator[](std::size_t i) { return data_[i]; }
	const T &operator[](std::size_t i) const { return data_[i]; }

	// push makes this the global value, in place of what others have pushed.
	Error push() { return writable() ? value_.push() : read_only; }

	// push sends n elements from first, whole, and touches no other.
	Error push(std::size_t first, std::size_t n) {
		Error e = touch(first, n);
		return e ? e : value_.push(std::int64_t(first) * sizeof(T), std::int64_t(n) * sizeof(T));
	}

	// touch counts n elements from first as changed, all bytes of them.
	Error touch(std::size_t first, std::size_t n) {
		if (!writable())
			return read_only;
		if (first > size_ || n > size_ - first)
			return out_of_range;
		return value_.flag_dirty(std::int64_t(first) * sizeof(T), std::int64_t(n) * sizeof(T));
	}

	// push_changes sends the bytes that were changed on this host since the last pull or push,
	// and touches no other.
	Error push_changes() {
		return writable() ? value_.push(0, std::int64_t(size_) * sizeof(T)) : read_only;
	}

	// pull gets the global value, or the latest published version, and its size: elements may
	// have moved. What was written and not pushed is lost, for all of this host. After an error
	// the vector is as it was, unless the content is bad.
	Error pull() {
		Error e = attach(FAASM_PULL, 0);
		if (e == bad_content)
			detach(e);
		return e;
	}

	// merge combines the elements with the global ones; the sum adds what was added here since
	// the last pull or push. Elements here stay as they are.
	Error merge(Merge op) {
		return writable() ? value_.merge(detail::mergeable<T>(), op) : read_only;
	}

	// publish pushes, and makes this the latest published version.
	Error publish() { return writable() ? value_.publish() : read_only; }

 private:
	bool writable() const { return mode_ == Mode::shared; }

	Error attach(std::uint32_t flags, std::size_t create_size) {
		auto [m, e] = value_.map(static_cast<std::uint32_t>(mode_) | flags, create_size);
		if (e)
			return e;
		if (m.size % sizeof(T) != 0)
			return bad_content;
		data_ = static_cast<T *>(m.data);
		size_ = m.size / sizeof(T);
		return {};
	}

	void detach(Error e) {
		error_ = e;
		data_ = nullptr;
		size_ = 0;
	}

	Value value_;
	Mode mode_;
	Error error_;
	T *data_ = nullptr;
	std::size_t size_ = 0;
};

}  // namespace faasm

#endif
