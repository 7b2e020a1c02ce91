package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/faasm-go/faasm/internal/daemon"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden outputs in testdata/script")

// TestMain makes this test binary the command "faasm" of the scripts.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"faasm": main})
}

// timestamp matches the moments in JSON.
var timestamp = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)`)

// scripts runs the scripts in a directory, with what setup does before each. They know
// the commands of testscript and these:
//
//   - status N PROGRAM ARGS: runs the program and demands exit status N
//   - requests: puts the requests the host has had into the standard output
//   - notime: writes TIME for each moment in the standard output
//   - await-follower: waits until someone follows a log
//   - await-file FILE: waits until there is such a file
func scripts(t *testing.T, dir string, setup func(*testscript.Env) error) {
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *rewrite,
		Setup: func(ts *testscript.Env) error {
			ts.Setenv("HOME", ts.WorkDir)
			// A program built with -race waits a second before it ends, for other
			// goroutines to report; the scripts run some two hundred.
			ts.Setenv("GORACE", "atexit_sleep_ms=0")
			return setup(ts)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": func(ts *testscript.TestScript, neg bool, args []string) {
				want, err := strconv.Atoi(args[0])
				if neg || err != nil || len(args) < 2 {
					ts.Fatalf("usage: status N PROGRAM ARGS")
				}
				err = ts.Exec(args[1], args[2:]...)
				got := 0
				if exit, ok := errors.AsType[*exec.ExitError](err); ok {
					got = exit.ExitCode()
				} else {
					ts.Check(err)
				}
				if got != want {
					ts.Fatalf("exit status %d, want %d", got, want)
				}
			},
			"requests": func(ts *testscript.TestScript, neg bool, args []string) {
				io.WriteString(ts.Stdout(), ts.Value("host").(*fakeHost).requests())
			},
			"notime": func(ts *testscript.TestScript, neg bool, args []string) {
				io.WriteString(ts.Stdout(), timestamp.ReplaceAllString(ts.ReadFile("stdout"), "TIME"))
			},
			"await-follower": func(ts *testscript.TestScript, neg bool, args []string) {
				_, err := await(context.Background(), ts.Value("host").(*fakeHost).follows)
				ts.Check(err)
			},
			"await-file": func(ts *testscript.TestScript, neg bool, args []string) {
				for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
					if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
						return
					} else if time.Now().After(end) {
						ts.Fatalf("waited a minute: %v", err)
					}
				}
			},
		},
	})
}

// TestScript runs the scripts of testdata/script, each against a fake host of its own.
func TestScript(t *testing.T) {
	scripts(t, "testdata/script", func(ts *testscript.Env) error {
		host := newFakeHost(t)
		ts.Defer(func() {
			host.CloseClientConnections()
			host.Close()
		})
		ts.Values["host"] = host
		ts.Setenv("FAASM_HOST", host.URL)
		ts.Setenv("HOST", host.Listener.Addr().String())
		return nil
	})
}

// TestScript_host runs the scripts of testdata/host, each against a host of its own, whose
// tenants may store 1 MiB of state.
func TestScript_host(t *testing.T) {
	scripts(t, "testdata/host", func(ts *testscript.Env) error {
		host, err := daemon.NewEmbedded(daemon.Options{StateQuota: 1 << 20})
		if err != nil {
			return err
		}
		ts.Defer(func() {
			if err := host.Close(); err != nil {
				t.Errorf("close host: %v", err)
			}
		})
		ts.Setenv("FAASM_HOST", host.URL())
		return nil
	})
}

// TestInvoke_interrupted shows that a signal ends a call, on the host too, although
// the standard input that the call reads has no end in sight.
func TestInvoke_interrupted(t *testing.T) {
	host := newFakeHost(t)
	defer host.Close()
	stdin, keepOpen, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer keepOpen.Close()
	defer stdin.Close()
	if _, err := keepOpen.WriteString("the beginning"); err != nil {
		t.Fatal(err)
	}

	cmd := exec.CommandContext(t.Context(), "faasm", "invoke", "hang", "--host", host.URL)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := await(t.Context(), host.began); err != nil {
		t.Fatalf("wait for the call: %v; stderr %q", err, &stderr)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != statusInterrupted {
		t.Errorf("exit %v, want status %d", err, statusInterrupted)
	}
	if stdout.Len() > 0 || stderr.Len() > 0 {
		t.Errorf("interrupted call printed %q and %q, want nothing", &stdout, &stderr)
	}
	if _, err := await(t.Context(), host.gone); err != nil {
		t.Errorf("wait for the host to notice: %v", err)
	}
}
