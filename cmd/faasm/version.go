package main

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/faasm-go/faasm/client"
)

// versionTimeout is how long "faasm version" waits for a host to tell its version.
const versionTimeout = 2 * time.Second

// version is what this binary was built from.
type version struct {
	Version string `json:"version"`          // of the module; "devel" if it was built from a work tree
	Commit  string `json:"commit,omitempty"` // with "+dirty" if the work tree was not clean
	Go      string `json:"go"`
}

// buildVersion returns what the Go toolchain wrote into the binary.
func buildVersion() version {
	v := version{Version: "devel"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Go = info.GoVersion
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	dirty := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v.Commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	if v.Commit != "" {
		v.Commit += dirty
	}
	return v
}

// String is one line with all of v that is known.
func (v version) String() string {
	s := v.Version
	if v.Commit != "" {
		s += " (" + v.Commit + ")"
	}
	if v.Go != "" {
		s += " " + v.Go
	}
	return s
}

func newVersionCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:               "version",
		Short:             "Show the version of this program and of the host",
		Args:              exactArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), versionTimeout)
			defer cancel()
			host, err := c.Host(ctx)
			if cmd.Context().Err() != nil {
				return err
			}
			// Without a host there is still a version to show.
			if e.json {
				return e.printJSON(struct {
					Client version          `json:"client"`
					Host   *client.HostInfo `json:"host"`
				}{buildVersion(), host})
			}
			text := ""
			if err != nil {
				text = e.explain(err).Error()
			} else if text = host.Version; host.Commit != "" {
				text += " (" + host.Commit + ")"
			}
			return e.printTable([][]string{
				{"client", buildVersion().String()},
				{"host", text},
			})
		},
	}
}
