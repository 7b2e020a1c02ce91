// faasm::SparseMatrix of doubles, driven by commands (command.hpp):
//
//	store KEY N       puts there the second differences of N points: 2 on the diagonal, -1 beside
//	open KEY          before all others
//	shape             rows, columns, entries
//	column J          the entries of a column, "ROW VALUE" each
//	squares FIRST N   what the matrix makes of i * i in N columns from FIRST, 0 elsewhere: the sum
//	                  of all elements' squares
//	push | pull
//	memory            the bytes of memory that this Faaslet has
#include <faasm/sparse_matrix.hpp>

#include <memory>
#include <new>
#include <optional>

#include "command.hpp"

using Matrix = faasm::SparseMatrix<double>;

namespace {

faasm::Error store_differences(std::string_view key, std::size_t n) {
	std::unique_ptr<std::uint64_t[]> offsets(new (std::nothrow) std::uint64_t[n + 1]);
	std::unique_ptr<std::uint32_t[]> rows(new (std::nothrow) std::uint32_t[3 * n]);
	std::unique_ptr<double[]> values(new (std::nothrow) double[3 * n]);
	if (!offsets || !rows || !values)
		return faasm::no_memory;
	std::size_t k = 0;
	for (std::size_t j = 0; j < n; j++) {
		offsets[j] = k;
		for (std::size_t i = j == 0 ? 0 : j - 1; i <= j + 1 && i < n; i++, k++) {
			rows[k] = std::uint32_t(i);
			values[k] = i == j ? 2 : -1;
		}
	}
	offsets[n] = k;
	return Matrix::store(key, n, n, offsets.get(), rows.get(), values.get());
}

faasm::Error squares(const Matrix &m, std::uint64_t first, std::uint64_t n, double *sum) {
	auto [columns, error] = m.columns(first, n);
	if (error)
		return error;
	if (columns.rows() > SIZE_MAX / sizeof(double))
		return faasm::too_large;
	std::size_t rows = std::size_t(columns.rows());
	std::unique_ptr<double[]> y(new (std::nothrow) double[rows]());
	if (!y)
		return faasm::no_memory;
	for (std::size_t j = 0; j < columns.size(); j++) {
		double i = double(first) + double(j), x = i * i;
		if (faasm::Error e = columns.each(j, [&](std::uint32_t row, double a) { y[row] += a * x; }))
			return e;
	}
	*sum = 0;
	for (std::size_t i = 0; i < rows; i++)
		*sum += y[i] * y[i];
	return {};
}

}  // namespace

int32_t faasm_call() {
	std::optional<Matrix> m;
	return run_commands([&](std::string_view name, Command &in, Answer &out) -> faasm::Error {
		if (name == "memory")
			return out.add(memory_size()), faasm::Error();
		if (name == "store") {
			std::string_view key = in.word();
			return store_differences(key, in.index());
		}
		if (name == "open")
			return m.emplace(in.word()).error();
		if (!m)
			return EINVAL;

		if (name == "push")
			return m->push();
		if (name == "pull")
			return m->pull();
		if (name == "shape") {
			out.add(std::int64_t(m->rows()));
			out.add(std::int64_t(m->size()));
			out.add(std::int64_t(m->entries()));
			return {};
		}
		std::uint64_t first = std::uint64_t(in.integer());
		if (name == "column") {
			auto [column, error] = m->columns(first, 1);
			return error ? error : column.each(0, [&](std::uint32_t row, double a) {
				out.add(std::int64_t(row));
				out.add(a);
			});
		}
		if (name == "squares") {
			double sum;
			faasm::Error e = squares(*m, first, std::uint64_t(in.integer()), &sum);
			if (!e)
				out.add(sum);
			return e;
		}
		return unknown;
	});
}
