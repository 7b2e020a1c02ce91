package registry

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// names are what the API accepts, at its worst.
var names = []string{"a", "a..b", "a.json", "a.attrs", "a.tmp", "a__0x2f__b", "a__0x5f__", "deleted", "versions", strings.Repeat("a", 63)}

func TestRegistry_unknown(t *testing.T) {
	onStores(t, func(t *testing.T, location string) {
		r := open(t, location)
		v := publish(t, r, "t", "f", "one")
		for _, name := range []string{"", ".", "..", "../t/f", "f/../f", "a/../../b", "f.json", "f\x00", "f\n", "F", "é", strings.Repeat("long", 40), "absent"} {
			if _, err := r.Function(ctx, "t", name); !errors.Is(err, ErrNotFound) {
				t.Errorf("Function(%q): %v; want ErrNotFound", name, err)
			}
			if _, _, err := r.Versions(ctx, name, "f"); !errors.Is(err, ErrNotFound) {
				t.Errorf("Versions(%q): %v; want ErrNotFound", name, err)
			}
			if err := r.Remove(ctx, "t", name); !errors.Is(err, ErrNotFound) {
				t.Errorf("Remove(%q): %v; want ErrNotFound", name, err)
			}
			if _, err := r.Rollback(ctx, "t", name, ""); !errors.Is(err, ErrNotFound) {
				t.Errorf("Rollback of %q: %v; want ErrNotFound", name, err)
			}
			if name != "" {
				if _, err := r.Rollback(ctx, "t", "f", name); !errors.Is(err, ErrNotFound) {
					t.Errorf("Rollback to %q: %v; want ErrNotFound", name, err)
				}
			}
		}
		for _, name := range []string{"", "..", "a/b", "A", "é"} {
			bad := version("t", name, "one")
			if err := publishVersion(r, bad, blobs("one")); err == nil {
				t.Errorf("Publish took the name %q", name)
			}
		}
		none := Hash([]byte("none"))
		if _, err := r.Module(ctx, none); !errors.Is(err, ErrNotFound) {
			t.Errorf("Module: %v; want ErrNotFound", err)
		}
		if rd, err := r.Artefact(ctx, v.Module, "other"); !errors.Is(err, ErrNotFound) || rd != nil {
			t.Errorf("Artefact: %v, %v; want ErrNotFound", rd, err)
		}
		if rd, err := r.Proto(ctx, none); !errors.Is(err, ErrNotFound) || rd != nil {
			t.Errorf("Proto: %v, %v; want ErrNotFound", rd, err)
		}
		diffKeys(t, r, wantKeys(v))
	})
}

func TestRegistry_publishReopenRemove(t *testing.T) {
	onStores(t, func(t *testing.T, location string) {
		r := open(t, location)
		var want []Version
		for _, tenant := range names {
			for _, name := range names {
				want = append(want, publish(t, r, tenant, name, "module"))
			}
			if r.Shared() {
				break // that many cost time, and are the same
			}
		}
		publish(t, r, want[0].Tenant, want[0].Name, "second")
		want[0] = publish(t, r, want[0].Tenant, want[0].Name, "third")
		r.Close()

		r = open(t, location)
		slices.SortFunc(want, func(a, b Version) int { return a.key().compare(b.key()) })
		got, err := r.Functions(ctx)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Fatalf("functions: %v (-want +got):\n%s", err, diff)
		}
		for _, v := range want {
			if diff := cmp.Diff(v, serving(t, r, v.Tenant, v.Name)); diff != "" {
				t.Errorf("function (-want +got):\n%s", diff)
			}
			if err := checkComplete(r, v); err != nil {
				t.Errorf("%s: %v", v.key(), err)
			}
			list, now, err := r.Versions(ctx, v.Tenant, v.Name)
			if now != v.Version || len(list) == 0 || list[0] != v || err != nil {
				t.Errorf("versions of %s: %v, %s serves, %v", v.key(), list, now, err)
			}
		}
		collect(t, r, CollectOptions{})
		for i, v := range want {
			if err := checkComplete(r, v); err != nil {
				t.Errorf("after Collect, %s: %v", v.key(), err)
			}
			if err := r.Remove(ctx, v.Tenant, v.Name); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Function(ctx, v.Tenant, v.Name); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s after Remove: %v", v.key(), err)
			}
			if i+1 < len(want) {
				serving(t, r, want[i+1].Tenant, want[i+1].Name)
			}
		}
		collect(t, r, CollectOptions{})
		diffKeys(t, r, nil)
	})
}

// A function that is deployed again after it was removed knows nothing of its past.
func TestRegistry_removeForgets(t *testing.T) {
	onStores(t, func(t *testing.T, location string) {
		r := open(t, location)
		publish(t, r, "t", "f", "one")
		publish(t, r, "t", "f", "two")
		if err := r.Remove(ctx, "t", "f"); err != nil {
			t.Fatal(err)
		}
		v := publish(t, r, "t", "f", "three")
		list, _, err := r.Versions(ctx, "t", "f")
		if diff := cmp.Diff([]Version{v}, list); diff != "" || err != nil {
			t.Errorf("versions: %v (-want +got):\n%s", err, diff)
		}
		if _, err := r.Rollback(ctx, "t", "f", ""); !errors.Is(err, ErrNoPrevious) {
			t.Errorf("Rollback: %v; want ErrNoPrevious", err)
		}
	})
}

func TestRegistry_rollback(t *testing.T) {
	onStores(t, func(t *testing.T, location string) {
		r := open(t, location)
		ids := map[string]string{"": "", "unknown": "0123456789abcdef"}
		for _, name := range []string{"one", "two", "three"} {
			ids[name] = version("t", "f", name).Version
		}
		for i, row := range []struct {
			deploy   string // or
			rollback string
			want     string // serves then
			err      error
		}{
			{deploy: "one", want: "one"},
			{rollback: "", want: "one", err: ErrNoPrevious},
			{rollback: "unknown", want: "one", err: ErrNotFound},
			{rollback: "one", want: "one"},
			{deploy: "one", want: "one"},
			{rollback: "", want: "one", err: ErrNoPrevious}, // the same again is no other
			{deploy: "two", want: "two"},
			{deploy: "three", want: "three"},
			{rollback: "", want: "two"},
			{rollback: "", want: "one"},
			{rollback: "", want: "one", err: ErrNoPrevious},
			{rollback: "three", want: "three"}, // left, but not gone
			{rollback: "", want: "one"},
			{rollback: "two", want: "two"},
			{rollback: "three", want: "three"},
			{rollback: "one", want: "one"}, // served before, but is not in the history twice
			{rollback: "", want: "three"},
			{rollback: "", want: "two"},
			{deploy: "three", want: "three"},
			{rollback: "", want: "two"},
		} {
			if row.deploy != "" {
				publish(t, r, "t", "f", row.deploy)
			} else {
				v, err := r.Rollback(ctx, "t", "f", ids[row.rollback])
				if !errors.Is(err, row.err) || err == nil && v.Version != ids[row.want] {
					t.Errorf("row %d: Rollback to %q: %s, %v; want %s, %v", i, row.rollback, v.Version, err, row.want, row.err)
				}
			}
			v := serving(t, r, "t", "f")
			if v.Version != ids[row.want] {
				t.Fatalf("row %d: %v serves; want %s", i, modules(r, []Version{v}), row.want)
			}
			if err := checkComplete(r, v); err != nil {
				t.Errorf("row %d: %v", i, err)
			}
		}
		list, now, err := r.Versions(ctx, "t", "f")
		if diff := cmp.Diff([]string{"three", "two", "one"}, modules(r, list)); diff != "" || now != ids["two"] || err != nil {
			t.Errorf("versions: %s serves, %v (-want +got):\n%s", now, err, diff)
		}
	})
}

func TestRollback_historyIsBounded(t *testing.T) {
	r := open(t, t.TempDir())
	for i := range historyMax + 3 {
		publish(t, r, "t", "f", "module "+string(rune('A'+i)))
	}
	for range historyMax {
		if _, err := r.Rollback(ctx, "t", "f", ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Rollback(ctx, "t", "f", ""); !errors.Is(err, ErrNoPrevious) {
		t.Errorf("Rollback beyond the history: %v", err)
	}
	if got := modules(r, []Version{serving(t, r, "t", "f")}); got[0] != "module C" {
		t.Errorf("%s serves; want the one %d before the last", got[0], historyMax)
	}
}

// A version whose module is gone or damaged is refused, and what serves stays.
func TestRollback_damagedModule(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	one, two := publish(t, r, "t", "f", "one"), publish(t, r, "t", "f", "two")
	file := filepath.Join(dir, moduleKey(one.Module))
	if err := os.WriteFile(file, []byte("gone bad"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Rollback(ctx, "t", "f", ""); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("Rollback to a damaged module: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Rollback(ctx, "t", "f", ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("Rollback to a module that is gone: %v", err)
	}
	if v := serving(t, r, "t", "f"); v != two {
		t.Errorf("%+v serves", v)
	}
	// To deploy it again mends it.
	if err := os.WriteFile(file, []byte("bad"), 0o600); err != nil {
		t.Fatal(err)
	}
	publish(t, r, "t", "f", "one")
	if err := checkComplete(r, serving(t, r, "t", "f")); err != nil {
		t.Error(err)
	}
}

// What is there is not written again by Publish, and is replaced by those that say so.
func TestRegistry_blobs(t *testing.T) {
	onStores(t, func(t *testing.T, location string) {
		r := open(t, location)
		v := publish(t, r, "t", "f", "one")
		never := func(io.Writer) error { return errors.New("written again") }
		if err := publishVersion(r, v, Blobs{Wasm: []byte("one"), Fingerprint: fingerprint, Artefact: never, Proto: never}); err != nil {
			t.Error(err)
		}
		// More than a store takes in one piece.
		large := make([]byte, 20<<20+1)
		rnd := rand.NewChaCha8([32]byte{1})
		rnd.Read(large)
		chunks := func(w io.Writer) error {
			for c := range slices.Chunk(large, 300_001) {
				if _, err := w.Write(c); err != nil {
					return err
				}
			}
			return nil
		}
		if err := r.PutArtefact(ctx, v.Module, fingerprint, chunks); err != nil {
			t.Fatal(err)
		}
		rd, err := r.Artefact(ctx, v.Module, fingerprint)
		if err := checkContent(rd, err, string(large)); err != nil {
			t.Error(err)
		}
		if err := r.PutProto(ctx, v.Proto, chunks); err != nil {
			t.Fatal(err)
		}
		rd, err = r.Proto(ctx, v.Proto)
		if err := checkContent(rd, err, string(large)); err != nil {
			t.Error(err)
		}
		unsized := v
		unsized.StoredBytes = 0
		if err := publishVersion(r, unsized, Blobs{Wasm: []byte("one"), Proto: never}); err != nil {
			t.Fatal(err)
		}
		if got := serving(t, r, "t", "f").StoredBytes; got != int64(len(large)) {
			t.Errorf("StoredBytes is %d; want %d", got, len(large))
		}
		v.Proto, v.StartNs = Hash([]byte("another")), 77
		if err := r.PutVersion(ctx, v); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(v, serving(t, r, "t", "f")); diff != "" {
			t.Errorf("after PutVersion (-want +got):\n%s", diff)
		}
	})
}

// The pointer comes after all that it needs, and what it needs is on the device before it.
func TestPublish_steps(t *testing.T) {
	var steps []Step
	r, err := Open(ctx, t.TempDir(), Options{AtStep: func(s Step) { steps = append(steps, s) }})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	publish(t, r, "t", "f", "one")
	want := []Step{
		"get functions",
		StepModule, "commit modules",
		"look artefacts", StepArtefact, "commit artefacts",
		"look protos", StepProto, "commit protos",
		StepVersion, "commit versions",
		"sync",
		StepPointer, "commit functions",
		"sync",
		"look versions", "look protos", "look artefacts", "look modules",
	}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

// A writer that gives up leaves nothing, and what was there stays.
func TestRegistry_writerFails(t *testing.T) {
	onStores(t, func(t *testing.T, location string) {
		r := open(t, location)
		old := publish(t, r, "t", "f", "old")
		gaveUp := errors.New("gave up")
		next := version("t", "f", "new")
		for _, size := range []int{0, 1, 4096, 9 << 20, 17 << 20} {
			fail := func(w io.Writer) error {
				if _, err := w.Write(bytes.Repeat([]byte{1}, size)); err != nil {
					return err
				}
				return gaveUp
			}
			for what, err := range map[string]error{
				"PutArtefact":          r.PutArtefact(ctx, old.Module, fingerprint, fail),
				"PutProto":             r.PutProto(ctx, old.Proto, fail),
				"PutProto of another":  r.PutProto(ctx, next.Proto, fail),
				"Publish, in artefact": publishVersion(r, next, Blobs{Wasm: []byte("new"), Fingerprint: fingerprint, Artefact: fail}),
				"Publish, in proto":    publishVersion(r, next, Blobs{Wasm: []byte("new"), Proto: fail}),
			} {
				if !errors.Is(err, gaveUp) {
					t.Errorf("%s after %d bytes: %v; want the writer's error", what, size, err)
				}
			}
			if v := serving(t, r, "t", "f"); v != old {
				t.Errorf("after %d bytes %+v serves", size, v)
			}
			if err := checkComplete(r, old); err != nil {
				t.Errorf("after %d bytes: %v", size, err)
			}
			want := append(wantKeys(old), moduleKey(next.Module))
			slices.Sort(want)
			diffKeys(t, r, want)
		}
	})
}

func TestChanged(t *testing.T) {
	onStores(t, func(t *testing.T, location string) {
		here, there := open(t, location), open(t, location)
		var known map[Key]string
		look := func(what string, wantChanged []string, wantRemoved ...Key) {
			t.Helper()
			c, err := here.Changed(ctx, known)
			if err != nil {
				t.Fatal(err)
			}
			var changed []string
			for _, v := range c.Versions {
				if serving(t, there, v.Tenant, v.Name) != v {
					t.Errorf("%s: %+v does not serve", what, v)
				}
				changed = append(changed, v.Name)
			}
			// What was just written may come again.
			changed = slices.DeleteFunc(changed, func(n string) bool { return !slices.Contains(wantChanged, n) })
			if diff := cmp.Diff(wantChanged, changed, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: changed (-want +got):\n%s", what, diff)
			}
			if diff := cmp.Diff(wantRemoved, c.Removed); diff != "" {
				t.Errorf("%s: removed (-want +got):\n%s", what, diff)
			}
			known = c.Known
		}
		look("an empty store", nil)
		publish(t, there, "t", "a", "one")
		publish(t, there, "t", "b", "one")
		publish(t, there, "u", "c", "one")
		look("first", []string{"a", "b", "c"})
		look("nothing", nil)
		publish(t, there, "t", "b", "two")
		look("deployed", []string{"b"})
		publish(t, there, "t", "b", "two")
		look("deployed again", []string{"b"})
		if _, err := there.Rollback(ctx, "t", "b", ""); err != nil {
			t.Fatal(err)
		}
		look("rolled back", []string{"b"})
		if err := there.Remove(ctx, "u", "c"); err != nil {
			t.Fatal(err)
		}
		publish(t, there, "t", "a", "two")
		look("removed", []string{"a"}, Key{"u", "c"})
		look("nothing", nil)
		publish(t, there, "u", "c", "one")
		look("back", []string{"c"})
	})
}

// How many requests a look at many functions takes.
func TestChanged_readsOnlyWhatChanged(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	for i := range 30 {
		publish(t, r, "t", "f"+string(rune('a'+i%26))+string(rune('a'+i/26)), "one")
	}
	yesterday := time.Now().Add(-24 * time.Hour)
	files, err := filepath.Glob(filepath.Join(dir, "functions/t/*"))
	if err != nil || len(files) != 30 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if err := os.Chtimes(f, yesterday, yesterday); err != nil {
			t.Fatal(err)
		}
	}
	c, err := r.Changed(ctx, nil)
	if err != nil || len(c.Versions) != 30 {
		t.Fatalf("%d versions, %v", len(c.Versions), err)
	}
	publish(t, r, "t", "faa", "two")
	var steps []Step
	counting, err := Open(ctx, dir, Options{AtStep: func(s Step) { steps = append(steps, s) }})
	if err != nil {
		t.Fatal(err)
	}
	defer counting.Close()
	if c, err = counting.Changed(ctx, c.Known); err != nil || len(c.Versions) != 1 || c.Versions[0].Name != "faa" {
		t.Errorf("changed: %+v, %v", c.Versions, err)
	}
	if diff := cmp.Diff([]Step{"list functions", "get functions", "get versions"}, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

// What is damaged is told, and does not hide the rest; to deploy it again mends it.
func TestRegistry_damage(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	good := publish(t, r, "t", "good", "good")
	file := func(key string) string { return filepath.Join(dir, key) }
	pointerOf := func(name string) string { return file(functionsKey(Key{"t", name})) }
	recordOf := func(v Version) string { return file(versionKey(v.key(), v.Version)) }
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	type row struct {
		name   string
		damage func(v Version)
		says   string
		mends  bool // to deploy again
	}
	rows := []row{
		{"empty", func(v Version) { write(pointerOf(v.Name), "") }, "functions/t/empty.json: the record is damaged", true},
		{"cut", func(v Version) { write(pointerOf(v.Name), `{"format": 2, "serv`) }, "functions/t/cut.json: the record is damaged", true},
		{"zero", func(v Version) { write(pointerOf(v.Name), `{}`) }, "functions/t/zero.json: the record is damaged: there is no format 0", true},
		{"nothing", func(v Version) { write(pointerOf(v.Name), `{"format": 2}`) }, "functions/t/nothing.json: the record is damaged: it names no version", true},
		{"future", func(v Version) { write(pointerOf(v.Name), `{"format": 3}`) }, "functions/t/future.json: format 3 is newer than 2, this host's: upgrade the host", false},
		{"first", func(v Version) { write(pointerOf(v.Name), `{"format": 1, "tenant": "t", "name": "other"}`) }, "functions/t/first.json: the record is damaged: it is that of t/other", true},
		{"record", func(v Version) { write(recordOf(v), `{"format"`) }, ".json: the record is damaged", true},
		{"record-first", func(v Version) { write(recordOf(v), `{"format": 1}`) }, ".json: the record is damaged: there is no format 1", true},
		{"record-future", func(v Version) { write(recordOf(v), `{"format": 3}`) }, ".json: format 3 is newer than 2", true},
		{"record-swapped", func(v Version) { write(recordOf(v), string(encodeVersion(good))) }, ".json: the record is damaged: it is that of versions/t/good/", true},
		{"record-gone", func(v Version) { os.Remove(recordOf(v)) }, "there is no record of the version that serves, ", true},
	}
	var versions []Version
	for _, row := range rows {
		v := publish(t, r, "t", row.name, "module of "+row.name)
		versions = append(versions, v)
		row.damage(v)
	}
	list, err := r.Functions(ctx)
	if diff := cmp.Diff([]Version{good}, list); diff != "" {
		t.Errorf("functions (-want +got):\n%s", diff)
	}
	for _, row := range rows {
		_, ferr := r.Function(ctx, "t", row.name)
		for what, err := range map[string]error{"Function": ferr, "Functions": err} {
			if err == nil || !strings.Contains(err.Error(), row.says) || errors.Is(err, ErrNotFound) {
				t.Errorf("%s of %s: %v; want %q in it", what, row.name, err, row.says)
			}
		}
	}
	// Nobody knows what the damaged ones need.
	before := keys(t, r)
	if c, err := r.Collect(ctx, CollectOptions{Now: later()}); err == nil || c != (Collected{}) {
		t.Errorf("Collect: %+v, %v; want an error and nothing deleted", c, err)
	}
	diffKeys(t, r, before)
	for i, row := range rows {
		err := publishVersion(r, versions[i], blobs("module of "+row.name))
		if (err == nil) != row.mends {
			t.Errorf("Publish of %s: %v; mends: %v", row.name, err, row.mends)
		}
		if row.mends {
			if got, err := r.Function(ctx, "t", row.name); got != versions[i] || err != nil {
				t.Errorf("%s after Publish: %+v, %v", row.name, got, err)
			}
		}
	}
	// Any can be removed.
	for _, row := range rows {
		if err := r.Remove(ctx, "t", row.name); err != nil {
			t.Error(err)
		}
	}
	collect(t, r, CollectOptions{})
	diffKeys(t, r, wantKeys(good))
}

// A data directory of format 1, as the first release of Faasm wrote it.
func TestRegistry_format1(t *testing.T) {
	copied := func() (string, *Registry) {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS("testdata/v1")); err != nil {
			t.Fatal(err)
		}
		return dir, open(t, dir)
	}
	old := Version{
		Tenant: "t", Name: "f", Version: "f2735138995edf8b", Module: "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
		WasmBytes: 3, MemoryMax: 1 << 20, Timeout: time.Second, Entry: "faasm_call", Imports: 2,
		Uploaded: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), CompileNs: 12345,
	}
	_, r := copied()
	collect(t, r, CollectOptions{})
	if got := serving(t, r, "t", "f"); got != old {
		t.Errorf("got %+v", got)
	}
	if got := modules(r, []Version{old}); got[0] != "one" {
		t.Errorf("module: %s", got[0])
	}
	list, now, err := r.Versions(ctx, "t", "f")
	if diff := cmp.Diff([]Version{old}, list); diff != "" || now != old.Version || err != nil {
		t.Errorf("versions: %s serves, %v (-want +got):\n%s", now, err, diff)
	}
	if _, err := r.Rollback(ctx, "t", "f", ""); !errors.Is(err, ErrNoPrevious) {
		t.Errorf("Rollback: %v", err)
	}

	// A host that made a Proto-Faaslet of it can record it.
	with := old
	with.Proto = Hash([]byte("proto of one"))
	if err := r.PutVersion(ctx, with); err != nil {
		t.Fatal(err)
	}
	if got := serving(t, r, "t", "f"); got != with {
		t.Errorf("after PutVersion: %+v", got)
	}

	// It can be replaced, be gone back to, and is kept till then.
	_, r = copied()
	publish(t, r, "t", "f", "two")
	collect(t, r, CollectOptions{})
	got, err := r.Rollback(ctx, "t", "f", "")
	if got != old || err != nil {
		t.Errorf("Rollback: %+v, %v", got, err)
	}
	// Or be deployed again.
	_, r = copied()
	again := version("t", "f", "one")
	if again.Version != old.Version {
		t.Fatalf("the same version is called %s and %s", old.Version, again.Version)
	}
	publish(t, r, "t", "f", "one")
	if got := serving(t, r, "t", "f"); got.Proto != again.Proto || checkComplete(r, got) != nil {
		t.Errorf("deployed again: %+v, %v", got, checkComplete(r, got))
	}
	_, r = copied()
	if err := r.Remove(ctx, "t", "f"); err != nil {
		t.Fatal(err)
	}
	collect(t, r, CollectOptions{})
	diffKeys(t, r, nil)
}

func TestOpen_refused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for location, says := range map[string]string{
		filepath.Join(file, "below"): file,
		"ftp://u:secret@host/d":      `scheme "ftp" is not one of `,
		"file://" + t.TempDir():      "a directory is given by its path",
		"://":                        "missing protocol scheme",
		"s3://bucket?region=x&huh=1": `unknown query parameter "huh"`,
		"s3://?region=us-east-1":     "bucketName is required",
		"gs://bucket":                "s3",
	} {
		r, err := Open(ctx, location, Options{})
		if err == nil {
			r.Close()
		}
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "secret") {
			t.Errorf("Open(%s): %v; want %q in it and no password", location, err, says)
		}
	}
}

func TestVersionOf_differsByLimits(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range []string{VersionOf("a", 1, 2), VersionOf("a", 2, 1), VersionOf("b", 1, 2), VersionOf("a", 12, 0)} {
		if seen[v] || len(v) != 16 {
			t.Errorf("version %q comes twice or is not 16 digits", v)
		}
		seen[v] = true
	}
}
