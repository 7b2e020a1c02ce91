package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/faasm-go/faasm/internal/daemon"
)

// serveOptions are the flags of "faasm serve".
type serveOptions struct {
	listen       string
	drainTimeout time.Duration
	logFormat    string
	input        uint64
	output       uint64
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

Anyone who can reach the listen address can run code on this host: it does not ask for
credentials yet. It listens on the loopback address unless told otherwise.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return e.serve(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", "127.0.0.1:8080", "`address` to take connections on; port 0 is any free one")
	f.StringVar(&o.host.DataDir, "data-dir", defaultDataDir(e.environ), "`directory` for functions and calls")
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
	return cmd
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
	switch o.logFormat {
	case "text":
		o.host.Log = slog.New(slog.NewTextHandler(e.stderr, nil))
	case "json":
		o.host.Log = slog.New(slog.NewJSONHandler(e.stderr, nil))
	default:
		return &exitError{status: statusUsage, err: fmt.Errorf("log format %q is neither text nor json", o.logFormat)}
	}
	if o.input > 1<<40 || o.output > 1<<32 {
		return &exitError{status: statusUsage, err: errors.New("--max-input or --max-output is larger than any memory could hold")}
	}
	o.host.InputMax, o.host.OutputMax = int64(o.input), int(o.output)
	v := buildVersion()
	o.host.Version, o.host.Commit = v.Version, v.Commit

	hostGC()
	// Before the data directory, because a port that is taken is the likelier mistake.
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", o.listen, err)
	}
	h, err := daemon.New(o.host)
	if err != nil {
		listener.Close()
		return err
	}
	log := o.host.Log
	log.Info("host is ready", "url", "http://"+listener.Addr().String(), "data", o.host.DataDir, "version", v.Version, "pid", os.Getpid())

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
