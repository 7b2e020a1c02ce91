package vmem

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/faasm-go/faasm/internal/linux"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func newShared(t testing.TB, a *Arena, size uint64) *Shared {
	t.Helper()
	s, err := NewShared(a, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close shared memory: %v", err)
		}
	})
	return s
}

// mapped is how many mappings the arena counts.
func (a *Arena) mapped() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.mapped
}

// part is n bytes of the memory of r at a guest address.
func part(r *Region, at, n uint64) []byte { return bytesAt(r.Base+uintptr(at), uintptr(n)) }

func mapShared(t testing.TB, r *Region, at uint64, s *Shared, off, n uint64, private bool) {
	t.Helper()
	if err := r.MapShared(at, s, off, n, private); err != nil {
		t.Fatal(err)
	}
}

func checkResident(t *testing.T, s *Shared, want uint64) {
	t.Helper()
	if got, err := s.Resident(); err != nil || got != want {
		t.Errorf("%d KiB are resident, %v; want %d", got>>10, err, want>>10)
	}
}

func TestShared_refuses(t *testing.T) {
	a := newArenaOptions(t, ArenaOptions{MappingsMax: 1})
	files, err := linux.OpenFiles()
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []uint64{1, WasmPageSize + 1, ^uint64(0)} {
		if s, err := NewShared(a, size); err == nil || errors.Is(err, ErrExhausted) {
			t.Errorf("%d bytes: %v, %v", size, s, err)
		}
	}
	for _, size := range []uint64{1 << 47, 1 << 63, ^uint64(0) &^ (WasmPageSize - 1)} {
		if s, err := NewShared(a, size); !errors.Is(err, ErrExhausted) {
			t.Errorf("%d bytes: %v, %v; want ErrExhausted", size, s, err)
		}
	}
	if now, _ := linux.OpenFiles(); now != files || a.mapped() != 0 {
		t.Errorf("refusals hold %d files and %d mappings", now-files, a.mapped())
	}

	s := newShared(t, a, 64<<10)
	if other, err := NewShared(a, 0); !errors.Is(err, ErrExhausted) {
		t.Errorf("the second mapping of one: %v, %v; want ErrExhausted", other, err)
	}
	for _, size := range []uint64{2 << 20, 1 << 47} {
		if err := s.Grow(size); !errors.Is(err, ErrExhausted) || s.Size() != 64<<10 || len(s.Bytes()) != 64<<10 {
			t.Errorf("grow to %d bytes: %v, and then %d; want ErrExhausted", size, err, s.Size())
		}
	}
	if err := s.Grow(1 << 20); err != nil || s.Size() != 1<<20 {
		t.Errorf("grow to what is mapped, after refusals: %v", err)
	}
	if err := s.mu.file.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("shrink the file: %v; want EPERM", err)
	}
	s.Bytes()[1<<20-1] = 1
}

// The addresses of a process are less than can be asked for.
func TestNewShared_reportsExhaustion(t *testing.T) {
	a := newArena(t)
	for made := range 3 {
		s, err := NewShared(a, sharedMax)
		if err == nil {
			defer s.Close()
			continue
		}
		if !errors.Is(err, ErrExhausted) || a.mapped() != made {
			t.Errorf("%v, and %d mappings are counted; want ErrExhausted and %d", err, a.mapped(), made)
		}
		return
	}
	t.Error("three times 64 TiB fit in 128 TiB")
}

func TestShared_Grow(t *testing.T) {
	a := newArena(t)
	s, err := NewShared(a, 0)
	if err != nil {
		t.Fatal(err)
	}
	if s.Size() != 0 || len(s.Bytes()) != 0 {
		t.Errorf("an empty one has %d bytes", s.Size())
	}
	var views [][]byte
	for size := uint64(WasmPageSize); size <= 8<<20; size += WasmPageSize {
		if err := s.Grow(size); err != nil {
			t.Fatal(err)
		}
		if err := s.Grow(size / 2 &^ (WasmPageSize - 1)); err != nil || s.Size() != size {
			t.Fatalf("growing to less: %v, size %d", err, s.Size())
		}
		b := s.Bytes()
		if uint64(len(b)) != size || b[size-1] != 0 {
			t.Fatalf("grown to %d bytes it has %d, the last is %d", size, len(b), b[size-1])
		}
		b[size-1] = byte(size / WasmPageSize)
		views = append(views, b)
	}
	for i, v := range views {
		for at := WasmPageSize; at <= len(v); at += WasmPageSize {
			if v[at-1] != byte(at/WasmPageSize) {
				t.Fatalf("view %d has %d before %#x", i, v[at-1], at)
			}
		}
		v[0] = byte(i)
		if s.Bytes()[0] != byte(i) {
			t.Fatalf("a write through view %d is not seen in the last", i)
		}
	}
	if got := a.mapped(); got != 4 {
		t.Errorf("it has %d mappings; want 4, for 1, 2, 4 and 8 MiB", got)
	}
	if err := s.Close(); err != nil || a.mapped() != 0 {
		t.Errorf("close: %v; %d mappings are left", err, a.mapped())
	}
	if err := s.Grow(16 << 20); err == nil || a.mapped() != 0 {
		t.Errorf("grow after close: %v, %d mappings", err, a.mapped())
	}
}

func TestShared_Discard(t *testing.T) {
	a := newArena(t)
	p := newPool(t, a, 64<<10)
	r := take(t, p)
	grow(t, r, 64<<10, 256<<10)
	s := newShared(t, nil, 128<<10)
	checkResident(t, s, 0)
	mapShared(t, r, 64<<10, s, 0, 128<<10, false)
	mapShared(t, r, 192<<10, s, 0, 64<<10, true)
	host, others, own := s.Bytes(), part(r, 64<<10, 128<<10), part(r, 192<<10, 64<<10)
	for i := range host {
		host[i] = 1
	}
	own[PageSize] = 2
	checkResident(t, s, 128<<10)
	if err := s.Discard(0, 0); err != nil || host[0] != 1 {
		t.Errorf("discard nothing: %v", err)
	}
	if err := s.Discard(0, 64<<10); err != nil {
		t.Fatal(err)
	}
	checkResident(t, s, 64<<10)
	want := append(make([]byte, 64<<10), bytes.Repeat([]byte{1}, 64<<10)...)
	if !bytes.Equal(host, want) || !bytes.Equal(others, want) {
		t.Error("discarded bytes are not zero, or others are")
	}
	if own[0] != 0 || own[PageSize] != 2 || own[PageSize+1] != 1 {
		t.Errorf("private: %d where nothing was written, %d and %d where something was; want 0, 2 and 1", own[0], own[PageSize], own[PageSize+1])
	}
	if err := s.Discard(64<<10+1, 2); err != nil || host[64<<10] != 1 || host[64<<10+1] != 0 || host[64<<10+3] != 1 {
		t.Errorf("discard 2 bytes of a page: %v", err)
	}
	host[7] = 9
	if others[7] != 9 || own[7] != 9 {
		t.Error("what is written after a discard is not seen")
	}
	p.Give(r, 256<<10)
}

func TestRegion_MapShared_refuses(t *testing.T) {
	a := newArena(t)
	p := newPool(t, a, 128<<10, Segment{8, []byte("image")})
	r := take(t, p)
	grow(t, r, 128<<10, 512<<10)
	s := newShared(t, a, 256<<10)
	s.Bytes()[0] = 1
	before := a.mapped()
	const page = WasmPageSize
	for _, tt := range []struct {
		name       string
		at, off, n uint64
	}{
		{"over the image", page, 0, page},
		{"over the end of the image", page, 0, 2 * page},
		{"beyond the region", small.Reservation, 0, page},
		{"over the end of the region", small.Reservation - page, 0, 2 * page},
		{"a guest address that wraps", ^uint64(0) &^ (page - 1), 0, 2 * page},
		{"a length that wraps", 2 * page, 0, ^uint64(0) &^ (page - 1)},
		{"nothing", 2 * page, 0, 0},
		{"half a page", 2 * page, 0, page / 2},
		{"at half a page", 2*page + PageSize, 0, page},
		{"from half a page", 2 * page, PageSize, page},
		{"beyond the shared memory", 2 * page, 4 * page, page},
		{"over the end of the shared memory", 2 * page, 3 * page, 2 * page},
		{"an offset that wraps", 2 * page, ^uint64(0) &^ (page - 1), 2 * page},
	} {
		for _, private := range []bool{false, true} {
			if err := r.MapShared(tt.at, s, tt.off, tt.n, private); err == nil {
				t.Errorf("%s: it was mapped", tt.name)
			}
		}
		if tt.off == 0 {
			if err := r.UnmapShared(tt.at, tt.n); err == nil {
				t.Errorf("%s: it was unmapped", tt.name)
			}
		}
	}
	if a.mapped() != before || part(r, 128<<10, 1)[0] != 0 || string(part(r, 8, 5)) != "image" {
		t.Errorf("after refusals %d more mappings are counted, or the memory has changed", a.mapped()-before)
	}
	p.Give(r, 512<<10)
}

// The limit is ours: the kernel is not asked for a mapping that would be one too many.
func TestRegion_MapShared_MappingsMax(t *testing.T) {
	a := newArenaOptions(t, ArenaOptions{MappingsMax: 9})
	p := newPool(t, a, 64<<10)
	s := newShared(t, a, 64<<10)
	r := take(t, p)
	const end = 2 << 20
	grow(t, r, 64<<10, end)
	part(r, 512<<10, 1)[0] = 7
	for round := range 3 {
		mapShared(t, r, 64<<10, s, 0, 64<<10, false)
		mapShared(t, r, 256<<10, s, 0, 64<<10, true)
		maps, err := linux.Maps()
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if err := r.MapShared(512<<10, s, 0, 64<<10, false); !errors.Is(err, ErrExhausted) {
				t.Errorf("round %d, 4 of 5 mappings are taken: %v; want ErrExhausted", round, err)
			}
		}
		if now, _ := linux.Maps(); now > maps+2 { // Go's heap may have grown
			t.Errorf("refusals took mappings from %d to %d", maps, now)
		}
		if part(r, 512<<10, 1)[0] != 7 || a.mapped() != 8 {
			t.Errorf("after refusals there is %d, and %d mappings", part(r, 512<<10, 1)[0], a.mapped())
		}
		// What takes the place of another takes no room.
		mapShared(t, r, 64<<10, s, 0, 64<<10, true)
		mapShared(t, r, 64<<10, s, 0, 64<<10, false)
		if a.mapped() != 8 {
			t.Errorf("round %d: mapped again there are %d mappings; want 8", round, a.mapped())
		}
		switch round {
		case 0: // unmapped by the guest
			for _, at := range []uint64{64 << 10, 256 << 10, 256 << 10} {
				if err := r.UnmapShared(at, 64<<10); err != nil {
					t.Fatal(err)
				}
			}
		case 1: // cleaned
			p.Give(r, end)
			if r = take(t, p); a.mapped() != 4 {
				t.Errorf("after cleaning there are %d mappings; want 4", a.mapped())
			}
			grow(t, r, 64<<10, end)
			part(r, 512<<10, 1)[0] = 7
		case 2: // given up, as after an error
			p.giveUp(r)
			p.inUse.Add(-1)
			if a.mapped() != 1 {
				t.Errorf("after the region was given up there are %d mappings; want the shared memory's", a.mapped())
			}
		}
	}
}

func TestRegion_MapShared_refusedByTheKernel(t *testing.T) {
	a := newArena(t)
	p := newPool(t, a, 64<<10)
	s, err := NewShared(nil, 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	r := take(t, p)
	grow(t, r, 64<<10, 256<<10)
	mapShared(t, r, 64<<10, s, 0, 64<<10, false)
	s.Bytes()[0], part(r, 128<<10, 1)[0] = 1, 2
	counted := a.mapped()
	if err := s.mu.file.Close(); err != nil { // so that mmap fails
		t.Fatal(err)
	}
	for _, at := range []uint64{64 << 10, 128 << 10} {
		if err := r.MapShared(at, s, 0, 64<<10, false); !errors.Is(err, ErrExhausted) {
			t.Errorf("map at %#x: %v; want ErrExhausted", at, err)
		}
	}
	if got := part(r, 0, 256<<10); got[64<<10] != 1 || got[128<<10] != 2 || a.mapped() != counted {
		t.Errorf("then there are %d and %d; %d more mappings are counted", got[64<<10], got[128<<10], a.mapped()-counted)
	}
	p.Give(r, 256<<10)
	s.Close() // its file is closed
}

// The count is never less than what the kernel has.
func TestRegion_MapShared_countsMappings(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := newArenaOptions(t, ArenaOptions{})
		p := newPool(t, a, 0)
		s := newShared(t, nil, 512<<10)
		r := take(t, p)
		const pages = 8
		grow(t, r, 0, pages*WasmPageSize)
		before, count := mappingsOf(t, r), a.mapped()
		var shared [pages]bool
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			from := rapid.Uint64Range(0, pages-1).Draw(rt, "from")
			n := rapid.Uint64Range(1, pages-from).Draw(rt, "n")
			maps := rapid.Bool().Draw(rt, "map")
			var err error
			if maps {
				off := rapid.Uint64Range(0, pages-n).Draw(rt, "off")
				err = r.MapShared(from*WasmPageSize, s, off*WasmPageSize, n*WasmPageSize, rapid.Bool().Draw(rt, "private"))
			} else {
				err = r.UnmapShared(from*WasmPageSize, n*WasmPageSize)
			}
			if err != nil {
				rt.Fatal(err)
			}
			for i := range n {
				shared[from+i] = maps
			}
			var end, total uint64
			for i, is := range shared {
				if is {
					end, total = uint64(i+1)*WasmPageSize, total+WasmPageSize
				}
			}
			if gotEnd, got := r.sharedExtent(); gotEnd != end || got != total {
				rt.Fatalf("%#x bytes up to %#x count as shared; want %#x up to %#x", got, gotEnd, total, end)
			}
			if more, counted := mappingsOf(t, r)-before, a.mapped()-count; more > counted {
				rt.Fatalf("the region has %d more mappings; %d are counted", more, counted)
			}
		}
		p.Give(r, pages*WasmPageSize)
		if a.mapped() != count {
			rt.Fatalf("cleaning left %d mappings counted", a.mapped()-count)
		}
		p.Trim(0)
	})
}

// mappingsOf is how many mappings lie in the region's linear memory.
func mappingsOf(t *testing.T, r *Region) (n int) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		var start, end uintptr
		if _, err := fmt.Sscanf(line, "%x-%x", &start, &end); err != nil {
			t.Fatal(err)
		}
		if start < r.Base+uintptr(r.arena.layout.Reservation) && r.Base < end {
			n++
		}
	}
	return n
}

// Whatever was mapped and written where, the next user of the region finds its image and
// zeroes, everybody else what was written to the shared memory, and nobody what was written
// to private parts: however the region is cleaned.
func TestRegion_Clean_unmapsShared(t *testing.T) {
	const pages, grown = 4, 6 // of WasmPageSize: the shared memory, and what the guests' have grown by
	type setting struct {
		pool   *Pool
		shared *Shared
		model  []byte // of the shared memory
		image  []byte
	}
	var settings []setting
	for _, retain := range []uint64{0, 1 << 20} {
		for _, scans := range []bool{true, false} {
			a := newArena(t)
			a.opts.RetainMax = retain // with 0 cleaning always drops
			if !scans && a.pagemap != nil {
				a.pagemap.Close()
				a.pagemap = nil // as on a kernel before 6.7
			}
			segments := []Segment{{100, bytes.Repeat([]byte("image"), 20_000)}}
			settings = append(settings, setting{newPool(t, a, 128<<10, segments...), newShared(t, a, pages*WasmPageSize),
				make([]byte, pages*WasmPageSize), content(128<<10, segments)})
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom(settings).Draw(t, "setting")
		p, image := s.pool, uint64(len(s.image))
		counted := p.arena.mapped() - 3*p.arena.Bound()
		for range rapid.IntRange(1, 4).Draw(t, "runs") {
			r, err := p.Take()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(memory(r), s.image) {
				t.Fatal("a clean region differs from its image")
			}
			size := image + grown*WasmPageSize
			grow(t, r, image, size)
			own := make([]byte, grown*WasmPageSize)             // what is not shared
			var written [grown * WasmPageSize / PageSize]bool   // pages of own
			owner, private := make([]int, grown), [grown]bool{} // where in the shared memory a part is, or -1
			for i := range owner {
				owner[i] = -1
			}
			check := func() {
				if !bytes.Equal(s.shared.Bytes(), s.model) {
					t.Fatal("the shared memory differs from what was written to it")
				}
				for at := 0; at < len(own); at += PageSize {
					w := at / WasmPageSize
					want := own[at : at+PageSize]
					if owner[w] >= 0 && !(private[w] && written[at/PageSize]) {
						want = s.model[owner[w]+at%WasmPageSize:][:PageSize]
					}
					if !bytes.Equal(part(r, image+uint64(at), PageSize), want) {
						t.Fatalf("the memory differs at %#x past the image", at)
					}
				}
			}
			check()
			for range rapid.IntRange(1, 8).Draw(t, "steps") {
				switch step := rapid.SampledFrom([]string{"map", "map", "unmap", "write", "write", "host", "discard"}).Draw(t, "step"); step {
				case "map", "unmap":
					from := rapid.IntRange(0, grown-1).Draw(t, "from")
					n := rapid.IntRange(1, min(pages, grown-from)).Draw(t, "n")
					at, length := image+uint64(from)*WasmPageSize, uint64(n)*WasmPageSize
					off, cow := -1, false
					if step == "map" {
						off, cow = rapid.IntRange(0, pages-n).Draw(t, "off")*WasmPageSize, rapid.Bool().Draw(t, "private")
						err = r.MapShared(at, s.shared, uint64(off), length, cow)
					} else {
						err = r.UnmapShared(at, length)
					}
					if err != nil {
						t.Fatal(err)
					}
					clear(own[from*WasmPageSize : (from+n)*WasmPageSize])
					clear(written[from*WasmPageSize/PageSize : (from+n)*WasmPageSize/PageSize])
					for i := range n {
						owner[from+i], private[from+i] = off, cow
						if off >= 0 {
							off += WasmPageSize
						}
					}
				case "write":
					at := rapid.IntRange(0, len(own)-1).Draw(t, "at")
					b := rapid.Byte().Draw(t, "byte")
					w, page := at/WasmPageSize, at/PageSize
					if owner[w] >= 0 && private[w] && !written[page] { // the kernel copies the page
						copy(own[page*PageSize:], s.model[owner[w]+page*PageSize%WasmPageSize:][:PageSize])
					}
					part(r, image+uint64(at), 1)[0] = b
					if owner[w] >= 0 && !private[w] {
						s.model[owner[w]+at%WasmPageSize] = b
					} else {
						own[at], written[page] = b, true
					}
				case "host":
					at, b := rapid.IntRange(0, len(s.model)-1).Draw(t, "at"), rapid.Byte().Draw(t, "byte")
					s.shared.Bytes()[at], s.model[at] = b, b
				case "discard":
					at := rapid.IntRange(0, pages-1).Draw(t, "at") * WasmPageSize
					if err := s.shared.Discard(uint64(at), WasmPageSize); err != nil {
						t.Fatal(err)
					}
					clear(s.model[at : at+WasmPageSize])
				}
				check()
			}
			memory(r)[rapid.IntRange(0, int(image)-1).Draw(t, "image")] ^= 0xff
			if _, err := p.Give(r, size); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(s.shared.Bytes(), s.model) {
				t.Fatal("cleaning has changed the shared memory")
			}
		}
		if got := p.arena.mapped() - 3*p.arena.Bound(); got != counted {
			t.Fatalf("%d mappings are left counted", got-counted)
		}
	})
}

// Of what was grown, cleaning counts as written what was not shared.
func TestRegion_Clean_countsNoSharedPages(t *testing.T) {
	a := newArena(t)
	needScan(t, a)
	p := newPool(t, a, 64<<10)
	s := newShared(t, a, 1<<20)
	r := take(t, p)
	grow(t, r, 64<<10, 1<<20+192<<10)
	mapShared(t, r, 128<<10, s, 0, 1<<20, false)
	clear(part(r, 128<<10, 1<<20))
	memory(r)[0] = 1
	if dirty, err := p.Give(r, 1<<20+192<<10); err != nil || dirty != 1+128<<10/PageSize {
		t.Errorf("%d written pages, %v; want one of the image and 32 of grown memory", dirty, err)
	}
	if r.retained != PageSize || p.usual.bytes.Load() != PageSize {
		t.Errorf("the region keeps %d bytes, and %d are usual; want a page", r.retained, p.usual.bytes.Load())
	}
}

// What is mapped past the size that cleaning is told of is unmapped all the same: another
// tenant's Faaslet may be next.
func TestRegion_Clean_unmapsSharedPastTheSize(t *testing.T) {
	a := newArena(t)
	p := newPool(t, a, 64<<10)
	s := newShared(t, a, 128<<10)
	for _, size := range []uint64{0, 64 << 10, 192 << 10} {
		r := take(t, p)
		mapShared(t, r, 128<<10, s, 0, 128<<10, false)
		if dirty, err := p.Give(r, size); err != nil || dirty > 64<<10/PageSize {
			t.Errorf("size %d: %d pages, %v", size, dirty, err)
		}
		if got := permissions(t, r.Base+192<<10); got != "---p" {
			t.Errorf("size %d: after cleaning the shared memory is mapped %s", size, got)
		}
	}
}

func TestShared_WriteAt(t *testing.T) {
	s := newShared(t, nil, 64<<10)
	s.Bytes()[0] = 1
	for _, tt := range []struct {
		off int64
		n   int
	}{{-1, 1}, {64 << 10, 1}, {64<<10 - 1, 2}, {0, 64<<10 + 1}, {1<<63 - 1, 2}} {
		if n, err := s.WriteAt(make([]byte, tt.n), tt.off); err == nil || n != 0 {
			t.Errorf("%d bytes at %d: wrote %d", tt.n, tt.off, n)
		}
	}
	if st, err := s.mu.file.Stat(); err != nil || st.Size() != 64<<10 {
		t.Errorf("refusals made the file %d bytes large, %v", st.Size(), err)
	}
	if n, err := s.WriteAt([]byte("end"), 64<<10-3); n != 3 || err != nil {
		t.Errorf("wrote %d bytes: %v", n, err)
	}
	if got := s.Bytes(); string(got[64<<10-3:]) != "end" || got[0] != 1 {
		t.Errorf("then there is %q", got[64<<10-3:])
	}
}

func TestShared_Swap(t *testing.T) {
	one, two := newArenaOptions(t, ArenaOptions{MappingsMax: 1}), newArena(t)
	for _, withArena := range []*Arena{two, nil} {
		s, err := NewShared(one, 64<<10)
		if err != nil {
			t.Fatal(err)
		}
		with, err := NewShared(withArena, 64<<10)
		if err != nil {
			t.Fatal(err)
		}
		s.Bytes()[0], with.Bytes()[0] = 1, 2
		larger, err := NewShared(withArena, 64<<10)
		if err == nil {
			err = larger.Grow(3 << 20) // two views
		}
		if err != nil {
			t.Fatal(err)
		}
		check := func(what string, ones, twos int) {
			t.Helper()
			if withArena == nil {
				twos = 0
			}
			if one.mapped() != ones || two.mapped() != twos {
				t.Errorf("%s: %d and %d mappings are counted; want %d and %d", what, one.mapped(), two.mapped(), ones, twos)
			}
		}
		// One view more than its arena has room for, whichever of the two asks.
		for _, swapped := range []bool{s.Swap(larger), larger.Swap(s)} {
			if swapped || s.Size() != 64<<10 || s.Bytes()[0] != 1 || larger.Size() != 3<<20 {
				t.Errorf("swapped: %t; the sizes are %d and %d", swapped, s.Size(), larger.Size())
			}
		}
		check("refused", 1, 3)

		was := s.Bytes()
		if !s.Swap(with) || s.Bytes()[0] != 2 || with.Bytes()[0] != 1 {
			t.Errorf("swapped there are %d and %d; want 2 and 1", s.Bytes()[0], with.Bytes()[0])
		}
		if was[0] = 7; with.Bytes()[0] != 7 {
			t.Error("what Bytes had returned is not the other's")
		}
		if !larger.Swap(with) || larger.Size() != 64<<10 || with.Size() != 3<<20 || larger.Bytes()[0] != 7 {
			t.Errorf("swapped with a larger one: sizes %d and %d, content %d", larger.Size(), with.Size(), larger.Bytes()[0])
		}
		check("swapped", 1, 3)

		// All that is done to one is done to what it has now.
		if _, err := with.WriteAt([]byte{9}, 2<<20); err != nil || with.Bytes()[2<<20] != 9 {
			t.Errorf("write to what was swapped: %v", err)
		}
		checkResident(t, with, PageSize)
		if err := with.Discard(2<<20, PageSize); err != nil {
			t.Fatal(err)
		}
		checkResident(t, with, 0)
		if err := with.Grow(4 << 20); err != nil || len(with.Bytes()) != 4<<20 {
			t.Errorf("grow what was swapped: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		check("one is closed", 0, 3)
		if err := errors.Join(with.Close(), larger.Close()); err != nil {
			t.Error(err)
		}
		check("all are closed", 0, 0)
	}
}

// However many swap, what is there is there once, and so are the mappings.
func TestShared_Swap_hammer(t *testing.T) {
	a := newArena(t)
	var all [3]*Shared
	for i := range all {
		arena := a
		if i == 2 {
			arena = nil
		}
		all[i] = newShared(t, arena, uint64(i+1)<<20)
		all[i].Bytes()[0] = byte(i + 1)
	}
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			for i := range 500 {
				s, with := all[g%3], all[(g+1+i%2)%3]
				if !s.Swap(with) {
					t.Error("an arena without limit has no room")
				}
				if s.Size() == 0 || len(with.Bytes()) == 0 {
					t.Error("a memory is empty")
				}
			}
		})
	}
	wg.Wait()
	var found []uint64
	for _, s := range all {
		if want := uint64(s.Bytes()[0]) << 20; s.Size() != want {
			t.Errorf("the memory of %d MiB has a size of %d", want>>20, s.Size())
		}
		found = append(found, s.Size())
	}
	if slices.Sort(found); !slices.Equal(found, []uint64{1 << 20, 2 << 20, 3 << 20}) {
		t.Errorf("there are memories of %d bytes", found)
	}
	if a.mapped() != 2 {
		t.Errorf("%d mappings are counted; want 2", a.mapped())
	}
}

// A call's use of a value: its part of the memory is mapped, used and cleaned away.
func BenchmarkRegion_MapShared(b *testing.B) {
	for _, size := range []uint64{64 << 10, 1 << 20, 16 << 20} {
		p := newPool(b, newArena(b), 64<<10)
		s := newShared(b, nil, size)
		for i := range s.Bytes() {
			s.Bytes()[i] = 1
		}
		out := make([]byte, size)
		r := take(b, p)
		grow(b, r, 64<<10, 64<<10+size)
		m := part(r, 64<<10, size)
		for _, use := range []struct {
			name string
			do   func()
		}{
			{"none", func() {}},
			{"one", func() { m[0]++ }},
			{"read", func() { copy(out, m) }},
			{"write", func() {
				for at := 0; at < len(m); at += PageSize {
					m[at] = 1
				}
			}},
			{"copy", func() { copy(m, out) }},
		} {
			for _, kind := range []string{"shared", "private"} {
				b.Run(fmt.Sprintf("%s/%dKiB/%s", kind, size>>10, use.name), func(b *testing.B) {
					for b.Loop() {
						mapShared(b, r, 64<<10, s, 0, size, kind == "private")
						use.do()
						if err := r.UnmapShared(64<<10, size); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
		p.Give(r, 64<<10+size)
	}
}

// A new memory, filled by copying and by writing to it.
func BenchmarkShared_fill(b *testing.B) {
	for _, size := range []uint64{64 << 10, 16 << 20} {
		data := bytes.Repeat([]byte{1}, int(size))
		for _, how := range []string{"copy", "WriteAt"} {
			b.Run(fmt.Sprintf("%s/%dKiB", how, size>>10), func(b *testing.B) {
				for b.Loop() {
					s, err := NewShared(nil, size)
					if err != nil {
						b.Fatal(err)
					}
					if how == "copy" {
						copy(s.Bytes(), data)
					} else if _, err := s.WriteAt(data, 0); err != nil {
						b.Fatal(err)
					}
					s.Close()
				}
			})
		}
	}
}

func TestRegion_Contents_neverShared(t *testing.T) {
	a := newArena(t)
	p := newPool(t, a, 64<<10)
	s := newShared(t, a, 64<<10)
	r := take(t, p)
	grow(t, r, 64<<10, 128<<10)
	mapShared(t, r, 64<<10, s, 0, 64<<10, true)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the contents of a memory with a shared part were read")
			}
		}()
		r.Contents(128 << 10)
	}()
	if err := r.UnmapShared(64<<10, 64<<10); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Contents(128 << 10); err != nil || len(got) != 0 {
		t.Errorf("after it was unmapped: %v, %v", got, err)
	}
	p.Give(r, 128<<10)
}

// Regions outlive what they have mapped, and the memory is freed with the last of them.
func TestShared_Close_whileMapped(t *testing.T) {
	a := newArena(t)
	p := newPool(t, a, 64<<10)
	s, err := NewShared(a, 128<<10)
	if err != nil {
		t.Fatal(err)
	}
	one, other := take(t, p), take(t, p)
	for i, r := range []*Region{one, other} {
		grow(t, r, 64<<10, 192<<10)
		mapShared(t, r, 64<<10, s, 0, 128<<10, false)
		s.Bytes()[i] = byte(i + 1)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	part(one, 64<<10, 128<<10)[100<<10] = 3
	if got := part(other, 64<<10, 128<<10); got[0] != 1 || got[1] != 2 || got[100<<10] != 3 {
		t.Errorf("after Close a region sees %d, %d and %d", got[0], got[1], got[100<<10])
	}
	p.Give(one, 192<<10)
	if part(other, 64<<10, 1)[0] != 1 {
		t.Error("with one region the other's memory went away")
	}
	p.Give(other, 192<<10)
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil || bytes.Contains(maps, []byte("faasm-state")) {
		t.Errorf("at the end it is still mapped, %v", err)
	}
}

// Many goroutines map, write, grow and clean; each sees its own bytes, and none is lost.
func TestShared_hammer(t *testing.T) {
	const users, rounds = 8, 200
	a := newArena(t)
	p := newPool(t, a, 64<<10, Segment{0, []byte("image")})
	s := newShared(t, a, 64<<10)
	var wg sync.WaitGroup
	for g := range users {
		wg.Go(func() {
			written := 0
			for i := range rounds {
				if i%20 == g {
					if err := s.Grow(s.Size() + WasmPageSize); err != nil {
						t.Error(err)
					}
				}
				r, err := p.Take()
				if err != nil {
					t.Error(err)
					return
				}
				size := 64<<10 + s.Size()
				if err := mprotect(r.Base+64<<10, uintptr(size-64<<10), unix.PROT_READ|unix.PROT_WRITE); err != nil {
					t.Error(err)
				}
				if n := slices.IndexFunc(part(r, 64<<10, size-64<<10), func(b byte) bool { return b != 0 }); n >= 0 {
					t.Errorf("grown memory has a byte that is not zero, at %#x", n)
				}
				private := i%3 == 0
				if err := r.MapShared(64<<10, s, 0, size-64<<10, private); err != nil {
					t.Error(err)
				}
				own := part(r, 64<<10+uint64(g)*PageSize, 8)
				if got := int(binary.NativeEndian.Uint64(own)); got != written {
					t.Errorf("user %d, round %d: there is %d; want %d", g, i, got, written)
				}
				binary.NativeEndian.PutUint64(own, uint64(written+1))
				if !private {
					written++
				}
				if _, err := p.Give(r, size); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
