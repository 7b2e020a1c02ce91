// faasm::ScopedLock, driven by commands (command.hpp):
//
//	local KEY read|write          takes a lock of this host
//	global KEY read|write MS      takes one among all hosts, waiting at most MS milliseconds
//	unlock                        lets go of the lock that was taken last
//	count local|global KEY N      adds 1 to the 8 bytes under a key, N times, each in its own
//	                              scope of the lock to write, and slowly: without the lock, some
//	                              would be lost
#include <faasm/lock.hpp>
#include <faasm/vector.hpp>

#include <optional>
#include <sched.h>

#include "command.hpp"

namespace {

faasm::LockMode mode(std::string_view word) {
	return word == "read" ? faasm::LockMode::read : faasm::LockMode::write;
}

// count is the read-modify-write that a lock is for.
faasm::Error count(bool global, std::string_view key) {
	faasm::ScopedLock lock = global ? faasm::ScopedLock::global(key, faasm::LockMode::write)
	                                : faasm::ScopedLock::local(key, faasm::LockMode::write);
	if (lock.error())
		return lock.error();
	faasm::Vector<std::int64_t> number(key, 1);
	if (number.error())
		return number.error();
	if (global) {
		// Nobody has pushed it yet if it is not there.
		if (faasm::Error e = number.pull(); e && e != faasm::not_found)
			return e;
	}
	std::int64_t before = number[0];
	sched_yield();
	number[0] = before + 1;
	if (global)
		if (faasm::Error e = number.push())
			return e;
	return lock.unlock();
}

}  // namespace

int32_t faasm_call() {
	std::optional<faasm::ScopedLock> lock;
	return run_commands([&](std::string_view name, Command &in, Answer &) -> faasm::Error {
		if (name == "unlock")
			return lock ? lock->unlock() : EPERM;
		if (name == "local") {
			std::string_view key = in.word();
			return lock.emplace(faasm::ScopedLock::local(key, mode(in.word()))).error();
		}
		if (name == "global") {
			std::string_view key = in.word();
			faasm::LockMode m = mode(in.word());
			return lock.emplace(faasm::ScopedLock::global(key, m, in.integer() * 1000000)).error();
		}
		if (name != "count")
			return unknown;
		bool global = in.word() == "global";
		std::string_view key = in.word();
		for (std::size_t left = in.index(); left > 0; left--)
			if (faasm::Error e = count(global, key))
				return e;
		return {};
	});
}
