// A number that functions count in.
#ifndef FAASM_COUNTER_HPP
#define FAASM_COUNTER_HPP

#include <cstdint>
#include <string_view>

#include <faasm/lock.hpp>
#include <faasm/value.hpp>

namespace faasm {

// Counter is a value of 8 bytes, a signed integer that begins at zero and wraps around. All it
// does reaches the global tier before it returns. It uses both locks of its key.
class Counter {
 public:
	explicit Counter(std::string_view key) : value_(key) {
		error_ = attach();
	}

	// error says why nothing can be counted.
	Error error() const { return error_; }

	// increment adds delta to the number, and returns what that made of it: of many that add 1,
	// on whatever hosts, each gets a number of its own, and none is left out. It holds the global
	// lock meanwhile, for which it waits at most timeout_ns nanoseconds, or, if that is negative,
	// until the call's deadline. After an error the number is as it was, unless the error is that
	// the global tier does not answer; then nobody knows.
	Result<std::int64_t> increment(std::int64_t delta = 1, std::int64_t timeout_ns = -1) {
		if (error_)
			return {0, error_};
		ScopedLock global = ScopedLock::global(value_.key(), LockMode::write, timeout_ns);
		if (global.error())
			return {0, global.error()};
		ScopedLock local = ScopedLock::local(value_.key(), LockMode::write);
		if (local.error())
			return {0, local.error()};
		if (Error e = pull())
			return {0, e};
		std::int64_t before = *at_;
		// Merged rather than pushed, because add does not ask for the global lock.
		if (Error e = merge(delta)) {
			*at_ = before;
			return {0, e};
		}
		return {*at_, {}};
	}

	// add adds delta, without the global lock and without knowing the number: none is left out,
	// and hosts do not wait for each other. After an error it is kept on this host, and sent
	// with the next add.
	Error add(std::int64_t delta) {
		if (error_)
			return error_;
		ScopedLock local = ScopedLock::local(value_.key(), LockMode::write);
		if (local.error())
			return local.error();
		Error e = attach();
		return e ? e : merge(delta);
	}

	// value returns the number as the global tier has it.
	Result<std::int64_t> value() {
		if (error_)
			return {0, error_};
		// An add is not to be pulled over before it is sent.
		ScopedLock local = ScopedLock::local(value_.key(), LockMode::write);
		if (local.error())
			return {0, local.error()};
		Error e = pull();
		return {e ? 0 : *at_, e};
	}

 private:
	// attach finds the number again each time, in case somebody has deleted it, or put something
	// else there.
	Error attach() {
		auto [m, e] = value_.map(FAASM_CREATE, sizeof(std::int64_t));
		if (e)
			return e;
		if (m.size != sizeof(std::int64_t))
			return bad_content;
		at_ = static_cast<volatile std::int64_t *>(m.data);
		return {};
	}

	// pull leaves alone a number that the global tier does not know yet.
	Error pull() {
		Error e = value_.pull();
		return e && e != not_found ? e : attach();
	}

	Error merge(std::int64_t delta) {
		*at_ = static_cast<std::int64_t>(static_cast<std::uint64_t>(*at_) +
		                                 static_cast<std::uint64_t>(delta));
		return value_.merge(FAASM_I64, Merge::sum);
	}

	Value value_;
	Error error_;
	volatile std::int64_t *at_ = nullptr;
};

}  // namespace faasm

#endif
