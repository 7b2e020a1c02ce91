package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/faasm-go/faasm/internal/registry/s3test"
)

// past is a store in which t/f has served "one" and serves "two", "left" was rolled back
// from, and u/g serves "two" as well.
type past struct{ one, two, left, other Version }

func newPast(t *testing.T, r *Registry) past {
	t.Helper()
	p := past{one: publish(t, r, "t", "f", "one"), two: publish(t, r, "t", "f", "two"), left: publish(t, r, "t", "f", "left")}
	if _, err := r.Rollback(ctx, "t", "f", ""); err != nil {
		t.Fatal(err)
	}
	p.other = publish(t, r, "u", "g", "two")
	return p
}

// operations are done by children that are killed, and again by the test.
var operations = map[string]func(r *Registry) error{
	"publish":  func(r *Registry) error { return publishVersion(r, version("t", "f", "new"), blobs("new")) },
	"redeploy": func(r *Registry) error { return publishVersion(r, version("t", "f", "two"), blobs("two")) },
	"rollback": func(r *Registry) error { _, err := r.Rollback(ctx, "t", "f", ""); return err },
	"remove":   func(r *Registry) error { return r.Remove(ctx, "t", "f") },
	"collect":  func(r *Registry) error { _, err := r.Collect(ctx, CollectOptions{Now: later()}); return err },
}

func childOperation(operation, location string, step int) {
	var n atomic.Int64
	r, err := Open(ctx, location, Options{AtStep: func(s Step) {
		if n.Add(1) == int64(step) {
			fmt.Print(s)
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}})
	if err == nil {
		err = operations[operation](r)
	}
	if err != nil {
		fmt.Print(err)
		os.Exit(1)
	}
}

// An operation is killed before each of its accesses to the store. Then a version serves,
// old or new, with all that belongs to it; the operation can be done again; and nothing of
// the first attempt remains that Collect doesn't find.
func TestRegistry_kill9(t *testing.T) {
	for _, row := range []struct {
		operation string
		serves    []string // one of them does after the kill; "" is none
		then      string   // serves when it was done again
		err       error    // of doing again what was done
		left      func(past) []Version
		labels    []Step // at which it is killed, at least
	}{
		{"publish", []string{"two", "new"}, "new", nil, func(p past) []Version {
			return []Version{p.one, p.two, version("t", "f", "new"), p.other}
		}, []Step{StepModule, StepArtefact, StepProto, StepVersion, StepPointer, "commit modules", "commit artefacts", "commit protos", "commit versions", "commit functions"}},
		{"redeploy", []string{"two"}, "two", nil, func(p past) []Version { return []Version{p.one, p.two, p.other} }, []Step{StepVersion, StepPointer}},
		{"rollback", []string{"two", "one"}, "one", ErrNoPrevious, func(p past) []Version { return []Version{p.one, p.other} }, []Step{StepPointer}},
		{"remove", []string{"two", ""}, "", ErrNotFound, func(p past) []Version { return []Version{p.other} }, []Step{"delete functions", "move versions"}},
		{"collect", []string{"two"}, "two", nil, func(p past) []Version { return []Version{p.one, p.two, p.other} }, []Step{"move versions", "move modules", "move protos", "delete deleted"}},
	} {
		t.Run(row.operation, func(t *testing.T) {
			t.Parallel()
			stores := onStores
			if row.operation != "publish" && row.operation != "collect" {
				stores = func(t *testing.T, test func(*testing.T, string)) { test(t, t.TempDir()) } // it is slow
			}
			stores(t, func(t *testing.T, location string) {
				base := location
				killed := map[Step]bool{}
				for step := 1; ; step++ {
					if u, err := url.Parse(base); strings.Contains(base, "://") {
						// A part of the bucket for each attempt.
						q := u.Query()
						q.Set("prefix", strconv.Itoa(step)+"/")
						u.RawQuery = q.Encode()
						location = u.String()
						if err != nil {
							t.Fatal(err)
						}
					} else {
						location = base + "/" + strconv.Itoa(step)
					}
					r := open(t, location)
					p := newPast(t, r)
					r.Close()
					cmd := exec.Command(os.Args[0], "-registry.child="+row.operation, "-registry.step="+strconv.Itoa(step), location)
					cmd.Stderr = os.Stderr
					said, err := cmd.Output()
					if err == nil {
						break
					}
					if cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
						t.Fatalf("step %d: the child ended by itself: %v: %s", step, err, said)
					}
					what := fmt.Sprintf("killed before step %d, %s", step, said)
					killed[Step(said)] = true

					r = open(t, location)
					check := func(v Version, err error, want ...string) {
						t.Helper()
						got := ""
						if !errors.Is(err, ErrNotFound) {
							if err == nil {
								err = checkComplete(r, v)
							}
							if err != nil {
								t.Errorf("%s: %v", what, err)
								return
							}
							got = modules(r, []Version{v})[0]
						}
						if !slices.Contains(want, got) {
							t.Errorf("%s: %q serves; want one of %q", what, got, want)
						}
					}
					v, err := r.Function(ctx, "t", "f")
					check(v, err, row.serves...)
					v, err = r.Function(ctx, "u", "g")
					check(v, err, "two")
					if _, err := r.Functions(ctx); err != nil {
						t.Errorf("%s: %v", what, err)
					}

					if err := operations[row.operation](r); err != nil && !errors.Is(err, row.err) {
						t.Errorf("%s, done again: %v", what, err)
					}
					v, err = r.Function(ctx, "t", "f")
					check(v, err, row.then)
					// The first takes over what the child had begun.
					for range 2 {
						collect(t, r, CollectOptions{})
						v, err = r.Function(ctx, "t", "f")
						check(v, err, row.then)
					}
					diffKeys(t, r, wantKeys(row.left(p)...))
					r.Close()
					if t.Failed() {
						return
					}
				}
				for _, l := range row.labels {
					if _, ok := killed[l]; !ok {
						t.Errorf("no child was killed before %q, but before %v", l, killed)
					}
				}
			})
		})
	}
}

// failingStore passes requests on to an S3 server, and fails after the first few.
type failingStore struct {
	proxy httputil.ReverseProxy
	mode  string

	mu      sync.Mutex
	passes  int  // requests that are passed on
	seen    int  // requests
	pointer bool // one that was passed on wrote a pointer
}

// admit counts a request, and tells whether to pass it on and whether it is the last.
func (f *failingStore) admit(r *http.Request) (ok, last bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen++
	ok = f.seen <= f.passes
	if ok && r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/functions/") {
		f.pointer = true
	}
	return ok, f.seen == f.passes
}

func (f *failingStore) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ok, last := f.admit(r)
	switch {
	case ok && last && f.mode == "loses the reply":
		f.proxy.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case ok:
		f.proxy.ServeHTTP(w, r)
	case f.mode == "hangs up":
		io.CopyN(io.Discard, r.Body, 10)
		panic(http.ErrAbortHandler)
	default:
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// openFailing opens a bucket through a failing store, which begins to count then.
func openFailing(t *testing.T, bucket, mode string, passes int) (*Registry, *failingStore) {
	t.Helper()
	u, err := url.Parse(bucket)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	server, err := url.Parse(q.Get("endpoint"))
	if err != nil {
		t.Fatal(err)
	}
	f := &failingStore{mode: mode, passes: 1000}
	f.proxy.Rewrite = func(r *httputil.ProxyRequest) {
		r.SetURL(server)
		r.Out.Host = r.In.Host // which is signed
	}
	front := httptest.NewServer(f)
	t.Cleanup(front.Close)
	q.Set("endpoint", front.URL)
	u.RawQuery = q.Encode()
	r := open(t, u.String())
	f.seen, f.passes = 0, passes
	return r, f
}

// A bucket goes away after each request, or in the middle of it.
func TestPublish_bucketFails(t *testing.T) {
	bucket := s3test.Bucket(t)
	r := open(t, bucket)
	counting, all := openFailing(t, bucket, "", 1000)
	publish(t, counting, "t", "first", "first")
	type attempt struct {
		what      string
		old, next Version
		wasm      string
		store     *failingStore
		r         *Registry
		err       error
	}
	var attempts []*attempt
	for _, mode := range []string{"refuses", "hangs up", "loses the reply"} {
		for passes := range all.seen {
			a := &attempt{what: fmt.Sprintf("a bucket that %s after %d requests", mode, passes)}
			name := fmt.Sprintf("f%d", len(attempts))
			a.wasm = "new " + name
			a.old, a.next = publish(t, r, "t", name, "old"), version("t", name, a.wasm)
			a.r, a.store = openFailing(t, bucket, mode, passes)
			attempts = append(attempts, a)
		}
	}
	// All at once, because the SDK waits before it tries again.
	var publishing sync.WaitGroup
	for _, a := range attempts {
		publishing.Go(func() { a.err = publishVersion(a.r, a.next, blobs(a.wasm)) })
	}
	publishing.Wait()
	keys(t, r)
	before := 0
	for _, a := range attempts {
		want := a.old
		if a.store.pointer {
			want = a.next
		} else {
			before++
		}
		if a.err == nil {
			t.Errorf("%s: Publish succeeded", a.what)
		}
		if got := serving(t, r, "t", a.old.Name); got != want {
			t.Errorf("%s: %v serves; want %v", a.what, modules(r, []Version{got}), modules(r, []Version{want}))
		}
		if err := checkComplete(r, want); err != nil {
			t.Errorf("%s: %v", a.what, err)
		}
		if err := publishVersion(r, a.next, blobs(a.wasm)); err != nil {
			t.Errorf("%s: Publish again: %v", a.what, err)
		}
		if got := serving(t, r, "t", a.old.Name); got != a.next || checkComplete(r, got) != nil {
			t.Errorf("%s: after Publish again %v serves, %v", a.what, modules(r, []Version{got}), checkComplete(r, got))
		}
	}
	if before < 15 {
		t.Errorf("%d of %d attempts failed before the pointer was written", before, len(attempts))
	}
}

// The disk is full after any number of pages.
func TestPublish_fullDisk(t *testing.T) {
	dir := t.TempDir()
	mount := func(flags uintptr, size string) error {
		return syscall.Mount("none", dir, "tmpfs", flags, "size="+size)
	}
	if err := mount(0, "16m"); err != nil {
		unsupported(t, "mount", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	large := func(name string) string { return name + strings.Repeat(".", 3*os.Getpagesize()) }
	for room := 0; ; room++ {
		location := dir + "/" + strconv.Itoa(room)
		r := open(t, location)
		old := publish(t, r, "t", "f", "old")
		before := keys(t, r)
		var stat syscall.Statfs_t
		if err := syscall.Statfs(dir, &stat); err != nil {
			t.Fatal(err)
		}
		used := (stat.Blocks - stat.Bfree) * uint64(stat.Bsize)
		if err := mount(syscall.MS_REMOUNT, strconv.FormatUint(used+uint64(room*os.Getpagesize()), 10)); err != nil {
			t.Fatal(err)
		}
		next := version("t", "f", large("new"))
		err := publishVersion(r, next, blobs(large("new")))
		if err := mount(syscall.MS_REMOUNT, "16m"); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			if room < 8 {
				t.Errorf("Publish found room in %d pages", room)
			}
			return
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%d pages left: %v; want ENOSPC", room, err)
		}
		if got := serving(t, r, "t", "f"); got != old {
			t.Errorf("%d pages left: %v serves", room, modules(r, []Version{got}))
		}
		if err := checkComplete(r, old); err != nil {
			t.Errorf("%d pages left: %v", room, err)
		}
		// What is there under its name is there as a whole.
		for _, key := range keys(t, r) {
			if slices.Contains(before, key) {
				continue
			}
			content, err := r.get(ctx, key)
			whole := map[string]string{
				moduleKey(next.Module):                large("new"),
				artefactKey(next.Module, fingerprint): "artefact of " + large("new"),
				protoKey(next.Proto):                  "proto of " + large("new"),
				versionKey(next.key(), next.Version):  string(encodeVersion(next)),
			}[key]
			if err != nil || !bytes.Equal(content, []byte(whole)) {
				t.Errorf("%d pages left: %s has %d bytes, want %d, %v", room, key, len(content), len(whole), err)
			}
		}
		if err := publishVersion(r, next, blobs(large("new"))); err != nil {
			t.Errorf("%d pages, Publish again: %v", room, err)
		}
		if got := serving(t, r, "t", "f"); got != next || checkComplete(r, got) != nil {
			t.Errorf("%d pages, after Publish again: %v serves, %v", room, modules(r, []Version{got}), checkComplete(r, got))
		}
		r.Close()
		if err := os.RemoveAll(location); err != nil {
			t.Fatal(err)
		}
	}
}

// unsupported skips a test for want of a feature. A host whose REQUIRE_FEATURES names the
// feature promises to have it, and there the test fails instead.
func unsupported(t *testing.T, feature string, why error) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("REQUIRE_FEATURES"), ","), feature) {
		t.Fatalf("feature %s is required: %v", feature, why)
	}
	t.Skipf("feature %s is missing: %v", feature, why)
}
