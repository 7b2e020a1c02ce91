package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/faasm-go/faasm/client"
)

// inputBytesHeld is up to which size a file of input is read before it is sent, so
// that the host knows its length at once and can refuse it cleanly. A larger one is
// streamed.
const inputBytesHeld = 256 << 20

// invokeFlags are the flags of "faasm invoke".
type invokeFlags struct {
	data    string
	hasData bool
	async   bool
	timeout time.Duration
	output  string
}

func newInvokeCommand(e *env) *cobra.Command {
	var f invokeFlags
	cmd := &cobra.Command{
		Use:   "invoke NAME",
		Short: "Call a function",
		Long: `invoke calls a function and writes its output, byte for byte and nothing else,
to the standard output.

The input is what --data says; without it, the standard input up to its end,
unless that is a terminal. (In a loop that reads the standard input itself, give
--data '' to a function that needs none.)

With --async the call is recorded on the host's disk, its id is printed, and
"faasm call wait" and "faasm call output" fetch the rest.`,
		Example: `  faasm invoke hello -d world
  faasm invoke resize < photo.jpg > small.jpg
  faasm invoke resize -d @photo.jpg -o small.jpg
  id=$(faasm invoke report --async -d @input.csv) && faasm call wait $id`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: e.completeFunction,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkName(cmd, args[0]); err != nil {
				return err
			}
			f.hasData = cmd.Flags().Changed("data")
			if f.async && f.output != "" {
				return usageError(cmd, "--async has no output to write to a file yet")
			}
			return e.invoke(cmd.Context(), args[0], f)
		},
	}
	flags := cmd.Flags()
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "data-binary" { // curl's name for it
			name = "data"
		}
		return pflag.NormalizedName(name)
	})
	flags.StringVarP(&f.data, "data", "d", "", "the `input`, unchanged; @FILE is a file's content, @- the standard input's (also --data-binary)")
	flags.BoolVar(&f.async, "async", false, "do not wait: print the call's id")
	durationVar(flags, &f.timeout, "timeout", 0, "give the call less time than the function's own limit")
	flags.StringVarP(&f.output, "output", "o", "", "write the output to `file`")
	return cmd
}

// invocation is what "faasm invoke --json" prints.
type invocation struct {
	CallID       string           `json:"callId,omitempty"` // empty if the call never began
	Tenant       string           `json:"tenant"`
	Function     string           `json:"function"`
	Outcome      string           `json:"outcome,omitempty"`
	ReturnCode   *int32           `json:"returnCode,omitempty"`
	Output       *string          `json:"output,omitempty"`       // if it is UTF-8
	OutputBase64 []byte           `json:"outputBase64,omitempty"` // if it is not
	OutputBytes  *int             `json:"outputBytes,omitempty"`
	OutputFile   string           `json:"outputFile,omitempty"` // if --output was given, instead of the output
	Usage        *invocationUsage `json:"usage,omitempty"`
	Problem      *client.Problem  `json:"problem,omitempty"` // why it failed
}

// invocationUsage is client.Usage without what the reply to an invocation does not
// tell: "faasm call get" has that.
type invocationUsage struct {
	QueuedUs    int64   `json:"queuedUs"`
	StartUs     float64 `json:"startUs"`
	WallUs      int64   `json:"wallUs"`
	CPUUs       int64   `json:"cpuUs"`
	MemoryBytes uint64  `json:"memoryBytes"`
}

func newInvocationUsage(u client.Usage) *invocationUsage {
	return &invocationUsage{QueuedUs: u.QueuedUs, StartUs: u.StartUs, WallUs: u.WallUs, CPUUs: u.CPUUs, MemoryBytes: u.MemoryBytes}
}

func (e *env) invoke(ctx context.Context, name string, f invokeFlags) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := checkOutputFile(f.output); err != nil {
		return err
	}
	input, closeInput, err := e.openInput(ctx, f)
	if err != nil {
		return err
	}
	defer closeInput()

	opts := client.InvokeOptions{Timeout: f.timeout}
	if f.async {
		info, err := c.Submit(ctx, e.tenant, name, input, opts)
		if err != nil {
			return err
		}
		if e.json {
			return e.printJSON(info)
		}
		return e.printf("%s\n", printable(info.ID))
	}

	result := invocation{Tenant: e.tenant, Function: name}
	reply, err := c.Invoke(ctx, e.tenant, name, input, opts)
	if err != nil {
		if p, ok := errors.AsType[*client.Problem](err); ok && e.json {
			result.CallID, result.Outcome, result.ReturnCode = p.CallID, p.Outcome, p.ReturnCode
			if p.Usage != nil {
				result.Usage = newInvocationUsage(*p.Usage)
			}
			result.Problem = p
			return errors.Join(err, e.printJSON(result))
		}
		return err
	}
	if f.output != "" {
		if err := os.WriteFile(f.output, reply.Output, 0o666); err != nil {
			return fmt.Errorf("%w; while the host keeps the output: %q", err, "faasm call output "+reply.CallID)
		}
	}
	if !e.json {
		if f.output != "" {
			return nil
		}
		_, err := e.stdout.Write(reply.Output)
		return wrapStdout(err)
	}
	zero, size := int32(0), len(reply.Output)
	result.CallID, result.Outcome, result.ReturnCode = reply.CallID, client.OutcomeReturned, &zero
	result.Usage, result.OutputBytes = newInvocationUsage(reply.Usage), &size
	switch text := string(reply.Output); {
	case f.output != "":
		result.OutputFile = f.output
	case utf8.ValidString(text):
		result.Output = &text
	default:
		result.OutputBase64 = reply.Output
	}
	return e.printJSON(result)
}

// openInput returns the input that f asks for. A nil reader is an empty input. The
// caller calls the func when the input has been used.
func (e *env) openInput(ctx context.Context, f invokeFlags) (io.Reader, func(), error) {
	file, isFile := strings.CutPrefix(f.data, "@")
	switch {
	case f.hasData && !isFile && f.data == "", !f.hasData && isTerminal(e.stdin):
		return nil, func() {}, nil
	case f.hasData && !isFile:
		return strings.NewReader(f.data), func() {}, nil
	case !f.hasData, file == "-":
		return untilDone(ctx, e.stdin), func() {}, nil
	}
	r, err := os.Open(file)
	if err != nil {
		return nil, nil, fmt.Errorf("read input: %w", err)
	}
	info, err := r.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory", file)
	}
	if err != nil {
		r.Close()
		return nil, nil, fmt.Errorf("read input: %w", err)
	}
	if info.Mode().IsRegular() && info.Size() <= inputBytesHeld {
		defer r.Close()
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, nil, fmt.Errorf("read input: %w", err)
		}
		return bytes.NewReader(data), func() {}, nil
	}
	return r, func() { r.Close() }, nil
}

// untilDone is r, whose reads end when ctx is done. A read of the standard input can't be
// interrupted, and the HTTP client does not return before the read of a body does; so r is
// read on a goroutine of its own, which ends with r or with the process.
func untilDone(ctx context.Context, r io.Reader) io.Reader {
	out, in := io.Pipe()
	go func() {
		_, err := io.Copy(in, r)
		in.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { in.CloseWithError(context.Cause(ctx)) })
	return out
}

// checkOutputFile returns an error if file could plainly not be written, before a
// call is made whose output would then be in the way. An empty name is no file.
func checkOutputFile(file string) error {
	if file == "" {
		return nil
	}
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		return fmt.Errorf("write output: %s is a directory", file)
	}
	if _, err := os.Stat(filepath.Dir(file)); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}
