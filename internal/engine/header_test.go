package engine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// realHeaders is the include directory of the C API, in the module cache.
func realHeaders(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/bytecodealliance/wasmtime-go/v39").Output()
	if err != nil {
		t.Fatalf("find the wasmtime module: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "build", "include")
}

func compileC(t *testing.T, source string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	file, exe := filepath.Join(dir, "check.c"), filepath.Join(dir, "check")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("gcc", append([]string{"-std=gnu11", "-Wall", "-Werror", "-Wno-unused-function", "-o", exe, file}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("compile:\n%s", out)
	}
	text, err := exec.Command(exe).CombinedOutput()
	if err != nil {
		t.Fatalf("run: %v\n%s", err, text)
	}
	return string(text)
}

// TestHeader_prototypes compiles our declarations after the real ones. C refuses a second
// declaration of a function that differs from the first.
func TestHeader_prototypes(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	source := "#include <wasm.h>\n#include <wasmtime.h>\n#include \"wasmtime.h\"\nint main(void) { return 0; }\n"
	// "wasmtime.h" is found beside the source first, so ours needs another name there.
	source = strings.Replace(source, `"wasmtime.h"`, fmt.Sprintf("%q", filepath.Join(here, "wasmtime.h")), 1)
	compileC(t, source, "-I", realHeaders(t))
}

// TestHeader_layouts prints size and offsets of every struct and the values of every enum
// that we declare, once with our header and once with the real ones.
func TestHeader_layouts(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("wasmtime.h")
	if err != nil {
		t.Fatal(err)
	}
	guarded := string(text)
	guarded = guarded[strings.Index(guarded, "#ifndef WASM_H"):]
	guarded = guarded[:strings.Index(guarded, "#endif")]

	var probes []string
	types := regexp.MustCompile(`(?s)typedef (?:struct|union)\s*\w*\s*\{(.*?)\}\s*(\w+);`).FindAllStringSubmatch(flatten(guarded), -1)
	if len(types) < 15 {
		t.Fatalf("found %d structs in wasmtime.h; the pattern is out of date", len(types))
	}
	for _, m := range types {
		probes = append(probes, fmt.Sprintf(`printf("%[1]s %%zu %%zu\n", sizeof(%[1]s), _Alignof(%[1]s));`, m[2]))
		for _, field := range fields(m[1]) {
			probes = append(probes, fmt.Sprintf(`printf("%[1]s.%[2]s %%zu %%zu\n", offsetof(%[1]s, %[2]s), sizeof(((%[1]s*)0)->%[2]s));`, m[2], field))
		}
	}
	for _, e := range regexp.MustCompile(`enum \{([^}]*)\}`).FindAllStringSubmatch(guarded, -1) {
		for name := range strings.SplitSeq(e[1], ",") {
			name, _, _ = strings.Cut(name, "=")
			probes = append(probes, fmt.Sprintf(`printf("%[1]s %%d\n", (int)%[1]s);`, strings.TrimSpace(name)))
		}
	}
	main := "#include <stdio.h>\n#include <stddef.h>\nint main(void) {\n" + strings.Join(probes, "\n") + "\nreturn 0; }\n"
	ours := compileC(t, fmt.Sprintf("#include %q\n", filepath.Join(here, "wasmtime.h"))+main)
	real := compileC(t, "#include <wasm.h>\n#include <wasmtime.h>\n"+main, "-I", realHeaders(t))
	if ours != real {
		t.Errorf("layouts differ\nours:\n%s\nreal:\n%s", ours, real)
	}
}

// flatten replaces an anonymous struct within a struct by its fields.
func flatten(s string) string {
	return regexp.MustCompile(`struct \{([^{}]*)\};`).ReplaceAllString(s, "$1")
}

// fields are the names declared in a struct's body.
func fields(body string) []string {
	var out []string
	for d := range strings.SplitSeq(body, ";") {
		d = strings.TrimSpace(d)
		if d == "" {
			continue
		}
		if m := regexp.MustCompile(`\(\*(\w+)\)`).FindStringSubmatch(d); m != nil {
			out = append(out, m[1])
			continue
		}
		words := strings.Fields(strings.ReplaceAll(d, "*", " "))
		out = append(out, words[len(words)-1])
	}
	return out
}
