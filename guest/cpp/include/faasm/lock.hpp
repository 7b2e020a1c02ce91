// A lock that is held as long as a scope lasts.
#ifndef FAASM_LOCK_HPP
#define FAASM_LOCK_HPP

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <faasm/error.hpp>

namespace faasm {

enum class LockMode { read, write };

// ScopedLock holds the lock of a key until it is destroyed, or unlock is called. Two that say so
// hold one to read; one to write has it alone.
//
// The local lock is among the Faaslets of this host, the global one among all hosts; they are
// two locks. Neither pulls or pushes anything.
class [[nodiscard]] ScopedLock {
 public:
	// local waits until the lock is to be had.
	static ScopedLock local(std::string_view key, LockMode mode) {
		ScopedLock l(key, faasm_unlock_state);
		l.hold(mode == LockMode::read ? faasm_lock_state_read(key.data(), key.size())
		                              : faasm_lock_state_write(key.data(), key.size()));
		return l;
	}

	// global waits at most timeout_ns nanoseconds; a negative number has only the call's own
	// deadline bound it.
	static ScopedLock global(std::string_view key, LockMode mode, std::int64_t timeout_ns = -1) {
		ScopedLock l(key, faasm_unlock_state_global);
		l.hold(mode == LockMode::read
		           ? faasm_lock_state_global_read(key.data(), key.size(), timeout_ns)
		           : faasm_lock_state_global_write(key.data(), key.size(), timeout_ns));
		return l;
	}

	ScopedLock(ScopedLock &&other) noexcept
	    : key_(std::move(other.key_)), unlock_(other.unlock_), error_(other.error_),
	      held_(std::exchange(other.held_, false)) {}
	ScopedLock &operator=(ScopedLock &&) = delete;
	~ScopedLock() { static_cast<void>(unlock()); }

	// error says why the lock is not held.
	Error error() const { return error_; }

	// unlock lets go of the lock. Of a global lock that had been lost it says so.
	Error unlock() {
		return std::exchange(held_, false) ? Error(unlock_(key_.data(), key_.size())) : Error();
	}

 private:
	using Unlock = faasm_errno (*)(const char *, std::size_t);

	ScopedLock(std::string_view key, Unlock unlock) : key_(key), unlock_(unlock) {}

	void hold(faasm_errno e) {
		error_ = e;
		held_ = e == 0;
	}

	std::string key_;
	Unlock unlock_;
	Error error_;
	bool held_ = false;
};

}  // namespace faasm

#endif
