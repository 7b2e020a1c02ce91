package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/faasm-go/faasm/internal/daemon"
)

// serveOptions are the flags of "faasm serve".
type serveOptions struct {
	listen       string
	drainTimeout time.Duration
	logFormat    string
	input        uint64
	output       uint64
	stateQuota   uint64
	host         daemon.Options
}

func newServeCommand(e *env) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a host",
		Long: `Runs a host: it takes functions and calls over HTTP, and keeps both in its data
directory. SIGTERM and SIGINT drain it: it takes no more calls, finishes those it has,
and leaves asynchronous ones that do not end in time for its next start.

Functions, with their machine code and snapshots, are kept in a registry: a directory,
or an object store that several hosts share (--registry s3://...; its credentials come
from where AWS's own tools take them). Hosts trust what they find in it only if it was
written under their own cluster key, so the hosts of one registry must have the same
key file.

State that functions share has a global tier: a file in the data directory of a single
host, or a Redis server (7.0 or later) or cluster that several hosts share (--state
redis://...). A password in its URL is better given in $FAASM_STATE than on the command
line, where other users of the machine see it.

Anyone who can reach the listen address can run code on this host, and read and change
state: it does not ask for credentials yet. It listens on the loopback address unless told otherwise.`,
		Example: `  faasm serve --listen 0.0.0.0:8080 --data-dir /var/lib/faasm
  faasm serve --registry 's3://functions?region=eu-west-1' --cluster-key /etc/faasm/cluster.key
  faasm serve --state rediss://faasm:secret@store:6380 --state-ca /etc/faasm/store.pem
  faasm serve --profile dense --memory-budget 2GiB`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return e.serve(cmd.Context(), o) },
	}
	o.define(cmd.Flags(), e.environ)
	return cmd
}

// define adds the flags to f, all of them settings.
func (o *serveOptions) define(f *pflag.FlagSet, environ []string) {
	f.StringVar(&o.listen, "listen", "127.0.0.1:8080", "`address` to take connections on; port 0 is any free one")
	f.StringVar(&o.host.DataDir, "data-dir", defaultDataDir(environ), "`directory` for functions and calls")
	f.StringVar(&o.host.Registry, "registry", "", "`location` of the store of functions, a directory or a URL; hosts with the same URL serve the same functions (default registry in the data directory)")
	f.StringVar(&o.host.ClusterKey, "cluster-key", "", "`file` of the key, made if it is not there, under which machine code and snapshots are trusted; all hosts of one registry need the same (default cluster.key in the data directory)")
	f.IntVar(&o.host.KeepVersions, "keep-versions", 10, "how many of the newest versions of each function a collection leaves in the registry")
	durationVar(f, &o.host.RegistryRefresh, "registry-refresh", 5*time.Second, "time between two looks at what other hosts have deployed to a registry that is a URL")
	sizeVar(f, &o.host.MemoryBudget, "memory-budget", 0, "how much code, snapshots and idle regions may stay in memory between calls (default a quarter of the machine's memory)")
	f.StringVar(&o.host.Profile, "profile", profileFast, "what to be best at: fast, or dense for more Faaslets in less address space (256 MiB for each, with slower memory accesses)")
	f.StringVar(&o.host.State, "state", "", "`URL` of the global tier of state, redis or rediss; hosts with the same URL share state (default state.db in the data directory)")
	f.StringVar(&o.host.StateCA, "state-ca", "", "`file` with the certificates, in PEM, that the server of a rediss URL may be signed by (default those of the system)")
	sizeVar(f, &o.host.StateMemory, "state-memory", 0, "how much memory state may take on this host, half of it that of one tenant (default a quarter of the machine's memory)")
	sizeVar(f, &o.stateQuota, "state-quota", 0, "how much a tenant may store in the global tier; 0 is as much as there is room for")
	durationVar(f, &o.host.InitTimeout, "init-timeout", time.Minute, "limit of the time of a function's initialisation, when it is deployed")
	sizeVar(f, &o.host.MemoryDefault, "default-memory", 64<<20, "memory limit of a function that is deployed without one")
	sizeVar(f, &o.host.MemoryMax, "max-memory", 4<<30-64<<10, "highest memory limit that a function can have")
	durationVar(f, &o.host.TimeoutDefault, "default-timeout", 30*time.Second, "timeout of a function that is deployed without one")
	durationVar(f, &o.host.TimeoutMax, "max-timeout", time.Hour, "longest timeout that a function can have")
	sizeVar(f, &o.input, "max-input", 64<<20, "largest input of a call")
	sizeVar(f, &o.output, "max-output", 64<<20, "largest output of a call")
	f.IntVar(&o.host.Sched.QueueMax, "max-queue", 200_000, "calls that may wait to start, half of them of one tenant")
	f.IntVar(&o.host.Sched.LiveMax, "max-live", 0, "Faaslets alive at once, half of them of one tenant; 0 is what the kernel allows, up to 20000")
	durationVar(f, &o.host.Retention, "retention", 24*time.Hour, "how long results of asynchronous calls are kept")
	durationVar(f, &o.drainTimeout, "drain-timeout", 30*time.Second, "how long a host that is asked to stop waits for its calls")
	f.StringVar(&o.logFormat, "log-format", "text", "form of the host's own log on standard error: text or json")
	configurable(f)
}

// The profiles of a host.
const (
	profileFast  = "fast"
	profileDense = "dense"
)

// check finds what the flags alone can't: a value that no host can be started with.
func (o *serveOptions) check() error {
	switch {
	case o.logFormat != "text" && o.logFormat != "json":
		return fmt.Errorf("log format %q is neither text nor json", o.logFormat)
	case o.input > 1<<40 || o.output > 1<<32:
		return errors.New("--max-input or --max-output is larger than any memory could hold")
	case o.stateQuota > 1<<60:
		return errors.New("--state-quota is larger than any store could hold")
	case o.host.Profile != profileFast && o.host.Profile != profileDense:
		return fmt.Errorf("profile %q is neither fast nor dense", o.host.Profile)
	case o.host.KeepVersions < 1:
		return fmt.Errorf("--keep-versions %d is below 1", o.host.KeepVersions)
	}
	return nil
}

// clusterKeyToMake returns the file of the cluster key if the registry is one that hosts
// share and the file is not there yet, else "".
func (o *serveOptions) clusterKeyToMake() string {
	if !strings.Contains(o.host.Registry, "://") {
		return ""
	}
	if _, err := os.Stat(o.host.ClusterKey); errors.Is(err, fs.ErrNotExist) {
		return o.host.ClusterKey
	}
	return ""
}

// defaultDataDir is where a host keeps its data if nobody says otherwise: the state
// directory of the XDG specification, or /var/lib/faasm where there is no home.
func defaultDataDir(environ []string) string {
	vars := envMap(environ)
	if dir := vars["XDG_STATE_HOME"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, "faasm")
	}
	if home := vars["HOME"]; home != "" {
		return filepath.Join(home, ".local", "state", "faasm")
	}
	return "/var/lib/faasm"
}

// serve runs a host until ctx is done, and then drains it.
func (e *env) serve(ctx context.Context, o serveOptions) error {
	if err := o.check(); err != nil {
		return &exitError{status: statusUsage, err: err}
	}
	o.host.Log = slog.New(slog.NewTextHandler(e.stderr, nil))
	if o.logFormat == "json" {
		o.host.Log = slog.New(slog.NewJSONHandler(e.stderr, nil))
	}
	o.host.Registry = cmp.Or(o.host.Registry, filepath.Join(o.host.DataDir, "registry"))
	o.host.ClusterKey = cmp.Or(o.host.ClusterKey, filepath.Join(o.host.DataDir, "cluster.key"))
	o.host.InputMax, o.host.OutputMax, o.host.StateQuota = int64(o.input), int(o.output), int64(o.stateQuota)
	v := buildVersion()
	o.host.Version, o.host.Commit = v.Version, v.Commit

	defer hostGC()()
	// Before the data directory, because a port that is taken is the likelier mistake.
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", o.listen, err)
	}
	newKey := o.clusterKeyToMake()
	h, err := daemon.New(o.host)
	if err != nil {
		listener.Close()
		// A store that does not answer is not the host that other verbs speak to.
		return &exitError{status: statusFailure, err: err}
	}
	log := o.host.Log
	if newKey != "" {
		log.Warn("a new cluster key was made; the other hosts of this registry need it too", "file", newKey, "remedy", "copy the file to each of them and name it with --cluster-key")
	}
	log.Info("host is ready", "url", "http://"+listener.Addr().String(), "data", o.host.DataDir, "state", h.Info().State, "version", v.Version, "pid", os.Getpid())

	server := h.Server()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return errors.Join(fmt.Errorf("serve: %w", err), h.Close())
	case <-ctx.Done():
	}

	log.Info("host is draining", "timeout", o.drainTimeout)
	drain, cancel := context.WithTimeout(context.Background(), o.drainTimeout)
	defer cancel()
	h.StopAccepting()
	// The requests in flight first, then the calls that outlive theirs.
	if err := server.Shutdown(drain); err != nil {
		log.Warn("requests are cut off", "error", err)
		server.Close()
	}
	<-served
	if err := h.Drain(drain); err != nil {
		log.Warn("calls have not ended in time; asynchronous ones run again at the next start", "error", err)
	}
	if err := h.Close(); err != nil {
		return fmt.Errorf("close host: %w", err)
	}
	log.Info("host has stopped")
	return nil
}
