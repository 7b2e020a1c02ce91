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
	rows := [][]string{{"NAME", "VERSION", "SIZE", "MEMORY", "TIMEOUT", "ENTRY", "UPLOADED"}}
	if withTenant {
		rows[0] = append([]string{"TENANT"}, rows[0]...)
	}
	for _, f := range functions {
		row := []string{f.Name, f.Version, formatSize(uint64(max(0, f.WasmBytes))), formatSize(f.MemoryBytes),
			f.Timeout.String(), f.Entry, formatAge(now, f.Uploaded)}
		if withTenant {
			row = append([]string{f.Tenant}, row...)
		}
		rows = append(rows, row)
	}
	return e.printTable(rows)
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
