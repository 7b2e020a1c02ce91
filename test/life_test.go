package test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/faasm-go/faasm/client"
)

var ctx = context.Background()

// A function lives on over a restart, is replaced and is removed.
func TestHost_functionsSurviveRestart(t *testing.T) {
	data := t.TempDir()
	h := serve(t, data)
	h.deploy("acme", client.DeployOptions{MemoryBytes: 8 << 20, Timeout: 3 * time.Second}, "echo", "hello")
	if got, err := h.invoke("acme", "echo", "binary \x00\xff"); err != nil || got != "binary \x00\xff" {
		t.Errorf("echo: %q, %v", got, err)
	}
	h.kill()

	h = serve(t, data)
	f, err := h.Function(ctx, "acme", "echo")
	if err != nil || f.MemoryBytes != 8<<20 || time.Duration(f.Timeout) != 3*time.Second {
		t.Errorf("after a restart: %+v, %v", f, err)
	}
	if got, err := h.invoke("acme", "hello", "you"); err != nil || got != "hello, you\n" {
		t.Errorf("hello: %q, %v", got, err)
	}
	if err := h.Remove(ctx, "acme", "hello"); err != nil {
		t.Fatal(err)
	}
	h.kill()

	h = serve(t, data)
	if _, err := h.invoke("acme", "hello", ""); !errors.Is(err, &client.Problem{Code: client.CodeNoSuchFunction}) {
		t.Errorf("a removed function: %v; want no-such-function", err)
	}
	if _, err := h.invoke("other", "echo", ""); !errors.Is(err, &client.Problem{Code: client.CodeNoSuchFunction}) {
		t.Errorf("another tenant's function: %v; want no-such-function", err)
	}
}

// A failed upload leaves the version before it serving.
func TestDeploy_failureKeepsOldVersion(t *testing.T) {
	h := serve(t, t.TempDir())
	h.deploy("", client.DeployOptions{}, "echo")
	for _, bad := range []struct{ wasm, code string }{
		{"", "invalid-module"}, {"not wasm at all", "invalid-module"}, {"\x00asm\x01\x00\x00\x00\x01\xff", "invalid-module"},
	} {
		_, _, err := h.Deploy(ctx, "", "echo", strings.NewReader(bad.wasm), client.DeployOptions{})
		if !errors.Is(err, &client.Problem{Code: client.Code(bad.code)}) {
			t.Errorf("deploy %q: %v; want %s", bad.wasm, err, bad.code)
		}
		if got, err := h.invoke("", "echo", "still here"); err != nil || got != "still here" {
			t.Errorf("after a failed upload echo says %q, %v", got, err)
		}
	}
}

// Every asynchronous call that was acknowledged has a result after kill -9 and restart,
// wherever it was when the host died.
func TestHost_kill9LosesNoAcceptedCall(t *testing.T) {
	data := t.TempDir()
	h := serve(t, data)
	h.deploy("", client.DeployOptions{Timeout: 5 * time.Second}, "echo", "hostile_spin_mem")

	var mu sync.Mutex
	accepted := map[string]string{} // id → input
	var spinning []string
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				input := fmt.Sprintf("call %d of %d", i, g)
				info, err := h.Submit(ctx, "", "echo", strings.NewReader(input), client.InvokeOptions{})
				if err != nil {
					return // the host is dead
				}
				mu.Lock()
				accepted[info.ID] = input
				mu.Unlock()
			}
		})
	}
	h.until("some calls are accepted", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(accepted) > 200
	})
	for range 3 {
		info, err := h.Submit(ctx, "", "hostile_spin_mem", nil, client.InvokeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		spinning = append(spinning, info.ID)
	}
	h.until("they run", func() bool {
		for _, id := range spinning {
			if info, err := h.Call(ctx, id); err != nil || info.State != client.StateRunning {
				return false
			}
		}
		return true
	})
	h.kill()
	wg.Wait()
	t.Logf("%d calls were accepted before the kill", len(accepted))

	h = serve(t, data)
	for id, input := range accepted {
		info, err := h.Wait(ctx, id)
		if err != nil || info.Outcome != client.OutcomeReturned {
			t.Fatalf("call %s: %+v, %v", id, info, err)
		}
		output, err := h.Output(ctx, id)
		if err != nil || string(output) != input {
			t.Fatalf("call %s: output %q, %v; want %q", id, output, err, input)
		}
	}
	for _, id := range spinning {
		info, err := h.Wait(ctx, id)
		if err != nil || info.Outcome != client.OutcomeDeadline || info.Attempt < 2 {
			t.Errorf("a call that ran when the host died: %+v, %v; want a deadline in its second attempt", info, err)
		}
	}
}

// A result that was seen before a crash is the same after it.
func TestHost_resultsSurviveKill9(t *testing.T) {
	data := t.TempDir()
	h := serve(t, data)
	h.deploy("", client.DeployOptions{}, "random")
	results := map[string]string{}
	for range 20 {
		info, err := h.Submit(ctx, "", "random", nil, client.InvokeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Wait(ctx, info.ID); err != nil {
			t.Fatal(err)
		}
		out, err := h.Output(ctx, info.ID)
		if err != nil {
			t.Fatal(err)
		}
		results[info.ID] = string(out)
	}
	h.kill()
	h = serve(t, data)
	for id, want := range results {
		if out, err := h.Output(ctx, id); err != nil || string(out) != want {
			t.Errorf("call %s: %q, %v; want %q as before the crash", id, out, err, want)
		}
	}
}

// SIGTERM ends the host when what it accepted is done, and refuses the rest.
func TestHost_sigtermDrains(t *testing.T) {
	data := t.TempDir()
	h := serve(t, data)
	h.deploy("", client.DeployOptions{Timeout: 1500 * time.Millisecond}, "hostile_spin_mem", "echo")
	type answer struct {
		err error
	}
	answers := make(chan answer, 4)
	for range 4 {
		go func() {
			_, err := h.invoke("", "hostile_spin_mem", "")
			answers <- answer{err}
		}()
	}
	var ids []string
	for range 10 {
		info, err := h.Submit(ctx, "", "echo", strings.NewReader("later"), client.InvokeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, info.ID)
	}
	h.until("four calls run", func() bool { return h.metric("faasm_faaslets_running") >= 4 })
	h.signal(syscall.SIGTERM)
	for range 4 {
		if a := <-answers; !errors.Is(a.err, &client.Problem{Code: client.CodeDeadline}) {
			t.Errorf("a call in flight: %v; want its own end, a deadline", a.err)
		}
	}
	<-h.done
	if h.err != nil {
		t.Errorf("the host ended with %v", h.err)
	}
	h = serve(t, data)
	for _, id := range ids {
		if info, err := h.Wait(ctx, id); err != nil || info.Outcome != client.OutcomeReturned {
			t.Errorf("call %s: %+v, %v", id, info, err)
		}
	}
}

// A host that is given no time to drain leaves its asynchronous calls for the next start.
func TestHost_drainTimeoutLeavesAsyncForNextStart(t *testing.T) {
	data := t.TempDir()
	h := serve(t, data, "--drain-timeout", "50ms")
	h.deploy("", client.DeployOptions{Timeout: 3 * time.Second}, "hostile_spin_mem")
	info, err := h.Submit(ctx, "", "hostile_spin_mem", nil, client.InvokeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h.until("the call runs", func() bool { return h.metric("faasm_faaslets_running") == 1 })
	h.signal(syscall.SIGTERM)
	<-h.done
	if h.err != nil {
		t.Errorf("the host ended with %v", h.err)
	}
	h = serve(t, data)
	if got, err := h.Wait(ctx, info.ID); err != nil || got.Outcome != client.OutcomeDeadline {
		t.Errorf("after the restart: %+v, %v; want it to have run to its deadline", got, err)
	}
}

// More calls than the queue takes are refused with 429 and Retry-After, and the host
// serves on.
func TestHost_overload(t *testing.T) {
	h := serve(t, t.TempDir(), "--max-queue", "8")
	h.deploy("bad", client.DeployOptions{Timeout: time.Second}, "hostile_spin_mem")
	h.deploy("good", client.DeployOptions{}, "echo")
	var wg sync.WaitGroup
	var mu sync.Mutex
	codes := map[client.Code]int{}
	for range 40 {
		wg.Go(func() {
			_, err := h.invoke("bad", "hostile_spin_mem", "")
			var p *client.Problem
			if !errors.As(err, &p) {
				t.Errorf("a spin ended with %v", err)
				return
			}
			mu.Lock()
			codes[p.Code]++
			mu.Unlock()
			if p.Code == client.CodeOverloaded && p.RetryAfter <= 0 {
				t.Error("refused without Retry-After")
			}
		})
	}
	h.until("calls are refused", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return codes[client.CodeOverloaded] > 0
	})
	if got, err := h.invoke("good", "echo", "hi"); err != nil || got != "hi" {
		t.Errorf("another tenant: %q, %v", got, err)
	}
	wg.Wait()
	if codes[client.CodeOverloaded]+codes[client.CodeDeadline] != 40 || codes[client.CodeDeadline] < 8 {
		t.Errorf("40 calls ended as %v", codes)
	}
}

// A second host on the same data directory, or the same port, is told so at once.
func TestServe_refusesTakenDataAndPort(t *testing.T) {
	h := serve(t, t.TempDir())
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--listen", "127.0.0.1:0", "--data-dir", h.data}, "calls.db"},
		{[]string{"--listen", strings.TrimPrefix(h.url, "http://"), "--data-dir", t.TempDir()}, "address already in use"},
		{[]string{"--listen", "127.0.0.1:0", "--data-dir", "/proc/nowhere"}, "/proc/nowhere"},
		{[]string{"--listen", "127.0.0.1:0", "--data-dir", t.TempDir(), "--default-memory", "5GiB"}, "memory"},
		{[]string{"--listen", "127.0.0.1:0", "--data-dir", t.TempDir(), "--log-format", "xml"}, "log format"},
	} {
		out, err := command("serve", tt.args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), tt.want) || strings.Count(strings.TrimSpace(string(out)), "\n") > 0 {
			t.Errorf("serve %v: %v, %q; want one line with %q", tt.args, err, out, tt.want)
		}
	}
}
