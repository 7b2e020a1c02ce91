package main

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/faasm-go/faasm/client"
)

func newDeployCommand(e *env) *cobra.Command {
	var name string
	var memory uint64
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "deploy FILE.wasm",
		Short: "Upload a module as a function, or as a function's new version",
		Long: `deploy uploads a WebAssembly module. The host compiles it and initialises it once;
every call then starts from the snapshot of its memory that this leaves. Only when all
of that is done does it replace the version that served before, to which "faasm
rollback" goes back.`,
		Example: `  faasm deploy hello.wasm
  faasm deploy build/resize.wasm --name thumbnail --memory 256MiB --timeout 30s`,
		Args: exactArgs("FILE.wasm"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []cobra.Completion{"wasm"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("name") {
				name = functionName(args[0])
				if !client.ValidName(name) {
					return usageError(cmd, "%q, from the file's name, is not a function's name (%s); choose one with --name", name, nameRule)
				}
			}
			if err := checkName(cmd, name); err != nil {
				return err
			}
			return e.deploy(cmd.Context(), args[0], name, client.DeployOptions{MemoryBytes: memory, Timeout: timeout})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "", "`name` of the function (default the file's, without .wasm)")
	sizeVar(flags, &memory, "memory", 0, "limit of its linear memory (default the host's own)")
	durationVar(flags, &timeout, "timeout", 0, "limit of the time of each call (default the host's own)")
	return cmd
}

// functionName is the name that a function gets from its module's file.
func functionName(file string) string {
	return strings.TrimSuffix(filepath.Base(file), ".wasm")
}

func (e *env) deploy(ctx context.Context, file, name string, opts client.DeployOptions) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	defer c.Close()
	wasm, err := readModule(file)
	if err != nil {
		return err
	}
	total := int64(len(wasm))
	p := startProgress(e.stderr, isTerminal(e.stderr), "uploading "+name)
	var compiling atomic.Bool
	opts.Progress = func(sent int64) {
		if sent < total {
			p.set(fmt.Sprintf("uploading %s: %s of %s", name, formatSize(uint64(sent)), formatSize(uint64(total))))
		} else if compiling.CompareAndSwap(false, true) {
			p.step("compiling and initialising " + name)
		}
	}
	info, created, err := c.Deploy(ctx, e.tenant, name, bytes.NewReader(wasm), opts)
	p.close()
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(info)
	}
	verb := "replaced"
	if created {
		verb = "deployed"
	}
	return e.printDeployed(verb, info)
}

// printDeployed shows what has become of an upload, one line for each step.
func (e *env) printDeployed(verb string, info *client.FunctionInfo) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s version %s (%s)\n", verb, printable(info.Name), printable(info.Version), formatSize(uint64(max(0, info.WasmBytes))))
	fmt.Fprintf(&b, "  compiled in %s\n", formatMicros(info.CompileMs*1000))
	if info.Initialised {
		fmt.Fprintf(&b, "  initialised in %s\n", formatMicros(info.InitialiseMs*1000))
	} else {
		b.WriteString("  nothing to initialise\n")
	}
	fmt.Fprintf(&b, "  snapshot %s (%s stored)\n", formatSize(uint64(max(0, info.SnapshotBytes))), formatSize(uint64(max(0, info.StoredBytes))))
	if info.StartUs > 0 {
		fmt.Fprintf(&b, "  expected start %s\n", formatMicros(info.StartUs))
	}
	if info.InitLog != "" {
		b.WriteString("  initialisation printed:\n")
		for line := range strings.Lines(info.InitLog) {
			fmt.Fprintf(&b, "    %s\n", printable(strings.TrimRight(line, "\r\n")))
		}
	}
	return e.printf("%s", b.String())
}
