package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/faasm-go/faasm/client"
)

const (
	// completeTimeout is how long someone who pressed tab may wait for a host.
	completeTimeout = time.Second

	// completeCalls is how many of the newest calls are offered.
	completeCalls = 50
)

// completeFunction offers the names of the tenant's functions for one argument. If no
// host answers it offers nothing: a shell has no place for an error.
func (e *env) completeFunction(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return e.complete(cmd, args, prefix, func(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
		functions, err := c.Functions(ctx, e.tenant)
		var out []cobra.Completion
		for _, f := range functions {
			out = append(out, f.Name)
		}
		return out, err
	})
}

// completeVersion offers the versions of the function that the command line names.
func (e *env) completeVersion(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return e.complete(cmd, nil, prefix, func(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
		list, err := c.Versions(ctx, e.tenant, args[0])
		if err != nil {
			return nil, err
		}
		var out []cobra.Completion
		for _, v := range list.Versions {
			if v.Version != list.Serving {
				out = append(out, cobra.CompletionWithDesc(v.Version, "uploaded "+formatAge(time.Now(), v.Uploaded)))
			}
		}
		return out, nil
	})
}

// completeCall offers the ids of the tenant's newest calls, with what they are, for
// one argument.
func (e *env) completeCall(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return e.complete(cmd, args, prefix, func(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
		calls, err := c.Calls(ctx, client.CallFilter{Tenant: e.tenant, Limit: completeCalls})
		var out []cobra.Completion
		for i := range calls {
			what := calls[i].Function + ", " + string(calls[i].State)
			if calls[i].Done() {
				what = calls[i].Function + ", " + formatOutcome(&calls[i])
			}
			out = append(out, cobra.CompletionWithDesc(calls[i].ID, printable(what)))
		}
		return out, err
	})
}

func (e *env) complete(cmd *cobra.Command, args []string, prefix string, list func(context.Context, *client.Client) ([]cobra.Completion, error)) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	// cobra completes without running PersistentPreRunE.
	if err := e.configure(cmd); err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c, err := e.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
	defer cancel()
	all, err := list(ctx, c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	out := all[:0]
	for _, s := range all {
		if strings.HasPrefix(s, prefix) {
			out = append(out, s)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}
