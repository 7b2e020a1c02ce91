package api_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/call"
)

// chunked hides the length of a reader from net/http.
func chunked(s string) io.Reader { return struct{ io.Reader }{strings.NewReader(s)} }

func TestInvoke_inputTooLarge(t *testing.T) {
	const bytesMax = 100_000
	s := serve(t, api.Options{InputBytesMax: bytesMax, ModuleBytesMax: bytesMax})
	for _, tc := range []struct {
		name   string
		size   int
		length bool
		ok     bool
	}{
		{"one byte too many", bytesMax + 1, true, false},
		{"one byte too many, chunked", bytesMax + 1, false, false},
		{"far too many", 10 * bytesMax, true, false},
		{"far too many, chunked", 10 * bytesMax, false, false},
		{"exactly the limit", bytesMax, true, true},
		{"exactly the limit, chunked", bytesMax, false, true},
		{"empty, chunked", 0, false, true},
	} {
		input := strings.Repeat("x", tc.size)
		for method, target := range map[string]string{"POST": "/f/default/echo", "PUT": "/v1/functions/default/echo"} {
			if method == "PUT" && tc.size == 0 {
				continue
			}
			var body io.Reader = strings.NewReader(input)
			if !tc.length {
				body = chunked(input)
			}
			r := s.do(t, method, target, body, "Expect", "100-continue")
			if tc.ok {
				if r.StatusCode/100 != 2 || method == "POST" && string(r.body) != input {
					t.Errorf("%s, %s: status %d and %d bytes", method, tc.name, r.StatusCode, len(r.body))
				}
				continue
			}
			if p := problem(t, r); p.Code != client.CodeTooLarge || !strings.Contains(p.Detail, "100000 bytes") {
				t.Errorf("%s, %s: %s: %s", method, tc.name, p.Code, p.Detail)
			}
		}
	}
}

// A client that goes on sending what was refused must still be able to read why: the
// connection is half closed, not reset.
func TestInvoke_refusalReachesAClientThatSendsOn(t *testing.T) {
	s := serve(t, api.Options{InputBytesMax: 1000})
	for _, head := range []string{"Transfer-Encoding: chunked\r\n\r\n800000\r\n", "Content-Length: 8388608\r\n\r\n"} {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			io.WriteString(conn, "POST /f/default/echo HTTP/1.1\r\nHost: x\r\n"+head)
			conn.Write(make([]byte, 8<<20)) // fails at some point
		}()
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%q: %v", head, err)
		}
		if p := problem(t, readReply(t, resp)); p.Code != client.CodeTooLarge {
			t.Errorf("%q: %s", head, p.Code)
		}
		conn.Close()
		<-sent
	}
}

func TestInvoke_lengthsThatLie(t *testing.T) {
	s := serve(t, api.Options{})
	const head = "POST /f/default/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
	for _, tc := range []struct {
		request string
		code    client.Code
	}{
		// More than anyone has: refused on the length alone, before a byte of it.
		{head + "Content-Length: 9223372036854775807\r\n\r\n", client.CodeTooLarge},
		{head + "Content-Length: 67108865\r\n\r\n", client.CodeTooLarge},
		{head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello", client.CodeBadRequest},
		{head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", client.CodeBadRequest},
		{head + "Transfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\nx", client.CodeBadRequest},
		{head + "Content-Length: 10\r\n\r\nshort", client.CodeBadRequest},
	} {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, tc.request)
		conn.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(conn)
		conn.Close()
		if err != nil {
			t.Fatalf("%q: %v", tc.request, err)
		}
		if want := `"code":"` + string(tc.code) + `"`; !strings.Contains(string(got), want) {
			t.Errorf("%q: got %q, want %s", tc.request[len(head):], got, want)
		}
	}
	if len(s.calls) != 0 {
		t.Errorf("%d calls ran on a broken input", len(s.calls))
	}
}

func TestInvoke_bodiesTakeBoundedMemory(t *testing.T) {
	s := serve(t, api.Options{BodyBytesInFlightMax: 5 << 20})
	running, release := make(chan struct{}), make(chan struct{})
	s.run["holds"] = func(_ context.Context, inv api.Invocation) (*call.Result, error) {
		running <- struct{}{}
		<-release
		return returned(0, nil), nil
	}
	three := strings.Repeat("x", 3<<20)
	done := make(chan reply)
	go func() { done <- s.do(t, "POST", "/f/default/holds", strings.NewReader(three)) }()
	<-running

	// So much that the client still sends when it is refused, and must yet be told.
	many := strings.Repeat("x", 32<<20)
	for _, body := range []io.Reader{strings.NewReader(many), chunked(many)} {
		r := s.do(t, "POST", "/f/default/echo", body, "Expect", "100-continue")
		if p := problem(t, r); p.Code != client.CodeOverloaded || r.Header.Get("Retry-After") != "1" {
			t.Errorf("with 3 of 5 MiB taken, 32 more: %s, Retry-After %q", p.Code, r.Header.Get("Retry-After"))
		}
	}
	if r := s.do(t, "POST", "/f/default/echo", strings.NewReader("small")); r.StatusCode != 200 {
		t.Errorf("a small body: status %d", r.StatusCode)
	}
	close(release)
	if r := <-done; r.StatusCode != 200 {
		t.Errorf("the call that held: status %d", r.StatusCode)
	}
	for range 3 { // what was refused gave its share back
		if r := s.do(t, "POST", "/f/default/echo", strings.NewReader(three)); r.StatusCode != 200 {
			t.Errorf("afterwards: status %d: %s", r.StatusCode, r.body)
		}
	}
}

func TestInvoke_inputAndOutputAreBytes(t *testing.T) {
	s := serve(t, api.Options{})
	all := make([]byte, 3*256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, input := range [][]byte{nil, {0}, []byte("\r\n\r\n"), all, bytes.Repeat(all, 100), bytes.Repeat(all, 10_000)} {
		for name, body := range map[string]io.Reader{"length": bytes.NewReader(input), "chunked": struct{ io.Reader }{bytes.NewReader(input)}} {
			r := s.do(t, "POST", "/f/default/echo", body)
			if r.StatusCode != 200 || !bytes.Equal(r.body, input) {
				t.Errorf("%d bytes, %s: status %d, %d bytes back", len(input), name, r.StatusCode, len(r.body))
			}
			id := r.Header.Get("Faasm-Call-Id")
			if later := s.do(t, "GET", "/v1/calls/"+id+"/output", nil); !bytes.Equal(later.body, input) {
				t.Errorf("%d bytes, %s: %d bytes at /output", len(input), name, len(later.body))
			}
		}
	}
}

func TestInvoke_replyHeaders(t *testing.T) {
	s := serve(t, api.Options{})
	r := s.do(t, "POST", "/f/default/echo", strings.NewReader("hello"))
	id := r.Header.Get("Faasm-Call-Id")
	r.Header.Del("Date")
	want := http.Header{
		"Faasm-Call-Id":          {id},
		"Faasm-Return-Code":      {"0"},
		"Faasm-Outcome":          {"returned"},
		"Faasm-Wall-Us":          {"1500"},
		"Faasm-Cpu-Us":           {"2"},     // of 1.001
		"Faasm-Start-Us":         {"2.913"}, //
		"Faasm-Queued-Us":        {"1"},     // of 0.001
		"Faasm-Memory-Bytes":     {"131072"},
		"Content-Type":           {"text/plain; charset=utf-8"},
		"Content-Length":         {"5"},
		"X-Content-Type-Options": {"nosniff"},
	}
	if diff := cmp.Diff(want, r.Header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if _, err := call.ParseID(id); err != nil {
		t.Errorf("Faasm-Call-Id: %v", err)
	}

	// Figures at the ends of their ranges.
	res := returned(0, nil)
	res.Usage = call.Usage{Wall: math.MaxInt64, CPU: -1, Start: 999_999_999, MemoryPeak: math.MaxUint64}
	s.run["odd"] = func(context.Context, api.Invocation) (*call.Result, error) { return res, nil }
	r = s.do(t, "POST", "/f/default/odd", nil)
	for key, want := range map[string]string{"Faasm-Wall-Us": "9223372036854776", "Faasm-Cpu-Us": "0", "Faasm-Start-Us": "999999.999", "Faasm-Memory-Bytes": "18446744073709551615", "Content-Length": "0"} {
		if got := r.Header.Get(key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
}

func TestInvoke_keepsConnectionsApart(t *testing.T) {
	s := serve(t, api.Options{})
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// Sent at once, so that a header of one reply could end up in another.
	for i := range 50 {
		fmt.Fprintf(conn, "POST /f/default/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nX-Request-Id: r%d\r\n\r\n%02d", []string{"echo", "nobody"}[i%2], i, i)
	}
	fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	replies := strings.Split(string(all), "HTTP/1.1 ")[1:]
	if len(replies) != 51 {
		t.Fatalf("%d replies", len(replies))
	}
	for i, r := range replies[:50] {
		run := i%2 == 0
		if !strings.Contains(r, fmt.Sprintf("\r\nX-Request-Id: r%d\r\n", i)) ||
			strings.HasPrefix(r, "200 OK\r\n") != run || strings.Count(r, "Faasm-Call-Id") != map[bool]int{true: 1}[run] ||
			run && !strings.HasSuffix(r, fmt.Sprintf("\r\n\r\n%02d", i)) {
			t.Errorf("reply %d: %q", i, r)
		}
	}
	if strings.Contains(replies[50], "Faasm") {
		t.Errorf("the last reply: %q", replies[50])
	}
}

func TestInvoke_contentTypes(t *testing.T) {
	s := serve(t, api.Options{})
	const octets, text = "application/octet-stream", "text/plain; charset=utf-8"
	for _, tc := range []struct{ output, want string }{
		{"\x00", octets},
		{"a\x00b", octets},
		{"\xff\xfea\x00", octets},
		{"caf\xe9", octets}, // Latin-1
		{"\xed\xa0\x80", octets},
		{"\xe2\x82", octets}, // the half of a character, at the end
		{strings.Repeat("a", 511) + "\xe2", octets},
		{strings.Repeat("a", 511) + "\xff\xff\xff\xff", octets},
		{"\x7f", octets},
		{"", octets},
		{"\x89PNG\r\n", octets},
		{"%PDF-1.7\n\xe2\xe3\xcf\xd3", octets},
		{"<html><script>alert(1)</script>", text},
		{"<svg onload=alert(1)>", text},
		{`{"a":1}`, text},
		{"GIF88a", text},
		{"a\ttab\r\n\f\x1b[1m", text},
		{"caf\u00e9", text},
		{strings.Repeat("a", 511) + "\u20ac and more", text}, // cut in the middle by the sniffing
		{strings.Repeat("a", 512) + "\x00", text},
		{"\x89PNG\r\n\x1a\n", "image/png"},
		{"\xff\xd8\xff\xe0", "image/jpeg"},
		{"GIF89a...", "image/gif"},
		{"GIF87a...", "image/gif"},
	} {
		r := s.do(t, "POST", "/f/default/echo", strings.NewReader(tc.output))
		if got := r.Header.Get("Content-Type"); got != tc.want {
			t.Errorf("output %.40q (%d bytes): %s, want %s", tc.output, len(tc.output), got, tc.want)
		}
		if got := r.Header.Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("output %.40q: X-Content-Type-Options %q", tc.output, got)
		}
	}
}

func TestInvoke_outcomes(t *testing.T) {
	s := serve(t, api.Options{})
	id := call.NewID()
	s.lines = []call.Line{{Call: id, Stream: call.Stdout, Text: "last words"}, {Call: id, Stream: call.System, Text: "not the guest's"}, {Call: id, Stream: call.Stderr, Text: "more"}}
	frames := []call.Frame{{FuncIndex: 7, FuncName: "boom", Offset: 12}, {FuncIndex: 8}}
	code := int32(-3)
	ran := call.Result{Started: epoch, Finished: epoch, Usage: call.Usage{Wall: 2000}}
	with := func(base call.Result, o call.Outcome, f *call.Failure) call.Result {
		base.Outcome, base.Failure = o, f
		return base
	}
	nonZero := ran
	nonZero.ReturnCode, nonZero.Output = code, []byte("half")
	for _, tc := range []struct {
		res  call.Result
		want client.Problem
		code string // header Faasm-Return-Code
		wall string // header Faasm-Wall-Us
	}{
		{with(nonZero, call.Returned, nil), client.Problem{Code: client.CodeReturnCode, Status: 500, Detail: "fails returned -3", ReturnCode: &code}, "-3", "2"},
		{with(ran, call.Trapped, &call.Failure{Message: "unreachable", Backtrace: frames}), client.Problem{Code: client.CodeTrap, Status: 500, Detail: "unreachable",
			Backtrace: []client.Frame{{FuncIndex: 7, FuncName: "boom", Offset: 12}, {FuncIndex: 8}}}, "", "2"},
		{with(ran, call.DeadlineExceeded, &call.Failure{Message: "stopped after 5s"}), client.Problem{Code: client.CodeDeadline, Status: 504, Detail: "stopped after 5s"}, "", "2"},
		{with(ran, call.Cancelled, &call.Failure{Message: "cancelled"}), client.Problem{Code: client.CodeCancelled, Status: 409, Detail: "cancelled"}, "", "2"},
		{with(call.Result{}, call.Cancelled, &call.Failure{Message: "cancelled in the queue"}), client.Problem{Code: client.CodeCancelled, Status: 409, Detail: "cancelled in the queue"}, "", ""},
		{with(ran, call.MemoryLimit, &call.Failure{Message: "grew past 64 MiB"}), client.Problem{Code: client.CodeMemoryLimit, Status: 507, Detail: "grew past 64 MiB"}, "", "2"},
		{with(call.Result{}, call.NoSuchFunction, nil), client.Problem{Code: client.CodeNoSuchFunction, Status: 404, Detail: `tenant "default" has no function "fails"`}, "", ""},
		{with(ran, call.HostLost, &call.Failure{Message: "the host crashed"}), client.Problem{Code: client.CodeHostLost, Status: 502, Detail: "the host crashed"}, "", "2"},
		{with(call.Result{}, call.Refused, &call.Failure{Message: "the queue is full"}), client.Problem{Code: client.CodeOverloaded, Status: 429, Detail: "the queue is full"}, "", ""},
	} {
		s.run["fails"] = func(context.Context, api.Invocation) (*call.Result, error) { return &tc.res, nil }
		r := s.do(t, "POST", "/f/default/fails", strings.NewReader("in"))
		got := problem(t, r)
		id := r.Header.Get("Faasm-Call-Id")
		want := tc.want
		want.Type, want.Title = "/problems/"+string(want.Code), api.NewProblem(want.Code, "").Title
		want.CallID, want.Tenant, want.Function = id, "default", "fails"
		want.Instance, want.Log, want.RequestID = "/v1/calls/"+id, "last words\nmore\n", got.RequestID
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.res.Outcome, diff)
		}
		if g := r.Header.Get("Faasm-Outcome"); g != tc.res.Outcome.String() {
			t.Errorf("%s: Faasm-Outcome %q", tc.res.Outcome, g)
		}
		if g := r.Header.Get("Faasm-Return-Code"); g != tc.code {
			t.Errorf("%s: Faasm-Return-Code %q, want %q", tc.res.Outcome, g, tc.code)
		}
		if g := r.Header.Get("Faasm-Wall-Us"); g != tc.wall {
			t.Errorf("%s: Faasm-Wall-Us %q, want %q", tc.res.Outcome, g, tc.wall)
		}
		if g := r.Header.Get("Retry-After"); (g == "1") != (tc.res.Outcome == call.Refused) {
			t.Errorf("%s: Retry-After %q", tc.res.Outcome, g)
		}
		if out := s.do(t, "GET", "/v1/calls/"+id+"/output", nil); string(out.body) != string(tc.res.Output) {
			t.Errorf("%s: output %q, want %q", tc.res.Outcome, out.body, tc.res.Output)
		}
	}
	if log := s.log.String(); log != "" {
		t.Errorf("guests' failures were logged: %s", log)
	}

	// An outcome that this package does not know is the host's mistake.
	s.run["fails"] = func(context.Context, api.Invocation) (*call.Result, error) { return &call.Result{Outcome: 99}, nil }
	p := problem(t, s.do(t, "POST", "/f/default/fails", nil))
	if p.Code != client.CodeInternal || !strings.Contains(s.log.String(), p.RequestID) {
		t.Errorf("unknown outcome: %s, logged %q", p.Code, s.log)
	}
}

func TestInvoke_problemHasTheEndOfALongLog(t *testing.T) {
	s := serve(t, api.Options{})
	s.run["fails"] = func(context.Context, api.Invocation) (*call.Result, error) { return returned(1, nil), nil }
	line := func(i int) string { return fmt.Sprintf("line %04d with the \u20ac sign", i) }
	for i := range 1000 {
		s.lines = append(s.lines, call.Line{Stream: call.Stdout, Text: line(i)})
	}
	p := problem(t, s.do(t, "POST", "/f/default/fails", nil))
	if n := len(p.Log); n > 4096 || n < 4096-len(line(0))-1 {
		t.Errorf("log of %d bytes", n)
	}
	if !strings.HasPrefix(p.Log, "line 0") || !strings.HasSuffix(p.Log, line(999)+"\n") {
		t.Errorf("log begins %.20q and ends %.40q", p.Log, p.Log[max(0, len(p.Log)-40):])
	}

	s.lines = []call.Line{{Stream: call.Stdout, Text: strings.Repeat("\u20ac", 5000)}} // no line to begin at
	p = problem(t, s.do(t, "POST", "/f/default/fails", nil))
	if n := len(p.Log); n > 4096 || n < 4096-3 || strings.Contains(p.Log, "\uFFFD") {
		t.Errorf("one long line: log of %d bytes, begins %.10q", n, p.Log)
	}
	s.lines = []call.Line{{Stream: call.Stderr, Text: strings.Repeat("\xff\x00", 5000)}}
	p = problem(t, s.do(t, "POST", "/f/default/fails", nil))
	if n := len(p.Log); n > 4096 {
		t.Errorf("bytes that are no text: log of %d bytes", n)
	}
}

func TestInvoke_passesOnWhatWasAsked(t *testing.T) {
	s := serve(t, api.Options{})
	got := make(chan api.Invocation, 1)
	s.run["takes"] = func(_ context.Context, inv api.Invocation) (*call.Result, error) {
		got <- inv
		return returned(0, nil), nil
	}
	for target, want := range map[string]api.Invocation{
		"/f/a.b_c-9/takes":             {Tenant: "a.b_c-9", Function: "takes", Input: []byte("in")},
		"/f/default/takes?timeout=5s":  {Tenant: "default", Function: "takes", Input: []byte("in"), Timeout: 5 * time.Second},
		"/f/0/takes?timeout=1h0m0.5s":  {Tenant: "0", Function: "takes", Input: []byte("in"), Timeout: time.Hour + 500*time.Millisecond},
		"/f/default/t%61kes?":          {Tenant: "default", Function: "takes", Input: []byte("in")},
		"/f/default/takes?timeout=1ms": {Tenant: "default", Function: "takes", Input: []byte("in"), Timeout: time.Millisecond},
	} {
		if r := s.do(t, "POST", target, strings.NewReader("in")); r.StatusCode != 200 {
			t.Errorf("%s: status %d: %s", target, r.StatusCode, r.body)
			continue
		}
		if diff := cmp.Diff(want, <-got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", target, diff)
		}
	}
}

func TestInvoke_clientGoneCancels(t *testing.T) {
	s := serve(t, api.Options{})
	running, cancelled := make(chan struct{}), make(chan error)
	s.run["waits"] = func(ctx context.Context, _ api.Invocation) (*call.Result, error) {
		running <- struct{}{}
		<-ctx.Done()
		cancelled <- ctx.Err()
		return &call.Result{Outcome: call.Cancelled}, nil
	}
	for _, body := range []string{"", "input"} {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /f/default/waits HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		<-running
		conn.Close()
		if err := <-cancelled; err != context.Canceled {
			t.Errorf("input %q: context ended with %v", body, err)
		}
	}
}

func TestSubmit(t *testing.T) {
	s := serve(t, api.Options{})
	for _, tc := range []struct {
		prefer []string
		async  bool
	}{
		{[]string{"Prefer", "respond-asynchronously"}, false},
		{[]string{"Prefer", "wait=10"}, false},
		{[]string{"Prefer", ""}, false},
		{[]string{"Prefer", "respond-async"}, true},
		{[]string{"Prefer", "wait=10, Respond-Async ; foo"}, true},
		{[]string{"Prefer", "return=minimal", "Prefer", "respond-async"}, true},
	} {
		r := s.do(t, "POST", "/f/default/echo", strings.NewReader("x"), tc.prefer...)
		if !tc.async {
			if r.StatusCode != 200 {
				t.Errorf("%q: status %d", tc.prefer, r.StatusCode)
			}
			continue
		}
		id := r.Header.Get("Faasm-Call-Id")
		if r.StatusCode != 202 || r.Header.Get("Location") != "/v1/calls/"+id || r.Header.Get("Preference-Applied") != "respond-async" {
			t.Errorf("%q: status %d, headers %v", tc.prefer, r.StatusCode, r.Header)
		}
		want := `{"id":"` + id + `","tenant":"default","function":"echo","state":"queued","async":true,"attempt":1,"accepted":"2026-01-02T03:04:05.678901Z"}` + "\n"
		if got := string(r.body); got != want {
			t.Errorf("%q: body\n%s, want\n%s", tc.prefer, got, want)
		}
	}
	if p := problem(t, s.do(t, "POST", "/f/default/nobody", nil, "Prefer", "respond-async")); p.Code != client.CodeNoSuchFunction {
		t.Errorf("submit to nobody: %s", p.Code)
	}
}
