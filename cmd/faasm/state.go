package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/faasm-go/faasm/client"
)

func newStateCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "state",
		Short: "Look at state, change it, lock it",
		Long: `state is about the values that functions share. It shows and changes what is in the
global tier, which all hosts see: what a function has set and not pushed is not there.

A value's NAME is any text. Each change gives the value another version; a change that
names the version it is meant for (--if-version) happens only if nobody was faster.`,
		Args: cobra.ArbitraryArgs,
		RunE: runGroup,
	}
	cmd.AddCommand(
		newStateGetCommand(e),
		newStatePutCommand(e),
		newStateListCommand(e),
		newStateRemoveCommand(e),
		newStateStatCommand(e),
		newStateLockCommand(e),
	)
	return cmd
}

// checkKey returns an error if key cannot be a value's.
func checkKey(cmd *cobra.Command, key string) error {
	if client.ValidKey(key) {
		return nil
	}
	return usageError(cmd, "%s is not the name of a value: use 1 to %d bytes of UTF-8", shortQuote(key), client.KeyBytesMax)
}

// shortQuote quotes what may be long.
func shortQuote(s string) string {
	const most = 40
	if len(s) > most {
		return fmt.Sprintf("%q...", s[:most])
	}
	return strconv.Quote(s)
}

// checkRange returns an error if r is not a range of bytes as HTTP writes it.
func checkRange(cmd *cobra.Command, r string) error {
	first, last, ok := strings.Cut(r, "-")
	for _, s := range []string{first, last} {
		if strings.Trim(s, "0123456789") != "" {
			ok = false
		}
	}
	if !ok || first == "" && last == "" {
		return usageError(cmd, "--range %q is not like 0-99 (the first hundred bytes), 100- (the rest) or -100 (the last hundred)", r)
	}
	return nil
}

// positive is a number above zero as a flag: a version of a value, or the token of a lock.
// 0 stands for "not set".
type positive uint64

// Set reads a number in decimal.
func (p *positive) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		return fmt.Errorf("%q is not a number above 0", text)
	}
	*p = positive(n)
	return nil
}

// String is empty for no number.
func (p *positive) String() string {
	if *p == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(*p), 10)
}

// Type names the value in help texts.
func (p *positive) Type() string { return "number" }

// defineConditions adds the flags that put and rm have in common.
func defineConditions(flags *pflag.FlagSet, o *client.WriteStateOptions) {
	flags.Var((*positive)(&o.IfVersion), "if-version", "only if the value is at this `version`")
	flags.Var((*positive)(&o.Fence), "fence", "only if the lock with this `token` is not over; see \"faasm state lock\"")
}

func newStateGetCommand(e *env) *cobra.Command {
	var output string
	var opts client.ReadStateOptions
	cmd := &cobra.Command{
		Use:   "get NAME",
		Short: "Write a value to the standard output or a file",
		Long: `get writes a value, byte for byte and nothing else, to the standard output or to a
file. All of it is of one version; if the value is replaced while it is on its way, get
fails, and a file is left as it was.`,
		Example: `  faasm state get model -o model.bin
  faasm state get log --range -1000`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: e.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkKey(cmd, args[0]); err != nil {
				return err
			}
			if cmd.Flags().Changed("range") {
				if err := checkRange(cmd, opts.Range); err != nil {
					return err
				}
			}
			return e.stateGet(cmd.Context(), args[0], output, opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&output, "output", "o", "", "write the value to `file`")
	flags.StringVar(&opts.Range, "range", "", "only these `bytes`: 0-99 is the first hundred, 100- the rest, -100 the last hundred")
	flags.Var((*positive)(&opts.IfVersion), "if-version", "only if the value is at this `version`")
	return cmd
}

func (e *env) stateGet(ctx context.Context, key, output string, opts client.ReadStateOptions) error {
	if err := checkOutputFile(output); err != nil {
		return err
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	defer c.Close()
	v, err := c.ReadState(ctx, e.tenant, key, opts)
	if err != nil {
		return err
	}
	defer v.Body.Close()
	if output == "" {
		return copyValue(e.stdout, v)
	}
	return writeFileWhole(output, func(w io.Writer) error { return copyValue(w, v) })
}

// copyValue writes a value to w.
func copyValue(w io.Writer, v *client.StateValue) error {
	n, err := io.Copy(w, v.Body)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s of %s came: the value was replaced while it was read, or the connection broke; try again", formatSize(uint64(n)), formatSize(uint64(v.Length)))
	}
	return err
}

// writeFileWhole makes what write writes the content of a file, once all has been
// written. What is not a regular file is written at once.
func writeFileWhole(name string, write func(io.Writer) error) (err error) {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		return errors.Join(write(f), f.Close())
	}
	// A link must stay one.
	if target, err := filepath.EvalSymlinks(name); err == nil {
		name = target
	}
	part := fmt.Sprintf("%s.%d.part", name, os.Getpid())
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	err = errors.Join(write(f), f.Close())
	if err == nil {
		err = os.Rename(part, name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return nil
}

func newStatePutCommand(e *env) *cobra.Command {
	var data string
	var opts client.WriteStateOptions
	cmd := &cobra.Command{
		Use:   "put NAME [FILE]",
		Short: "Write a value",
		Long: `put makes the content of FILE (- is the standard input) or of --data the value. Whoever
reads it meanwhile gets the old value or the new one, and if put fails, it is the old one.
Functions on other hosts see it when they pull.`,
		Example: `  faasm state put model model.bin
  faasm state put limits -d '{"rate": 5}' --if-absent`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				return exactArgs("NAME", "FILE")(cmd, args)
			}
			return exactArgs("NAME")(cmd, args)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return e.completeKey(cmd, args, prefix)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkKey(cmd, args[0]); err != nil {
				return err
			}
			hasData := cmd.Flags().Changed("data")
			switch {
			case hasData && len(args) == 2:
				return usageError(cmd, "give FILE or --data, not both")
			case !hasData && len(args) == 1 && isTerminal(e.stdin):
				return usageError(cmd, "FILE is missing; - is the standard input")
			case opts.IfAbsent && opts.IfVersion != 0:
				return usageError(cmd, "--if-version and --if-absent cannot both hold")
			}
			value, closeValue, err := e.openValue(cmd.Context(), args[1:], data, hasData)
			if err != nil {
				return err
			}
			defer closeValue()
			return e.statePut(cmd.Context(), args[0], value, opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&data, "data", "d", "", "the `value` itself")
	flags.BoolVar(&opts.IfAbsent, "if-absent", false, "only if there is no such value")
	defineConditions(flags, &opts)
	return cmd
}

// openValue returns what is to be written. The caller calls the func afterwards.
func (e *env) openValue(ctx context.Context, file []string, data string, hasData bool) (io.Reader, func(), error) {
	switch {
	case hasData:
		return strings.NewReader(data), func() {}, nil
	case len(file) == 0 || file[0] == "-":
		return untilDone(ctx, e.stdin), func() {}, nil
	}
	f, err := os.Open(file[0])
	if err != nil {
		return nil, nil, fmt.Errorf("read value: %w", err)
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		f.Close()
		return nil, nil, fmt.Errorf("read value: %s is a directory", file[0])
	}
	return f, func() { f.Close() }, nil
}

func (e *env) statePut(ctx context.Context, key string, value io.Reader, opts client.WriteStateOptions) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	defer c.Close()
	info, created, err := c.WriteState(ctx, e.tenant, key, value, opts)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(info)
	}
	what := "replaced"
	if created {
		what = "made"
	}
	return e.printf("%s %s: %s, version %s\n", what, printable(key), formatSize(uint64(info.Size)), info.Version)
}

func newStateListCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "ls [PREFIX]",
		Short: "List values, and what the tenant has stored",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError(cmd, "argument %q is one too many", args[1])
			}
			return nil
		},
		ValidArgsFunction: e.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts := client.ListStateOptions{}
			if len(args) == 1 {
				opts.Prefix = args[0]
			}
			return e.stateList(cmd.Context(), opts)
		},
	}
}

func (e *env) stateList(ctx context.Context, opts client.ListStateOptions) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	defer c.Close()
	all := client.StateList{Values: []client.StateEntry{}}
	for {
		list, err := c.ListState(ctx, e.tenant, opts)
		if err != nil {
			return err
		}
		all.Values = append(all.Values, list.Values...)
		all.Usage = list.Usage
		// A host whose next page begins where this one did would never come to an end.
		if list.Next <= opts.After {
			break
		}
		opts.After = list.Next
	}
	if e.json {
		return e.printJSON(all)
	}
	rows := [][]string{{"NAME", "SIZE", "VERSION", "LIST", "PUBLISHED"}}
	for i := range all.Values {
		v := &all.Values[i]
		size, list := "-", "-"
		if v.Version != 0 {
			size = formatSize(uint64(v.Size))
		}
		if v.ListElements > 0 {
			list = fmt.Sprintf("%d (%s)", v.ListElements, formatSize(uint64(v.ListBytes)))
		}
		rows = append(rows, []string{v.Name, size, versionText(v.Version), list, publishedText(v.Published)})
	}
	if err := e.printTable(rows); err != nil {
		return err
	}
	quota := ""
	if all.Usage.QuotaBytes > 0 {
		quota = " of " + formatSize(uint64(all.Usage.QuotaBytes))
	}
	keys := "names"
	if all.Usage.Keys == 1 {
		keys = "name"
	}
	return e.printf("tenant %s has %d %s, %s%s\n", e.tenant, all.Usage.Keys, keys, formatSize(uint64(max(0, all.Usage.Bytes))), quota)
}

func versionText(v client.StateVersion) string {
	if v == 0 {
		return "-"
	}
	return v.String()
}

func publishedText(versions []client.StateVersion) string {
	if len(versions) == 0 {
		return "-"
	}
	var texts []string
	for _, v := range versions {
		texts = append(texts, v.String())
	}
	return strings.Join(texts, ", ")
}

func newStateRemoveCommand(e *env) *cobra.Command {
	var opts client.WriteStateOptions
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Delete a value",
		Long: `rm deletes a value, its published versions, and the list under its name. Functions that
have it mapped keep the memory they see.`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: e.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkKey(cmd, args[0]); err != nil {
				return err
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			defer c.Close()
			if err := c.DeleteState(cmd.Context(), e.tenant, args[0], opts); err != nil {
				return err
			}
			if e.json { // the host's reply to this has no body
				return nil
			}
			return e.printf("deleted %s\n", printable(args[0]))
		},
	}
	defineConditions(cmd.Flags(), &opts)
	return cmd
}

func newStateStatCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:               "stat NAME",
		Short:             "Show the size and version of a value, and the list under its name",
		Args:              exactArgs("NAME"),
		ValidArgsFunction: e.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkKey(cmd, args[0]); err != nil {
				return err
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			defer c.Close()
			v, err := c.StatState(cmd.Context(), e.tenant, args[0])
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(v)
			}
			size := "-"
			if v.Version != 0 {
				size = fmt.Sprintf("%d bytes", v.Size)
				if v.Size >= 1024 {
					size += " (" + formatSize(uint64(v.Size)) + ")"
				}
			}
			return e.printTable([][]string{
				{"name", v.Name},
				{"size", size},
				{"version", versionText(v.Version)},
				{"published", publishedText(v.Published)},
				{"list", fmt.Sprintf("%d elements, %s", v.ListElements, formatSize(uint64(v.ListBytes)))},
			})
		},
	}
}

// completeKey offers names of values that a shell can take as they are.
func (e *env) completeKey(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return e.complete(cmd, args, prefix, func(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
		const most = 100
		list, err := c.ListState(ctx, e.tenant, client.ListStateOptions{Prefix: prefix, Limit: most})
		if err != nil {
			return nil, err
		}
		var out []cobra.Completion
		for _, v := range list.Values {
			if !strings.ContainsFunc(v.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
				out = append(out, v.Name)
			}
		}
		return out, nil
	})
}
