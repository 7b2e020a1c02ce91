// A dense matrix, of which one takes the columns that one needs.
#ifndef FAASM_MATRIX_HPP
#define FAASM_MATRIX_HPP

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include <faasm/value.hpp>

namespace faasm {

// Columns is a range of a matrix's columns in this Faaslet's memory, one after the other. It is
// memory shared with others, as a Vector's elements are.
template <typename T>
class Columns {
 public:
	std::size_t rows() const { return rows_; }
	std::size_t size() const { return size_; }  // how many columns

	// column is the rows() elements of a column. j counts from the first of the range, and is
	// less than size().
	T *column(std::size_t j) { return data_ + j * rows_; }
	const T *column(std::size_t j) const { return data_ + j * rows_; }
	// i is less than rows().
	T &operator()(std::size_t i, std::size_t j) { return column(j)[i]; }
	const T &operator()(std::size_t i, std::size_t j) const { return column(j)[i]; }

 private:
	template <typename>
	friend class Matrix;

	T *data_ = nullptr;
	std::size_t rows_ = 0;
	std::size_t size_ = 0;
};

// Matrix is rows by columns of T, under one key: a header of 64 bytes, then column after column.
// Only the header is read when it is made; columns are mapped, and taken from the global tier,
// as they are asked for. So it can be far larger than this Faaslet's memory.
//
// Its shape is that of the header when it was made. If somebody puts another matrix there, or
// something else, asking for columns fails or gives other numbers, but never anything outside
// of the value.
template <typename T>
class Matrix {
	static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 64);

 public:
	// Takes the matrix that is there. bad_content if it is none, or not of T.
	explicit Matrix(std::string_view key, Mode mode = Mode::shared) : value_(key), mode_(mode) {
		error_ = open();
	}

	// Takes the matrix that is there, or makes one of zeroes. bad_content if it is none of that
	// shape. Who makes the same one at the same time makes this one.
	Matrix(std::string_view key, std::uint64_t rows, std::uint64_t columns)
	    : value_(key), mode_(Mode::shared) {
		error_ = create(rows, columns);
	}

	// error says why there are no columns.
	Error error() const { return error_; }

	std::uint64_t rows() const { return rows_; }
	std::uint64_t size() const { return columns_; }  // how many columns

	// columns maps n columns from first. Asking for the same ones again costs next to nothing;
	// each other range takes memory of its own.
	Result<Columns<T>> columns(std::uint64_t first, std::uint64_t n) const {
		Columns<T> c;
		std::int64_t off, len;
		if (Error e = place(first, n, off, len))
			return {c, e};
		if (n > SIZE_MAX || len > std::int64_t(SIZE_MAX))
			return {c, too_large};
		c.rows_ = std::size_t(rows_);
		c.size_ = std::size_t(n);
		if (len == 0)
			return {c, {}};
		auto [data, e] = value_.map(static_cast<std::uint32_t>(mode_), off, std::size_t(len));
		if (e)
			return {{}, e == Error(EINVAL) ? bad_content : e};  // somebody made the value shorter
		c.data_ = static_cast<T *>(data);
		return {c, {}};
	}

	// push makes this the global value, all columns of it.
	Error push() { return writable() ? value_.push() : read_only; }

	// push sends n columns from first, and touches no other, so that many can each write columns
	// of their own. The matrix itself must have been pushed before, by who made it.
	Error push(std::uint64_t first, std::uint64_t n) {
		std::int64_t off, len;
		if (!writable())
			return read_only;
		if (Error e = place(first, n, off, len))
			return e;
		return value_.push(off, len);
	}

	// pull gets n columns from first anew. What was written in them and not pushed is lost. A
	// published matrix does not change.
	Error pull(std::uint64_t first, std::uint64_t n) {
		std::int64_t off, len;
		if (mode_ == Mode::published)
			return read_only;
		if (Error e = place(first, n, off, len))
			return e;
		return value_.pull(off, len);
	}

	// publish pushes, and makes this the latest published version.
	Error publish() { return writable() ? value_.publish() : read_only; }

 private:
	static constexpr std::uint32_t magic = 0x58544d46;  // "FMTX"

	bool writable() const { return mode_ == Mode::shared; }

	// bytes is the size of a whole matrix, or less than 0 if no value can be so large.
	static std::int64_t bytes(std::uint64_t rows, std::uint64_t columns) {
		std::uint64_t n;
		if (__builtin_mul_overflow(rows, columns, &n) || __builtin_mul_overflow(n, sizeof(T), &n) ||
		    __builtin_add_overflow(n, sizeof(detail::Header), &n) || n > INT64_MAX)
			return -1;
		return std::int64_t(n);
	}

	// place finds where n columns from first lie.
	Error place(std::uint64_t first, std::uint64_t n, std::int64_t &off, std::int64_t &len) const {
		if (error_)
			return error_;
		if (first > columns_ || n > columns_ - first)
			return out_of_range;
		std::int64_t column = std::int64_t(rows_ * sizeof(T));  // the whole was checked by open
		off = std::int64_t(sizeof(detail::Header)) + std::int64_t(first) * column;
		len = std::int64_t(n) * column;
		return {};
	}

	Error open() {
		detail::Header h;
		if (mode_ == Mode::published) {
			auto [at, e] = value_.map(FAASM_PUBLISHED, 0, sizeof h);
			if (e)
				return e == Error(EINVAL) ? bad_content : e;
			h = *static_cast<const detail::Header *>(at);
		} else {
			auto [n, e] = value_.read(0, &h, sizeof h);
			if (e)
				return e;
			if (n != sizeof h)
				return bad_content;
			auto [size, failed] = value_.size();
			if (failed)
				return failed;
			if (size != bytes(h.rows, h.columns))
				return bad_content;
		}
		if (h.magic != magic || h.element != detail::element<T>() || bytes(h.rows, h.columns) < 0 ||
		    h.rows > SIZE_MAX / sizeof(T))
			return bad_content;
		rows_ = h.rows;
		columns_ = h.columns;
		return {};
	}

	Error create(std::uint64_t rows, std::uint64_t columns) {
		std::int64_t size = bytes(rows, columns);
		if (size < 0 || rows > SIZE_MAX / sizeof(T))
			return too_large;
		// Its last byte alone is mapped, which makes the value so long.
		auto [at, e] = value_.map(FAASM_CREATE, size - 1, std::size_t(1));
		if (e == Error(EINVAL))  // another value is there, or none can be so long
			return value_.size().error == not_found ? too_large : bad_content;
		if (e)
			return e;
		static_cast<void>(at);
		e = open();
		if (e == bad_content) {
			// It may be new, all zeroes.
			detail::Header h{};
			auto [n, failed] = value_.read(0, &h, sizeof h);
			auto [now, failed_too] = value_.size();
			if (failed || failed_too || n != sizeof h || now != size || h.magic != 0 ||
			    h.element != 0 || h.rows != 0 || h.columns != 0)
				return bad_content;
			h = {magic, detail::element<T>(), rows, columns, rows * columns, {}};
			if (Error refused = value_.set(0, &h, sizeof h))
				return refused;
			e = open();
		}
		if (!e && (rows_ != rows || columns_ != columns))
			e = bad_content;
		if (e)
			rows_ = columns_ = 0;
		return e;
	}

	Value value_;
	Mode mode_;
	Error error_;
	std::uint64_t rows_ = 0;
	std::uint64_t columns_ = 0;
};

}  // namespace faasm

#endif
