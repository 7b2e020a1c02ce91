package registry

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/faasm-go/faasm/internal/registry/s3test"
)

// child makes the test binary do one operation on the store that is its argument, and kill
// itself at the step with the number -registry.step.
var (
	child     = flag.String("registry.child", "", "run as the child process of a test that does this operation")
	childStep = flag.Int("registry.step", 0, "the step at which the child kills itself")
)

// seed and schedules are for TestCollect_interleaved.
var (
	seed      = flag.Uint64("registry.seed", 1, "seed of the first schedule")
	schedules = flag.Int("registry.schedules", 200, "number of schedules")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *child != "" {
		childOperation(*child, flag.Arg(0), *childStep)
		return
	}
	code := m.Run()
	s3test.Stop()
	os.Exit(code)
}

var ctx = context.Background()

// onStores runs a test on an empty store of each kind.
func onStores(t *testing.T, test func(t *testing.T, location string)) {
	t.Run("directory", func(t *testing.T) { test(t, t.TempDir()) })
	t.Run("s3", func(t *testing.T) { test(t, s3test.Bucket(t)) })
}

func open(t testing.TB, location string) *Registry {
	t.Helper()
	r, err := Open(ctx, location, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

const fingerprint = "x86-64.1"

// version returns the version of a function whose module is that text.
func version(tenant, name, wasm string) Version {
	module := Hash([]byte(wasm))
	return Version{
		Tenant: tenant, Name: name, Module: module, Version: VersionOf(module, 1<<20, time.Second),
		WasmBytes: int64(len(wasm)), MemoryMax: 1 << 20, Timeout: time.Second, Entry: "faasm_call",
		Imports: 2, Uploaded: time.Now().UTC(), CompileNs: 12345, InitialiseNs: 6,
		Proto: Hash([]byte("proto of " + wasm)), SnapshotBytes: 7, StoredBytes: 8, StartNs: 9,
	}
}

func blobs(wasm string) Blobs {
	return Blobs{
		Wasm: []byte(wasm), Fingerprint: fingerprint,
		Artefact: all([]byte("artefact of " + wasm)), Proto: all([]byte("proto of " + wasm)),
	}
}

// publish publishes a version and returns it.
func publish(t testing.TB, r *Registry, tenant, name, wasm string) Version {
	t.Helper()
	v := version(tenant, name, wasm)
	if err := publishVersion(r, v, blobs(wasm)); err != nil {
		t.Fatal(err)
	}
	return v
}

func serving(t testing.TB, r *Registry, tenant, name string) Version {
	t.Helper()
	v, err := r.Function(ctx, tenant, name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// checkComplete tells what a version lacks, or has wrong, of what it was published with.
func checkComplete(r *Registry, v Version) error {
	wasm, err := r.Module(ctx, v.Module)
	if err != nil {
		return err
	}
	artefact, err := r.Artefact(ctx, v.Module, fingerprint)
	err = checkContent(artefact, err, "artefact of "+string(wasm))
	proto, perr := r.Proto(ctx, v.Proto)
	return errors.Join(err, checkContent(proto, perr, "proto of "+string(wasm)))
}

func checkContent(rd io.ReadCloser, err error, want string) error {
	if err != nil {
		return err
	}
	defer rd.Close()
	got, err := io.ReadAll(rd)
	if err == nil && string(got) != want {
		err = fmt.Errorf("got %.40q of %d bytes, want %.40q of %d", got, len(got), want, len(want))
	}
	return err
}

// keys returns the keys of all objects, and checks that no module, artefact or
// Proto-Faaslet is there in part.
func keys(t testing.TB, r *Registry) []string {
	t.Helper()
	objects, err := r.list(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, o := range objects {
		out = append(out, o.key)
		if o.size == 0 && !isTemporary(o) && !strings.HasPrefix(o.key, "functions/") {
			t.Errorf("%s is empty", o.key)
		}
		if hash, ok := strings.CutPrefix(strings.TrimSuffix(o.key, ".wasm"), "modules/"); ok && !isTemporary(o) {
			if _, err := r.Module(ctx, hash); err != nil {
				t.Error(err)
			}
		}
	}
	slices.Sort(out)
	return out
}

// wantKeys are the keys of versions that are complete, with the pointers of their functions.
func wantKeys(versions ...Version) []string {
	var out []string
	for _, v := range versions {
		out = append(out, functionsKey(v.key()), versionKey(v.key(), v.Version), moduleKey(v.Module),
			artefactKey(v.Module, fingerprint), protoKey(v.Proto))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func diffKeys(t testing.TB, r *Registry, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, keys(t, r)); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
}

// later is when everything that was written by now is older than any grace.
func later() time.Time { return time.Now().Add(24 * time.Hour) }

func collect(t testing.TB, r *Registry, o CollectOptions) Collected {
	t.Helper()
	if o.Now.IsZero() {
		o.Now = later()
	}
	c, err := r.Collect(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// modules returns the modules of versions, which are text.
func modules(r *Registry, versions []Version) []string {
	var out []string
	for _, v := range versions {
		wasm, err := r.Module(ctx, v.Module)
		out = append(out, string(wasm))
		if err != nil {
			out[len(out)-1] = err.Error()
		}
	}
	return out
}

// publishVersion is Publish for those who know what is recorded.
func publishVersion(r *Registry, v Version, b Blobs) error {
	_, err := r.Publish(ctx, v, b)
	return err
}
