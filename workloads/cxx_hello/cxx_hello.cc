// A plain WASI program in C++: it prints its input's lines, sorted, after a greeting that a
// static constructor made.
#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

namespace {

struct Greeting {
	std::string text;
	Greeting() : text("hello from a constructor") {}
};

Greeting greeting;

}  // namespace

int main() {
	std::vector<std::string> lines;
	for (std::string line; std::getline(std::cin, line);)
		lines.push_back(line);
	std::sort(lines.begin(), lines.end());
	std::cout << greeting.text << "\n";
	for (const auto &line : lines)
		std::cout << line << "\n";
	return 0;
}
