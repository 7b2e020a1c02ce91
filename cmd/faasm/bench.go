package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/faasm-go/faasm/bench"
)

func newBenchCommand(e *env) *cobra.Command {
	var quick bool
	var profile string
	var count int
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
			if b.Name != "density" && (cmd.Flags().Changed("profile") || cmd.Flags().Changed("count")) {
				return usageError(cmd, "--profile and --count are for the density bench")
			}
			if profile != profileFast && profile != profileDense {
				return usageError(cmd, "profile %q is neither fast nor dense", profile)
			}
			if count < 0 || count > 0 && count < bench.DensityLeast {
				return usageError(cmd, "--count is %d; it must be at least %d", count, bench.DensityLeast)
			}
			defer hostGC()()
			v := buildVersion()
			report, err := b.Measure(cmd.Context(), bench.Run{Quick: quick, Profile: profile, Count: count, Log: e.stderr}, v.Version, v.Commit)
			if err != nil {
				return err
			}
			if e.json {
				return report.WriteJSON(e.stdout)
			}
			return report.WriteTable(e.stdout)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&quick, "quick", false, "take fewer samples, for 20 seconds at most")
	f.StringVar(&profile, "profile", profileFast, "of the density bench: fast, or dense for Faaslets in less address space")
	f.IntVar(&count, "count", 0, "of the density bench: how many Faaslets (default 30000, dense 100000)")
	return cmd
}
