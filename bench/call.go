package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/daemon"
	"github.com/faasm-go/faasm/workloads"
)

// loadResult is what one stretch of load gave.
type loadResult struct {
	rps      float64
	p50, p99 float64 // us
}

// load sends POST requests without a body over keep-alive connections for a time, and
// expects 200 from each. The client writes and reads by hand: net/http's client costs more
// than the server that is measured.
func load(addr, path string, connections int, d time.Duration) (loadResult, error) {
	var wg sync.WaitGroup
	all := make([]samples, connections)
	errs := make([]error, connections)
	start := time.Now()
	for i := range connections {
		wg.Go(func() { all[i], errs[i] = loadOne(addr, path, start.Add(d)) })
	}
	wg.Wait()
	elapsed := time.Since(start)
	var times samples
	for i := range all {
		if errs[i] != nil {
			return loadResult{}, errs[i]
		}
		times = append(times, all[i]...)
	}
	return loadResult{
		rps: float64(len(times)) / elapsed.Seconds(),
		p50: times.quantile(0.50, time.Microsecond), p99: times.quantile(0.99, time.Microsecond),
	}, nil
}

func loadOne(addr, path string, until time.Time) (samples, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\n\r\n", path, addr)
	r := bufio.NewReaderSize(conn, 4096)
	var times samples
	for {
		start := time.Now()
		if start.After(until) {
			return times, nil
		}
		if _, err := conn.Write(request); err != nil {
			return nil, err
		}
		if err := readReply(r); err != nil {
			return nil, fmt.Errorf("POST %s: %w", path, err)
		}
		times = append(times, time.Since(start))
	}
}

// readReply reads a reply with a Content-Length.
func readReply(r *bufio.Reader) error {
	status, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(status) < 12 || string(status[9:12]) != "200" {
		rest, _ := io.ReadAll(io.LimitReader(r, 2000))
		return fmt.Errorf("reply %q %q", status, rest)
	}
	length := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		const header = "Content-Length: "
		if len(line) > len(header) && string(line[:len(header)]) == header {
			for _, c := range line[len(header):] {
				if c >= '0' && c <= '9' {
					length = 10*length + int(c-'0')
				}
			}
		}
	}
	_, err = r.Discard(length)
	return err
}

func callBench(ctx context.Context, r *Run) error {
	e, err := daemon.NewEmbedded(daemon.Options{})
	if err != nil {
		return err
	}
	defer e.Close()
	noop := api.Upload{Tenant: "bench", Function: "noop", Wasm: workloads.Wasm("noop")}
	if _, _, err := e.Host.Deploy(ctx, noop); err != nil {
		return fmt.Errorf("deploy noop: %w", err)
	}
	bare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	// The other side of the comparison: net/http with a handler that reads the body and
	// answers nothing, as the no-op does.
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		io.Copy(io.Discard, q.Body)
		w.WriteHeader(http.StatusOK)
	})}
	go server.Serve(bare)
	defer server.Close()

	const connections = 8
	rounds, each := 7, time.Second
	if r.Quick {
		rounds, each = 5, 800*time.Millisecond
	}
	var ours, theirs struct{ rps, p50, p99 []float64 }
	var ratios []float64
	for i := -1; i < rounds; i++ { // the first round warms up
		a, err := load(e.Addr, "/f/bench/noop", connections, each)
		if err != nil {
			return err
		}
		b, err := load(bare.Addr().String(), "/", connections, each)
		if err != nil {
			return err
		}
		r.logf("call: round %d: %.0f/s, bare %.0f/s", i, a.rps, b.rps)
		if i < 0 {
			continue
		}
		ours.rps, ours.p50, ours.p99 = append(ours.rps, a.rps), append(ours.p50, a.p50), append(ours.p99, a.p99)
		theirs.rps, theirs.p50, theirs.p99 = append(theirs.rps, b.rps), append(theirs.p50, b.p50), append(theirs.p99, b.p99)
		ratios = append(ratios, a.rps/b.rps)
	}
	r.Add("http_rps", "1/s", median(ours.rps))
	r.Add("bare_rps", "1/s", median(theirs.rps))
	r.Add("http_over_bare", "ratio", median(ratios))
	r.Add("http_p50", "us", median(ours.p50))
	r.Add("http_p99", "us", median(ours.p99))
	r.Add("bare_p50", "us", median(theirs.p50))
	r.Add("bare_p99", "us", median(theirs.p99))
	return nil
}
