package state

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// drawOffsets draws offsets in a chunk, many of them at edges of words and of the chunk.
func drawOffset(max int) *rapid.Generator[int] {
	return rapid.OneOf(rapid.SampledFrom([]int{0, 1, 63, 64, 65, 127, 128, chunkBytes - 64, chunkBytes - 1, chunkBytes}), rapid.IntRange(0, max)).
		Filter(func(n int) bool { return n <= max })
}

// runs is the spans of the bytes that are set.
func runs(set []bool) (out []span) {
	for i, on := range set {
		switch {
		case on && (i == 0 || !set[i-1]):
			out = append(out, span{int64(i), int64(i + 1)})
		case on:
			out[len(out)-1].to++
		}
	}
	return out
}

func TestByteSet_model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var set byteSet
		model := make([]bool, chunkBytes)
		for range rapid.IntRange(1, 20).Draw(t, "edits") {
			from := drawOffset(chunkBytes).Draw(t, "from")
			to := drawOffset(chunkBytes).Draw(t, "to")
			add := rapid.Bool().Draw(t, "add")
			if add {
				set.add(from, to)
			} else {
				set.remove(from, to)
			}
			for i := from; i < to; i++ {
				model[i] = add
			}
		}
		for i, want := range model {
			if got := set.word(i/64)>>(i%64)&1 != 0; got != want {
				t.Fatalf("byte %d: %t, want %t", i, got, want)
			}
		}
		n := drawOffset(chunkBytes).Draw(t, "n")
		if got, want := set.empty(n), !slices.Contains(model[:n], true); got != want {
			t.Fatalf("first %d bytes empty: %t, want %t", n, got, want)
		}
	})
}

func TestChunk_dirty_model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := max(drawOffset(chunkBytes).Draw(t, "length"), 1)
		base := pattern(n, 1)
		content := slices.Clone(base)
		c := chunk{base: baseKept}
		model := make([]bool, n)
		for range rapid.IntRange(0, 12).Draw(t, "changes") {
			from := drawOffset(n).Draw(t, "from")
			to := min(from+rapid.IntRange(0, 200).Draw(t, "length"), n)
			if rapid.Bool().Draw(t, "flag") {
				c.forced.add(from, to)
				for i := from; i < to; i++ {
					model[i] = true
				}
				continue
			}
			for i := from; i < to; i++ {
				content[i] = ^base[i]
				model[i] = true
			}
		}
		got, want := c.dirty(nil, content, base), runs(model)
		if !slices.Equal(got, want) {
			t.Fatalf("dirty: %v, want %v", got, want)
		}
		if got := c.clean(content, base); got != (len(want) == 0) {
			t.Fatalf("clean: %t with dirty %v", got, want)
		}
	})
}

func TestSpans_model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const n = 40
		var have spans
		model := make([]bool, n)
		draw := func() span {
			from := rapid.IntRange(0, n).Draw(t, "from")
			return span{int64(from), int64(rapid.IntRange(from, n).Draw(t, "to"))}
		}
		for range rapid.IntRange(0, 15).Draw(t, "adds") {
			s := draw()
			have = have.add(s)
			for i := s.from; i < s.to; i++ {
				model[i] = true
			}
		}
		if want := runs(model); !slices.Equal(have, want) {
			t.Fatalf("spans: %v, want %v", have, want)
		}
		s := draw()
		if got, want := have.cover(s), !slices.Contains(model[s.from:s.to], false); got != want {
			t.Fatalf("%v cover %v: %t, want %t", have, s, got, want)
		}
	})
}
