// faasm::Counter, driven by commands (command.hpp):
//
//	open KEY                before all others
//	increment DELTA N       N times, and what each made of the number
//	add DELTA N             N times
//	value
#include <faasm/counter.hpp>

#include <optional>

#include "command.hpp"

int32_t faasm_call() {
	std::optional<faasm::Counter> counter;
	return run_commands([&](std::string_view name, Command &in, Answer &out) -> faasm::Error {
		if (name == "open")
			return counter.emplace(in.word()).error();
		if (!counter)
			return EINVAL;

		if (name == "value") {
			auto [n, error] = counter->value();
			if (!error)
				out.add(n);
			return error;
		}
		if (name != "increment" && name != "add")
			return unknown;
		std::int64_t delta = in.integer();
		for (std::size_t left = in.index(); left > 0; left--) {
			if (name == "add") {
				if (faasm::Error e = counter->add(delta))
					return e;
				continue;
			}
			auto [n, error] = counter->increment(delta);
			if (error)
				return error;
			out.add(n);
		}
		return {};
	});
}
