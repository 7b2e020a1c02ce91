package vmem

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"github.com/faasm-go/faasm/internal/linux"
	"pgregory.net/rapid"
)

// small is a layout that lets a test have many regions.
var small = Layout{Stack: 128 << 10, Reservation: 64 << 20, Guard: 64 << 10}

func newArena(t testing.TB) *Arena { return newArenaOptions(t, ArenaOptions{}) }

func newArenaOptions(t testing.TB, o ArenaOptions) *Arena {
	t.Helper()
	a, err := NewArena(small, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if a.Bound() != 0 || a.IdleBytes() != 0 {
			t.Errorf("at the end %d regions are bound and keep %d bytes", a.Bound(), a.IdleBytes())
		}
		if err := a.Close(); err != nil {
			t.Errorf("close arena: %v", err)
		}
	})
	return a
}

func newPool(t testing.TB, a *Arena, size uint64, segments ...Segment) *Pool {
	t.Helper()
	img, err := newImageSegments(size, segments)
	if err != nil {
		t.Fatal(err)
	}
	p := NewPool(a, img, 8)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close pool: %v", err)
		}
	})
	return p
}

func take(t testing.TB, p *Pool) *Region {
	t.Helper()
	r, err := p.Take()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func memory(r *Region) []byte { return bytesAt(r.Base, uintptr(r.image.Size)) }

// content is what an image of these segments must look like.
func content(size uint64, segments []Segment) []byte {
	b := make([]byte, size)
	for _, s := range segments {
		copy(b[s.Offset:], s.Data)
	}
	return b
}

func TestNewArena_refusesBadLayouts(t *testing.T) {
	for _, l := range []Layout{{}, {Stack: 1, Reservation: 64 << 10, Guard: 64 << 10}, {Stack: 64 << 10, Reservation: 64 << 10}} {
		if _, err := NewArena(l, ArenaOptions{}); err == nil {
			t.Errorf("NewArena(%+v) succeeded", l)
		}
	}
}

// images are shapes whose parts are files, holes and plain zeros in different ways.
var images = []struct {
	name     string
	size     uint64
	segments []Segment
}{
	{"empty", 0, nil},
	{"zeros", 128 << 10, nil},
	{"small", 64 << 10, []Segment{{8, []byte("hello")}, {4090, []byte("across a page")}}},
	{"at the end", 192 << 10, []Segment{{192<<10 - 3, []byte("end")}}},
	{"hole before", 8 << 20, []Segment{{5 << 20, []byte("middle")}}},
	{"two islands", 16 << 20, []Segment{{1 << 20, bytes.Repeat([]byte{7}, 10_000)}, {9<<20 + 5, []byte("far")}}},
	{"full", 2 << 20, []Segment{{0, bytes.Repeat([]byte("pattern!"), 2<<20/8)}}},
}

func TestRegion_startsAsImage(t *testing.T) {
	for _, tt := range images {
		t.Run(tt.name, func(t *testing.T) {
			p := newPool(t, newArena(t), tt.size, tt.segments...)
			r := take(t, p)
			if !bytes.Equal(memory(r), content(tt.size, tt.segments)) {
				t.Error("a new region differs from its image")
			}
			if _, err := p.Give(r, tt.size); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRegion_Clean_countsWrittenPages(t *testing.T) {
	a := newArena(t)
	if !a.ScansPages() {
		t.Fatal("this kernel has no PAGEMAP_SCAN (6.7)")
	}
	p := newPool(t, a, 1<<20, Segment{0, bytes.Repeat([]byte{1}, 512<<10)})
	r := take(t, p)
	m := memory(r)
	for _, at := range []int{0, 1, 5 * PageSize, 900 << 10} {
		m[at] = 9
	}
	if dirty, err := p.Give(r, 1<<20); err != nil || dirty != 3 {
		t.Errorf("Give: %d pages, %v; want 3", dirty, err)
	}
}

// grow does what the engine does on memory.grow.
func grow(t rapid.TB, r *Region, from, to uint64) {
	t.Helper()
	if err := mprotect(r.Base+uintptr(from), uintptr(to-from), 3); err != nil {
		t.Fatal(err)
	}
}

func TestRegion_Clean_takesBackGrownMemory(t *testing.T) {
	p := newPool(t, newArena(t), 64<<10, Segment{0, []byte("x")})
	r := take(t, p)
	grow(t, r, 64<<10, 4<<20)
	grown := bytesAt(r.Base+64<<10, 4<<20-64<<10)
	for i := range grown {
		grown[i] = 0x55
	}
	if _, err := p.Give(r, 4<<20); err != nil {
		t.Fatal(err)
	}
	r = take(t, p)
	if perms := permissions(t, r.Base+64<<10); perms != "---p" {
		t.Errorf("memory that was grown has permissions %s for the next user; want none", perms)
	}
	grow(t, r, 64<<10, 128<<10)
	if b := bytesAt(r.Base+64<<10, 64<<10); !bytes.Equal(b, make([]byte, 64<<10)) {
		t.Error("memory that is grown again is not zero")
	}
	p.Give(r, 128<<10)
}

// permissions is how the kernel has the page at addr mapped.
func permissions(t *testing.T, addr uintptr) string {
	t.Helper()
	perms, err := linux.MappingPermissions(addr)
	if err != nil {
		t.Fatal(err)
	}
	return perms
}

func TestRegion_stackHasAGuardBelow(t *testing.T) {
	p := newPool(t, newArena(t), 64<<10)
	var regions []*Region
	for range 70 { // more than a slab
		r := take(t, p)
		regions = append(regions, r)
		if got := permissions(t, r.stack-1); got != "---p" {
			t.Errorf("below the stack at %#x: %s; want no access", r.stack, got)
		}
		if got := permissions(t, r.stack); got != "rw-p" {
			t.Errorf("the stack at %#x: %s; want rw-p", r.stack, got)
		}
		if r.StackTop() != r.Base {
			t.Errorf("stack ends at %#x, memory begins at %#x", r.StackTop(), r.Base)
		}
	}
	for _, r := range regions {
		p.Give(r, 64<<10)
	}
}

func TestGate_shutAndOpen(t *testing.T) {
	for _, markers := range []bool{true, false} {
		a := newArena(t)
		if !guardMarkers.Load() && markers {
			t.Log("this kernel has no guard markers (6.13)")
			continue
		}
		was := guardMarkers.Swap(markers)
		g, err := a.gates.add()
		if err != nil {
			t.Fatal(err)
		}
		readable := func() bool { return linux.Readable(g.Addr) }
		for range 3 {
			if !readable() {
				t.Errorf("markers %v: an open gate can't be read", markers)
			}
			if err := g.Shut(); err != nil {
				t.Fatal(err)
			}
			if readable() {
				t.Errorf("markers %v: a shut gate can be read", markers)
			}
			if err := g.Open(); err != nil {
				t.Fatal(err)
			}
		}
		guardMarkers.Store(was)
	}
}

func TestPool_keepsNoMoreThanIdleMax(t *testing.T) {
	a := newArena(t)
	p := newPool(t, a, 64<<10)
	var regions []*Region
	for range 20 {
		regions = append(regions, take(t, p))
	}
	if got := p.InUse(); got != 20 {
		t.Errorf("InUse %d; want 20", got)
	}
	for _, r := range regions {
		p.Give(r, 64<<10)
	}
	if p.InUse() != 0 || p.Idle() != 8 || a.Bound() != 8 {
		t.Errorf("in use %d, idle %d, bound %d; want 0, 8 and 8", p.InUse(), p.Idle(), a.Bound())
	}
	p.Trim(3)
	if p.Idle() != 3 {
		t.Errorf("after Trim(3): idle %d", p.Idle())
	}
}

func TestPool_Close_whileInUse(t *testing.T) {
	a := newArena(t)
	img, err := newImageSegments(64<<10, []Segment{{0, []byte("secret")}})
	if err != nil {
		t.Fatal(err)
	}
	p := NewPool(a, img, 8)
	r := take(t, p)
	if err := p.Close(); err != ErrInUse {
		t.Errorf("Close: %v; want ErrInUse", err)
	}
	if got := string(memory(r)[:6]); got != "secret" {
		t.Errorf("memory in use reads %q after Close", got)
	}
	if _, err := p.Give(r, 64<<10); err != nil {
		t.Errorf("Give after Close: %v", err)
	}
	if img.file != nil {
		t.Error("the image outlives its last region")
	}
}

func TestPool_Take_reportsExhaustion(t *testing.T) {
	a, err := NewArena(Layout{Stack: 64 << 10, Reservation: 1 << 46, Guard: 64 << 10}, ArenaOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	img, _ := newImageSegments(64<<10, nil)
	p := NewPool(a, img, 8)
	defer p.Close()
	var taken []*Region
	for {
		r, err := p.Take()
		if err != nil {
			if !strings.Contains(err.Error(), ErrExhausted.Error()) {
				t.Errorf("Take: %v; want ErrExhausted", err)
			}
			break
		}
		if taken = append(taken, r); len(taken) > 4 {
			t.Fatal("five regions of 64 TiB fit in 128 TiB")
		}
	}
	for _, r := range taken {
		p.Give(r, 64<<10)
	}
}

// Regions of two images change hands between many goroutines; no byte of one is ever seen
// in the other.
func TestPool_hammer(t *testing.T) {
	a := newArena(t)
	pools := []*Pool{
		newPool(t, a, 64<<10, Segment{0, bytes.Repeat([]byte{1}, 100)}),
		newPool(t, a, 128<<10, Segment{0, bytes.Repeat([]byte{2}, 100)}),
	}
	want := [][]byte{content(64<<10, []Segment{{0, bytes.Repeat([]byte{1}, 100)}}), content(128<<10, []Segment{{0, bytes.Repeat([]byte{2}, 100)}})}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				k := (g + i) % 2
				r, err := pools[k].Take()
				if err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(memory(r), want[k]) {
					t.Error("a region is not clean")
					return
				}
				for j := 0; j < len(memory(r)); j += 1 + i*37 {
					memory(r)[j] = 0xee
				}
				if _, err := pools[k].Give(r, pools[k].Image().Size); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// Making and closing arenas leaves neither mappings nor descriptors behind.
func TestArena_Close_leavesNothing(t *testing.T) {
	cycle := func() {
		a, err := NewArena(small, ArenaOptions{})
		if err != nil {
			t.Fatal(err)
		}
		img, err := newImageSegments(2<<20, []Segment{{0, []byte("x")}})
		if err != nil {
			t.Fatal(err)
		}
		p := NewPool(a, img, 4)
		for range 10 {
			r := take(t, p)
			memory(r)[1<<20] = 1
			p.Give(r, 2<<20)
			p.Trim(0)
		}
		if _, err := NewImage(nil, 1, nil); err == nil {
			t.Fatal("an image of one byte was made")
		}
		p.Close()
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cycle()
	maps, _ := linux.Maps()
	files, _ := linux.OpenFiles()
	for range 20 {
		cycle()
	}
	mapsAfter, _ := linux.Maps()
	filesAfter, _ := linux.OpenFiles()
	if mapsAfter > maps+5 || filesAfter > files {
		t.Errorf("mappings went from %d to %d, descriptors from %d to %d", maps, mapsAfter, files, filesAfter)
	}
}

func BenchmarkPool_TakeGive(b *testing.B) {
	for _, tt := range []struct {
		name  string
		size  uint64
		pages int
	}{{"128KiB/1page", 128 << 10, 1}, {"128KiB/8pages", 128 << 10, 8}, {"1MiB/3pages", 1 << 20, 3}, {"32MiB/82pages", 32 << 20, 82}} {
		b.Run(tt.name, func(b *testing.B) {
			p := newPool(b, newArena(b), tt.size, Segment{0, bytes.Repeat([]byte{1}, int(tt.size))})
			for b.Loop() {
				r := take(b, p)
				m := memory(r)
				for i := range tt.pages {
					m[i*len(m)/tt.pages]++
				}
				p.Give(r, tt.size)
			}
		})
	}
}
