package test

import (
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/workloads"
)

var hostileTime = flag.Duration("hostile-time", 15*time.Second, "how long the hostile set runs")

func command(verb string, args ...string) *exec.Cmd {
	return exec.Command(binary, append([]string{verb}, args...)...)
}

// A chain 1,000 deep and a fan-out of 20,000 finish with the default limits on fewer than
// 50 threads.
func TestChain_deepAndWideOnFewThreads(t *testing.T) {
	h := serve(t, t.TempDir())
	h.deploy("", client.DeployOptions{}, "chain_deep", "fanout", "noop")
	stop := make(chan struct{})
	most := make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				most <- n
				return
			case <-time.After(time.Millisecond):
				n = max(n, h.count("task"))
			}
		}
	}()
	if got, err := h.invoke("", "chain_deep", "1000"); err != nil || strings.TrimSpace(got) != "500500" {
		t.Errorf("1,000 deep: %q, %v; want the sum 500500", got, err)
	}
	if got, err := h.invoke("", "fanout", "20000 noop"); err != nil || strings.TrimSpace(got) != "20000" {
		t.Errorf("20,000 wide: %q, %v", got, err)
	}
	close(stop)
	if n := <-most; n >= 50 {
		t.Errorf("%d threads; want fewer than 50", n)
	} else {
		t.Logf("%d threads at most", n)
	}
}

// Cancelling a call cancels its descendants.
func TestCancel_reachesDescendants(t *testing.T) {
	h := serve(t, t.TempDir())
	h.deploy("", client.DeployOptions{Timeout: time.Minute}, "hostile_chain_bomb", "hostile_spin_mem", "fanout", "echo")
	for _, tt := range []struct{ function, input string }{
		{"hostile_spin_mem", ""}, {"fanout", "50 hostile_spin_mem"}, {"hostile_chain_bomb", ""},
	} {
		info, err := h.Submit(ctx, "", tt.function, strings.NewReader(tt.input), client.InvokeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		h.until("the call runs", func() bool { return h.metric("faasm_faaslets_live") > 0 })
		if _, err := h.Cancel(ctx, info.ID); err != nil {
			t.Fatal(err)
		}
		got, err := h.Wait(ctx, info.ID)
		if err != nil || got.Outcome != client.OutcomeCancelled {
			t.Errorf("%s: %+v, %v; want cancelled", tt.function, got, err)
		}
		h.until("nothing of it is left", func() bool {
			return h.metric("faasm_faaslets_live") == 0 && h.metric("faasm_calls_waiting") == 0
		})
	}
	if got, err := h.invoke("", "echo", "x"); err != nil || got != "x" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

// A client that goes away cancels its call.
func TestInvoke_clientGoneCancels(t *testing.T) {
	h := serve(t, t.TempDir())
	h.deploy("", client.DeployOptions{Timeout: time.Minute}, "hostile_spin_mem")
	if _, err := h.Invoke(withTimeout(t, 200*time.Millisecond), "", "hostile_spin_mem", nil, client.InvokeOptions{}); err == nil {
		t.Fatal("a spin returned")
	}
	h.until("the call is gone", func() bool { return h.metric("faasm_faaslets_live") == 0 })
}

// hostileSet is every guest that misbehaves in a call. Those that do so while they are
// initialised are no functions that could be called.
func hostileSet() []string {
	var names []string
	for _, n := range workloads.Names() {
		if strings.HasPrefix(n, "hostile_") && !strings.HasPrefix(n, "hostile_init_") {
			names = append(names, n)
		}
	}
	return names
}

// The hostile set runs against a live host beside a tenant that behaves, whose calls all
// succeed. Afterwards nothing is left: no Faaslet, region, thread, descriptor, goroutine.
func TestHostile_besideGoodTenant(t *testing.T) {
	h := serve(t, t.TempDir())
	hostile := hostileSet()
	if len(hostile) < 15 {
		t.Fatalf("only %d hostile workloads: %v", len(hostile), hostile)
	}
	h.deploy("bad", client.DeployOptions{Timeout: 300 * time.Millisecond}, hostile...)
	h.deploy("good", client.DeployOptions{}, "echo", "wordcount", "pi", "counter", "fanout", "noop")

	good := func() error {
		if got, err := h.invoke("good", "echo", "ping"); err != nil || got != "ping" {
			return fmt.Errorf("echo: %q, %w", got, err)
		}
		if got, err := h.invoke("good", "counter", ""); err != nil || strings.TrimSpace(got) != "1" {
			return fmt.Errorf("counter: %q, %w; want 1 from a fresh Faaslet", got, err)
		}
		if got, err := h.invoke("good", "fanout", "20 noop"); err != nil || strings.TrimSpace(got) != "20" {
			return fmt.Errorf("fanout: %q, %w", got, err)
		}
		return nil
	}
	settle := func() {
		t.Helper()
		h.until("the host is quiet", func() bool {
			return h.metric("faasm_faaslets_live") == 0 && h.metric("faasm_calls_waiting") == 0 && h.metric("faasm_regions_in_use") == 0
		})
	}
	for range 20 {
		if err := good(); err != nil {
			t.Fatal(err)
		}
	}
	settle()
	goroutines, threads, files := h.metric("go_goroutines"), h.count("task"), h.count("fd")

	end := time.Now().Add(*hostileTime)
	var wg sync.WaitGroup
	var attacks, served atomic.Int64
	for g := range 6 {
		wg.Go(func() {
			for i := g; time.Now().Before(end); i++ {
				name := hostile[i%len(hostile)]
				_, err := h.invoke("bad", name, "")
				attacks.Add(1)
				var p *client.Problem
				if err != nil && !errors.As(err, &p) {
					t.Errorf("%s: %v", name, err)
					return
				}
				if p != nil && (p.Code == client.CodeInternal || p.Code == "") {
					t.Errorf("%s: %v", name, p)
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for time.Now().Before(end) {
				if err := good(); err != nil {
					t.Errorf("the tenant that behaves: %v", err)
					return
				}
				served.Add(3)
			}
		})
	}
	wg.Wait()
	t.Logf("%d hostile calls; %d good ones, all of which succeeded", attacks.Load(), served.Load())

	settle()
	h.Client.Close() // its idle connections are descriptors and goroutines of the host
	h.until("no goroutine is left over", func() bool { return h.metric("go_goroutines") <= goroutines+2 })
	h.until("no descriptor is left over", func() bool { return h.count("fd") <= files })
	// Go keeps threads it once needed; they are bounded by the places, not by the calls.
	if n := h.count("task"); n >= 50 {
		t.Errorf("%d threads afterwards, %d before; want fewer than 50", n, threads)
	}
	if err := good(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
