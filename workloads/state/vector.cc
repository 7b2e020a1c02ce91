// faasm::Vector of doubles, driven by commands (command.hpp):
//
//	create KEY N | open KEY | read_only KEY | published KEY     before all others
//	size | get I | set I X | add I X | sum
//	push | push_range FIRST N | pull | merge sum|min|max | publish
#include <faasm/vector.hpp>

#include <numeric>
#include <optional>

#include "command.hpp"

using Numbers = faasm::Vector<double>;

int32_t faasm_call() {
	std::optional<Numbers> v;
	return run_commands([&](std::string_view name, Command &in, Answer &out) -> faasm::Error {
		if (name == "create") {
			std::string_view key = in.word();
			return v.emplace(key, in.index()).error();
		}
		if (name == "open")
			return v.emplace(in.word()).error();
		if (name == "read_only")
			return v.emplace(in.word(), faasm::Mode::read_only).error();
		if (name == "published")
			return v.emplace(in.word(), faasm::Mode::published).error();
		if (!v)
			return EINVAL;

		if (name == "size")
			return out.add(std::int64_t(v->size())), faasm::Error();
		if (name == "sum")
			return out.add(std::accumulate(v->begin(), v->end(), 0.0)), faasm::Error();
		if (name == "push")
			return v->push();
		if (name == "push_range") {
			std::size_t first = in.index();
			return v->push(first, in.index());
		}
		if (name == "pull")
			return v->pull();
		if (name == "publish")
			return v->publish();
		if (name == "merge") {
			std::string_view how = in.word();
			return v->merge(how == "sum"   ? faasm::Merge::sum
			                : how == "min" ? faasm::Merge::min
			                               : faasm::Merge::max);
		}
		if (name != "get" && name != "set" && name != "add")
			return unknown;
		std::size_t i = in.index();
		if (i >= v->size())
			return faasm::out_of_range;
		if (name == "get")
			out.add((*v)[i]);
		else if (name == "set")
			(*v)[i] = in.number();
		else
			(*v)[i] += in.number();
		return {};
	});
}
