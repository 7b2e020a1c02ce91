package global

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/faasm-go/faasm/internal/state/redistest"
)

const crashWorkers, crashChunks = 6, 3

func crashKey(w int) Key { return Key{"t", fmt.Sprint("worker ", w)} }

func tagged(tag uint64) []byte {
	b := make([]byte, crashChunks*ChunkBytes)
	for i := 0; i < len(b); i += 1024 {
		binary.LittleEndian.PutUint64(b[i:], tag)
	}
	return b
}

// childWrite has workers that each write a value, patch it, merge into it and append to a
// list, and say so when each has been acknowledged.
func childWrite(path string) {
	e, err := OpenEmbedded(path)
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	var mu sync.Mutex
	said := func(w int, n uint64, what string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(w, n, what)
	}
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	var g sync.WaitGroup
	for w := range crashWorkers {
		g.Go(func() {
			for n := uint64(1); ; n++ {
				_, err := e.Write(ctx, crashKey(w), crashChunks*ChunkBytes, bytes.NewReader(tagged(n)), Condition{})
				must(err)
				said(w, n, "write")
				_, err = e.Patch(ctx, crashKey(w), []Range{{8, binary.LittleEndian.AppendUint64(nil, n)}}, Condition{})
				must(err)
				said(w, n, "patch")
				_, err = e.Append(ctx, crashKey(w), binary.LittleEndian.AppendUint64(nil, n))
				must(err)
				said(w, n, "append")
			}
		})
	}
	g.Wait()
}

// Everything that was acknowledged is there after kill -9, and no value is a mixture.
func TestEmbedded_kill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	random := rand.New(rand.NewPCG(*seed, 1))
	acknowledged := 0
	for range 4 {
		os.Remove(path)
		cmd := exec.Command(os.Args[0], "-global.child=write", path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		wrote, patched, appended := [crashWorkers]uint64{}, [crashWorkers]uint64{}, [crashWorkers]uint64{}
		lines := bufio.NewScanner(out)
		left := 10 + random.IntN(200)
		for lines.Scan() {
			var w int
			var n uint64
			var what string
			if _, err := fmt.Sscan(lines.Text(), &w, &n, &what); err != nil {
				continue // a line that was cut off
			}
			acknowledged++
			switch what {
			case "write":
				wrote[w] = n
			case "patch":
				patched[w] = n
			case "append":
				appended[w] = n
			}
			if left--; left == 0 {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		e, err := OpenEmbedded(path)
		if err != nil {
			t.Fatal(err)
		}
		for w := range crashWorkers {
			if wrote[w] == 0 {
				continue
			}
			b, _ := read(t, e, crashKey(w))
			tag := binary.LittleEndian.Uint64(b)
			if tag != wrote[w] && tag != wrote[w]+1 {
				t.Errorf("worker %d: the value is write %d, and %d was acknowledged", w, tag, wrote[w])
			}
			p := binary.LittleEndian.Uint64(b[8:])
			if p != 0 && p != tag || p == 0 && patched[w] == tag {
				t.Errorf("worker %d: write %d has patch %d, and %d was acknowledged", w, tag, p, patched[w])
			}
			copy(b[8:16], make([]byte, 8))
			diffBytes(t, fmt.Sprintf("worker %d", w), b, tagged(tag))
			list, err := e.ReadList(t.Context(), crashKey(w), 0, 100_000, 1<<30)
			if err != nil || uint64(len(list)) != appended[w] && uint64(len(list)) != appended[w]+1 {
				t.Errorf("worker %d: the list has %d elements, and %d were acknowledged: %v", w, len(list), appended[w], err)
			}
			for i, b := range list {
				if binary.LittleEndian.Uint64(b) != uint64(i+1) {
					t.Errorf("worker %d: element %d is %x", w, i, b)
				}
			}
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d: %d acknowledged", *seed, acknowledged)
}

const longChunks = 3*writeBatch + 5

// childLongWrite begins a long write and says so when half of it is stored.
func childLongWrite(path string) {
	e, err := OpenEmbedded(path)
	if err != nil {
		panic(err)
	}
	_, err = e.Write(context.Background(), aKey, longChunks*ChunkBytes, stuck{}, Condition{})
	panic(err)
}

type stuck struct{}

func (stuck) ReadAt(b []byte, off int64) (int, error) {
	if off > longChunks*ChunkBytes/2 {
		fmt.Println("half")
		time.Sleep(time.Hour)
	}
	return len(b), nil
}

// What a writer that crashed had stored is deleted, and the old value is there.
func TestEmbedded_killLongWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	e, err := OpenEmbedded(path)
	if err != nil {
		t.Fatal(err)
	}
	old := pattern(2*ChunkBytes, 7)
	write(t, e, aKey, old)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-global.child=long-write", path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	bufio.NewReader(out).ReadString('\n')
	cmd.Process.Kill()
	cmd.Wait()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := chunksIn(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if n < 2+writeBatch {
		t.Errorf("%d chunks are stored when the writer crashes: the test shows nothing", n)
	}
	e = openEmbedded(t, path)
	got, _ := read(t, e, aKey)
	diffBytes(t, "the old value", got, old)
	if _, err := e.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := chunksIn(t, e.db); n != 2 {
		t.Errorf("%d chunks are left, want 2", n)
	}
}

func chunksIn(t testing.TB, db *bbolt.DB) (n int) {
	t.Helper()
	if err := db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketChunks).ForEach(func(k, v []byte) error {
			n++
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// Nothing is left of values that are replaced, patched, published and deleted.
func TestStore_noGarbage(t *testing.T) {
	fill := func(t *testing.T, s Store) {
		ctx := t.Context()
		for i := range 12 {
			write(t, s, aKey, pattern((i%4)*60*ChunkBytes/4+5, uint64(i)))
			for c := range 3 {
				patch(t, s, aKey, int64(c)*5*ChunkBytes+int64(i), []byte("patch"))
				if _, err := s.Publish(ctx, aKey, Condition{}); err != nil {
					t.Fatal(err)
				}
				patch(t, s, aKey, int64(c)*7*ChunkBytes-int64(c), []byte("patch"))
			}
			if _, err := s.Append(ctx, aKey, []byte("element")); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Write(ctx, aKey, 40*ChunkBytes, failAt{20 * ChunkBytes, io.ErrNoProgress}, Condition{}); err == nil {
				t.Fatal("a write from a broken source succeeds")
			}
			if _, err := s.Write(ctx, aKey, 40*ChunkBytes, bytes.NewReader(make([]byte, 40*ChunkBytes)), Condition{IfVersion: 1}); err == nil {
				t.Fatal("a write of a version that is gone succeeds")
			}
			if i == 6 {
				if err := s.Delete(ctx, aKey, Condition{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.Delete(ctx, aKey, Condition{}); err != nil {
			t.Fatal(err)
		}
		if u, err := s.Usage(ctx, aKey.Tenant); err != nil || u != (Usage{}) {
			t.Errorf("usage %+v, %v", u, err)
		}
	}
	t.Run("embedded", func(t *testing.T) {
		e := openEmbedded(t, filepath.Join(t.TempDir(), "state.db"))
		fill(t, e)
		if _, err := e.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := e.db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
				if k, _ := b.Cursor().First(); k != nil && !bytes.Equal(name, bucketMeta) {
					t.Errorf("bucket %s has %q", name, k)
				}
				return nil
			})
		}); err != nil {
			t.Fatal(err)
		}
	})
	for name, url := range map[string]func(testing.TB) string{"redis": redisURL, "cluster": clusterURL} {
		t.Run(name, func(t *testing.T) {
			r := openRedis(t, url(t), RedisOptions{})
			fill(t, r)
			nodes := []*redistest.Server{shared.single}
			if name == "cluster" {
				nodes = shared.cluster
			}
			// What was dropped is deleted without anybody's doing.
			for deadline := time.Now().Add(20 * time.Second); ; {
				var left []string
				for _, n := range nodes {
					for _, key := range names(t, n, "*") {
						if p := prefix(aKey.Tenant); key != p+"clock" && key != p+"bytes" {
							left = append(left, key)
						}
					}
				}
				if len(left) == 0 {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("%d keys are left: %.20q", len(left), left)
				}
				time.Sleep(20 * time.Millisecond) // between looks at another process
			}
		})
	}
}
