package vmem

import (
	"bytes"
	"testing"

	"github.com/faasm-go/faasm/internal/linux"
	"pgregory.net/rapid"
)

// resident is how many bytes of r are this process's own.
func resident(t testing.TB, r *Region) uint64 {
	t.Helper()
	var s scan
	if err := s.find(r.arena.pagemap, r.stack, r.StackTop()+uintptr(r.image.Size), ^uint64(0)); err != nil {
		t.Fatal(err)
	}
	return s.bytes
}

// write writes a byte to each page of the first n bytes, as a run would.
func write(r *Region, n uint64) {
	for m := memory(r); n > 0; n -= PageSize {
		m[n-PageSize]++
	}
}

// run is a whole run that writes n bytes, and the cleaning after it. It returns what the
// region kept.
func run(t testing.TB, p *Pool, n uint64) uint64 {
	t.Helper()
	r := take(t, p)
	write(r, n)
	if _, err := p.Give(r, p.image.Size); err != nil {
		t.Fatal(err)
	}
	if r.arena.pagemap != nil && resident(t, r) != r.retained {
		t.Errorf("after a run that wrote %d KiB the region keeps %d bytes; its account says %d", n>>10, resident(t, r), r.retained)
	}
	return r.retained
}

func needScan(t testing.TB, a *Arena) {
	t.Helper()
	if !a.ScansPages() {
		t.Fatal("this kernel has no PAGEMAP_SCAN (6.7)")
	}
}

// Whatever was written, however much, and whatever becomes of the region's pages between
// two runs, the next user finds the image; and Contents is what the memory contains.
func TestRegion_Clean_givesBackEveryByte(t *testing.T) {
	shapes := []struct {
		size     uint64
		segments []Segment
	}{
		{128 << 10, nil},
		{64 << 10, []Segment{{8, []byte("hello")}, {4090, []byte("across a page")}}},
		{2 << 20, []Segment{{2<<20 - 5000, []byte("zeros before")}}},
		{3 << 20, []Segment{{0, bytes.Repeat([]byte{7}, 10_000)}, {2<<20 + 5, []byte("zeros between")}}},
		{1 << 20, []Segment{{0, bytes.Repeat([]byte("full"), 1<<20/4)}}},
	}
	type setting struct {
		pool  *Pool
		image []byte
	}
	var settings []setting
	for _, retain := range []uint64{0, 100 << 10} {
		for _, scans := range []bool{true, false} {
			a := newArenaOptions(t, ArenaOptions{RetainMax: retain})
			if !scans && a.pagemap != nil {
				a.pagemap.Close()
				a.pagemap = nil // as on a kernel before 6.7
			}
			for _, s := range shapes {
				settings = append(settings, setting{newPool(t, a, s.size, s.segments...), content(s.size, s.segments)})
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom(settings).Draw(t, "setting")
		checkRuns(t, s.pool, s.image)
	})
}

// checkRuns draws some runs and compares each with a model in Go's memory.
func checkRuns(t *rapid.T, p *Pool, image []byte) {
	for range rapid.IntRange(1, 5).Draw(t, "runs") {
		if rapid.IntRange(0, 3).Draw(t, "anew") == 0 {
			p.Trim(0) // the next region is mapped anew, and prefaulted
		}
		r, err := p.Take()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(memory(r), image) {
			t.Fatal("a clean region differs from its image")
		}
		model := bytes.Clone(image)
		size := p.image.Size
		if grown := uint64(rapid.IntRange(0, 3).Draw(t, "grown")) * WasmPageSize; grown > 0 {
			if err := mprotect(r.Base+uintptr(size), uintptr(grown), 3); err != nil {
				t.Fatal(err)
			}
			size += grown
			model = append(model, make([]byte, grown)...)
		}
		m := bytesAt(r.Base, uintptr(size))
		if !bytes.Equal(m[len(image):], model[len(image):]) {
			t.Fatal("grown memory is not zero")
		}
		for range rapid.IntRange(0, 4).Draw(t, "writes") {
			from := rapid.IntRange(0, len(m)-1).Draw(t, "from")
			n := rapid.IntRange(1, len(m)-from).Draw(t, "n")
			if rapid.Bool().Draw(t, "few") {
				n = min(n, 9000)
			}
			b := rapid.SampledFrom([]byte{0, 0x55, 0xff}).Draw(t, "byte")
			for i := range n {
				m[from+i], model[from+i] = b, b
			}
		}
		if rapid.Bool().Draw(t, "capture") {
			checkContents(t, r, size, model)
		}
		if _, err := p.Give(r, size); err != nil {
			t.Fatal(err)
		}
		if all := p.arena.IdleBytes(); p.IdleBytes() > all || all > p.arena.opts.RetainMax {
			t.Fatalf("the pool keeps %d bytes, the arena %d, of %d allowed", p.IdleBytes(), all, p.arena.opts.RetainMax)
		}
	}
}

func checkContents(t rapid.TB, r *Region, size uint64, want []byte) {
	segments, err := r.Contents(size)
	if err != nil {
		t.Fatal(err)
	}
	end := uint64(0)
	for i, s := range segments {
		length := uint64(len(s.Data))
		if s.Offset%PageSize != 0 || length == 0 || length%PageSize != 0 || s.Offset+length > size {
			t.Fatalf("segment %d at %#x, %d bytes: not whole pages of the memory", i, s.Offset, length)
		}
		if i > 0 && s.Offset <= end {
			t.Fatalf("segment %d at %#x is not apart from the one before, which ends at %#x", i, s.Offset, end)
		}
		for at := uint64(0); at < length; at += PageSize {
			if bytes.Equal(s.Data[at:at+PageSize], zeroPage[:]) {
				t.Fatalf("segment %d has a page of zeros at %#x", i, s.Offset+at)
			}
		}
		end = s.Offset + length
	}
	if !bytes.Equal(content(size, segments), want) {
		t.Fatal("the contents differ from the memory")
	}
}

func TestRegion_Contents_full(t *testing.T) {
	for _, tt := range images {
		t.Run(tt.name, func(t *testing.T) {
			p := newPool(t, newArena(t), tt.size, tt.segments...)
			r := take(t, p)
			m := memory(r)
			for i := range m {
				m[i] = 0x55
			}
			segments, err := r.Contents(tt.size)
			if err != nil {
				t.Fatal(err)
			}
			if len(segments) > 1 || !bytes.Equal(content(tt.size, segments), m) {
				t.Errorf("a memory of which every byte was written has %d segments, or others than it", len(segments))
			}
			p.Give(r, tt.size)
		})
	}
}

// A memory of 1 GiB of which little was touched is captured without touching the rest.
func TestRegion_Contents_touchesNothing(t *testing.T) {
	a, err := NewArena(Layout{Stack: 64 << 10, Reservation: 2 << 30, Guard: 64 << 10}, ArenaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	needScan(t, a)
	const size = 1 << 30
	img, err := newImageSegments(512<<20, []Segment{{0, []byte("start")}, {100 << 20, []byte("middle")}})
	if err != nil {
		t.Fatal(err)
	}
	p := NewPool(a, img, 1)
	defer p.Close()
	r := take(t, p)
	defer func() { p.Give(r, size) }()
	grow(t, r, img.Size, size)
	m := bytesAt(r.Base, size)
	for i := range 100 {
		m[i*10<<20+5000] = byte(i + 1)
		_ = m[i*9<<20] // reading is not touching
	}
	m[200<<20] = 0 // written, but with zeros

	before, err := linux.PSS()
	if err != nil {
		t.Fatal(err)
	}
	segments, err := r.Contents(size)
	if err != nil {
		t.Fatal(err)
	}
	after, err := linux.PSS()
	if err != nil {
		t.Fatal(err)
	}
	if after > before+16<<20 {
		t.Errorf("capturing 100 pages of 1 GiB took %d MiB", (after-before)>>20)
	}
	// "start" and "middle" have pages of their own, each before one that was written.
	if len(segments) != 100 || !bytes.HasPrefix(segments[0].Data, []byte("start")) || segments[0].Data[5000] != 1 {
		t.Fatalf("%d segments; want 100, and the first with what is from the image and what was written", len(segments))
	}
	total := 0
	for _, s := range segments {
		total += len(s.Data)
	}
	if want := 102 * PageSize; total != want {
		t.Errorf("the segments have %d bytes; want %d", total, want)
	}
	m[5001] = 77
	if segments[0].Data[5001] != 77 {
		t.Error("a segment is a copy of the memory")
	}
}

func TestPool_learnsWhatARunWrites(t *testing.T) {
	a, err := NewArena(Layout{Stack: 64 << 10, Reservation: 128 << 20, Guard: 64 << 10}, ArenaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	needScan(t, a)
	p := newPool(t, a, 80<<20)
	if got := run(t, p, 2<<20); got != 2<<20 {
		t.Errorf("after the first run the region keeps %d KiB; want all it wrote, 2 MiB", got>>10)
	}
	if got := run(t, p, 4<<20); got != 4<<20 {
		t.Errorf("after a run of twice as much it keeps %d KiB; want 4 MiB", got>>10)
	}
	if got := run(t, p, 4<<20+PageSize); got != 0 {
		t.Errorf("after a run of more than twice as much it keeps %d KiB; want none", got>>10)
	}
	if got := run(t, p, 4<<20+PageSize); got != 4<<20+PageSize {
		t.Errorf("after another such run it keeps %d KiB; want that to be usual", got>>10)
	}
	for _, want := range []uint64{70 << 20, 70 << 20} {
		if got := run(t, p, want); got != 0 {
			t.Errorf("after a run of %d MiB it keeps %d MiB; want none, for %d is the most", want>>20, got>>20, keepMax>>20)
		}
	}
}

// A function that comes to write less is not cleaned at the old price for ever.
func TestPool_learnsAnew(t *testing.T) {
	a := newArena(t)
	needScan(t, a)
	p := newPool(t, a, 4<<20)
	for range 3 {
		run(t, p, 4<<20)
	}
	if got := run(t, p, PageSize); got != 4<<20 {
		t.Errorf("right after the change the region keeps %d KiB; want 4 MiB still", got>>10)
	}
	var kept uint64
	for range 2 * relearnRuns {
		kept = run(t, p, PageSize)
	}
	if kept != PageSize {
		t.Errorf("%d small runs later the region keeps %d KiB; want 4", 2*relearnRuns, kept>>10)
	}
	if got := p.usual.keep(); got < 4<<20 {
		t.Errorf("after two regions whose runs wrote little a region may keep %d KiB; want no less than before", got>>10)
	}
	for range 20 {
		p.Trim(0)
		p.usual.spans.Store(nil)
		run(t, p, PageSize)
	}
	if got := p.usual.keep(); got > 1<<20 {
		t.Errorf("after 20 regions whose runs wrote little a region may keep %d KiB; want it to be forgotten by and by", got>>10)
	}
}

func TestPool_countsStacks(t *testing.T) {
	a := newArena(t)
	needScan(t, a)
	p := newPool(t, a, 64<<10)
	deep := func() uint64 {
		r := take(t, p)
		for at := r.stack; at < r.StackTop(); at += PageSize {
			bytesAt(at, 1)[0] = 1
		}
		p.Give(r, 64<<10)
		return r.retained
	}
	if got := deep(); got != small.Stack {
		t.Errorf("after the first run, which used all of its stack, the region keeps %d KiB; want %d", got>>10, small.Stack>>10)
	}
	r := take(t, p)
	if err := r.DropStack(); err != nil {
		t.Fatal(err)
	}
	p.Give(r, 64<<10)
	if r.retained != 0 || p.IdleBytes() != 0 || resident(t, r) != 0 {
		t.Errorf("after its stack was dropped it keeps %d bytes", r.retained)
	}
	var kept uint64
	for range stackRuns {
		kept = deep()
	}
	if kept != small.Stack {
		t.Errorf("after %d deep runs its account says %d KiB; want %d", stackRuns, kept>>10, small.Stack>>10)
	}
}

func TestPool_prefaults(t *testing.T) {
	a := newArena(t)
	needScan(t, a)
	p := newPool(t, a, 8<<20, Segment{0, bytes.Repeat([]byte{1}, 8<<20)})
	scattered := func(r *Region) {
		bytesAt(r.StackTop()-1, 1)[0] = 1
		for i := range 2 * spansMax {
			memory(r)[i*2*PageSize] = 0xee
		}
	}
	first, second := take(t, p), take(t, p)
	if got := resident(t, second); got != 0 {
		t.Errorf("before any run a new region has %d bytes resident", got)
	}
	scattered(first)
	p.Give(second, 8<<20)
	p.Give(first, 8<<20)
	p.Trim(0)
	// The stack and the memory's first page are one run of pages.
	const want = (spansMax + 1) * PageSize
	if err := p.Warm(1); err != nil {
		t.Fatal(err)
	}
	if p.IdleBytes() != want {
		t.Errorf("a warm region's account says %d bytes; want %d", p.IdleBytes(), want)
	}
	r := take(t, p)
	if got := resident(t, r); got != want {
		t.Errorf("a new region has %d bytes resident; want the first %d parts, %d", got, spansMax, want)
	}
	if !bytes.Equal(memory(r), p.content()) {
		t.Error("a prefaulted region differs from its image")
	}
	usual := p.usual.bytes.Load()
	memory(r)[0]++
	p.Give(r, 8<<20)
	if !bytes.Equal(memory(r), p.content()) {
		t.Error("a prefaulted region that was cleaned differs from its image")
	}
	if r.retained != want || resident(t, r) != want {
		t.Errorf("it keeps %d bytes, and its account says %d; want %d", resident(t, r), r.retained, want)
	}
	if got := p.usual.bytes.Load(); got != usual {
		t.Errorf("from a region that was prefaulted the pool learned that %d bytes are usual; it was %d", got, usual)
	}

	for _, at := range [][]int{{0}, {0, 4 << 20}} { // 6 MiB in one place, and in two
		p.Trim(0)
		p.usual.spans.Store(nil)
		r := take(t, p)
		for _, place := range at {
			for i := range (6 << 20) / len(at) / PageSize {
				memory(r)[place+i*PageSize]++
			}
		}
		p.Give(r, 8<<20)
		p.Trim(0)
		r = take(t, p)
		if got := resident(t, r); got != 0 {
			t.Errorf("a call that writes 6 MiB waited for %d KiB to become resident", got>>10)
		}
		p.Trim(0)
		if err := p.Warm(1); err != nil {
			t.Fatal(err)
		}
		p.Give(r, 8<<20)
		r = take(t, p)
		for resident(t, r) == 0 { // the one that was given back, not the warm one
			other := take(t, p)
			p.Give(r, 8<<20)
			r = other
		}
		if got := resident(t, r); got != spanBytesMax {
			t.Errorf("after a run that wrote 6 MiB at %v a new region has %d KiB resident; want %d", at, got>>10, spanBytesMax>>10)
		}
		p.Give(r, 8<<20)
	}
}

// content is the image of the pool, read from its file.
func (p *Pool) content() []byte {
	b := make([]byte, p.image.Size)
	for _, e := range p.image.extents {
		copy(b[e.Start:e.End], bytesAt(p.image.view+uintptr(e.Offset), uintptr(e.End-e.Start)))
	}
	return b
}

func TestArena_RetainMax(t *testing.T) {
	a := newArenaOptions(t, ArenaOptions{RetainMax: 1 << 20})
	needScan(t, a)
	one, other := newPool(t, a, 4<<20), newPool(t, a, 4<<20)
	if got := run(t, one, 700<<10); got != 700<<10 {
		t.Errorf("the first region keeps %d KiB; want 700", got>>10)
	}
	if got := run(t, other, 700<<10); got != 0 {
		t.Errorf("another pool's region keeps %d KiB, %d in all; want none, for 1 MiB is the most", got>>10, a.IdleBytes()>>10)
	}
	if got := run(t, other, 300<<10); got != 300<<10 {
		t.Errorf("a region that fits what is left keeps %d KiB; want 300", got>>10)
	}
	one.Trim(0)
	if got := a.IdleBytes(); got != 300<<10 {
		t.Errorf("after the first pool was trimmed %d KiB are kept; want 300", got>>10)
	}
	if got := run(t, other, 400<<10); got != 400<<10 {
		t.Errorf("the region that was left keeps %d KiB; want 400", got>>10)
	}
}
