package state

import (
	"fmt"
	"testing"
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
