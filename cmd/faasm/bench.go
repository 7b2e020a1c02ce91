package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/faasm-go/faasm/bench"
)

func newBenchCommand(e *env) *cobra.Command {
	var quick bool
	var about strings.Builder
	var names []string
	for _, b := range bench.Benches {
		about.WriteString("\n  " + b.Name + strings.Repeat(" ", 12-len(b.Name)) + b.About)
		names = append(names, b.Name)
	}
	cmd := &cobra.Command{
		Use:   "bench NAME",
		Short: "Measure this machine",
		Long: `Measures a host inside this process, without a server, against what others do on
the same machine and in the same run. The benches are:
` + about.String(),
		Args:      exactArgs("the name of a bench"),
		ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := bench.Find(args[0])
			if err != nil {
				return usageError(cmd, "%v", err)
			}
			hostGC()
			v := buildVersion()
			report, err := b.Measure(cmd.Context(), bench.Run{Quick: quick, Log: e.stderr}, v.Version, v.Commit)
			if err != nil {
				return err
			}
			if e.json {
				return report.WriteJSON(e.stdout)
			}
			return report.WriteTable(e.stdout)
		},
	}
	cmd.Flags().BoolVar(&quick, "quick", false, "take fewer samples, for 20 seconds at most")
	return cmd
}
