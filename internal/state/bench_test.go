package state

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/faasm-go/faasm/internal/state/global"
)

func BenchmarkSession_View_again(b *testing.B) {
	for _, size := range []int64{chunkBytes, 256 * chunkBytes} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := newSession(b, newTier(b, newStore(b), Options{}))
			a := Access{Create: true, CreateSize: size}
			view(b, s, "k", a, 0, -1)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.View("k", a, 0, -1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSession_View_first(b *testing.B) {
	for _, size := range []int{chunkBytes, 256 * chunkBytes} {
		for _, access := range []Access{{}, {ReadOnly: true}} {
			b.Run(fmt.Sprintf("%d/readonly=%t", size, access.ReadOnly), func(b *testing.B) {
				tier := newTier(b, newStore(b), Options{})
				put(b, newSession(b, tier), "k", pattern(size, 1))
				for b.Loop() {
					s := tier.Session("tenant", direct)
					view(b, s, "k", access, 0, -1)
					s.Close()
				}
			})
		}
	}
}

func BenchmarkSession_small(b *testing.B) {
	s := newSession(b, newTier(b, newStore(b), Options{}))
	data := make([]byte, 8)
	if err := s.Set("k", data); err != nil {
		b.Fatal(err)
	}
	for name, f := range map[string]func() error{
		"ReadAt": func() error { _, err := s.ReadAt("k", 0, data); return err },
		"SetAt":  func() error { return s.SetAt("k", 0, data) },
		"Set":    func() error { return s.Set("k", data) },
		"Size":   func() error { _, err := s.Size("k"); return err },
		"Dirty":  func() error { _, err := s.Dirty("k"); return err },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Finding what was changed, which is the price of writing through pointers.
func BenchmarkReplica_dirty(b *testing.B) {
	const size = 256 * chunkBytes
	for _, every := range []int{0, 4096, 2} {
		b.Run(fmt.Sprint("every ", every), func(b *testing.B) {
			s := newSession(b, newTier(b, newStore(b), Options{}))
			put(b, s, "k", pattern(size, 1))
			m := view(b, s, "k", Access{}, 0, -1)
			for i := 0; every > 0 && i < len(m); i += every {
				m[i] = 0
			}
			r := s.views[s.slot("k")].r
			b.SetBytes(size)
			for b.Loop() {
				var d differ
				r.mu.RLock()
				for i, c := range r.mu.chunks {
					if _, err := d.partsLocked(r, i, c); err != nil {
						b.Fatal(err)
					}
				}
				r.mu.RUnlock()
			}
		})
	}
}

// copies is a Store of one value that only copies it.
type copies struct {
	global.Store
	value []byte
}

func (c *copies) Stat(context.Context, global.Key) (global.Info, error) { return c.info(), nil }

func (c *copies) info() global.Info { return global.Info{Version: 1, Size: int64(len(c.value))} }

func (c *copies) Read(_ context.Context, _ global.Key, off int64, dst []byte) (int, global.Info, error) {
	return copy(dst, c.value[off:]), c.info(), nil
}

// Write sends what it is lent from where it is.
func (c *copies) Write(_ context.Context, _ global.Key, size int64, src io.ReaderAt, _ global.Condition) (global.Info, error) {
	pieces, _ := src.(global.Lender).Lend(nil, 0, size)
	at := 0
	for _, p := range pieces {
		at += copy(c.value[at:], p)
	}
	return c.info(), nil
}

// The whole of a value there and back. Of each, one copy is the store's.
func BenchmarkSession_whole(b *testing.B) {
	for _, size := range []int{chunkBytes, 16 * chunkBytes} {
		for _, viewed := range []bool{false, true} {
			s := newSession(b, newTier(b, &copies{value: pattern(size, 1)}, Options{}))
			if viewed {
				view(b, s, "k", Access{ReadOnly: true}, 0, -1)
			}
			for what, f := range map[string]func(name string) error{"Pull": s.Pull, "Push": s.Push} {
				b.Run(fmt.Sprintf("%s/%d/viewed=%t", what, size, viewed), func(b *testing.B) {
					b.SetBytes(int64(size))
					b.ReportAllocs()
					for b.Loop() {
						if err := f("k"); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
