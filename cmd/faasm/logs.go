package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/faasm-go/faasm/client"
)

// logLineBytesMax is far above what a host sends as one line.
const logLineBytesMax = 1 << 20

// logsFlags are the flags of "faasm logs".
type logsFlags struct {
	follow bool
	tail   int
	call   string
}

func newLogsCommand(e *env) *cobra.Command {
	var f logsFlags
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "Show what a function's calls have printed",
		Long: `logs shows the lines that calls of a function wrote to their standard output and
standard error, each with its time, the last digits of its call's id, and the
stream. With --json each line is a JSON object.

With --call it shows all lines of that call; NAME may then be left out.`,
		Example: `  faasm logs resize -f
  faasm logs --call 0199c3f0b7aa4c1e8d0f3b5a6c7d8e9f`,
		Args: func(cmd *cobra.Command, args []string) error {
			if f.call != "" && len(args) == 0 {
				return nil
			}
			return exactArgs("NAME")(cmd, args)
		},
		ValidArgsFunction: e.completeFunction,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
				if err := checkName(cmd, name); err != nil {
					return err
				}
			}
			if f.tail < 0 {
				return usageError(cmd, "--tail %d is below 0", f.tail)
			}
			if f.call != "" && (f.follow || cmd.Flags().Changed("tail")) {
				return usageError(cmd, "--call shows all lines of one call; leave out --follow and --tail")
			}
			return e.logs(cmd.Context(), name, f)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.follow, "follow", "f", false, "go on with what is printed from now")
	flags.IntVar(&f.tail, "tail", 100, "begin with the last `n` lines")
	flags.StringVar(&f.call, "call", "", "only the lines of the call with this `id`")
	cmd.RegisterFlagCompletionFunc("call", e.completeCall)
	return cmd
}

func (e *env) logs(ctx context.Context, name string, f logsFlags) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	defer c.Close()
	if f.call == "" {
		opts := client.LogOptions{Tail: f.tail, Follow: f.follow}
		if f.tail == 0 {
			opts.Tail = -1 // the client's 0 is the host's default
		}
		r, err := c.FunctionLogs(ctx, e.tenant, name, opts)
		if err != nil {
			return err
		}
		defer r.Close()
		return e.printLog(r)
	}
	if name != "" {
		info, err := c.Call(ctx, f.call)
		if err != nil {
			return err
		}
		if info.Tenant != e.tenant || info.Function != name {
			return fmt.Errorf("call %s is of %s/%s, not of %s/%s", info.ID, info.Tenant, info.Function, e.tenant, name)
		}
	}
	log, err := c.CallLogs(ctx, f.call)
	if err != nil {
		return err
	}
	return e.printLog(bytes.NewReader(log))
}

// logLine is what "faasm logs --json" prints of each line.
type logLine struct {
	Time   *time.Time `json:"time,omitempty"`
	Call   string     `json:"call,omitempty"` // the first digits of its id
	Stream string     `json:"stream,omitempty"`
	Text   string     `json:"text"`
}

// printLog shows the lines of r as they come. On a terminal, control characters are
// shown as escapes, because guests wrote them; elsewhere the lines are left as they are.
func (e *env) printLog(r io.Reader) error {
	terminal := isTerminal(e.stdout)
	enc := json.NewEncoder(e.stdout)
	enc.SetEscapeHTML(false)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, logLineBytesMax)
	for lines.Scan() {
		var err error
		switch text := lines.Text(); {
		case e.json:
			err = enc.Encode(parseLogLine(text))
		case terminal:
			err = e.printf("%s\n", printable(text))
		default:
			err = e.printf("%s\n", text)
		}
		if err != nil {
			return err
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("read log: a line is longer than %s", formatSize(logLineBytesMax))
	} else if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	return nil
}

// parseLogLine reads "<time> <call> <stream> <text>". What is not of that form is all
// text.
func parseLogLine(line string) logLine {
	parts := strings.SplitN(line, " ", 4)
	if len(parts) == 4 {
		if t, err := time.Parse(time.RFC3339Nano, parts[0]); err == nil {
			return logLine{Time: &t, Call: parts[1], Stream: parts[2], Text: parts[3]}
		}
	}
	return logLine{Text: line}
}
