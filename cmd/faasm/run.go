package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/daemon"
)

func newRunCommand(e *env) *cobra.Command {
	var memory uint64
	var timeout time.Duration
	var with []string
	var trace bool
	cmd := &cobra.Command{
		Use:   "run FILE.wasm",
		Short: "Run a function once, without a host",
		Long: `Runs a function once in this process, as a host would, and ends with its return
code. Its input is the standard input and its output goes to the standard output;
what it logs goes to the standard error.

  faasm run hello.wasm < name.txt
  faasm run main.wasm --with worker=worker.wasm < input   # main chains "worker"`,
		Args: exactArgs("the file of a WebAssembly module"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.runOnce(cmd.Context(), args[0], with, api.Upload{MemoryBytes: memory, Timeout: timeout}, trace)
		},
	}
	f := cmd.Flags()
	sizeVar(f, &memory, "memory", 64<<20, "memory limit")
	durationVar(f, &timeout, "timeout", 30*time.Second, "time limit")
	f.StringArrayVar(&with, "with", nil, "`name=file` of another function, for this one to chain (may be repeated)")
	f.BoolVar(&trace, "trace", false, "print each host call to standard error")
	return cmd
}

// runOnce deploys a module to a host of its own and calls it once.
func (e *env) runOnce(ctx context.Context, file string, with []string, limits api.Upload, trace bool) error {
	dir, err := os.MkdirTemp("", "faasm-run-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	opts := daemon.Options{DataDir: dir, MemoryDefault: limits.MemoryBytes, TimeoutDefault: limits.Timeout}
	opts.TimeoutMax = max(time.Hour, limits.Timeout)
	if trace {
		opts.Trace = func(line string) { fmt.Fprintln(e.stderr, line) }
	}
	h, err := daemon.New(opts)
	if err != nil {
		return err
	}
	defer h.Close()

	// The name is only what the function sees as its own.
	name := strings.TrimSuffix(filepath.Base(file), ".wasm")
	if !client.ValidName(name) {
		name = "main"
	}
	deploy := func(name, file string) error {
		wasm, err := readModule(file)
		if err != nil {
			return err
		}
		info, _, err := h.Deploy(ctx, api.Upload{Tenant: client.DefaultTenant, Function: name, Wasm: wasm})
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		fmt.Fprint(e.stderr, info.InitLog)
		return nil
	}
	if err := deploy(name, file); err != nil {
		return err
	}
	for _, w := range with {
		other, otherFile, ok := strings.Cut(w, "=")
		if !ok || !client.ValidName(other) {
			return &exitError{status: statusUsage, err: fmt.Errorf("--with %q is not name=file", w)}
		}
		if err := deploy(other, otherFile); err != nil {
			return err
		}
	}
	var input []byte
	if !isTerminal(e.stdin) {
		if input, err = io.ReadAll(e.stdin); err != nil {
			return fmt.Errorf("read standard input: %w", err)
		}
	}
	id, result, done, err := h.Invoke(ctx, api.Invocation{Tenant: client.DefaultTenant, Function: name, Input: input})
	if err != nil {
		return err
	}
	defer done()
	lines, err := h.CallLogs(ctx, id)
	if err != nil {
		return err
	}
	for _, l := range lines {
		fmt.Fprintln(e.stderr, l.Text)
	}
	if _, err := io.Copy(e.stdout, bytes.NewReader(result.Output)); err != nil {
		return wrapStdout(err)
	}
	return runEnd(result)
}

// runEnd makes the exit status of how a call ended: the function's own return code, as
// of any program.
func runEnd(r *call.Result) error {
	if r.Outcome == call.Returned {
		if r.ReturnCode == 0 {
			return nil
		}
		return &exitError{status: int(r.ReturnCode) & 0xff, err: fmt.Errorf("the function returned %d", r.ReturnCode)}
	}
	x := &exitError{status: statusCallFailed, err: fmt.Errorf("%s: %s", r.Outcome, r.Failure.Message)}
	for _, f := range r.Failure.Backtrace {
		x.detail = append(x.detail, "at "+frameText(client.Frame(f)))
	}
	return x
}
