package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"github.com/faasm-go/faasm/client"
)

func newCollectCommand(e *env) *cobra.Command {
	var keep int
	cmd := &cobra.Command{
		Use:   "collect",
		Short: "Delete old versions from the host's registry",
		Long: `collect deletes the versions of each function, of every tenant, beyond the newest
--keep, and the modules, machine code and snapshots that only they used. A version that
serves, or that "faasm rollback" would go back to, always stays.`,
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("keep") && keep < 1 {
				return usageError(cmd, "--keep %d is below 1", keep)
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			defer c.Close()
			info, err := c.Collect(cmd.Context(), keep)
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(info)
			}
			if *info == (client.CollectInfo{}) {
				return e.printf("nothing to collect\n")
			}
			return e.printTable([][]string{
				{"versions", strconv.Itoa(info.Versions)},
				{"modules", strconv.Itoa(info.Modules)},
				{"machine code", strconv.Itoa(info.Artefacts)},
				{"snapshots", strconv.Itoa(info.Protos)},
				{"freed", formatSize(uint64(max(0, info.Bytes)))},
			})
		},
	}
	cmd.Flags().IntVar(&keep, "keep", 0, "keep the newest `n` versions of each function (default the host's own setting)")
	return cmd
}
