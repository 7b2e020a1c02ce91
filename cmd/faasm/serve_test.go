package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/faasm-go/faasm/internal/daemon"
)

// parseServe reads the settings of "faasm serve" as the program does.
func parseServe(t *testing.T, args, environ []string, file string) (serveOptions, error) {
	t.Helper()
	var o serveOptions
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	flags.SetOutput(t.Output())
	o.define(flags, environ)
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if err := loadConfig(flags, configKeys(root(&env{})), environ, writeFile(t, file)); err != nil {
		return o, err
	}
	return o, o.check()
}

func TestServe_refusedSettings(t *testing.T) {
	for _, test := range []struct{ arg, want string }{
		{"--profile=", `profile "" is neither fast nor dense`},
		{"--profile=Fast", `profile "Fast" is neither fast nor dense`},
		{"--keep-versions=0", "--keep-versions 0 is below 1"},
		{"--keep-versions=-1", "--keep-versions -1 is below 1"},
		{"--keep-versions=all", "invalid"},
		{"--memory-budget=-1", `size "-1" is not like`},
		{"--memory-budget=50%", "unknown unit"},
		{"--memory-budget=64MB", "write 64MiB"},
		{"--init-timeout=0", "is not above zero"},
		{"--init-timeout=0s", "is not above zero"},
		{"--init-timeout=-1s", "is not above zero"},
		{"--registry-refresh=5", "has no unit"},
		{"--registry-refresh=0s", "is not above zero"},
		{"--max-input=2TiB", "larger than any memory"},
		{"--state-memory=-1", `size "-1" is not like`},
		{"--state-quota=1GB", "write 1GiB"},
		{"--state-quota=2EiB", "larger than any store"},
		{"--log-format=xml", "neither text nor json"},
	} {
		if _, err := parseServe(t, []string{test.arg}, nil, ""); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got error %v, want one with %q", test.arg, err, test.want)
		}
	}
}

// Each setting of the registry, of memory and of initialisation reaches the host, from
// each place that it can come from.
func TestServe_settingsReachTheHost(t *testing.T) {
	options := func(o serveOptions) daemon.Options {
		return daemon.Options{Registry: o.host.Registry, ClusterKey: o.host.ClusterKey, KeepVersions: o.host.KeepVersions,
			RegistryRefresh: o.host.RegistryRefresh, InitTimeout: o.host.InitTimeout, MemoryBudget: o.host.MemoryBudget, Profile: o.host.Profile,
			State: o.host.State, StateCA: o.host.StateCA, StateMemory: o.host.StateMemory, StateQuota: int64(o.stateQuota)}
	}
	args := []string{"--registry=s3://flag", "--cluster-key=flag.key", "--keep-versions=1", "--registry-refresh=1s",
		"--init-timeout=11s", "--memory-budget=1GiB", "--profile=dense",
		"--state=rediss://flag", "--state-ca=flag.pem", "--state-memory=1MiB", "--state-quota=1KiB"}
	environ := []string{"FAASM_REGISTRY=s3://env", "FAASM_CLUSTER_KEY=env.key", "FAASM_KEEP_VERSIONS=2", "FAASM_REGISTRY_REFRESH=2s",
		"FAASM_INIT_TIMEOUT=12s", "FAASM_MEMORY_BUDGET=2GiB", "FAASM_PROFILE=dense",
		"FAASM_STATE=rediss://env", "FAASM_STATE_CA=env.pem", "FAASM_STATE_MEMORY=2MiB", "FAASM_STATE_QUOTA=2KiB"}
	file := "registry = s3://file\ncluster-key = file.key\nkeep-versions = 3\nregistry-refresh = 3s\ninit-timeout = 13s\nmemory-budget = 3GiB\nprofile = dense\n" +
		"state = rediss://file\nstate-ca = file.pem\nstate-memory = 3MiB\nstate-quota = 3KiB\n"
	for _, test := range []struct {
		name          string
		args, environ []string
		file          string
		want          daemon.Options
	}{
		{"command line", args, environ, file, daemon.Options{Registry: "s3://flag", ClusterKey: "flag.key", KeepVersions: 1,
			RegistryRefresh: time.Second, InitTimeout: 11 * time.Second, MemoryBudget: 1 << 30, Profile: "dense",
			State: "rediss://flag", StateCA: "flag.pem", StateMemory: 1 << 20, StateQuota: 1 << 10}},
		{"environment", nil, environ, file, daemon.Options{Registry: "s3://env", ClusterKey: "env.key", KeepVersions: 2,
			RegistryRefresh: 2 * time.Second, InitTimeout: 12 * time.Second, MemoryBudget: 2 << 30, Profile: "dense",
			State: "rediss://env", StateCA: "env.pem", StateMemory: 2 << 20, StateQuota: 2 << 10}},
		{"file", nil, nil, file, daemon.Options{Registry: "s3://file", ClusterKey: "file.key", KeepVersions: 3,
			RegistryRefresh: 3 * time.Second, InitTimeout: 13 * time.Second, MemoryBudget: 3 << 30, Profile: "dense",
			State: "rediss://file", StateCA: "file.pem", StateMemory: 3 << 20, StateQuota: 3 << 10}},
		{"defaults", nil, nil, "", daemon.Options{KeepVersions: 10, RegistryRefresh: 5 * time.Second, InitTimeout: time.Minute, Profile: "fast"}},
	} {
		o, err := parseServe(t, test.args, test.environ, test.file)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if diff := cmp.Diff(test.want, options(o)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// A key that no other host has yet is told of, if other hosts need it.
func TestServe_clusterKeyToMake(t *testing.T) {
	there := filepath.Join(t.TempDir(), "cluster.key")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	absent := filepath.Join(t.TempDir(), "no", "cluster.key")
	for _, test := range []struct{ registry, key, want string }{
		{"s3://functions", absent, absent},
		{"s3://functions", there, ""},
		{"/var/lib/faasm/registry", absent, ""},
		{"registry", there, ""},
	} {
		o := serveOptions{host: daemon.Options{Registry: test.registry, ClusterKey: test.key}}
		if got := o.clusterKeyToMake(); got != test.want {
			t.Errorf("registry %s, key %s: %q is to be made, want %q", test.registry, test.key, got, test.want)
		}
	}
}
