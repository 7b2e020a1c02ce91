// Command faasm is the whole of Faasm in one binary: "faasm serve" is a host, and the
// other verbs are clients of a host's HTTP interface.
//
// The package reads flags, environment and files, and shows results to people. It
// knows no rule of the runtime: what a name, a limit or a module must be like is for
// the host to say, except where an answer here saves an upload.
//
// Results go to the standard output, in a form for people or, with --json, as the
// HTTP interface's JSON; everything else goes to the standard error. An error is one
// line "faasm: ...", with indented lines below it for the backtrace and the last words
// of a function. The exit status is one of the status constants in report.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/linux"
)

// defaultHost is where a host listens if nobody says otherwise.
const defaultHost = "http://127.0.0.1:8080"

// env is what a command has of the world outside it.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string // "NAME=value"

	// The global flags; valid once configure has returned.
	host   string
	tenant string
	config string // as given; see configFile
	json   bool
}

func main() {
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: environment()}
	os.Exit(e.main(os.Args[1:]))
}

// main runs the command line args and returns the exit status.
func (e *env) main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks the command to end; from then on the next one kills.
	defer context.AfterFunc(ctx, stop)()

	cmd := root(e)
	cmd.SetArgs(args)
	return e.report(ctx, cmd.ExecuteContext(ctx))
}

// root returns the command "faasm" with all its verbs.
func root(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "faasm",
		Short: "Run WebAssembly functions as Faaslets",
		Long: `faasm runs WebAssembly functions, each call in a fresh, isolated Faaslet.

Start a host with "faasm serve"; the other verbs speak to it.

Settings come, first to last, from the command line, from the environment
($FAASM_HOST for --host and so on), from the lines "name = value" of the
configuration file ($FAASM_CONFIG, or faasm/faasm.conf in the user's
configuration directory), and from the defaults.

Exit status: 0 success, 1 failure, 2 wrong usage, 3 no host answers,
4 the call failed, 130 interrupted.`,
		Version:       buildVersion().String(),
		SilenceErrors: true, // report prints them
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          runGroup,
		// A subcommand with a PersistentPreRunE of its own must call configure itself:
		// cobra runs only the nearest.
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return e.configure(cmd) },
	}
	cmd.SetIn(e.stdin)
	cmd.SetOut(e.stdout)
	cmd.SetErr(e.stderr)
	cmd.SetVersionTemplate("faasm {{.Version}}\n")
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		// pflag's own words repeat the value, which the errors of our flags quote.
		if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
			return usageError(cmd, "--%s: %w", bad.GetFlag().Name, errors.Unwrap(bad))
		}
		return usageError(cmd, "%w", err)
	})

	flags := cmd.PersistentFlags()
	flags.StringVar(&e.host, "host", defaultHost, "`URL` of the host")
	flags.StringVar(&e.tenant, "tenant", client.DefaultTenant, "`name` of the tenant who owns the functions")
	flags.StringVar(&e.config, "config", "", "configuration `file` [$FAASM_CONFIG]")
	flags.BoolVar(&e.json, "json", false, "print JSON")
	configurable(flags, "host", "tenant")

	cmd.AddCommand(
		newDeployCommand(e),
		newInvokeCommand(e),
		newCallCommand(e),
		newLogsCommand(e),
		newListCommand(e),
		newVersionsCommand(e),
		newRollbackCommand(e),
		newWarmCommand(e),
		newRemoveCommand(e),
		newStateCommand(e),
		newCollectCommand(e),
		newVersionCommand(e),
		newServeCommand(e),
		newRunCommand(e),
		newBenchCommand(e),
		newDemoCommand(e),
	)
	return cmd
}

// hostGC makes the collector run less often than by default, for the commands that are a
// host. Each call makes a kilobyte or more of garbage and a host's live heap is a few
// megabytes, so it would collect dozens of times a second, and a call that meets it waits
// up to a millisecond. The collector is made to believe in a live heap that is larger by
// 1/256 of the machine's memory: so much garbage can gather however little is alive, and
// the proportion beyond is $GOGC's as ever. A percentage that does the same for a small
// heap would let a large one, of many Faaslets that wait, grow to many times its size.
//
// It lasts until release is called.
func hostGC() (release func()) {
	const most = 128 << 20
	total, err := linux.MemTotal()
	if err != nil {
		return func() {}
	}
	ballast := make([]byte, min(total/256, most)) // never touched: it takes addresses and no memory
	return func() { runtime.KeepAlive(ballast) }
}

// configure fills the settings of cmd that its command line left alone.
func (e *env) configure(cmd *cobra.Command) error {
	file, err := configFile(e.config, e.environ)
	if err == nil {
		err = loadConfig(cmd.Flags(), configKeys(cmd.Root()), e.environ, file)
	}
	if err != nil {
		return &exitError{status: statusUsage, err: err}
	}
	// An empty tenant would mean all tenants to some requests.
	if !client.ValidName(e.tenant) {
		return &exitError{status: statusUsage, err: fmt.Errorf("%q is not a tenant's name: %s", e.tenant, nameRule)}
	}
	return nil
}

// client returns a client of the host that the settings name. Nothing is sent yet.
func (e *env) client() (*client.Client, error) {
	base := e.host
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	c, err := client.New(base, client.Options{UserAgent: "faasm/" + buildVersion().Version})
	if err != nil {
		return nil, &exitError{status: statusUsage, err: err}
	}
	return c, nil
}

// runGroup is the RunE of a command that only holds others: it shows its help, or
// names what it does not have.
func runGroup(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	verbs := map[string]bool{}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			verbs[c.Name()] = true
		}
	}
	if near := nearest(args[0], verbs); near != "" {
		return usageError(cmd, "unknown command %q; did you mean %q?", args[0], near)
	}
	return usageError(cmd, "unknown command %q", args[0])
}

// exactArgs demands one argument for each of names, and calls them by these names.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usageError(cmd, "%s is missing", names[len(args)])
		case len(args) > len(names):
			return usageError(cmd, "argument %q is one too many", args[len(names)])
		}
		for i, arg := range args {
			if arg == "" {
				return usageError(cmd, "%s is empty", names[i])
			}
		}
		return nil
	}
}

// checkName returns an error if name cannot name a function. The host checks it too;
// here the error can say more.
func checkName(cmd *cobra.Command, name string) error {
	if client.ValidName(name) {
		return nil
	}
	if tenant, function, ok := strings.Cut(name, "/"); ok && client.ValidName(tenant) && client.ValidName(function) {
		return usageError(cmd, "%q is not a function's name; write --tenant %s %s", name, tenant, function)
	}
	return usageError(cmd, "%q is not a function's name: %s", name, nameRule)
}

// nameRule is what client.ValidName checks.
const nameRule = "use 1 to 63 of a-z, 0-9, '.', '_' and '-', with a letter or a digit at both ends"
