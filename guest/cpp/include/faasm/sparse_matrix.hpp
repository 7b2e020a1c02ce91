// A sparse matrix, of which one takes the columns that one needs.
#ifndef FAASM_SPARSE_MATRIX_HPP
#define FAASM_SPARSE_MATRIX_HPP

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <faasm/value.hpp>

namespace faasm {

// SparseColumns is a range of a sparse matrix's columns. Its offsets are a copy that was checked;
// row numbers and values are memory shared with others.
template <typename T>
class SparseColumns {
 public:
	std::uint64_t rows() const { return rows_; }
	std::size_t size() const { return size_; }  // how many columns
	// entries is how many entries of a column are stored. j counts from the first of the range,
	// and is less than size().
	std::size_t entries(std::size_t j) const { return offsets_[j + 1] - offsets_[j]; }

	// each calls f(row, value) for the entries of a column, in the order in which they are
	// stored. A row is always less than rows(): at one that is not it stops, with bad_content.
	template <typename F>
	Error each(std::size_t j, F &&f) const {
		for (std::size_t k = offsets_[j]; k < offsets_[j + 1]; k++) {
			// Read once: another function may write there between the check and the use.
			std::uint32_t row = *static_cast<const volatile std::uint32_t *>(&row_numbers_[k]);
			if (row >= rows_)
				return bad_content;
			f(row, values_[k]);
		}
		return {};
	}

 private:
	template <typename>
	friend class SparseMatrix;

	std::uint64_t rows_ = 0;
	std::size_t size_ = 0;
	detail::Buffer<std::size_t> offsets_;  // size_ + 1, from 0, never falling
	const std::uint32_t *row_numbers_ = nullptr;
	const T *values_ = nullptr;
};

// SparseMatrix is a matrix of which only some entries are stored, column by column (CSC). It is
// three values:
//
//	KEY/columns  a header of 64 bytes, and for each column and one more how many entries are
//	             before it, 8 bytes each
//	KEY/rows     the row of each entry, 4 bytes
//	KEY/values   the entries, T
//
// Only the header is read when it is made. A range of columns takes its part of each of the
// three from the global tier, and no more. The three are not pushed as one: who replaces a matrix
// that others read needs a lock, or else they find bad_content, or entries of both.
template <typename T>
class SparseMatrix {
	static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 64);

 public:
	// Takes the matrix that is there. bad_content if it is none, or not of T.
	explicit SparseMatrix(std::string_view key) : SparseMatrix(Parts{}, key) { error_ = open(); }

	// store puts a matrix there, on this host, in place of what was. offsets has columns + 1
	// numbers; row_numbers and values have offsets[columns] entries. The entries are copied.
	// out_of_range if offsets fall, or a row is beyond the last.
	static Error store(std::string_view key, std::uint64_t rows, std::size_t columns,
	                   const std::uint64_t *offsets, const std::uint32_t *row_numbers,
	                   const T *values) {
		if (offsets[0] != 0)
			return out_of_range;
		for (std::size_t j = 0; j < columns; j++)
			if (offsets[j] > offsets[j + 1])
				return out_of_range;
		std::uint64_t entries = offsets[columns];
		if (entries > SIZE_MAX / sizeof(T) || entries > SIZE_MAX / sizeof *row_numbers ||
		    columns >= (SIZE_MAX - sizeof(detail::Header)) / sizeof *offsets)
			return too_large;
		for (std::size_t k = 0; k < entries; k++)
			if (row_numbers[k] >= rows)
				return out_of_range;
		std::size_t size = sizeof(detail::Header) + (columns + 1) * sizeof *offsets;
		auto head = detail::allocate<std::uint64_t>(size / sizeof(std::uint64_t));
		if (!head)
			return no_memory;
		detail::Header h{magic, detail::element<T>(), rows, columns, entries, {}};
		__builtin_memcpy(&head[0], &h, sizeof h);
		__builtin_memcpy(&head[sizeof h / sizeof head[0]], offsets, size - sizeof h);

		SparseMatrix m{Parts{}, key};
		Error e = m.values_value_.set(values, std::size_t(entries) * sizeof(T));
		if (!e)
			e = m.rows_value_.set(row_numbers, std::size_t(entries) * sizeof *row_numbers);
		if (!e)
			e = m.columns_value_.set(&head[0], size);
		return e;
	}

	// error says why there are no columns.
	Error error() const { return error_; }

	std::uint64_t rows() const { return rows_; }
	std::uint64_t size() const { return columns_; }     // how many columns
	std::uint64_t entries() const { return entries_; }  // that are stored

	// columns maps n columns from first.
	Result<SparseColumns<T>> columns(std::uint64_t first, std::uint64_t n) const {
		SparseColumns<T> c;
		if (error_)
			return {std::move(c), error_};
		if (first > columns_ || n > columns_ - first)
			return {std::move(c), out_of_range};
		if (n >= SIZE_MAX / sizeof(std::uint64_t))
			return {std::move(c), too_large};
		auto stored = detail::allocate<std::uint64_t>(std::size_t(n) + 1);
		c.offsets_ = detail::allocate<std::size_t>(std::size_t(n) + 1);
		if (!stored || !c.offsets_)
			return {std::move(c), no_memory};
		std::size_t len = (std::size_t(n) + 1) * sizeof(std::uint64_t);
		auto [got, e] = columns_value_.read(
		    std::int64_t(sizeof(detail::Header) + first * sizeof(std::uint64_t)), &stored[0], len);
		if (e || got != len)
			return {std::move(c), e && e != Error(EINVAL) ? e : bad_content};
		// From here on stored is ours alone.
		std::uint64_t begin = stored[0], end = stored[std::size_t(n)];
		if (end > entries_ || end < begin || end - begin > SIZE_MAX / sizeof(T) ||
		    end - begin > SIZE_MAX / sizeof(std::uint32_t))
			return {std::move(c), bad_content};
		for (std::size_t j = 0; j <= n; j++) {
			if (stored[j] < begin || stored[j] > end || (j > 0 && stored[j] < stored[j - 1]))
				return {std::move(c), bad_content};
			c.offsets_[j] = std::size_t(stored[j] - begin);
		}
		std::size_t count = std::size_t(end - begin);
		if (count > 0) {
			if (Error failed = part(rows_value_, begin, count, c.row_numbers_))
				return {std::move(c), failed};
			if (Error failed = part(values_value_, begin, count, c.values_))
				return {std::move(c), failed};
		}
		c.rows_ = rows_;
		c.size_ = std::size_t(n);
		return {std::move(c), {}};
	}

	// push makes the matrix of this host the global one.
	Error push() {
		Error e = values_value_.push();
		if (!e)
			e = rows_value_.push();
		if (!e)
			e = columns_value_.push();
		return e;
	}

	// pull gets the global matrix, which may have another shape.
	Error pull() {
		Error e = columns_value_.pull();
		if (!e)
			e = rows_value_.pull();
		if (!e)
			e = values_value_.pull();
		if (!e)
			e = error_ = open();
		return e;
	}

 private:
	struct Parts {};
	static constexpr std::uint32_t magic = 0x4d505346;  // "FSPM"

	// Names the values, and looks at none.
	SparseMatrix(Parts, std::string_view key)
	    : columns_value_(std::string(key) + "/columns"), rows_value_(std::string(key) + "/rows"),
	      values_value_(std::string(key) + "/values") {}

	template <typename U>
	static Error part(const Value &v, std::uint64_t first, std::size_t n, const U *&at) {
		auto [data, e] = v.map(0, std::int64_t(first * sizeof(U)), n * sizeof(U));
		if (e)
			return e == Error(EINVAL) ? bad_content : e;  // somebody made it shorter
		at = static_cast<const U *>(data);
		return {};
	}

	// is tells whether a value has the size of n elements.
	static Error is(const Value &v, std::uint64_t n, std::size_t element, std::size_t before) {
		auto [size, e] = v.size();
		if (e)
			return e;
		std::uint64_t want;
		bool fits = !__builtin_mul_overflow(n, element, &want) &&
		            !__builtin_add_overflow(want, before, &want);
		return fits && std::uint64_t(size) == want ? Error() : bad_content;
	}

	Error open() {
		rows_ = columns_ = entries_ = 0;
		detail::Header h;
		auto [n, e] = columns_value_.read(0, &h, sizeof h);
		if (e)
			return e;
		if (n != sizeof h || h.magic != magic || h.element != detail::element<T>() ||
		    h.columns == UINT64_MAX)
			return bad_content;
		e = is(columns_value_, h.columns + 1, sizeof(std::uint64_t), sizeof h);
		if (!e)
			e = is(rows_value_, h.entries, sizeof(std::uint32_t), 0);
		if (!e)
			e = is(values_value_, h.entries, sizeof(T), 0);
		if (e)
			return e;
		rows_ = h.rows;
		columns_ = h.columns;
		entries_ = h.entries;
		return {};
	}

	Value columns_value_, rows_value_, values_value_;
	Error error_;
	std::uint64_t rows_ = 0;
	std::uint64_t columns_ = 0;
	std::uint64_t entries_ = 0;
};

}  // namespace faasm

#endif
