package vmem

import (
	"bytes"
	"fmt"
	"testing"
)

// A run that writes a page in each of its pages' places, and the cleaning after it: by
// copying, and by dropping, after which the run pays for the faults.
func BenchmarkClean(b *testing.B) {
	for _, how := range []string{"copy", "drop"} {
		for _, kind := range []string{"file", "zeros"} {
			for _, size := range []int{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 32 << 20} {
				b.Run(fmt.Sprintf("%s/%s/%dKiB", how, kind, size>>10), func(b *testing.B) {
					var image []Segment
					if kind == "file" {
						image = []Segment{{0, bytes.Repeat([]byte{1}, 32<<20)}}
					}
					p := newPool(b, newArena(b), 32<<20, image...)
					r := take(b, p)
					defer func() { p.Give(r, 32<<20) }()
					m := memory(r)
					for b.Loop() {
						for i := 0; i < size; i += PageSize {
							m[i]++
						}
						// Everything is written, one way or the other, before Clean decides.
						if how == "drop" {
							if err := p.drop(r); err != nil {
								b.Fatal(err)
							}
						} else if _, err := p.clean(r, 32<<20); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// A new region and its first run, which writes so much in so many places, with the pages
// made resident at once and with a fault for each.
func BenchmarkPrefault(b *testing.B) {
	for _, how := range []string{"faults", "prefault"} {
		for _, kind := range []string{"file", "zeros"} {
			for _, set := range []struct{ size, places int }{{8 << 10, 1}, {64 << 10, 1}, {64 << 10, 8}, {1 << 20, 1}, {1 << 20, 32}, {4 << 20, 1}} {
				b.Run(fmt.Sprintf("%s/%s/%dKiB/%d", how, kind, set.size>>10, set.places), func(b *testing.B) {
					var image []Segment
					if kind == "file" {
						image = []Segment{{0, bytes.Repeat([]byte{1}, 32<<20)}}
					}
					p := newPool(b, newArena(b), 32<<20, image...)
					run := func(r *Region) {
						m := memory(r)
						for place := range set.places {
							at := place * len(m) / set.places
							for i := 0; i < set.size/set.places; i += PageSize {
								m[at+i]++
							}
						}
					}
					r := take(b, p)
					run(r)
					p.Give(r, 32<<20)
					p.Trim(0)
					for b.Loop() {
						if how == "faults" {
							p.usual.spans.Store(nil)
						}
						r, err := p.bind(spanBytesMax)
						if err != nil {
							b.Fatal(err)
						}
						run(r)
						p.giveUp(r)
					}
				})
			}
		}
	}
}
