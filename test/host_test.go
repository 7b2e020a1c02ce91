// Package test tries the whole: the faasm binary as a process of its own, spoken to over
// HTTP, with hostile guests and faults.
package test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/workloads"
)

// binary is the faasm binary under test.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	if *historyHosts != "" {
		fmt.Fprintln(os.Stderr, serveHistoryHosts(*historyHosts))
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "faasm-test-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "faasm")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/faasm").CombinedOutput(); err != nil {
		fmt.Printf("build faasm: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// host is one `faasm serve` process.
type host struct {
	*client.Client
	t    *testing.T
	cmd  *exec.Cmd
	url  string
	data string
	log  *lockedBuffer
	done chan struct{} // closed when the process has ended
	err  error         // how; valid after done
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// serve starts a host on a free port. It is killed at the end of the test if it runs then.
func serve(t *testing.T, data string, args ...string) *host {
	t.Helper()
	h := &host{t: t, data: data, log: &lockedBuffer{}, done: make(chan struct{})}
	h.cmd = exec.Command(binary, append([]string{"serve", "--listen", "127.0.0.1:0", "--data-dir", data}, args...)...)
	h.cmd.Stderr = h.log
	h.cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+t.TempDir())
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		h.err = h.cmd.Wait()
		close(h.done)
	}()
	t.Cleanup(func() {
		h.kill()
		if t.Failed() {
			t.Logf("log of the host:\n%s", h.log)
		}
	})
	ready := regexp.MustCompile(`url=(http://\S+)`)
	h.until("the host is ready", func() bool {
		select {
		case <-h.done:
			t.Fatalf("the host ended: %v\n%s", h.err, h.log)
		default:
		}
		m := ready.FindStringSubmatch(h.log.String())
		if m != nil {
			h.url = m[1]
		}
		return m != nil
	})
	var err error
	if h.Client, err = client.New(h.url, client.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Client.Close)
	return h
}

// until waits for something to become true. The limit is for a hang, not for slowness.
func (h *host) until(what string, f func() bool) {
	h.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !f() {
		if time.Now().After(deadline) {
			h.t.Fatalf("waited two minutes until %s\n%s", what, h.log)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// kill is kill -9.
func (h *host) kill() {
	h.cmd.Process.Kill()
	<-h.done
}

func (h *host) signal(s syscall.Signal) {
	h.t.Helper()
	if err := h.cmd.Process.Signal(s); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) deploy(tenant string, opts client.DeployOptions, names ...string) {
	h.t.Helper()
	for _, name := range names {
		if _, _, err := h.Deploy(context.Background(), tenant, name, bytes.NewReader(workloads.Wasm(name)), opts); err != nil {
			h.t.Fatalf("deploy %s: %v", name, err)
		}
	}
}

// invoke calls a function and returns its output.
func (h *host) invoke(tenant, name, input string) (string, error) {
	r, err := h.Invoke(context.Background(), tenant, name, strings.NewReader(input), client.InvokeOptions{})
	if err != nil {
		return "", err
	}
	return string(r.Output), nil
}

// metric reads one value from /metrics.
func (h *host) metric(name string) float64 {
	h.t.Helper()
	text, err := h.Metrics(context.Background())
	if err != nil {
		h.t.Fatalf("metrics: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				h.t.Fatal(err)
			}
			return v
		}
	}
	h.t.Fatalf("there is no metric %s", name)
	return 0
}

// count is the number of entries in a directory of the host's in /proc: task or fd.
func (h *host) count(dir string) int {
	h.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", h.cmd.Process.Pid, dir))
	if err != nil {
		h.t.Fatal(err)
	}
	return len(entries)
}

func withTimeout(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
