// faasm::List of 64-bit integers, driven by commands (command.hpp):
//
//	open KEY     before all others
//	append X | size | read FIRST N | clear
#include <faasm/list.hpp>

#include <memory>
#include <new>
#include <optional>

#include "command.hpp"

int32_t faasm_call() {
	std::optional<faasm::List<std::int64_t>> list;
	return run_commands([&](std::string_view name, Command &in, Answer &out) -> faasm::Error {
		if (name == "open")
			return list.emplace(in.word()), faasm::Error();
		if (!list)
			return EINVAL;

		if (name == "append")
			return list->append(in.integer());
		if (name == "clear")
			return list->clear();
		if (name == "size") {
			auto [n, error] = list->size();
			if (!error)
				out.add(std::int64_t(n));
			return error;
		}
		if (name != "read")
			return unknown;
		std::uint32_t first = std::uint32_t(in.integer());
		std::size_t n = in.index();
		std::unique_ptr<std::int64_t[]> elements(new (std::nothrow) std::int64_t[n]);
		if (!elements)
			return faasm::no_memory;
		auto [got, error] = list->read(first, elements.get(), n);
		if (error)
			return error;
		for (std::size_t i = 0; i < got; i++)
			out.add(elements[i]);
		return {};
	});
}
