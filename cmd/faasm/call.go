package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/faasm-go/faasm/client"
)

func newCallCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "call",
		Short: "Look at calls, wait for them, cancel them",
		Args:  cobra.ArbitraryArgs,
		RunE:  runGroup,
	}
	cmd.AddCommand(
		newCallGetCommand(e),
		newCallWaitCommand(e),
		newCallCancelCommand(e),
		newCallListCommand(e),
		newCallOutputCommand(e),
	)
	return cmd
}

func newCallGetCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:               "get ID",
		Short:             "Show what the host knows of a call",
		Args:              exactArgs("ID"),
		ValidArgsFunction: e.completeCall,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			defer c.Close()
			info, err := c.Call(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return e.printCall(info)
		},
	}
}

func newCallWaitCommand(e *env) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait ID",
		Short: "Wait until a call is done, then show it",
		Long: `wait returns when the call is done. Its exit status is 0 if the call returned 0,
4 if it ended in another way, and 1 if --timeout passed before.`,
		Args:              exactArgs("ID"),
		ValidArgsFunction: e.completeCall,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			defer c.Close()
			info, err := waitCall(cmd.Context(), c, args[0], timeout)
			if err != nil {
				return err
			}
			return errors.Join(e.callError(info), e.printCall(info))
		},
	}
	durationVar(cmd.Flags(), &timeout, "timeout", 0, "give up after this time; the call goes on (default never)")
	return cmd
}

var errNotDone = errors.New("not done")

// waitCall waits for a call, for at most timeout unless that is 0.
func waitCall(ctx context.Context, c *client.Client, id string, timeout time.Duration) (*client.CallInfo, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, errNotDone)
		defer cancel()
	}
	info, err := c.Wait(ctx, id)
	if err != nil && errors.Is(context.Cause(ctx), errNotDone) {
		return nil, &exitError{status: statusFailure, err: fmt.Errorf("call %s is not done after %v; it goes on", id, timeout)}
	}
	return info, err
}

func newCallCancelCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:               "cancel ID",
		Short:             "End a call and the calls it has chained",
		Long:              `cancel ends a call and its descendants. A call that is done stays as it is.`,
		Args:              exactArgs("ID"),
		ValidArgsFunction: e.completeCall,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			defer c.Close()
			info, err := c.Cancel(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(info)
			}
			switch {
			case info.Done() && info.Outcome == client.OutcomeCancelled:
				return e.printf("cancelled %s\n", printable(info.ID))
			case info.Done():
				return e.printf("%s was done already: %s\n", printable(info.ID), printable(formatOutcome(info)))
			}
			return e.printf("cancelling %s\n", printable(info.ID))
		},
	}
}

func newCallListCommand(e *env) *cobra.Command {
	var function, state string
	var limit int
	var allTenants bool
	cmd := &cobra.Command{
		Use:               "list",
		Short:             "List calls, newest first",
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			filter := client.CallFilter{Tenant: e.tenant, Function: function, State: client.State(state), Limit: limit}
			switch filter.State {
			case "", client.StateQueued, client.StateRunning, client.StateDone:
			default:
				return usageError(cmd, "--state %s is not one of queued, running, done", state)
			}
			if limit < 1 {
				return usageError(cmd, "--limit %d is below 1", limit)
			}
			if allTenants {
				filter.Tenant = ""
			}
			return e.listCalls(cmd.Context(), filter)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&function, "function", "", "only calls of this `function`")
	flags.StringVar(&state, "state", "", "only calls in this `state`: queued, running or done")
	flags.IntVar(&limit, "limit", 20, "at most this `number` of calls")
	flags.BoolVarP(&allTenants, "all-tenants", "A", false, "calls of all tenants")
	cmd.RegisterFlagCompletionFunc("function", e.completeFunction)
	cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(
		[]cobra.Completion{string(client.StateQueued), string(client.StateRunning), string(client.StateDone)},
		cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (e *env) listCalls(ctx context.Context, filter client.CallFilter) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	defer c.Close()
	calls, err := c.Calls(ctx, filter)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(client.CallList{Calls: calls})
	}
	now := time.Now()
	rows := [][]string{{"CALL", "FUNCTION", "STATE", "OUTCOME", "WALL", "ACCEPTED"}}
	for i := range calls {
		info := &calls[i]
		function, outcome, wall := info.Function, "-", "-"
		if filter.Tenant == "" {
			function = info.Tenant + "/" + info.Function
		}
		if info.Done() {
			outcome = formatOutcome(info)
		}
		if info.Usage != nil {
			wall = formatMicros(float64(info.Usage.WallUs))
		}
		rows = append(rows, []string{info.ID, function, string(info.State), outcome, wall, formatAge(now, info.Accepted)})
	}
	return e.printTable(rows)
}

func newCallOutputCommand(e *env) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "output ID",
		Short:             "Write the output of a call that is done",
		Long:              `output writes a call's output, byte for byte and nothing else, to the standard output.`,
		Args:              exactArgs("ID"),
		ValidArgsFunction: e.completeCall,
		RunE: func(cmd *cobra.Command, args []string) error {
			if e.json {
				return usageError(cmd, "an output is bytes and has no JSON form; leave out --json")
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			defer c.Close()
			data, err := c.Output(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if output != "" {
				return os.WriteFile(output, data, 0o666)
			}
			_, err = e.stdout.Write(data)
			return wrapStdout(err)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to `file`")
	return cmd
}

// printCall shows all of info that is known.
func (e *env) printCall(info *client.CallInfo) error {
	if e.json {
		return e.printJSON(info)
	}
	now := time.Now()
	rows := [][]string{
		{"call", info.ID},
		{"function", info.Tenant + "/" + info.Function},
	}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	add("version", info.Version)
	add("state", string(info.State))
	if info.Done() {
		add("outcome", formatOutcome(info))
	}
	if info.Failure != nil {
		add("failure", info.Failure.Message)
		for _, f := range info.Failure.Backtrace {
			rows = append(rows, []string{"", "at " + frameText(f)})
		}
	}
	add("parent", info.Parent)
	if info.Async {
		add("attempt", fmt.Sprint(info.Attempt))
	}
	add("accepted", formatAge(now, info.Accepted))
	if u := info.Usage; u != nil {
		add("queued", formatMicros(float64(u.QueuedUs)))
		add("start", formatMicros(u.StartUs))
		add("wall", formatMicros(float64(u.WallUs)))
		add("cpu", formatMicros(float64(u.CPUUs)))
		add("memory", formatSize(u.MemoryBytes))
		add("host calls", fmt.Sprint(u.HostCalls))
	}
	if info.OutputBytes != nil {
		add("output", formatSize(uint64(max(0, *info.OutputBytes))))
	}
	return e.printTable(rows)
}

// formatOutcome is how a call that is done ended, in a word or two.
func formatOutcome(info *client.CallInfo) string {
	if info.Outcome == client.OutcomeReturned && info.ReturnCode != nil {
		return fmt.Sprintf("returned %d", *info.ReturnCode)
	}
	return strings.ReplaceAll(info.Outcome, "-", " ")
}
