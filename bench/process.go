package bench

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// others are what a fresh Faaslet is compared with: a process, and containers. Each is made
// for a static C program that does nothing, and waited for.
type others struct {
	run      *Run
	dir      string
	exe      string // the program; empty if there is no C compiler
	pause    string // a program that stays
	runtimes []*ociRuntime
	thread   *ownThread
	null     *os.File

	processes samples
	cpu       time.Duration
}

// An ociRuntime makes containers.
type ociRuntime struct {
	name   string
	times  samples
	cpu    time.Duration
	failed error
	n      int // containers made, for their names
}

//go:embed forkexec/*.c
var programs embed.FS

// newOthers compiles the programs and makes a bundle for them.
func newOthers(ctx context.Context, r *Run) (o *others, err error) {
	o = &others{run: r}
	cc, err := exec.LookPath("gcc")
	if err != nil {
		return o, nil
	}
	if o.dir, err = os.MkdirTemp("", "faasm-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	rootfs := filepath.Join(o.dir, "rootfs")
	for _, name := range []string{"noop", "pause"} {
		source, err := programs.ReadFile("forkexec/" + name + ".c")
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(rootfs, 0o700); err != nil {
			return nil, err
		}
		cmd := exec.CommandContext(ctx, cc, "-O2", "-static", "-x", "c", "-o", filepath.Join(rootfs, name), "-")
		cmd.Stdin = bytes.NewReader(source)
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("compile %s.c: %w: %s", name, err, out)
		}
	}
	o.exe, o.pause = filepath.Join(rootfs, "noop"), filepath.Join(rootfs, "pause")
	for _, name := range []string{"crun", "runc"} {
		rt := &ociRuntime{name: name}
		if _, err := exec.LookPath(name); err != nil {
			rt.failed = fmt.Errorf("%s is not installed (apt-get install %s)", name, name)
		} else {
			rt.failed = o.spec(ctx, name)
		}
		o.runtimes = append(o.runtimes, rt)
	}
	if o.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	o.thread = newOwnThread()
	return o, nil
}

// spec writes the runtime's own default configuration, for the programs noop and pause.
func (o *others) spec(ctx context.Context, name string) error {
	for _, program := range []string{"noop", "pause"} {
		bundle := filepath.Join(o.dir, name+"-"+program)
		if err := os.Mkdir(bundle, 0o700); err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, name, "spec")
		cmd.Dir = bundle
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s spec: %w: %s", name, err, out)
		}
		path := filepath.Join(bundle, "config.json")
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var config map[string]any
		if err := json.Unmarshal(text, &config); err != nil {
			return fmt.Errorf("read the output of %s spec: %w", name, err)
		}
		process, _ := config["process"].(map[string]any)
		root, _ := config["root"].(map[string]any)
		if process == nil || root == nil {
			return fmt.Errorf("the output of %s spec has no process or root", name)
		}
		process["args"], process["terminal"] = []string{"/" + program}, false
		root["path"] = filepath.Join(o.dir, "rootfs")
		if text, err = json.Marshal(config); err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (o *others) close() {
	if o.thread != nil {
		o.thread.close()
	}
	if o.null != nil {
		_ = o.null.Close()
	}
	if o.dir != "" {
		_ = os.RemoveAll(o.dir)
	}
}

// round takes its part of the samples, one of so many.
func (o *others) round(rounds int) error {
	if o.exe == "" {
		return nil
	}
	for i := -1; i < o.run.pick(2000, 500)/rounds; i++ {
		took, cpu, err := timeProcess(nil, o.exe)
		if err != nil {
			return err
		}
		if i >= 0 {
			o.processes = append(o.processes, took)
			o.cpu += cpu
		}
	}
	for _, rt := range o.runtimes {
		for i := 0; i < o.run.pick(100, 20)/rounds && rt.failed == nil; i++ {
			rt.failed = o.thread.do(func() error { return o.container(rt) })
		}
	}
	return nil
}

// container makes one that runs noop, and waits for it.
func (o *others) container(rt *ociRuntime) error {
	rt.n++
	said, err := os.Create(filepath.Join(o.dir, "stderr"))
	if err != nil {
		return err
	}
	defer said.Close()
	took, cpu, err := timeProcess([]*os.File{o.null, o.null, said}, rt.name, "--root", filepath.Join(o.dir, rt.name), "run",
		"--bundle", filepath.Join(o.dir, rt.name+"-noop"), fmt.Sprintf("faasm-bench-%d-%d", os.Getpid(), rt.n))
	if err != nil {
		text, _ := os.ReadFile(said.Name())
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(text))
	}
	rt.times = append(rt.times, took)
	rt.cpu += cpu
	return nil
}

// timeProcess tells how long a process took from the moment it was asked for until it was
// reaped, and how much CPU time it and the children it waited for used. files are its first
// descriptors.
func timeProcess(files []*os.File, name string, args ...string) (took, cpu time.Duration, err error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	p, err := os.StartProcess(path, append([]string{name}, args...), &os.ProcAttr{
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Files: files,
	})
	if err != nil {
		return 0, 0, err
	}
	state, err := p.Wait()
	if err != nil {
		return 0, 0, err
	}
	took = time.Since(start)
	if !state.Success() {
		return 0, 0, fmt.Errorf("%s %s: %s", name, strings.Join(args, " "), state)
	}
	return took, state.UserTime() + state.SystemTime(), nil
}

// report adds the figures, beside that of a fresh Faaslet in us.
func (o *others) report(fresh float64) {
	r := o.run
	if o.exe == "" {
		for _, name := range []string{"forkexec_p50", "fresh_over_forkexec", "forkexec_cpu", "crun_p50", "crun_cpu", "runc_p50", "runc_cpu"} {
			r.Skip(name, "gcc is not installed")
		}
		return
	}
	p50 := o.processes.quantile(0.5, time.Microsecond)
	r.Add("forkexec_p50", "us", p50)
	r.Add("fresh_over_forkexec", "ratio", fresh/p50)
	r.Add("forkexec_cpu", "us", float64(o.cpu.Microseconds())/float64(len(o.processes)))
	for _, rt := range o.runtimes {
		if rt.failed != nil {
			r.Skip(rt.name+"_p50", rt.failed.Error())
			r.Skip(rt.name+"_cpu", rt.failed.Error())
			continue
		}
		r.Add(rt.name+"_p50", "us", rt.times.quantile(0.5, time.Microsecond))
		r.Add(rt.name+"_cpu", "us", float64(rt.cpu.Microseconds())/float64(len(rt.times)))
	}
}

// footprint adds what a process and a container take that do nothing and stay. What the
// kernel holds for a container is not in it.
func (o *others) footprint() error {
	if o.exe == "" {
		o.skipFootprint("process", "gcc is not installed")
		o.skipFootprint("container", "gcc is not installed")
		return nil
	}
	pid, stop, err := startPause(exec.Command(o.pause), "")
	if err != nil {
		return err
	}
	err = o.addFootprint("process", pid)
	stop()
	if err != nil {
		return err
	}
	why := "neither crun nor runc works here"
	for _, rt := range o.runtimes {
		if rt.failed != nil {
			continue
		}
		err := o.thread.do(func() error { return o.containerFootprint(rt.name) })
		if err == nil {
			return nil
		}
		why = err.Error()
	}
	o.skipFootprint("container", why)
	return nil
}

func (o *others) skipFootprint(name, why string) {
	o.run.Skip(name+"_pss", why)
	o.run.Skip(name+"_rss", why)
}

func (o *others) addFootprint(name string, pid int) error {
	pss, rss, err := footprint(strconv.Itoa(pid))
	if err != nil {
		return err
	}
	o.run.Add(name+"_pss", "KB", pss/1000)
	o.run.Add(name+"_rss", "KB", rss/1000)
	return nil
}

func (o *others) containerFootprint(name string) error {
	id := fmt.Sprintf("faasm-bench-%d-pause", os.Getpid())
	root, pidFile := filepath.Join(o.dir, name), filepath.Join(o.dir, "pid")
	pid, stop, err := startPause(exec.Command(name, "--root", root, "run", "--detach", "--pid-file", pidFile,
		"--bundle", filepath.Join(o.dir, name+"-pause"), id), pidFile)
	if err != nil {
		return err
	}
	defer stop()
	defer exec.Command(name, "--root", root, "delete", "--force", id).Run()
	return o.addFootprint("container", pid)
}

// startPause runs a command that is the program pause, or starts it and writes its process
// id to pidFile. It returns once the program runs. stop kills the command.
func startPause(cmd *exec.Cmd, pidFile string) (pid int, stop func(), err error) {
	out, in, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer out.Close()
	cmd.Stdout = in
	err = cmd.Start()
	in.Close()
	if err != nil {
		return 0, nil, err
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if _, err := bufio.NewReader(out).ReadByte(); err != nil {
		stop()
		return 0, nil, fmt.Errorf("start %s: it said nothing: %w", cmd, err)
	}
	if pidFile == "" {
		return cmd.Process.Pid, stop, nil
	}
	err = cmd.Wait()
	text, readErr := os.ReadFile(pidFile)
	pid, parseErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err := errors.Join(err, readErr, parseErr); err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", cmd, err)
	}
	return pid, stop, nil
}

// footprint reads a process's proportional and resident memory in bytes; pid may be "self".
func footprint(pid string) (pss, rss float64, err error) {
	text, err := os.ReadFile("/proc/" + pid + "/smaps_rollup")
	if err != nil {
		return 0, 0, err
	}
	read := func(key string) (float64, error) {
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, key); ok {
				kb, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
				return float64(kb << 10), err
			}
		}
		return 0, io.ErrUnexpectedEOF
	}
	pss, err1 := read("Pss:")
	rss, err2 := read("Rss:")
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, fmt.Errorf("read /proc/%s/smaps_rollup: %w", pid, err)
	}
	return pss, rss, nil
}

// cpuTime is what this process has used of its CPUs.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic("BUG: getrusage: " + err.Error())
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ownThread runs functions on one thread. Where a machine mounts both versions of cgroups,
// the newer is out of that thread's sight and its children's: crun refuses to run with
// both. On any other machine, and without the right to, nothing differs.
type ownThread struct {
	work chan func()
	done chan struct{}
}

func newOwnThread() *ownThread {
	t := &ownThread{work: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(t.done)
		// Never unlocked, so the thread ends with its goroutine.
		runtime.LockOSThread()
		const hybrid = "/sys/fs/cgroup/unified"
		if _, err := os.Stat(hybrid); err == nil && syscall.Unshare(syscall.CLONE_NEWNS) == nil {
			if syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "") == nil {
				_ = syscall.Unmount(hybrid, syscall.MNT_DETACH)
			}
		}
		for f := range t.work {
			f()
		}
	}()
	return t
}

func (t *ownThread) do(f func() error) error {
	result := make(chan error)
	t.work <- func() { result <- f() }
	return <-result
}

func (t *ownThread) close() {
	close(t.work)
	<-t.done
}
