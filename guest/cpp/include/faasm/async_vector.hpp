// An array whose writes stay on this host until they are pushed, and then go alone.
#ifndef FAASM_ASYNC_VECTOR_HPP
#define FAASM_ASYNC_VECTOR_HPP

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <faasm/vector.hpp>

namespace faasm {

// AsyncVector is a Vector for many writers: it remembers which elements it has set, and push sends
// those, whole, with what else was changed on this host, and touches no other. So writers of
// different elements, on whatever hosts, do not overwrite each other, and of those who set one
// element the last to push wins. Its value is the same as a Vector's.
template <typename T>
class AsyncVector {
 public:
	// As Vector's; and no_memory if there is none for a bit for each element.
	explicit AsyncVector(std::string_view key) : vector_(key) { error_ = start(); }
	AsyncVector(std::string_view key, std::size_t n) : vector_(key, n) { error_ = start(); }

	// error says why there are no elements.
	Error error() const { return error_; }

	std::size_t size() const { return error_ ? 0 : vector_.size(); }
	const T *begin() const { return vector_.begin(); }
	const T *end() const { return begin() + size(); }
	// i is less than size().
	const T &operator[](std::size_t i) const { return vector_[i]; }

	// set writes an element, which Faaslets of this host see at once; i is less than size().
	void set(std::size_t i, T x) {
		vector_[i] = x;
		dirty_[i / 64] |= std::uint64_t(1) << i % 64;
	}

	// push sends what was set since the last push. After an error what was not sent will be by
	// the next.
	Error push() {
		if (error_)
			return error_;
		for (std::size_t i = 0; i < size();) {
			if (dirty_[i / 64] == 0) {
				i += 64 - i % 64;
				continue;
			}
			std::size_t first = i;
			while (i < size() && dirty(i))
				i++;
			if (i == first)
				i++;
			else if (Error e = vector_.touch(first, i - first))
				return e;
		}
		Error e = vector_.push_changes();
		if (!e)
			clear();
		return e;
	}

	// pull gets the global value and its size. What was set and not pushed is lost.
	Error pull() {
		if (error_)
			return error_;
		Error e = vector_.pull();
		return e ? e : error_ = start();
	}

 private:
	bool dirty(std::size_t i) const { return dirty_[i / 64] >> i % 64 & 1; }

	// start has no element count as set.
	Error start() {
		if (vector_.error())
			return vector_.error();
		std::size_t words = vector_.size() / 64 + 1;
		dirty_ = detail::allocate<std::uint64_t>(words);
		if (!dirty_)
			return no_memory;
		clear();
		return {};
	}

	void clear() {
		for (std::size_t i = 0; i < vector_.size() / 64 + 1; i++)
			dirty_[i] = 0;
	}

	Vector<T> vector_;
	Error error_;
	detail::Buffer<std::uint64_t> dirty_;  // a bit for each element
};

}  // namespace faasm

#endif
