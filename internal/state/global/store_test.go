package global

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var aKey = Key{"t", "k"}

func write(t testing.TB, s Store, key Key, value []byte) Info {
	t.Helper()
	info, err := s.Write(t.Context(), key, int64(len(value)), bytes.NewReader(value), Condition{})
	if err != nil {
		t.Fatal(err)
	}
	if info.Size != int64(len(value)) || info.Version == 0 || info.ChunkBytes != ChunkBytes {
		t.Fatalf("write of %d bytes: %+v", len(value), info)
	}
	return info
}

func patch(t testing.TB, s Store, key Key, off int64, data []byte) Info {
	t.Helper()
	info, err := s.Patch(t.Context(), key, []Range{{off, data}}, Condition{})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// read returns the whole value.
func read(t testing.TB, s Store, key Key) ([]byte, Info) {
	t.Helper()
	for {
		info, err := s.Stat(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		b := bytes.Repeat([]byte{0xee}, int(info.Size)) // what is not written shows
		n, again, err := s.Read(t.Context(), key, 0, b)
		if err != nil {
			t.Fatal(err)
		}
		if again.Size == int64(len(b)) {
			return b[:n], again
		}
	}
}

// pattern is bytes that differ from place to place.
func pattern(n int, tag uint64) []byte {
	b := make([]byte, n)
	random := rand.New(rand.NewPCG(tag, uint64(n)))
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], random.Uint64())
	}
	for i := n &^ 7; i < n; i++ {
		b[i] = byte(random.Uint32())
	}
	return b
}

func diffBytes(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d bytes, want %d", what, len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%s: byte %d of %d is %#x, want %#x", what, i, len(got), got[i], want[i])
		}
	}
}

func TestStore_invalid(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		s, ctx := open(t), t.Context()
		write(t, s, aKey, make([]byte, 16))
		none := Condition{}
		for name, key := range map[string]Key{
			"no tenant": {"", "k"}, "no name": {"t", ""}, "long name": {"t", strings.Repeat("n", NameBytesMax+1)},
			"long tenant": {strings.Repeat("t", TenantBytesMax+1), "k"}, "no UTF-8": {"t", "\xff"}, "tenant no UTF-8": {"\xc3(", "k"},
		} {
			calls := map[string]func() error{
				"Stat":          func() error { _, err := s.Stat(ctx, key); return err },
				"Read":          func() error { _, _, err := s.Read(ctx, key, 0, nil); return err },
				"Write":         func() error { _, err := s.Write(ctx, key, 0, nil, none); return err },
				"Patch":         func() error { _, err := s.Patch(ctx, key, nil, none); return err },
				"Merge":         func() error { _, err := s.Merge(ctx, key, 0, Int32, Sum, nil, none); return err },
				"Delete":        func() error { return s.Delete(ctx, key, none) },
				"Append":        func() error { _, err := s.Append(ctx, key, nil); return err },
				"ReadList":      func() error { _, err := s.ReadList(ctx, key, 0, 1, 1); return err },
				"StatList":      func() error { _, _, err := s.StatList(ctx, key); return err },
				"ClearList":     func() error { return s.ClearList(ctx, key) },
				"Publish":       func() error { _, err := s.Publish(ctx, key, none); return err },
				"Published":     func() error { _, err := s.Published(ctx, key); return err },
				"ReadPublished": func() error { _, _, err := s.ReadPublished(ctx, key, 1, 0, nil); return err },
				"Unpublish":     func() error { return s.Unpublish(ctx, key, 1) },
				"Lock":          func() error { _, err := s.Lock(ctx, key, LockRead); return err },
			}
			for call, f := range calls {
				if err := f(); !errors.Is(err, ErrInvalid) {
					t.Errorf("%s with %s: %v, want ErrInvalid", call, name, err)
				}
			}
		}
		eight := make([]byte, 8)
		for name, f := range map[string]func() error{
			"read at -1":        func() error { _, _, err := s.Read(ctx, aKey, -1, eight); return err },
			"write of -1":       func() error { _, err := s.Write(ctx, aKey, -1, nil, none); return err },
			"write of too much": func() error { _, err := s.Write(ctx, aKey, ValueBytesMax+1, nil, none); return err },
			"contradiction": func() error {
				_, err := s.Write(ctx, aKey, 0, nil, Condition{IfAbsent: true, IfVersion: 1})
				return err
			},
			"patch at -1":      func() error { _, err := s.Patch(ctx, aKey, []Range{{-1, eight}}, none); return err },
			"patch that wraps": func() error { _, err := s.Patch(ctx, aKey, []Range{{math.MaxInt64 - 3, eight}}, none); return err },
			"patch beyond all": func() error { _, err := s.Patch(ctx, aKey, []Range{{ValueBytesMax - 7, eight}}, none); return err },
			"second range":     func() error { _, err := s.Patch(ctx, aKey, []Range{{0, eight}, {-1, nil}}, none); return err },
			"patch if absent":  func() error { _, err := s.Patch(ctx, aKey, nil, Condition{IfAbsent: true}); return err },
			"merge of no type": func() error { _, err := s.Merge(ctx, aKey, 0, 0, Sum, eight, none); return err },
			"merge of type 9":  func() error { _, err := s.Merge(ctx, aKey, 0, 9, Sum, eight, none); return err },
			"merge of no op":   func() error { _, err := s.Merge(ctx, aKey, 0, Int64, 0, eight, none); return err },
			"merge unaligned":  func() error { _, err := s.Merge(ctx, aKey, 4, Int64, Sum, eight, none); return err },
			"merge of a part":  func() error { _, err := s.Merge(ctx, aKey, 0, Int64, Sum, eight[:7], none); return err },
			"merge at -8":      func() error { _, err := s.Merge(ctx, aKey, -8, Int64, Sum, eight, none); return err },
			"merge beyond end": func() error { _, err := s.Merge(ctx, aKey, 16, Int64, Sum, eight, none); return err },
			"merge over end":   func() error { _, err := s.Merge(ctx, aKey, 8, Int64, Sum, make([]byte, 16), none); return err },
			"merge far beyond": func() error { _, err := s.Merge(ctx, aKey, 10*ChunkBytes, Int64, Sum, eight, none); return err },
			"large element":    func() error { _, err := s.Append(ctx, aKey, make([]byte, ElementBytesMax+1)); return err },
			"list from -1":     func() error { _, err := s.ReadList(ctx, aKey, -1, 1, 1); return err },
			"list of -1":       func() error { _, err := s.ReadList(ctx, aKey, 0, -1, 1); return err },
			"list of -1 bytes": func() error { _, err := s.ReadList(ctx, aKey, 0, 1, -1); return err },
			"no limit":         func() error { _, err := s.List(ctx, "t", "", "", 0); return err },
			"large limit":      func() error { _, err := s.List(ctx, "t", "", "", listLimitMax+1); return err },
			"list no tenant":   func() error { _, err := s.List(ctx, "", "", "", 1); return err },
			"usage no tenant":  func() error { _, err := s.Usage(ctx, ""); return err },
			"no lock mode":     func() error { _, err := s.Lock(ctx, aKey, 0); return err },
		} {
			if err := f(); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v, want ErrInvalid", name, err)
			}
		}
		got, _ := read(t, s, aKey)
		diffBytes(t, "the value after all that", got, make([]byte, 16))
	})
}

func TestStore_absent(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		s, ctx := open(t), t.Context()
		none := Condition{}
		if _, err := s.Append(ctx, Key{"t", "list"}, []byte("x")); err != nil {
			t.Fatal(err)
		}
		for _, key := range []Key{aKey, {"t", "list"}} { // a list is no value
			for name, f := range map[string]func() error{
				"Stat":          func() error { _, err := s.Stat(ctx, key); return err },
				"Read":          func() error { _, _, err := s.Read(ctx, key, 5, make([]byte, 1)); return err },
				"Patch":         func() error { _, err := s.Patch(ctx, key, []Range{{0, []byte("x")}}, none); return err },
				"Patch none":    func() error { _, err := s.Patch(ctx, key, nil, none); return err },
				"Patch far":     func() error { _, err := s.Patch(ctx, key, []Range{{ChunkBytes, []byte("x")}}, none); return err },
				"Merge":         func() error { _, err := s.Merge(ctx, key, 0, Int32, Sum, make([]byte, 4), none); return err },
				"Merge far":     func() error { _, err := s.Merge(ctx, key, ChunkBytes, Int32, Sum, make([]byte, 4), none); return err },
				"Publish":       func() error { _, err := s.Publish(ctx, key, none); return err },
				"Published":     func() error { _, err := s.Published(ctx, key); return err },
				"ReadPublished": func() error { _, _, err := s.ReadPublished(ctx, key, 7, 0, nil); return err },
				"Unpublish":     func() error { return s.Unpublish(ctx, key, 7) },
			} {
				if err := f(); !errors.Is(err, ErrNotFound) {
					t.Errorf("%s of %s: %v, want ErrNotFound", name, key, err)
				}
			}
		}
		if err := s.Delete(ctx, aKey, none); !errors.Is(err, ErrNotFound) {
			t.Errorf("Delete: %v, want ErrNotFound", err)
		}
		if err := s.ClearList(ctx, aKey); err != nil {
			t.Errorf("ClearList: %v", err)
		}
		if n, b, err := s.StatList(ctx, aKey); n != 0 || b != 0 || err != nil {
			t.Errorf("StatList: %d, %d, %v", n, b, err)
		}
		if got, err := s.ReadList(ctx, aKey, 0, 9, 9); len(got) != 0 || err != nil {
			t.Errorf("ReadList: %q, %v", got, err)
		}
		if u, err := s.Usage(ctx, "nobody"); u != (Usage{}) || err != nil {
			t.Errorf("Usage: %+v, %v", u, err)
		}
	})
}

// No two keys meet, whatever a driver makes of their bytes.
func TestStore_keysNeverCollide(t *testing.T) {
	parts := []string{
		"a", "b", "ab", "a:b", "a:", ":a", "a/b", "a\x00", "\x00a", "a\x00b", "{a}", "{a", "a}", "}a{", "{}", "%7Ba%7D", "a+b", "a b", "a%20b",
		"a*", "?", "[a]", "é", "e\u0301", "A", "Ａ", "0", "00", "1", "-1", "v:a", "0:1:a", "c:{1.1}1:t:a", "faasm:{a}v:a", "faasm", "\r\n", "\U0010ffff",
		strings.Repeat("a", TenantBytesMax), strings.Repeat("a", TenantBytesMax-1),
	}
	var keys []Key
	for _, tenant := range parts {
		for _, name := range parts {
			keys = append(keys, Key{tenant, name})
		}
	}
	keys = append(keys, Key{"a", strings.Repeat("n", NameBytesMax)}, Key{"a", strings.Repeat("n", NameBytesMax-1)})
	drivers(t, func(t *testing.T, open hosts) {
		s, ctx := open(t), t.Context()
		content := func(key Key) []byte { return []byte(fmt.Sprintf("%q %q", key.Tenant, key.Name)) }
		var g sync.WaitGroup
		for part := range slices.Chunk(keys, 64) {
			for _, key := range part {
				g.Go(func() {
					if _, err := s.Write(ctx, key, int64(len(content(key))), bytes.NewReader(content(key)), Condition{IfAbsent: true}); err != nil {
						t.Error(err)
					}
					if _, err := s.Append(ctx, key, content(key)); err != nil {
						t.Error(err)
					}
					if l, err := s.Lock(ctx, key, LockWrite); err != nil {
						t.Error(err)
					} else {
						t.Cleanup(func() { l.Unlock(context.Background()) })
					}
				})
			}
			g.Wait()
		}
		for _, key := range keys {
			got, _ := read(t, s, key)
			list, err := s.ReadList(ctx, key, 0, 9, 9999)
			if err != nil || len(list) != 1 || !bytes.Equal(list[0], content(key)) || !bytes.Equal(got, content(key)) {
				t.Errorf("%s: %q, %q, %v", key, got, list, err)
			}
		}
		for _, tenant := range parts {
			var want, got []string
			for _, key := range keys {
				if key.Tenant == tenant {
					want = append(want, key.Name)
				}
			}
			slices.Sort(want)
			for after := ""; ; {
				page, err := s.List(ctx, tenant, "", after, 7)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range page {
					got = append(got, e.Name)
				}
				if len(page) < 7 {
					break
				}
				after = page[6].Name
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("names of tenant %q (-want +got):\n%s", tenant, diff)
			}
		}
	})
}

func TestStore_readWrite(t *testing.T) {
	const c = ChunkBytes
	drivers(t, func(t *testing.T, open hosts) {
		s, other, ctx := open(t), open(t), t.Context()
		version := uint64(0)
		for _, size := range []int{0, 1, c - 1, c, c + 1, 5*c + 3, 2 * c, 40 * c, 100, 0, 3 * c} {
			value := pattern(size, uint64(size))
			info := write(t, s, aKey, value)
			if info.Version <= version {
				t.Errorf("version %d after %d", info.Version, version)
			}
			version = info.Version
			for _, reader := range []Store{s, other, s, other} {
				got, info := read(t, reader, aKey)
				diffBytes(t, fmt.Sprintf("value of %d", size), got, value)
				if info.Version != version {
					t.Errorf("read version %d, want %d", info.Version, version)
				}
			}
			for _, r := range [][2]int{
				{math.MaxInt, 1}, {size, 1}, {size + 1, c}, {size - 1, 2}, {size - c - 1, c}, {0, 1}, {1, c}, {c - 1, 2}, {c, c}, {c - 1, 1}, {2*c - 1, 2*c + 2}, {0, size}, {0, size + 1}, {3, 0},
			} {
				if r[0] < 0 {
					continue
				}
				want := value[min(r[0], size):]
				want = want[:min(len(want), r[1])]
				dst := bytes.Repeat([]byte{0xee}, r[1])
				n, info, err := other.Read(ctx, aKey, int64(r[0]), dst)
				if err != nil || info.Version != version || info.Size != int64(size) {
					t.Fatalf("read %v of %d: %+v, %v", r, size, info, err)
				}
				diffBytes(t, fmt.Sprintf("%v of %d", r, size), dst[:n], want)
			}
		}
	})
}

func TestStore_sparse(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		s, ctx := open(t), t.Context()
		const size = ValueBytesMax
		if _, err := s.Write(ctx, aKey, size, nil, Condition{}); err != nil {
			t.Fatal(err)
		}
		patch(t, s, aKey, size-4, []byte("last"))
		patch(t, s, aKey, 3*ChunkBytes-2, []byte("over"))
		dst := bytes.Repeat([]byte{0xee}, 10)
		if n, _, err := s.Read(ctx, aKey, size-7, dst); err != nil || string(dst[:n]) != "\x00\x00\x00last" {
			t.Errorf("the end is %q, %v", dst[:n], err)
		}
		if n, _, err := s.Read(ctx, aKey, 3*ChunkBytes-5, dst); err != nil || string(dst[:n]) != "\x00\x00\x00over\x00\x00\x00" {
			t.Errorf("the middle is %q, %v", dst[:n], err)
		}
		if n, _, err := s.Read(ctx, aKey, 0, dst); err != nil || !bytes.Equal(dst[:n], make([]byte, 10)) {
			t.Errorf("the beginning is %q, %v", dst[:n], err)
		}
		if u, err := s.Usage(ctx, "t"); err != nil || u != (Usage{size, 1}) {
			t.Errorf("usage %+v, %v", u, err)
		}
		write(t, s, aKey, nil) // and what is there of it is deleted
	})
}

// A reader that has seen a value finds zeroes where another host has made it longer, and
// not what was in its buffer. (Found by TestStore_model with seed 77.)
func TestStore_readAfterGrowth(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		s, other := open(t), open(t)
		const size = 3*ChunkBytes + 39
		for _, grown := range []int64{size + 100, 4 * ChunkBytes, 6 * ChunkBytes} {
			want := pattern(size, 1)
			write(t, s, aKey, want)
			read(t, other, aKey)
			patch(t, s, aKey, grown, []byte("end"))
			want = append(append(want, make([]byte, grown-size)...), "end"...)
			for _, off := range []int64{0, 5, 3*ChunkBytes + 1} {
				dst := bytes.Repeat([]byte{0xee}, 7*ChunkBytes)
				n, _, err := other.Read(t.Context(), aKey, off, dst)
				if err != nil {
					t.Fatal(err)
				}
				diffBytes(t, fmt.Sprintf("grown to %d, from %d", grown, off), dst[:n], want[off:])
				write(t, s, aKey, want[:size])
				read(t, other, aKey)
				patch(t, s, aKey, grown, []byte("end"))
			}
		}
	})
}

// A source that fails half way leaves the old value.
func TestStore_writeFails(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		s, ctx := open(t), t.Context()
		old := write(t, s, aKey, []byte("old"))
		broken := errors.New("broken source")
		for name, src := range map[string]io.ReaderAt{
			"fails at once": failAt{0, broken}, "fails in chunk 1": failAt{ChunkBytes + 5, broken},
			"fails late": failAt{200 * ChunkBytes, broken}, "is short": failAt{299 * ChunkBytes, io.EOF},
		} {
			want := broken
			if name == "is short" {
				want = io.ErrUnexpectedEOF
			}
			if _, err := s.Write(ctx, aKey, 300*ChunkBytes, src, Condition{}); !errors.Is(err, want) {
				t.Errorf("write from a source that %s: %v", name, err)
			}
		}
		got, info := read(t, s, aKey)
		if string(got) != "old" || info != old {
			t.Errorf("the value is %q, %+v", got, info)
		}
	})
}

type failAt struct {
	off int64
	err error
}

func (f failAt) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > f.off {
		return int(max(f.off-off, 0)), f.err
	}
	return len(b), nil
}

func TestStore_conditions(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		s, ctx := open(t), t.Context()
		lease, err := s.Lock(ctx, aKey, LockWrite)
		if err != nil {
			t.Fatal(err)
		}
		stale := lease.Token()
		if err := lease.Unlock(ctx); err != nil {
			t.Fatal(err)
		}
		if lease, err = s.Lock(ctx, aKey, LockRead); err != nil {
			t.Fatal(err)
		}
		defer lease.Unlock(ctx)
		if lease.Token() <= stale {
			t.Fatalf("token %d after %d", lease.Token(), stale)
		}
		large := make([]byte, 3*ChunkBytes)
		changes := map[string]func(c Condition) error{
			"Write": func(c Condition) error { _, err := s.Write(ctx, aKey, 1, strings.NewReader("w"), c); return err },
			"Write large": func(c Condition) error {
				_, err := s.Write(ctx, aKey, int64(len(large)), bytes.NewReader(large), c)
				return err
			},
			"Patch":       func(c Condition) error { _, err := s.Patch(ctx, aKey, []Range{{0, []byte("p")}}, c); return err },
			"Patch large": func(c Condition) error { _, err := s.Patch(ctx, aKey, []Range{{1, large}}, c); return err },
			"Patch none":  func(c Condition) error { _, err := s.Patch(ctx, aKey, nil, c); return err },
			"Merge": func(c Condition) error {
				_, err := s.Merge(ctx, aKey, 0, Int32, Sum, []byte{1, 0, 0, 0}, c)
				return err
			},
			"Merge large": func(c Condition) error { _, err := s.Merge(ctx, aKey, 4, Int32, Sum, large, c); return err },
			"Publish":     func(c Condition) error { _, err := s.Publish(ctx, aKey, c); return err },
			"Delete":      func(c Condition) error { return s.Delete(ctx, aKey, c) },
		}
		for name, change := range changes {
			before := write(t, s, aKey, bytes.Repeat([]byte("o"), 4*ChunkBytes))
			for _, row := range []struct {
				c    Condition
				want error
			}{
				{Condition{Fence: stale}, ErrFenced},
				{Condition{Fence: stale, IfVersion: before.Version}, ErrFenced},
				{Condition{Fence: lease.Token() + 1}, ErrFenced},
				{Condition{Fence: math.MaxUint64}, ErrFenced},
				{Condition{IfVersion: before.Version - 1}, ErrVersion},
				{Condition{IfVersion: before.Version + 1}, ErrVersion},
				{Condition{IfVersion: math.MaxUint64}, ErrVersion},
				{Condition{IfVersion: before.Version - 1, Fence: lease.Token()}, ErrVersion},
			} {
				if err := change(row.c); !errors.Is(err, row.want) {
					t.Errorf("%s if %+v: %v, want %v", name, row.c, err, row.want)
				}
				if got, info := read(t, s, aKey); info != before || got[0] != 'o' || got[4*ChunkBytes-1] != 'o' {
					t.Fatalf("%s if %+v changed the value: %+v, was %+v", name, row.c, info, before)
				}
			}
			if err := change(Condition{IfVersion: before.Version, Fence: lease.Token()}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		// Without a value.
		if err := s.Delete(ctx, aKey, Condition{}); err != nil && !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		if _, err := s.Write(ctx, aKey, 0, nil, Condition{IfVersion: 1}); !errors.Is(err, ErrVersion) {
			t.Errorf("Write of an absent value if at version 1: %v", err)
		}
		if err := s.Delete(ctx, aKey, Condition{Fence: stale}); !errors.Is(err, ErrFenced) {
			t.Errorf("Delete of an absent value with a stale fence: %v", err)
		}
		if _, err := s.Write(ctx, aKey, 2, strings.NewReader("ab"), Condition{IfAbsent: true}); err != nil {
			t.Error(err)
		}
		if _, err := s.Write(ctx, aKey, 2, strings.NewReader("cd"), Condition{IfAbsent: true}); !errors.Is(err, ErrVersion) {
			t.Errorf("second Write if absent: %v", err)
		}
		// After Unlock the token is worth nothing.
		lease.Unlock(ctx)
		if _, err := s.Patch(ctx, aKey, []Range{{0, []byte("x")}}, Condition{Fence: lease.Token()}); !errors.Is(err, ErrFenced) {
			t.Errorf("Patch after Unlock: %v", err)
		}
	})
}

func TestStore_merge(t *testing.T) {
	nan := math.NaN()
	f64 := func(v ...float64) []byte { b, _ := binary.Append(nil, binary.LittleEndian, v); return b }
	f32 := func(v ...float32) []byte { b, _ := binary.Append(nil, binary.LittleEndian, v); return b }
	i64 := func(v ...int64) []byte { b, _ := binary.Append(nil, binary.LittleEndian, v); return b }
	i32 := func(v ...int32) []byte { b, _ := binary.Append(nil, binary.LittleEndian, v); return b }
	const big = 1<<53 + 1 // no double
	rows := []struct {
		e                  Element
		op                 Op
		value, with, after []byte
	}{
		{Int64, Sum, i64(math.MaxInt64, math.MinInt64, big, -1), i64(1, -1, big, 1), i64(math.MinInt64, math.MaxInt64, 2*big, 0)},
		{Int64, Max, i64(math.MinInt64, big, -1), i64(math.MaxInt64, big-1, -2), i64(math.MaxInt64, big, -1)},
		{Int64, Min, i64(math.MinInt64, big, -1), i64(math.MaxInt64, big-1, -2), i64(math.MinInt64, big-1, -2)},
		{Int32, Sum, i32(math.MaxInt32, math.MinInt32, 1), i32(1, -1, 2), i32(math.MinInt32, math.MaxInt32, 3)},
		{Int32, Max, i32(-1, 2), i32(1, -2), i32(1, 2)},
		{Int32, Min, i32(-1, 2), i32(1, -2), i32(-1, -2)},
		{Float64, Sum, f64(0.1, math.MaxFloat64, nan), f64(0.2, math.MaxFloat64, 1), f64(0.30000000000000004, math.Inf(1), nan)},
		{Float64, Min, f64(1, math.Copysign(0, -1), math.Inf(-1)), f64(-1, 0, 5), f64(-1, math.Copysign(0, -1), math.Inf(-1))},
		{Float32, Sum, f32(16777216, 0.5), f32(1, 0.25), f32(16777216, 0.75)},
		{Float32, Max, f32(1, -5), f32(2, -6), f32(2, -5)},
	}
	drivers(t, func(t *testing.T, open hosts) {
		s, ctx := open(t), t.Context()
		for _, row := range rows {
			// In chunk 0, over the edge of two chunks, and where a chunk is a hole.
			for _, off := range []int64{0, 8, ChunkBytes - 8, 2 * ChunkBytes} {
				value := pattern(3*ChunkBytes+64, 1)
				write(t, s, aKey, value)
				copy(value[off:], row.value)
				patch(t, s, aKey, off, row.value)
				if _, err := s.Merge(ctx, aKey, off, row.e, row.op, row.with, Condition{}); err != nil {
					t.Fatal(err)
				}
				got, _ := read(t, s, aKey)
				if row.e == Float64 && row.op == Sum && math.IsNaN(math.Float64frombits(binary.LittleEndian.Uint64(got[off+16:]))) {
					copy(got[off+16:], f64(nan)) // any NaN will do
				}
				copy(value[off:], row.after)
				diffBytes(t, fmt.Sprintf("element %d op %d at %d", row.e, row.op, off), got, value)
			}
			if _, err := s.Write(ctx, aKey, 5*ChunkBytes, nil, Condition{}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Merge(ctx, aKey, ChunkBytes-8, Int64, Sum, i64(7, big), Condition{}); err != nil {
				t.Fatal(err)
			}
			got, _ := read(t, s, aKey)
			diffBytes(t, "merge into zeroes", got[ChunkBytes-8:ChunkBytes+8], i64(7, big))
		}
	})
}

// What a driver does is what a model in memory does, for random operations.
func TestStore_model(t *testing.T) {
	type value struct {
		bytes   []byte
		version uint64
	}
	type state struct {
		value     *value
		published []value
		list      [][]byte
	}
	drivers(t, func(t *testing.T, open hosts) {
		stores := []Store{open(t), open(t)}
		ctx := t.Context()
		random := rand.New(rand.NewPCG(*seed, 0))
		t.Logf("seed %d", *seed)
		keys := []Key{{"t", "a"}, {"t", "a/b"}, {"u", "a"}}
		model := map[Key]*state{}
		for _, k := range keys {
			model[k] = &state{}
		}
		// Offsets are near the edges of chunks, sizes small or of several chunks.
		offset := func() int64 {
			return max(0, int64(random.IntN(5))*ChunkBytes+int64(random.IntN(17))-8)
		}
		size := func() int {
			if random.IntN(2) == 0 {
				return random.IntN(40)
			}
			return max(0, random.IntN(4)*ChunkBytes+random.IntN(17)-8)
		}
		steps := 1500
		if *long > 0 {
			steps = 20000
		}
		for step := range steps {
			s, key := stores[random.IntN(2)], keys[random.IntN(len(keys))]
			m := model[key]
			what := ""
			check := func(err error, want bool) bool {
				t.Helper()
				if want && err != nil || !want && !errors.Is(err, ErrNotFound) {
					t.Fatalf("seed %d, step %d: %s of %s: %v, and the model has it: %v", *seed, step, what, key, err, want)
				}
				return err == nil
			}
			changed := func(info Info, b []byte) {
				t.Helper()
				if info.Size != int64(len(b)) || m.value != nil && info.Version <= m.value.version {
					t.Fatalf("seed %d, step %d: %s of %s: %+v, want %d bytes", *seed, step, what, key, info, len(b))
				}
				m.value = &value{b, info.Version}
			}
			switch op := random.IntN(20); {
			case op < 3:
				b := pattern(size(), uint64(step))
				what = fmt.Sprintf("write of %d", len(b))
				info, err := s.Write(ctx, key, int64(len(b)), bytes.NewReader(b), Condition{})
				if check(err, true) {
					changed(info, b)
				}
			case op == 3:
				n := size()
				what = fmt.Sprintf("write of %d zeroes", n)
				info, err := s.Write(ctx, key, int64(n), nil, Condition{})
				if check(err, true) {
					changed(info, make([]byte, n))
				}
			case op < 9:
				var ranges []Range
				what = "patch"
				for range 1 + random.IntN(3) {
					r := Range{offset(), pattern(1+size(), uint64(step))}
					ranges = append(ranges, r)
					what += fmt.Sprintf(" [%d %d]", r.Offset, len(r.Data))
				}
				info, err := s.Patch(ctx, key, ranges, Condition{})
				if check(err, m.value != nil) {
					b := slices.Clone(m.value.bytes)
					for _, r := range ranges {
						if end := int(r.Offset) + len(r.Data); end > len(b) {
							b = append(b, make([]byte, end-len(b))...)
						}
						copy(b[r.Offset:], r.Data)
					}
					changed(info, b)
				}
			case op < 11:
				what = "merge"
				if m.value == nil {
					break
				}
				off := offset() &^ 7
				n := max(0, min(size(), len(m.value.bytes)-int(off))&^7)
				if off+int64(n) > int64(len(m.value.bytes)) || n == 0 {
					break
				}
				with := pattern(n, uint64(step))
				info, err := s.Merge(ctx, key, off, Int64, Sum, with, Condition{IfVersion: m.value.version})
				if check(err, true) {
					b := slices.Clone(m.value.bytes)
					combine(b[off:off+int64(n)], with, Int64, Sum)
					changed(info, b)
				}
			case op < 13:
				what = "publish"
				info, err := s.Publish(ctx, key, Condition{})
				if check(err, m.value != nil) {
					if info.Version != m.value.version {
						t.Fatalf("seed %d, step %d: published version %d, want %d", *seed, step, info.Version, m.value.version)
					}
					if n := len(m.published); n == 0 || m.published[n-1].version != info.Version {
						m.published = append(m.published, *m.value)
						if n == PublishedKept {
							m.published = m.published[1:]
						}
					}
				}
			case op == 13:
				what = "unpublish"
				if len(m.published) == 0 {
					check(s.Unpublish(ctx, key, 12345), false)
					break
				}
				i := random.IntN(len(m.published))
				if check(s.Unpublish(ctx, key, m.published[i].version), true) {
					m.published = slices.Delete(m.published, i, i+1)
				}
			case op == 14:
				what = "delete"
				if check(s.Delete(ctx, key, Condition{}), m.value != nil || m.list != nil) {
					*m = state{}
				}
			case op < 17:
				what = "append"
				b := pattern(random.IntN(100), uint64(step))
				i, err := s.Append(ctx, key, b)
				if check(err, true) && i != int64(len(m.list)) {
					t.Fatalf("seed %d, step %d: append at %d, want %d", *seed, step, i, len(m.list))
				}
				m.list = append(m.list, b)
			case op == 17:
				what = "clear"
				check(s.ClearList(ctx, key), true)
				m.list = nil
			case op == 18:
				what = "sweep"
				_, err := s.Sweep(ctx)
				check(err, true)
			}
			// Look at something, anywhere.
			s, key = stores[random.IntN(2)], keys[random.IntN(len(keys))]
			m = model[key]
			look := func(read func(off int64, dst []byte) (int, Info, error), v *value) {
				t.Helper()
				off, dst := offset(), bytes.Repeat([]byte{0xee}, size())
				if random.IntN(3) == 0 && v != nil {
					off, dst = 0, make([]byte, len(v.bytes))
				}
				n, info, err := read(off, dst)
				if !check(err, v != nil) {
					return
				}
				if info.Version != v.version || info.Size != int64(len(v.bytes)) {
					t.Fatalf("seed %d, step %d after %s: %s is %+v, want version %d of %d bytes", *seed, step, what, key, info, v.version, len(v.bytes))
				}
				want := v.bytes[min(off, int64(len(v.bytes))):min(off+int64(len(dst)), int64(len(v.bytes)))]
				diffBytes(t, fmt.Sprintf("seed %d, step %d after %s: %s at %d", *seed, step, what, key, off), dst[:n], want)
			}
			look(func(off int64, dst []byte) (int, Info, error) { return s.Read(ctx, key, off, dst) }, m.value)
			for _, p := range m.published {
				look(func(off int64, dst []byte) (int, Info, error) { return s.ReadPublished(ctx, key, p.version, off, dst) }, &p)
			}
			var latest *value
			if n := len(m.published); n > 0 {
				latest = &m.published[n-1]
			}
			look(func(off int64, dst []byte) (int, Info, error) { return s.ReadPublished(ctx, key, 0, off, dst) }, latest)
			got, err := s.ReadList(ctx, key, 0, 1000, math.MaxInt64)
			if err != nil || !slices.EqualFunc(got, m.list, bytes.Equal) {
				t.Fatalf("seed %d, step %d after %s: list of %s has %d, want %d: %v", *seed, step, what, key, len(got), len(m.list), err)
			}
			if step%10 != 0 {
				continue
			}
			for _, tenant := range []string{"t", "u"} {
				var want []Entry
				var usage Usage
				for _, k := range keys {
					m := model[k]
					if k.Tenant != tenant || m.value == nil && m.list == nil {
						continue
					}
					e := Entry{Name: k.Name, ListLen: int64(len(m.list))}
					if m.value != nil {
						e.Info = Info{m.value.version, int64(len(m.value.bytes)), ChunkBytes}
					}
					for _, b := range m.list {
						e.ListBytes += int64(len(b))
					}
					usage.Keys++
					usage.Bytes += e.ListBytes + e.Info.Size
					for _, p := range m.published {
						e.Published = append(e.Published, p.version)
						usage.Bytes += int64(len(p.bytes))
					}
					want = append(want, e)
				}
				got, err := s.List(ctx, tenant, "", "", 100)
				if diff := cmp.Diff(want, got); diff != "" || err != nil {
					t.Fatalf("seed %d, step %d after %s: list of tenant %s: %v (-want +got):\n%s", *seed, step, what, tenant, err, diff)
				}
				if got, err := s.Usage(ctx, tenant); got != usage || err != nil {
					t.Fatalf("seed %d, step %d after %s: usage of tenant %s: %+v, %v, want %+v", *seed, step, what, tenant, got, err, usage)
				}
			}
		}
	})
}

func TestStore_list(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		s, ctx := open(t), t.Context()
		for _, n := range []string{"b/2", "b", "a", "b/1", "b0", "c", "b/", "é", "b/\U0010ffff"} {
			write(t, s, Key{"t", n}, nil)
		}
		write(t, s, Key{"t2", "b/x"}, nil)
		for _, row := range []struct {
			prefix, after string
			limit         int
			want          string
		}{
			{"", "", 100, "a b b/ b/1 b/2 b/\U0010ffff b0 c é"},
			{"b/", "", 100, "b/ b/1 b/2 b/\U0010ffff"},
			{"b/", "b/1", 100, "b/2 b/\U0010ffff"},
			{"b/", "b/1", 1, "b/2"},
			{"b/", "a", 2, "b/ b/1"},
			{"b/", "c", 2, ""},
			{"b/", "b/\U0010ffff", 2, ""},
			{"", "b/15", 2, "b/2 b/\U0010ffff"},
			{"x", "", 2, ""},
			{"", "é", 2, ""},
			{"[b", "", 2, ""},
		} {
			got, err := s.List(ctx, "t", row.prefix, row.after, row.limit)
			var names []string
			for _, e := range got {
				names = append(names, e.Name)
			}
			if strings.Join(names, " ") != row.want || err != nil {
				t.Errorf("list %q after %q, %d: %q, %v, want %s", row.prefix, row.after, row.limit, names, err, row.want)
			}
		}
	})
}

func TestStore_elements(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		s, other, ctx := open(t), open(t), t.Context()
		want := [][]byte{[]byte("one"), {}, []byte("three"), bytes.Repeat([]byte("4"), 100_000), []byte("five")}
		for i, e := range want {
			if n, err := s.Append(ctx, aKey, e); err != nil || n != int64(i) {
				t.Fatalf("append: %d, %v, want %d", n, err, i)
			}
		}
		for _, row := range []struct {
			first    int64
			n        int
			bytesMax int64
			want     [][]byte
		}{
			{0, 100, math.MaxInt64, want}, {5, 1, 100, nil}, {math.MaxInt64, math.MaxInt, 9, nil}, {0, 0, 100, nil},
			{1, 2, 100, want[1:3]}, {0, 100, 0, want[:1]}, {0, 100, 3, want[:2]}, {0, 100, 7, want[:2]}, {0, 100, 8, want[:3]}, {3, 9, 5, want[3:4]}, {4, math.MaxInt, 5, want[4:]},
		} {
			got, err := other.ReadList(ctx, aKey, row.first, row.n, row.bytesMax)
			if err != nil || !slices.EqualFunc(got, row.want, bytes.Equal) {
				t.Errorf("%d elements from %d in %d bytes: %.40q, %v, want %.40q", row.n, row.first, row.bytesMax, got, err, row.want)
			}
		}
		if n, b, err := other.StatList(ctx, aKey); n != 5 || b != 100_012 || err != nil {
			t.Errorf("the list has %d elements of %d bytes, %v", n, b, err)
		}
		if err := other.ClearList(ctx, aKey); err != nil {
			t.Fatal(err)
		}
		if n, err := s.Append(ctx, aKey, []byte("x")); n != 0 || err != nil {
			t.Errorf("append after clear: %d, %v", n, err)
		}
		// Concurrent ones each have an index of their own.
		var g sync.WaitGroup
		indices := make([]atomic.Int32, 201)
		for i := range 200 {
			g.Go(func() {
				n, err := []Store{s, other}[i%2].Append(ctx, aKey, []byte(fmt.Sprint(i)))
				if err != nil {
					t.Error(err)
					return
				}
				indices[n].Add(1)
				if got, err := s.ReadList(ctx, aKey, n, 1, 100); err != nil || len(got) != 1 || string(got[0]) != fmt.Sprint(i) {
					t.Errorf("element %d: %q, %v, want %d", n, got, err, i)
				}
			})
		}
		g.Wait()
		for i := range 200 {
			if n := indices[1+i].Load(); n != 1 {
				t.Errorf("%d appends have index %d", n, 1+i)
			}
		}
	})
}

// A Read sees one Write, never a mixture, however many chunks they have and wherever
// they are.
func TestStore_readIsOneVersion(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		stores := []Store{open(t), open(t), open(t)}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		const chunks = 24
		fill := func(tag uint64) []byte {
			b := make([]byte, chunks*ChunkBytes)
			for i := 0; i < len(b); i += 512 {
				binary.LittleEndian.PutUint64(b[i:], tag)
			}
			return b
		}
		write(t, stores[0], aKey, fill(0))
		var g sync.WaitGroup
		for w := range 2 {
			g.Go(func() {
				for tag := uint64(w + 2); ctx.Err() == nil; tag += 2 {
					if _, err := stores[w].Write(ctx, aKey, chunks*ChunkBytes, bytes.NewReader(fill(tag)), Condition{}); err != nil && ctx.Err() == nil {
						t.Error(err)
						return
					}
				}
			})
		}
		seen := map[uint64]uint64{}
		b := make([]byte, chunks*ChunkBytes)
		last := uint64(0)
		enough := time.Now().Add(30 * time.Second)
		for i := 0; (i < 60 || len(seen) < 10) && time.Now().Before(enough); i++ {
			n, info, err := stores[2-i%2].Read(ctx, aKey, 0, b)
			if errors.Is(err, ErrConflict) {
				t.Logf("read %d: %v", i, err)
				continue
			}
			if err != nil || n != len(b) {
				t.Errorf("read %d: %d bytes, %v", i, n, err)
				break
			}
			tag := binary.LittleEndian.Uint64(b)
			for at := 0; at < len(b); at += 512 {
				if got := binary.LittleEndian.Uint64(b[at:]); got != tag {
					t.Fatalf("read %d has %d at 0 and %d at %d", i, tag, got, at)
				}
			}
			if was, ok := seen[info.Version]; ok && was != tag || info.Version < last {
				t.Errorf("read %d of version %d, after %d, has %d, and had %d", i, info.Version, last, tag, was)
			}
			seen[info.Version], last = tag, info.Version
		}
		cancel()
		g.Wait()
		if len(seen) < 3 {
			t.Errorf("only %d versions were seen: the test shows nothing", len(seen))
		}
	})
}

// Patches of different bytes of the same chunks, and merges, are all kept, from two hosts
// at once; readers find each patch whole in its chunk.
func TestStore_patchesAreKept(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		stores := []Store{open(t), open(t)}
		ctx := t.Context()
		const chunks, workers, rounds = 3, 8, 12
		write(t, stores[0], aKey, make([]byte, chunks*ChunkBytes))
		var g sync.WaitGroup
		for w := range workers {
			g.Go(func() {
				s := stores[w%2]
				for round := range rounds {
					var ranges []Range
					for c := range chunks {
						ranges = append(ranges, Range{int64(c*ChunkBytes + 64 + w), []byte{byte(1 + round)}})
					}
					// Sometimes one chunk, sometimes all.
					if round%3 == 0 {
						for _, r := range ranges {
							if _, err := s.Patch(ctx, aKey, []Range{r}, Condition{}); err != nil {
								t.Error(err)
							}
						}
					} else if _, err := s.Patch(ctx, aKey, ranges, Condition{}); err != nil {
						t.Error(err)
					}
					for _, off := range []int64{0, 2 * ChunkBytes, ChunkBytes - 8} {
						operand := binary.LittleEndian.AppendUint64(nil, 1)
						if off == ChunkBytes-8 {
							operand = append(operand, operand...) // of two chunks
						}
						if _, err := s.Merge(ctx, aKey, off, Int64, Sum, operand, Condition{}); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		g.Wait()
		b, _ := read(t, stores[0], aKey)
		want := make([]byte, chunks*ChunkBytes)
		for c := range chunks {
			for w := range workers {
				want[c*ChunkBytes+64+w] = rounds
			}
		}
		for _, off := range []int{0, ChunkBytes - 8, ChunkBytes, 2 * ChunkBytes} {
			binary.LittleEndian.PutUint64(want[off:], workers*rounds)
		}
		diffBytes(t, "all patches and merges", b, want)
	})
}

// A published version does not change, whatever becomes of the value, and goes with its
// chunks when it is forgotten.
func TestStore_publishedIsImmutable(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		s, other, ctx := open(t), open(t), t.Context()
		value := pattern(4*ChunkBytes, 1)
		write(t, s, aKey, value)
		p, err := s.Publish(ctx, aKey, Condition{})
		if err != nil {
			t.Fatal(err)
		}
		var g sync.WaitGroup
		stop := make(chan struct{})
		for w := range 2 {
			g.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := s.Patch(ctx, aKey, []Range{{int64(i*1000+w) % (5 * ChunkBytes), []byte("changed")}}, Condition{}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for range 30 {
			b := make([]byte, len(value)+1)
			n, info, err := other.ReadPublished(ctx, aKey, p.Version, 0, b)
			if err != nil || info != p {
				t.Errorf("published: %+v, %v, want %+v", info, err, p)
				break
			}
			diffBytes(t, "published value", b[:n], value)
		}
		close(stop)
		g.Wait()
		if got, _ := read(t, s, aKey); bytes.Equal(got, value) {
			t.Error("nothing was patched: the test shows nothing")
		}
		write(t, s, aKey, nil)
		b := make([]byte, len(value))
		if _, _, err := other.ReadPublished(ctx, aKey, 0, 0, b); err != nil {
			t.Error(err)
		}
		diffBytes(t, "published value after a write", b, value)
		for range PublishedKept {
			if got, err := other.Published(ctx, aKey); err != nil || got.Version < p.Version {
				t.Errorf("latest published: %+v, %v", got, err)
			}
			write(t, s, aKey, []byte("next"))
			if _, err := s.Publish(ctx, aKey, Condition{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := other.ReadPublished(ctx, aKey, p.Version, 0, b); !errors.Is(err, ErrNotFound) {
			t.Errorf("a published version that is too old: %v, want ErrNotFound", err)
		}
	})
}

func TestStore_moved(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		s, ctx := open(t), t.Context()
		moved := func(sent, received uint64, f func()) {
			t.Helper()
			before := s.Moved()
			f()
			after := s.Moved()
			if after.Sent-before.Sent != sent || after.Received-before.Received != received {
				t.Errorf("moved %d and %d bytes, want %d and %d", after.Sent-before.Sent, after.Received-before.Received, sent, received)
			}
		}
		const size = 50*ChunkBytes + 1
		moved(size, 0, func() { write(t, s, aKey, make([]byte, size)) })
		moved(10, 0, func() { patch(t, s, aKey, ChunkBytes-5, make([]byte, 10)) })
		moved(3, 0, func() { patch(t, s, aKey, 7, make([]byte, 3)) })
		moved(0, 0, func() { s.Stat(ctx, aKey) })
		moved(4, 0, func() { s.Append(ctx, aKey, make([]byte, 4)) })
		moved(0, 4, func() { s.ReadList(ctx, aKey, 0, 1, 100) })
		moved(0, 100, func() { s.Read(ctx, aKey, 3*ChunkBytes-50, make([]byte, 100)) })
		moved(0, size, func() { s.Read(ctx, aKey, 0, make([]byte, size+10)) })
	})
}

func TestStore_closed(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		s, ctx := open(t), t.Context()
		write(t, s, aKey, []byte("x"))
		lease, err := s.Lock(ctx, aKey, LockWrite)
		if err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error)
		go func() {
			_, err := s.Lock(context.Background(), aKey, LockRead)
			waiting <- err
		}()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		select {
		case <-lease.Lost():
		default:
			t.Error("the lease is not lost")
		}
		if err := lease.Unlock(ctx); !errors.Is(err, ErrLeaseLost) {
			t.Errorf("Unlock: %v", err)
		}
		if err := <-waiting; !errors.Is(err, ErrClosed) {
			t.Errorf("Lock that waited: %v", err)
		}
		_, _, readErr := s.Read(ctx, aKey, 0, make([]byte, 1))
		_, writeErr := s.Write(ctx, aKey, 1, strings.NewReader("x"), Condition{})
		_, lockErr := s.Lock(ctx, aKey, LockWrite)
		_, appendErr := s.Append(ctx, aKey, nil)
		for name, err := range map[string]error{"Read": readErr, "Write": writeErr, "Lock": lockErr, "Append": appendErr} {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("%s: %v, want ErrClosed", name, err)
			}
		}
	})
}

func TestStore_contextEnded(t *testing.T) {
	drivers(t, func(t *testing.T, open hosts) {
		s := open(t)
		write(t, s, aKey, []byte("x"))
		cause := errors.New("the call was cancelled")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		_, _, readErr := s.Read(ctx, aKey, 0, make([]byte, 1))
		_, writeErr := s.Write(ctx, aKey, 1, strings.NewReader("y"), Condition{})
		_, patchErr := s.Patch(ctx, aKey, []Range{{0, []byte("y")}}, Condition{})
		_, lockErr := s.Lock(ctx, aKey, LockWrite)
		for name, err := range map[string]error{"Read": readErr, "Write": writeErr, "Patch": patchErr, "Lock": lockErr} {
			if !errors.Is(err, cause) || errors.Is(err, ErrUnavailable) {
				t.Errorf("%s: %v, want %v", name, err, cause)
			}
		}
		// Nobody holds the lock, or is in the way of others.
		ctx, cancelTimeout := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancelTimeout()
		if _, err := s.Lock(ctx, aKey, LockWrite); err != nil {
			t.Error(err)
		}
	})
}
