package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/faasm-go/faasm/client"
)

func newListCommand(e *env) *cobra.Command {
	var allTenants bool
	cmd := &cobra.Command{
		Use:               "ls",
		Short:             "List functions",
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			defer c.Close()
			tenant := e.tenant
			if allTenants {
				tenant = ""
			}
			functions, err := c.Functions(cmd.Context(), tenant)
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(client.FunctionList{Functions: functions})
			}
			return e.printFunctions(functions, allTenants)
		},
	}
	cmd.Flags().BoolVarP(&allTenants, "all-tenants", "A", false, "functions of all tenants")
	return cmd
}

func (e *env) printFunctions(functions []client.FunctionInfo, withTenant bool) error {
	now := time.Now()
	rows := [][]string{{"NAME", "VERSION", "SIZE", "SNAPSHOT", "START", "MEMORY", "TIMEOUT", "UPLOADED"}}
	if withTenant {
		rows[0] = append([]string{"TENANT"}, rows[0]...)
	}
	for _, f := range functions {
		row := append([]string{f.Name}, versionCells(&f, now)...)
		if withTenant {
			row = append([]string{f.Tenant}, row...)
		}
		rows = append(rows, row)
	}
	return e.printTable(rows)
}

// versionCells are what tables of functions and of versions show of a version: version,
// module, snapshot, start, limits, age.
func versionCells(f *client.FunctionInfo, now time.Time) []string {
	start := "-"
	if f.StartUs > 0 {
		start = formatMicros(f.StartUs)
	}
	return []string{f.Version, formatSize(uint64(max(0, f.WasmBytes))), formatSize(uint64(max(0, f.SnapshotBytes))), start,
		formatSize(f.MemoryBytes), f.Timeout.String(), formatAge(now, f.Uploaded)}
}

func newVersionsCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "versions NAME",
		Short: "List the versions of a function, newest first",
		Long: `versions lists the versions of a function that the host's registry keeps, and which
of them serves. "faasm rollback" makes another one serve; "faasm collect" deletes old
ones.`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: e.completeFunction,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkName(cmd, args[0]); err != nil {
				return err
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := c.Versions(cmd.Context(), e.tenant, args[0])
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(list)
			}
			now := time.Now()
			rows := [][]string{{"VERSION", "SIZE", "SNAPSHOT", "START", "MEMORY", "TIMEOUT", "UPLOADED", "STATE"}}
			for _, f := range list.Versions {
				state := "kept"
				if f.Version == list.Serving {
					state = "serving"
				}
				rows = append(rows, append(versionCells(&f, now), state))
			}
			return e.printTable(rows)
		},
	}
}

func newRollbackCommand(e *env) *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "rollback NAME",
		Short: "Make an older version of a function serve",
		Long: `rollback makes the version serve that served before this one, or the one that --to
names. It is not initialised again: its calls start from the snapshot of its own
deploy. Calls that run go on to their end.`,
		Example: `  faasm rollback resize
  faasm rollback resize --to 3f2a91c04d7e55aa`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: e.completeFunction,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkName(cmd, args[0]); err != nil {
				return err
			}
			// An empty version would be the one before.
			if cmd.Flags().Changed("to") && to == "" {
				return usageError(cmd, "--to is empty")
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			defer c.Close()
			info, err := c.Rollback(cmd.Context(), e.tenant, args[0], to)
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(info)
			}
			return e.printf("%s now serves version %s, uploaded %s\n", printable(info.Name), printable(info.Version), formatAge(time.Now(), info.Uploaded))
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "`version` to serve (default the one that served before)")
	cmd.RegisterFlagCompletionFunc("to", e.completeVersion)
	return cmd
}

func newWarmCommand(e *env) *cobra.Command {
	var count int
	cmd := &cobra.Command{
		Use:   "warm NAME --count N",
		Short: "Keep a function warm on the host",
		Long: `warm loads a function's code and snapshot, and keeps N clean regions of memory at hand
for its calls, so that so many can start at once without waiting for memory to be
mapped. It lasts until the host restarts, or the function is deployed, rolled back or
removed; --count 0 takes it back. A host that has no room for N keeps fewer.`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: e.completeFunction,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkName(cmd, args[0]); err != nil {
				return err
			}
			if !cmd.Flags().Changed("count") {
				return usageError(cmd, "--count is missing")
			}
			if count < 0 {
				return usageError(cmd, "--count %d is below 0", count)
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			defer c.Close()
			info, err := c.Warm(cmd.Context(), e.tenant, args[0], count)
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(info)
			}
			if info.Count == 0 {
				return e.printf("%s is kept warm no longer\n", args[0])
			}
			return e.printf("%s is warm: %d of %d regions are at hand\n", args[0], info.Ready, info.Count)
		},
	}
	cmd.Flags().IntVar(&count, "count", 0, "keep `n` regions at hand, up to 4096")
	return cmd
}

func newRemoveCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME",
		Short:             "Take a function out of service",
		Long:              `rm removes a function. Calls that run go on to their end.`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: e.completeFunction,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkName(cmd, args[0]); err != nil {
				return err
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			defer c.Close()
			if err := c.Remove(cmd.Context(), e.tenant, args[0]); err != nil {
				return err
			}
			if e.json { // the host's reply to this has no body
				return nil
			}
			return e.printf("removed %s\n", args[0])
		},
	}
}
