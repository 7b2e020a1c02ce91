package workloads

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// compileCXX compiles C++ as guest/cpp promises that it can be, and returns what the compiler says.
func compileCXX(t *testing.T, source string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "clang++-19", "--target=wasm32-wasi", "-std=c++17", "-O2",
		"-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra", "-Wconversion", "-Werror",
		"-I../guest/c/include", "-I../guest/cpp/include", "-x", "c++", "-c", "-o", filepath.Join(t.TempDir(), "out.o"), "-")
	cmd.Stdin = strings.NewReader(source)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%v\n%s", err, out)
	}
	return ""
}

func needClang(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("clang++-19"); err != nil {
		if slices.Contains(strings.Split(os.Getenv("REQUIRE_FEATURES"), ","), "clang") {
			t.Fatalf("clang is a required feature: %v", err)
		}
		t.Skipf("cannot compile C++: %v", err)
	}
}

// Each header of the C++ SDK stands alone.
func TestCXX_headersCompile(t *testing.T) {
	needClang(t)
	headers, err := filepath.Glob("../guest/cpp/include/faasm/*.hpp")
	if err != nil {
		t.Fatal(err)
	}
	if len(headers) < 9 {
		t.Fatalf("found %d headers", len(headers))
	}
	for _, h := range headers {
		if said := compileCXX(t, "#include <faasm/"+filepath.Base(h)+">\n"); said != "" {
			t.Errorf("%s: %s", h, said)
		}
	}
}

// Each example of its README is a function as it stands.
func TestCXX_examplesCompile(t *testing.T) {
	needClang(t)
	readme, err := os.ReadFile("../guest/cpp/README.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```cpp\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(examples) < 8 {
		t.Fatalf("found %d examples", len(examples))
	}
	for _, e := range examples {
		if said := compileCXX(t, e[1]); said != "" {
			t.Errorf("%s\n%s", e[1], said)
		}
	}
	for _, object := range []string{"Vector", "AsyncVector", "Matrix", "SparseMatrix", "Dictionary", "List", "Counter", "ScopedLock"} {
		if !strings.Contains(string(readme), "faasm::"+object) {
			t.Errorf("there is no example of %s", object)
		}
	}
}

// An error that nobody looks at is a warning.
func TestCXX_forgottenErrorsWarn(t *testing.T) {
	needClang(t)
	for _, statement := range []string{
		"faasm::Vector<int>(\"k\").push();", "faasm::Counter(\"k\").increment();",
		"faasm::ScopedLock::local(\"k\", faasm::LockMode::read);",
	} {
		source := "#include <faasm/counter.hpp>\n#include <faasm/lock.hpp>\n#include <faasm/vector.hpp>\nvoid f() { " + statement + " }\n"
		if said := compileCXX(t, source); !strings.Contains(said, "nodiscard") {
			t.Errorf("%s: the compiler says %q", statement, said)
		}
	}
}
