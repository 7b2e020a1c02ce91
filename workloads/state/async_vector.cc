// faasm::AsyncVector of doubles, driven by commands (command.hpp):
//
//	create KEY N | open KEY     before all others
//	size | get I | set I X | sum | push | pull
#include <faasm/async_vector.hpp>

#include <numeric>
#include <optional>

#include "command.hpp"

int32_t faasm_call() {
	std::optional<faasm::AsyncVector<double>> v;
	return run_commands([&](std::string_view name, Command &in, Answer &out) -> faasm::Error {
		if (name == "create") {
			std::string_view key = in.word();
			return v.emplace(key, in.index()).error();
		}
		if (name == "open")
			return v.emplace(in.word()).error();
		if (!v)
			return EINVAL;

		if (name == "size")
			return out.add(std::int64_t(v->size())), faasm::Error();
		if (name == "sum")
			return out.add(std::accumulate(v->begin(), v->end(), 0.0)), faasm::Error();
		if (name == "push")
			return v->push();
		if (name == "pull")
			return v->pull();
		if (name != "get" && name != "set")
			return unknown;
		std::size_t i = in.index();
		if (i >= v->size())
			return faasm::out_of_range;
		if (name == "get")
			out.add((*v)[i]);
		else
			v->set(i, in.number());
		return {};
	});
}
