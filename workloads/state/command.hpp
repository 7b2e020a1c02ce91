// Text commands for the examples of guest/cpp: a call's input is lines, "NAME ARGUMENT ...", and
// its output has a line for each: "ok" or what was asked for, or "error N" with an errno.
//
// Numbers are decimal, with up to six digits behind the point. printf and strtod would be larger
// than the examples.
#ifndef COMMAND_HPP
#define COMMAND_HPP

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include <faasm/error.hpp>

// Command is one line.
class Command {
 public:
	explicit Command(std::string_view line) : rest_(line) {}

	// word takes the next word; it is empty after the last.
	std::string_view word() {
		while (!rest_.empty() && rest_.front() == ' ')
			rest_.remove_prefix(1);
		std::string_view w = rest_.substr(0, rest_.find(' '));
		rest_.remove_prefix(w.size());
		return w;
	}

	// number takes the next word as a number, 0 if it is none.
	double number() {
		std::string_view w = word();
		bool negative = !w.empty() && w.front() == '-';
		double mantissa = 0, scale = 1;
		bool point = false;
		for (char c : w.substr(negative)) {
			if (c == '.')
				point = true;
			if (c < '0' || c > '9')
				continue;
			mantissa = mantissa * 10 + (c - '0');
			scale *= point ? 10 : 1;
		}
		return (negative ? -1 : 1) * mantissa / scale;
	}

	std::int64_t integer() {
		std::string_view w = word();
		bool negative = !w.empty() && w.front() == '-';
		std::uint64_t n = 0;
		for (char c : w.substr(negative))
			if (c >= '0' && c <= '9')
				n = n * 10 + std::uint64_t(c - '0');
		return std::int64_t(negative ? 0 - n : n);
	}

	std::size_t index() { return std::size_t(integer()); }

 private:
	std::string_view rest_;
};

// Answer is a line of the output.
class Answer {
 public:
	void add(std::string_view text) {
		if (used_)
			put(" ");
		used_ = true;
		put(text);
	}
	void add(std::int64_t n) {
		char digits[24], *end = digits + sizeof digits, *p = end;
		std::uint64_t left = n < 0 ? 0 - std::uint64_t(n) : std::uint64_t(n);
		do
			*--p = char('0' + left % 10);
		while ((left /= 10) != 0);
		if (n < 0)
			*--p = '-';
		add(std::string_view(p, std::size_t(end - p)));
	}
	void add(double x) {
		if (!(x > -9e12 && x < 9e12))
			return add(std::string_view("large"));
		std::int64_t millionths = std::int64_t(x * 1e6 + (x < 0 ? -0.5 : 0.5));
		std::uint64_t left = millionths < 0 ? 0 - std::uint64_t(millionths) : std::uint64_t(millionths);
		char text[32], *end = text + sizeof text, *p = end;
		bool started = false;
		for (int i = 0; i < 6; i++, left /= 10) {
			if (left % 10 == 0 && !started) {
				end--;
				p = end;
				continue;
			}
			started = true;
			*--p = char('0' + left % 10);
		}
		if (started)
			*--p = '.';
		do
			*--p = char('0' + left % 10);
		while ((left /= 10) != 0);
		if (millionths < 0)
			*--p = '-';
		add(std::string_view(p, std::size_t(end - p)));
	}

	// finish ends the line.
	void finish(faasm::Error e) {
		if (e) {
			used_ = false;
			add(std::string_view("error"));
			add(std::int64_t(e.number()));
		} else if (!used_) {
			put("ok");
		}
		put("\n");
		used_ = false;
	}

 private:
	static void put(std::string_view text) {
		if (faasm_append_call_output(text.data(), text.size()) != 0)
			std::abort();
	}

	bool used_ = false;
};

// unknown is what a function of commands returns for one that it does not know.
inline constexpr faasm::Error unknown{ENOSYS};

// run_commands has f(name, arguments, answer) do each line of the input. The result is for
// faasm_call to return. What f adds before it fails stays in the output.
template <typename F>
int32_t run_commands(F &&f) {
	std::size_t size;
	char *input = faasm_input(&size);
	if (input == nullptr)
		return errno;
	std::string_view rest(input, size);
	Answer answer;
	while (!rest.empty()) {
		std::string_view line = rest.substr(0, rest.find('\n'));
		rest.remove_prefix(line.size() < rest.size() ? line.size() + 1 : line.size());
		Command command(line);
		std::string_view name = command.word();
		if (!name.empty())
			answer.finish(f(name, command, answer));
	}
	return 0;
}

// memory_size is how much memory this Faaslet has, in bytes.
inline std::int64_t memory_size() { return std::int64_t(__builtin_wasm_memory_size(0)) << 16; }

#endif
