// A small map from strings to bytes, in one value.
#ifndef FAASM_DICTIONARY_HPP
#define FAASM_DICTIONARY_HPP

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>

#include <faasm/value.hpp>

namespace faasm {

// Dictionary is a copy of a map from strings to bytes that lies in one value: what it is asked and
// told stays here until store or push. So a change of what others change too is made under a lock:
// lock, pull, put, push, unlock; for Faaslets of one host a local lock, load and store will do.
//
// It is for small maps. find looks at every name before the one that it seeks; put, erase, load,
// pull, store and push copy all of it. Settings, names, some thousand entries.
class Dictionary {
 public:
	// Loads what is there.
	explicit Dictionary(std::string_view key) : value_(key) { error_ = load(); }

	// error says why what is there was not loaded; the dictionary is empty then.
	Error error() const { return error_; }

	// load takes the value of this host, or of the global tier if this host has none. A
	// dictionary that is nowhere is empty. After an error it is as it was.
	Error load() {
		auto [size, e] = value_.size();
		if (e == not_found) {
			bytes_.reset();
			used_ = count_ = 0;
			error_ = {};
			return {};
		}
		if (e)
			return e;
		if (size < std::int64_t(sizeof(Head)))
			return bad_content;
		if (size > std::int64_t(SIZE_MAX))
			return too_large;
		auto copy = detail::allocate<char>(std::size_t(size));
		if (!copy)
			return no_memory;
		auto [n, failed] = value_.read(0, copy.get(), std::size_t(size));
		if (failed)
			return failed;
		// The copy is this Faaslet's alone: what is checked stays so.
		Head h;
		if (n < sizeof h)
			return bad_content;
		std::memcpy(&h, copy.get(), sizeof h);
		if (h.magic != magic || h.bytes != n - sizeof h || !valid(copy.get() + sizeof h, h))
			return bad_content;
		bytes_ = std::move(copy);
		used_ = n - sizeof h;
		count_ = h.count;
		error_ = {};
		return {};
	}

	// pull loads what the global tier has; what was stored here and not pushed is lost.
	Error pull() {
		Error e = value_.pull();
		return e && e != not_found ? e : load();
	}

	// store puts the dictionary there for Faaslets of this host.
	Error store() const {
		Head h{magic, count_, used_};
		if (!bytes_)
			return value_.set(&h, sizeof h);
		std::memcpy(bytes_.get(), &h, sizeof h);
		return value_.set(bytes_.get(), sizeof h + used_);
	}

	// push stores it, and makes it the global value.
	Error push() const {
		Error e = store();
		return e ? e : value_.push();
	}

	std::size_t size() const { return count_; }

	// find returns what is under a name; not_found if nothing is. The bytes are the dictionary's,
	// until it is changed.
	Result<std::string_view> find(std::string_view name) const {
		for (std::size_t at = 0; at < used_;) {
			Entry entry = read(at);
			if (entry.name == name)
				return {entry.data, {}};
			at = entry.end;
		}
		return {{}, not_found};
	}

	// put has a name mean these bytes, which are copied. no_memory, too_large; nothing has changed
	// then.
	Error put(std::string_view name, std::string_view data) {
		std::size_t size = sizeof(Sizes);
		if (__builtin_add_overflow(size, name.size(), &size) ||
		    __builtin_add_overflow(size, data.size(), &size))
			return too_large;
		return replace(name, size, [&](char *at) {
			Sizes s{std::uint32_t(name.size()), std::uint32_t(data.size())};
			at = append(at, {reinterpret_cast<const char *>(&s), sizeof s});
			append(append(at, name), data);
		});
	}

	// erase forgets a name. not_found if there is none such, no_memory; nothing has changed then.
	Error erase(std::string_view name) {
		Error e = find(name).error;
		return e ? e : replace(name, 0, [](char *) {});
	}

	// each calls f(name, data) for every entry, the one that was put last at the end. f leaves the
	// dictionary alone.
	template <typename F>
	void each(F &&f) const {
		for (std::size_t at = 0; at < used_;) {
			Entry entry = read(at);
			f(entry.name, entry.data);
			at = entry.end;
		}
	}

 private:
	struct Head {
		std::uint32_t magic;
		std::uint32_t count;
		std::uint64_t bytes;  // of entries, which follow
	};
	struct Sizes {  // before each entry
		std::uint32_t name;
		std::uint32_t data;
	};
	struct Entry {
		std::string_view name, data;
		std::size_t end;
	};
	static constexpr std::uint32_t magic = 0x43494446;  // "FDIC"

	static bool valid(const char *at, const Head &h) {
		std::uint64_t left = h.bytes;
		std::uint32_t n = 0;
		for (; left > 0; n++) {
			Sizes s;
			if (left < sizeof s)
				return false;
			std::memcpy(&s, at, sizeof s);
			left -= sizeof s;
			if (s.name > left || s.data > left - s.name)
				return false;
			left -= std::uint64_t(s.name) + s.data;
			at += sizeof s + s.name + s.data;
		}
		return n == h.count;
	}

	static char *append(char *to, std::string_view bytes) {
		if (!bytes.empty())
			std::memcpy(to, bytes.data(), bytes.size());
		return to + bytes.size();
	}

	char *entries() const { return bytes_.get() + sizeof(Head); }

	Entry read(std::size_t at) const {
		Sizes s;
		std::memcpy(&s, entries() + at, sizeof s);
		const char *name = entries() + at + sizeof s;
		return {{name, s.name}, {name + s.name, s.data}, at + sizeof s + s.name + s.data};
	}

	// replace makes the dictionary anew without a name's entries, and with one of size bytes, or
	// none, that put writes at the end. The old bytes are there until it returns: what is put may
	// be part of them.
	template <typename F>
	Error replace(std::string_view name, std::size_t size, F &&put) {
		std::size_t all;
		if (__builtin_add_overflow(sizeof(Head) + used_, size, &all))
			return too_large;
		auto made = detail::allocate<char>(all);
		if (!made)
			return no_memory;
		std::uint32_t count = size > 0 ? 1 : 0;
		char *to = made.get() + sizeof(Head);
		for (std::size_t at = 0; at < used_;) {
			Entry entry = read(at);
			if (entry.name != name) {
				to = append(to, {entries() + at, entry.end - at});
				count++;
			}
			at = entry.end;
		}
		put(to);
		used_ = std::size_t(to - made.get()) - sizeof(Head) + size;
		count_ = count;
		bytes_.swap(made);
		return {};
	}

	Value value_;
	Error error_;
	detail::Buffer<char> bytes_;  // room for a Head, then the entries; none if it is empty
	std::size_t used_ = 0;  // bytes of entries
	std::uint32_t count_ = 0;
};

}  // namespace faasm

#endif
