package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/faasm-go/faasm/client"
)

// lockStopTimeout is how long a command that is asked to end has for it.
const lockStopTimeout = 10 * time.Second

// fenceVariable is where a command finds the token of the lock that it runs under.
const fenceVariable = envPrefix + "FENCE"

func newStateLockCommand(e *env) *cobra.Command {
	var opts client.LockOptions
	cmd := &cobra.Command{
		Use:   "lock NAME -- COMMAND [ARGS...]",
		Short: "Run a command while holding a value's lock",
		Long: `lock waits for the global lock of NAME, which need not have a value, and runs COMMAND
while it holds it; the exit status is COMMAND's. Functions take the same lock with
lock_state_global_write or lock_state_global_read. It is let go of when COMMAND ends, and
when this process dies, however it dies.

If the lock is lost (its host goes away, or cannot reach the store), COMMAND gets SIGTERM,
and SIGKILL 10 seconds later; lock then fails. What COMMAND does before it notices can be
made harmless: changes with the token in $FAASM_FENCE are refused once the lock is over.`,
		Example: `  faasm state lock model -- sh -c 'train model.bin && faasm state put model model.bin --fence $FAASM_FENCE'
  faasm state lock --read --timeout 1m report -- ./report`,
		Args: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			switch {
			case len(args) == 0 || dash == 0:
				return usageError(cmd, "NAME is missing")
			case dash < 0 && len(args) > 1:
				return usageError(cmd, "write -- before the command")
			case dash < 0 || len(args) == 1:
				return usageError(cmd, "COMMAND is missing")
			case dash > 1:
				return usageError(cmd, "argument %q is one too many; write -- before the command", args[1])
			}
			return nil
		},
		ValidArgsFunction: e.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkKey(cmd, args[0]); err != nil {
				return err
			}
			return e.stateLock(cmd.Context(), args[0], args[1:], opts)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.Read, "read", false, "share the lock with others that read")
	durationVar(flags, &opts.Timeout, "timeout", 10*time.Second, "how long to wait for the lock, at most 5m")
	return cmd
}

// stateLock runs command under a lock. Its exit status is that of the error.
func (e *env) stateLock(ctx context.Context, key string, command []string, opts client.LockOptions) error {
	// What can't be run is not worth a lock.
	path, err := exec.LookPath(command[0])
	if err != nil {
		return fmt.Errorf("run command: %w", err)
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	defer c.Close()
	lock, err := c.Lock(ctx, e.tenant, key, opts)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-lock.Lost():
			stop()
		case <-ended:
		}
	})

	cmd := exec.CommandContext(running, path, command[1:]...)
	cmd.Args[0] = command[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.stdin, e.stdout, e.stderr
	cmd.Env = append(e.environ[:len(e.environ):len(e.environ)], fmt.Sprintf("%s=%d", fenceVariable, lock.Token()))
	// Without its lock it must not go on if this process is killed. The kernel minds the
	// thread that started it, so that one has to live as long.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = lockStopTimeout
	err = cmd.Run()
	close(ended)
	watch.Wait()
	lost := lock.Unlock()

	status := exitStatus(cmd)
	switch {
	case lost != nil && cmd.ProcessState == nil:
		return fmt.Errorf("%w; %s was not started", lost, command[0])
	case lost != nil:
		return fmt.Errorf("%w; %s ended with status %d", lost, command[0], status)
	case status < 0 || status == 0 && err != nil && ctx.Err() == nil:
		return fmt.Errorf("run command: %w", err)
	case status > 0:
		return &exitError{status: status, err: errors.New("the command failed"), quiet: true}
	}
	return nil
}

// exitStatus is the exit status of a command that has ended, as shells tell it, or -1.
func exitStatus(cmd *exec.Cmd) int {
	if cmd.ProcessState == nil {
		return -1
	}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return cmd.ProcessState.ExitCode()
}
