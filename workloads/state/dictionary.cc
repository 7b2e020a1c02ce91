// faasm::Dictionary, driven by commands (command.hpp):
//
//	open KEY     before all others
//	size | get NAME | put NAME DATA | erase NAME | each
//	load | store | pull | push
//	lock | unlock     the key's global lock, to write
#include <faasm/dictionary.hpp>
#include <faasm/lock.hpp>

#include <optional>
#include <string>

#include "command.hpp"

int32_t faasm_call() {
	std::optional<faasm::Dictionary> d;
	std::optional<faasm::ScopedLock> lock;
	std::string key;
	return run_commands([&](std::string_view name, Command &in, Answer &out) -> faasm::Error {
		if (name == "open") {
			key = in.word();
			return d.emplace(key).error();
		}
		if (!d)
			return EINVAL;

		if (name == "lock") {
			lock.reset();
			return lock.emplace(faasm::ScopedLock::global(key, faasm::LockMode::write)).error();
		}
		if (name == "unlock")
			return lock ? lock->unlock() : EPERM;
		if (name == "size")
			return out.add(std::int64_t(d->size())), faasm::Error();
		if (name == "each") {
			d->each([&](std::string_view n, std::string_view data) {
				out.add(n);
				out.add(data);
			});
			return {};
		}
		if (name == "load")
			return d->load();
		if (name == "store")
			return d->store();
		if (name == "pull")
			return d->pull();
		if (name == "push")
			return d->push();
		std::string_view entry = in.word();
		if (name == "put")
			return d->put(entry, in.word());
		if (name == "erase")
			return d->erase(entry);
		if (name != "get")
			return unknown;
		auto [data, error] = d->find(entry);
		if (!error)
			out.add(data);
		return error;
	});
}
