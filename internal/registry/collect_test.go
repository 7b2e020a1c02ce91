package registry

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"
)

func TestCollect(t *testing.T) {
	onStores(t, func(t *testing.T, location string) {
		r := open(t, location)
		if c := collect(t, r, CollectOptions{}); c != (Collected{}) {
			t.Errorf("from an empty store: %+v", c)
		}
		// Rolled back from, so in no history.
		publish(t, r, "t", "f", "one")
		two := publish(t, r, "t", "f", "two")
		three := publish(t, r, "t", "f", "three")
		four := publish(t, r, "t", "f", "four")
		for range 3 {
			if _, err := r.Rollback(ctx, "t", "f", ""); err != nil {
				t.Fatal(err)
			}
		}
		one := serving(t, r, "t", "f")
		// "two" is also what another function is made of; "gone" was removed.
		other := publish(t, r, "t", "other", "two")
		gone := publish(t, r, "u", "gone", "gone")
		if err := r.Remove(ctx, "u", "gone"); err != nil {
			t.Fatal(err)
		}
		// Blobs of no version, such as of a Publish under way.
		stray := Hash([]byte("stray"))
		if err := errors.Join(
			r.put(ctx, moduleKey(stray), all([]byte("stray"))),
			r.PutProto(ctx, stray, all([]byte("stray"))),
			r.PutArtefact(ctx, stray, fingerprint, all([]byte("stray"))),
			r.PutArtefact(ctx, one.Module, "another", all([]byte("for another kind of host"))),
		); err != nil {
			t.Fatal(err)
		}
		before := keys(t, r)

		if c := collect(t, r, CollectOptions{Grace: time.Hour, Now: time.Now()}); c != (Collected{}) {
			t.Errorf("what is young was collected: %+v", c)
		}
		diffKeys(t, r, before)

		another := artefactKey(one.Module, "another")
		for _, row := range []struct {
			keep int
			want Collected
			left []Version
		}{
			{3, Collected{Modules: 2, Artefacts: 2, Protos: 2}, []Version{one, two, three, four, other}},
			{2, Collected{Versions: 1}, []Version{one, three, four, other}},
			{1, Collected{Versions: 1, Modules: 1, Artefacts: 1, Protos: 1}, []Version{one, four, other}},
			{1, Collected{}, []Version{one, four, other}},
			{0, Collected{Versions: 1, Modules: 1, Artefacts: 1, Protos: 1}, []Version{one, other}},
		} {
			c := collect(t, r, CollectOptions{KeepVersions: row.keep, Grace: time.Hour})
			if (c.Bytes > 0) != (row.want != Collected{}) {
				t.Errorf("keeping %d: %d bytes collected", row.keep, c.Bytes)
			}
			c.Bytes = 0
			if diff := cmp.Diff(row.want, c); diff != "" {
				t.Errorf("keeping %d (-want +got):\n%s", row.keep, diff)
			}
			want := append(wantKeys(row.left...), another)
			slices.Sort(want)
			diffKeys(t, r, want)
			for _, v := range row.left {
				if err := checkComplete(r, v); err != nil {
					t.Error(err)
				}
			}
		}
		// What is left in the history stays, whatever the options.
		publish(t, r, "t", "f", "five")
		collect(t, r, CollectOptions{})
		if v, err := r.Rollback(ctx, "t", "f", ""); v != one || err != nil || checkComplete(r, v) != nil {
			t.Errorf("Rollback after Collect: %+v, %v, %v", v, err, checkComplete(r, v))
		}
		if _, err := r.Rollback(ctx, "t", "f", three.Version); !errors.Is(err, ErrNotFound) {
			t.Errorf("Rollback to what was collected: %v", err)
		}
		if _, err := r.Module(ctx, gone.Module); !errors.Is(err, ErrNotFound) {
			t.Errorf("the module of a function that was removed: %v", err)
		}
	})
}

// Files that a killed process was writing go too, but not those being written.
func TestCollect_temporaryFiles(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	v := publish(t, r, "t", "f", "one")
	yesterday := time.Now().Add(-24 * time.Hour)
	want := wantKeys(v)
	for _, key := range []string{moduleKey(v.Module), protoKey("x"), functionsKey(v.key()), versionKey(v.key(), v.Version), "deleted/" + moduleKey("x") + "@1-2"} {
		path := filepath.Join(dir, key)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, modTime := range map[string]time.Time{".abc1.tmp": yesterday, ".abc2.tmp": time.Now()} {
			if err := errors.Join(os.WriteFile(path+name, []byte("part"), 0o600), os.Chtimes(path+name, modTime, modTime)); err != nil {
				t.Fatal(err)
			}
		}
		want = append(want, key+".abc2.tmp")
	}
	if c := collect(t, r, CollectOptions{Grace: time.Hour, Now: time.Now()}); c != (Collected{Bytes: 20}) {
		t.Errorf("collected %+v", c)
	}
	slices.Sort(want)
	diffKeys(t, r, want)
}

// Nothing is taken for unneeded because a directory could not be read.
func TestCollect_unreadableDirectory(t *testing.T) {
	for _, sub := range []string{"functions", "functions/t", "versions/t", "versions/t/f"} {
		t.Run(sub, func(t *testing.T) {
			dir := t.TempDir()
			r := open(t, dir)
			v := publish(t, r, "t", "f", "one")
			// A directory that is a link to itself stands for one that can't be read: root
			// may read any.
			path := filepath.Join(dir, sub)
			if err := errors.Join(os.Rename(path, path+"-away"), os.Symlink(path, path)); err != nil {
				t.Fatal(err)
			}
			if c, err := r.Collect(ctx, CollectOptions{Now: later()}); err == nil || c != (Collected{}) {
				t.Errorf("Collect: %+v, %v; want an error", c, err)
			}
			if err := errors.Join(os.Remove(path), os.Rename(path+"-away", path)); err != nil {
				t.Fatal(err)
			}
			diffKeys(t, r, wantKeys(v))
		})
	}
}

// What a Collect that died had set aside is found by those who need it, and put back or
// deleted by the next Collect.
func TestCollect_leftAside(t *testing.T) {
	onStores(t, func(t *testing.T, location string) {
		r := open(t, location)
		v := publish(t, r, "t", "f", "one")
		unneeded := publish(t, r, "t", "f", "two")
		if _, err := r.Rollback(ctx, "t", "f", ""); err != nil {
			t.Fatal(err)
		}
		for _, key := range keys(t, r) {
			if key != functionsKey(v.key()) {
				if err := r.move(ctx, key, aside(key, time.Now().Add(-2*time.Hour))); err != nil {
					t.Fatal(err)
				}
			}
		}
		check := func(when string) {
			t.Helper()
			got, err := r.Function(ctx, "t", "f")
			if got != v || err != nil {
				t.Errorf("%s: %+v serves, %v", when, got, err)
			}
			if err := checkComplete(r, v); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		check("set aside")
		asideKeys := keys(t, r)
		// It may be of a Collect that is still at it.
		collect(t, r, CollectOptions{Grace: 3 * time.Hour})
		diffKeys(t, r, asideKeys)
		check("within the grace")
		collect(t, r, CollectOptions{Grace: time.Hour})
		check("after it")
		diffKeys(t, r, wantKeys(v))
		if _, err := r.Module(ctx, unneeded.Module); !errors.Is(err, ErrNotFound) {
			t.Errorf("what nothing needed: %v", err)
		}
	})
}

// What was set aside does not come back over what was written since.
func TestCollect_putsNothingOverNewer(t *testing.T) {
	onStores(t, func(t *testing.T, location string) {
		r := open(t, location)
		v := publish(t, r, "t", "f", "one")
		key := versionKey(v.key(), v.Version)
		if err := r.move(ctx, key, aside(key, time.Now().Add(-2*time.Hour))); err != nil {
			t.Fatal(err)
		}
		v = publish(t, r, "t", "f", "one")
		collect(t, r, CollectOptions{Grace: time.Hour, Now: time.Now()})
		if got := serving(t, r, "t", "f"); got != v {
			t.Errorf("%+v serves; want %+v", got, v)
		}
		diffKeys(t, r, wantKeys(v))
	})
}

// interleave lets hosts work on one store, one access at a time, in an order drawn from
// the seed. It returns their errors.
func interleave(bucket *blob.Bucket, seed uint64, hosts ...func(r *Registry) error) []error {
	rnd := rand.New(rand.NewPCG(seed, 0))
	errs := make([]error, len(hosts))
	waiting := make([]chan struct{}, len(hosts)) // at a step; nil when done
	var working sync.WaitGroup
	for i, host := range hosts {
		r := &Registry{bucket: bucket, o: Options{AtStep: func(Step) {
			turn := make(chan struct{})
			waiting[i] = turn
			<-turn
		}}}
		working.Go(func() { errs[i] = host(r) })
	}
	for {
		synctest.Wait() // for all to be at a step, or done
		var ready []int
		for i, turn := range waiting {
			if turn != nil {
				ready = append(ready, i)
			}
		}
		if len(ready) == 0 {
			working.Wait()
			return errs
		}
		i := ready[rnd.IntN(len(ready))]
		turn := waiting[i]
		waiting[i] = nil
		// No two accesses are at the same time, and now and then what was listed before is
		// known to be settled.
		pause := time.Microsecond
		if rnd.IntN(8) == 0 {
			pause = 2 * settled
		}
		time.Sleep(pause)
		close(turn)
	}
}

// Whatever comes between the steps of hosts that deploy, roll back, remove and collect the
// same versions, what serves in the end is complete; and Collect finds the rest.
// Nothing is young enough to be spared. Only a Rollback to what is just being collected may
// be left without what a host can make again, because it has nothing but the module.
func TestCollect_interleaved(t *testing.T) {
	publishAs := func(name, wasm string) func(r *Registry) error {
		v := version("t", name, wasm)
		v.StoredBytes = 0 // for Publish to look it up
		return func(r *Registry) error { return publishVersion(r, v, blobs(wasm)) }
	}
	rollback := func(wasm string) func(r *Registry) error {
		to := ""
		if wasm != "" {
			to = version("t", "f", wasm).Version
		}
		return func(r *Registry) error {
			_, err := r.Rollback(ctx, "t", "f", to)
			if errors.Is(err, ErrNotFound) || errors.Is(err, ErrNoPrevious) {
				err = nil // Collect or Remove was first
			}
			return err
		}
	}
	collect := func(r *Registry) error {
		_, err := r.Collect(ctx, CollectOptions{Grace: time.Hour, Now: later()})
		return err
	}
	remove := func(r *Registry) error {
		err := r.Remove(ctx, "t", "f")
		if errors.Is(err, ErrNotFound) {
			err = nil
		}
		return err
	}
	read := func(r *Registry) error {
		for range 3 {
			_, err := r.Function(ctx, "t", "f")
			if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, errNoRecord) {
				return err
			}
			if _, err := r.Functions(ctx); err != nil && !errors.Is(err, errNoRecord) {
				return err
			}
		}
		return nil
	}
	hasModule := func(r *Registry, v Version) error { _, err := r.Module(ctx, v.Module); return err }
	// "left" is a version of t/f that nothing needs at first.
	for _, row := range []struct {
		name     string
		hosts    []func(r *Registry) error
		complete func(r *Registry, v Version) error
	}{
		{"deploy again", []func(r *Registry) error{publishAs("f", "left"), collect, read}, checkComplete},
		{"deploy anew", []func(r *Registry) error{publishAs("new", "new"), collect}, checkComplete},
		{"deploy the same module elsewhere", []func(r *Registry) error{publishAs("other", "left"), collect}, checkComplete},
		{"roll back", []func(r *Registry) error{rollback("left"), collect, read}, hasModule},
		{"roll back and deploy", []func(r *Registry) error{rollback(""), publishAs("f", "new"), collect}, hasModule},
		{"two collect", []func(r *Registry) error{publishAs("f", "left"), collect, collect}, checkComplete},
		{"two deploy", []func(r *Registry) error{publishAs("f", "left"), publishAs("f", "new"), collect}, checkComplete},
		{"remove", []func(r *Registry) error{publishAs("f", "two"), remove, read}, checkComplete},
		{"remove and collect", []func(r *Registry) error{publishAs("f", "left"), remove, collect}, checkComplete},
	} {
		t.Run(row.name, func(t *testing.T) {
			for s := *seed; s < *seed+uint64(*schedules) && !t.Failed(); s++ {
				synctest.Test(t, func(t *testing.T) {
					bucket := memblob.OpenBucket(nil)
					defer bucket.Close()
					r := &Registry{bucket: bucket}
					newPast(t, r)
					for i, err := range interleave(bucket, s, row.hosts...) {
						if err != nil {
							t.Errorf("seed %d: host %d: %v", s, i, err)
						}
					}
					check := func(when string) []string {
						list, err := r.Functions(ctx)
						if err != nil {
							t.Errorf("seed %d, %s: %v", s, when, err)
						}
						var ids []string
						for _, v := range list {
							ids = append(ids, v.key().String()+" "+v.Version)
							if err := row.complete(r, v); err != nil {
								t.Errorf("seed %d, %s: %s, %v: %v", s, when, v.key(), modules(r, []Version{v}), err)
							}
						}
						return ids
					}
					before := check("at the end")
					if err := collect(r); err != nil {
						t.Errorf("seed %d: %v", s, err)
					}
					if diff := cmp.Diff(before, check("after Collect")); diff != "" {
						t.Errorf("seed %d: Collect changed what serves (-before +after):\n%s", s, diff)
					}
					// There is no garbage, and nothing aside.
					refs, err := r.references(ctx, references{})
					if err != nil {
						t.Errorf("seed %d: %v", s, err)
					}
					for _, key := range keys(t, r) {
						if _, _, ok := parseKey(key); !(ok && !isRecord(key)) && !refs.refers(key) {
							t.Errorf("seed %d: %s is left", s, key)
						}
					}
				})
			}
			if t.Failed() {
				t.Logf("run with: -args -registry.seed=N -registry.schedules=1")
			}
		})
	}
}

// Hosts that share a directory as no two should, so that all races are there at once.
func TestRegistry_hammer(t *testing.T) {
	dir := t.TempDir()
	deadline := time.Now().Add(2 * time.Second)
	var working sync.WaitGroup
	host := func(step func(r *Registry, i int) error) {
		r := open(t, dir)
		working.Go(func() {
			for i := 0; time.Now().Before(deadline); i++ {
				if err := step(r, i); err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrNoPrevious) && !errors.Is(err, errNoRecord) {
					t.Error(err)
					return
				}
			}
		})
	}
	name := func(i int) string { return fmt.Sprintf("f%d", i%3) }
	wasm := func(i int) string { return fmt.Sprintf("module %d", i%5) }
	for range 2 {
		host(func(r *Registry, i int) error {
			return publishVersion(r, version("t", name(i), wasm(i)), blobs(wasm(i)))
		})
	}
	host(func(r *Registry, i int) error { _, err := r.Rollback(ctx, "t", name(i), ""); return err })
	host(func(r *Registry, i int) error { return r.Remove(ctx, "t", name(i)) })
	var known map[Key]string
	host(func(r *Registry, i int) error {
		c, err := r.Changed(ctx, known)
		known = c.Known
		return err
	})
	host(func(r *Registry, i int) error {
		// Without what is being written: nobody waits a day.
		_, err := r.collect(ctx, CollectOptions{Grace: time.Hour, Now: later()})
		return err
	})
	working.Wait()

	r := open(t, dir)
	list, err := r.Functions(ctx)
	if err != nil || t.Failed() {
		t.Fatal(err)
	}
	for _, v := range list {
		if err := checkComplete(r, v); err != nil {
			t.Errorf("%s: %v", v.key(), err)
		}
	}
}
