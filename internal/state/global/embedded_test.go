package global

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.etcd.io/bbolt"
)

func TestOpenEmbedded(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	make := func(name string, change func(tx *bbolt.Tx) error) {
		t.Helper()
		db, err := bbolt.Open(path(name), 0o600, nil)
		if err == nil {
			err = errors.Join(db.Update(change), db.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ours := func(format []byte) func(tx *bbolt.Tx) error {
		return func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket(bucketMeta)
			return errors.Join(err, b.Put(metaFormat, format), b.Put(metaClock, bytes.Repeat([]byte{0}, 8)))
		}
	}
	os.WriteFile(path("text"), bytes.Repeat([]byte("no database"), 2000), 0o600)
	os.Mkdir(path("directory"), 0o700)
	make("other", func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("x")); return err })
	make("newer", ours([]byte{0, 0, 0, 2}))
	make("short", ours([]byte{1}))
	make("empty", ours([]byte{0, 0, 0, 1}))
	openEmbedded(t, path("open"))
	for name, want := range map[string]error{
		"text": ErrForeign, "other": ErrForeign, "newer": ErrForeign, "short": ErrDamaged, "empty": ErrDamaged, "open": ErrLocked,
		"directory": nil, "nowhere/state.db": os.ErrNotExist,
	} {
		e, err := OpenEmbedded(path(name))
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("open %s: %v, want %v", name, err, want)
		}
		if err == nil {
			e.Close()
		}
	}
}

// Damage is told, and what is whole can be read.
func TestEmbedded_damage(t *testing.T) {
	e := openEmbedded(t, filepath.Join(t.TempDir(), "state.db"))
	ctx := t.Context()
	other := Key{"t", "other"}
	flip := func(bucket []byte, key []byte) {
		t.Helper()
		if err := e.db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket(bucket)
			v := bytes.Clone(b.Get(key))
			v[len(v)/2] ^= 4
			return b.Put(key, v)
		}); err != nil {
			t.Fatal(err)
		}
	}
	write(t, e, other, []byte("whole"))
	info := write(t, e, aKey, pattern(3*ChunkBytes, 1))
	if _, err := e.Append(ctx, aKey, []byte("element")); err != nil {
		t.Fatal(err)
	}
	var r record
	if err := e.view(ctx, func(tx *embeddedTx) (err error) { r, err = tx.record(keyOf(aKey)); return err }); err != nil {
		t.Fatal(err)
	}
	flip(bucketChunks, chunkKey(r.value.gen, 1, r.value.epoch))
	flip(bucketChunks, chunkKey(r.list.gen, 0, r.list.gen))
	damaged := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, want ErrDamaged", what, err)
		}
	}
	_, _, err := e.Read(ctx, aKey, 0, make([]byte, 3*ChunkBytes))
	damaged("read", err)
	_, err = e.Patch(ctx, aKey, []Range{{0, make([]byte, 3*ChunkBytes)}}, Condition{})
	damaged("patch", err)
	_, err = e.ReadList(ctx, aKey, 0, 1, 10)
	damaged("list", err)
	if n, again, err := e.Read(ctx, aKey, 0, make([]byte, ChunkBytes)); n != ChunkBytes || again != info || err != nil {
		t.Errorf("read what is whole: %d, %+v, %v", n, again, err)
	}
	write(t, e, aKey, []byte("a new value")) // nobody needs the old one to be whole
	flip(bucketKeys, keyOf(aKey))
	_, err = e.Stat(ctx, aKey)
	damaged("stat", err)
	_, err = e.Write(ctx, aKey, 0, nil, Condition{})
	damaged("write", err)
	_, err = e.List(ctx, "t", "", "", 10)
	damaged("listing", err)
	if b, _ := read(t, e, other); string(b) != "whole" {
		t.Errorf("another value is %q", b)
	}
}

// The file is cut short under an open store: reading the rest is a fault, not a page.
func TestEmbedded_cutWhileOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	e := openEmbedded(t, path)
	write(t, e, aKey, make([]byte, 40*ChunkBytes))
	if err := os.Truncate(path, 8<<10); err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.Read(t.Context(), aKey, 0, make([]byte, 40*ChunkBytes)); !errors.Is(err, ErrDamaged) {
		t.Errorf("read: %v, want ErrDamaged", err)
	}
	if _, err := e.Write(t.Context(), aKey, 0, nil, Condition{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("write: %v, want ErrDamaged", err)
	}
}

// Small changes that come together share commits.
func TestEmbedded_groupCommit(t *testing.T) {
	e := openEmbedded(t, filepath.Join(t.TempDir(), "state.db"))
	commits := func() (n int) {
		e.db.View(func(tx *bbolt.Tx) error { n = tx.ID(); return nil })
		return n
	}
	before := commits()
	const writers, each = 64, 8
	var g sync.WaitGroup
	for w := range writers {
		g.Go(func() {
			for range each {
				if _, err := e.Append(context.Background(), aKey, binary.BigEndian.AppendUint32(nil, uint32(w))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	if n := commits() - before; n > writers*each/4 {
		t.Errorf("%d changes took %d commits", writers*each, n)
	}
}
