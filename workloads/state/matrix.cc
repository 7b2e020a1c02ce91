// faasm::Matrix of doubles, driven by commands (command.hpp):
//
//	create KEY ROWS COLUMNS | open KEY     before all others
//	shape | get I J | set I J X | fill FIRST N X | sum FIRST N
//	push | push_columns FIRST N | pull FIRST N
//	memory     the bytes of memory that this Faaslet has
#include <faasm/matrix.hpp>

#include <algorithm>
#include <numeric>
#include <optional>

#include "command.hpp"

int32_t faasm_call() {
	std::optional<faasm::Matrix<double>> m;
	return run_commands([&](std::string_view name, Command &in, Answer &out) -> faasm::Error {
		if (name == "memory")
			return out.add(memory_size()), faasm::Error();
		if (name == "create") {
			std::string_view key = in.word();
			std::uint64_t rows = std::uint64_t(in.integer());
			return m.emplace(key, rows, std::uint64_t(in.integer())).error();
		}
		if (name == "open")
			return m.emplace(in.word()).error();
		if (!m)
			return EINVAL;

		if (name == "shape") {
			out.add(std::int64_t(m->rows()));
			out.add(std::int64_t(m->size()));
			return {};
		}
		if (name == "push")
			return m->push();
		if (name == "get" || name == "set") {
			std::size_t i = in.index();
			auto [column, error] = m->columns(std::uint64_t(in.integer()), 1);
			if (error)
				return error;
			if (i >= column.rows())
				return faasm::out_of_range;
			if (name == "get")
				out.add(column(i, 0));
			else
				column(i, 0) = in.number();
			return {};
		}
		std::uint64_t first = std::uint64_t(in.integer()), n = std::uint64_t(in.integer());
		if (name == "push_columns")
			return m->push(first, n);
		if (name == "pull")
			return m->pull(first, n);
		if (name != "fill" && name != "sum")
			return unknown;
		auto [columns, error] = m->columns(first, n);
		if (error)
			return error;
		double x = in.number(), sum = 0;
		for (std::size_t j = 0; j < columns.size(); j++) {
			double *c = columns.column(j);
			if (name == "fill")
				std::fill(c, c + columns.rows(), x);
			sum += std::accumulate(c, c + columns.rows(), 0.0);
		}
		if (name == "sum")
			out.add(sum);
		return {};
	});
}
