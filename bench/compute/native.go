package compute

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// nativeFlags are clang's -O3 for the machine's baseline, and two that keep the
// results the same as the guest's: a fused multiplication and addition rounds
// once where Wasm rounds twice. Without -fno-math-errno a square root would be
// a call, and no loop with one would be vectorised; it is in the guest's build
// too.
var nativeFlags = []string{"-std=c17", "-O3", "-ffp-contract=off", "-fno-math-errno"}

// BuildNative writes the sources into dir, which must exist, compiles them
// there with cc, a clang, and returns the absolute path of the program. It takes about a
// second. After an error dir may hold some of the files; the caller owns it in
// either case.
func BuildNative(ctx context.Context, dir, cc string) (exe string, err error) {
	units, err := writeSources(dir)
	if err != nil {
		return "", err
	}
	const name = "kernels-native"
	args := append([]string{}, nativeFlags...)
	args = append(args, "-o", name)
	args = append(args, units...)
	args = append(args, "-lm")
	if err := runCompiler(ctx, dir, cc, args); err != nil {
		return "", err
	}
	exe, err = filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		return "", fmt.Errorf("find native kernels: %w", err)
	}
	return exe, nil
}

// RunNative runs a kernel in the program that BuildNative made.
func RunNative(ctx context.Context, exe, kernel string, size Size, repeats int) (Result, error) {
	cmd := exec.CommandContext(ctx, exe)
	cmd.Stdin = bytes.NewReader(Request(kernel, size, repeats))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if text := strings.TrimSpace(stderr.String()); text != "" {
			return Result{}, fmt.Errorf("run native kernel %s: %w: %s", kernel, err, text)
		}
		return Result{}, fmt.Errorf("run native kernel %s: %w", kernel, err)
	}
	return ParseResult(stdout.Bytes())
}

// writeSources copies the embedded sources into dir, flat, and returns the
// names of those to compile.
func writeSources(dir string) (units []string, err error) {
	files, err := Sources.ReadDir("kernels")
	if err != nil {
		return nil, fmt.Errorf("list embedded kernels: %w", err)
	}
	for _, f := range files {
		text, err := fs.ReadFile(Sources, "kernels/"+f.Name())
		if err != nil {
			return nil, fmt.Errorf("read embedded %s: %w", f.Name(), err)
		}
		if err := os.WriteFile(filepath.Join(dir, f.Name()), text, 0o644); err != nil {
			return nil, fmt.Errorf("write kernel source: %w", err)
		}
		if filepath.Ext(f.Name()) == ".c" {
			units = append(units, f.Name())
		}
	}
	return units, nil
}

// runCompiler runs cc in dir; what it complained of becomes part of the error.
func runCompiler(ctx context.Context, dir, cc string, args []string) error {
	cmd := exec.CommandContext(ctx, cc, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("compile kernels with %s: %w\n%s", cc, err, bytes.TrimSpace(out))
	}
	return nil
}
