package vmem

import (
	"errors"
	"sync"
	"testing"

	"github.com/faasm-go/faasm/internal/linux"
)

// The limit is ours: the kernel is not asked for a mapping that would be one too many.
func TestArena_MappingsMax(t *testing.T) {
	a := newArenaOptions(t, ArenaOptions{MappingsMax: 9})
	one, other := newPool(t, a, 64<<10), newPool(t, a, 64<<10)
	taken := []*Region{take(t, one), take(t, one), take(t, other)}
	maps, err := linux.Maps()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := other.Take(); !errors.Is(err, ErrExhausted) {
			t.Errorf("take a fourth of 3 regions: %v; want ErrExhausted", err)
		}
		if err := other.Warm(1); !errors.Is(err, ErrExhausted) {
			t.Errorf("warm a fourth of 3 regions: %v; want ErrExhausted", err)
		}
	}
	if now, _ := linux.Maps(); now > maps+2 { // Go's heap may have grown
		t.Errorf("refusals took mappings from %d to %d", maps, now)
	}
	if a.Bound() != 3 || other.InUse() != 1 {
		t.Errorf("after refusals %d regions are bound, %d of the pool's in use; want 3 and 1", a.Bound(), other.InUse())
	}
	one.Give(taken[0], 64<<10)
	if _, err := other.Take(); !errors.Is(err, ErrExhausted) {
		t.Errorf("take while the other pool keeps an idle region: %v; want ErrExhausted", err)
	}
	one.Trim(0)
	if err := a.Hold(4); !errors.Is(err, ErrExhausted) {
		t.Errorf("hold 4 mappings where there is room for 3: %v; want ErrExhausted", err)
	}
	if err := a.Hold(1); err != nil {
		t.Error(err)
	}
	if _, err := other.Take(); !errors.Is(err, ErrExhausted) {
		t.Errorf("take a region where one mapping of its three is held: %v; want ErrExhausted", err)
	}
	if err := a.Hold(-1); err != nil {
		t.Error(err)
	}
	other.Give(take(t, other), 64<<10)
	one.Give(taken[1], 64<<10)
	other.Give(taken[2], 64<<10)
}

func TestPool_Take_refusesALargeImage(t *testing.T) {
	p := newPool(t, newArena(t), small.Reservation+WasmPageSize)
	if _, err := p.Take(); err == nil || errors.Is(err, ErrExhausted) {
		t.Errorf("take a region for an image larger than it: %v", err)
	}
	if p.InUse() != 0 || p.arena.Bound() != 0 {
		t.Errorf("after it %d are in use and %d bound", p.InUse(), p.arena.Bound())
	}
}

func TestPool_SetKeep(t *testing.T) {
	for _, tt := range []struct {
		idleMax, keep, warm, want int
	}{
		{0, 0, 5, 0},
		{0, 1, 1, 1},
		{1, 0, 3, 1},
		{1, 1, 1, 1},
		{2, 7, 7, 7},
		{2, 7, 9, 7},
		{8, 3, 3, 3},
		{8, -5, 8, 8},
	} {
		a := newArena(t)
		img, err := NewImage(nil, 64<<10, nil)
		if err != nil {
			t.Fatal(err)
		}
		p := NewPool(a, img, tt.idleMax)
		p.SetKeep(tt.keep)
		for range 2 {
			if err := p.Warm(tt.warm); err != nil {
				t.Fatal(err)
			}
			if p.Idle() != tt.want || a.Bound() != tt.want || p.InUse() != 0 {
				t.Errorf("%+v: idle %d, bound %d, in use %d", tt, p.Idle(), a.Bound(), p.InUse())
			}
		}
		// Whichever shards they are in, all of them are taken before another is made.
		var taken []*Region
		for range tt.want + 1 {
			taken = append(taken, take(t, p))
		}
		if a.Bound() != tt.want+1 {
			t.Errorf("%+v: %d regions are bound after %d were taken", tt, a.Bound(), tt.want+1)
		}
		for _, r := range taken {
			p.Give(r, 64<<10)
		}
		if want := min(tt.want+1, max(tt.idleMax, tt.keep)); p.Idle() != want {
			t.Errorf("%+v: %d idle after all came back; want %d", tt, p.Idle(), want)
		}
		p.Close()
	}
}

// A warm region has served nobody, so what its first run writes is learned from it.
func TestPool_Warm_learnsNothing(t *testing.T) {
	a := newArena(t)
	needScan(t, a)
	p := newPool(t, a, 4<<20)
	if err := p.Warm(4); err != nil {
		t.Fatal(err)
	}
	if p.usual.spans.Load() != nil || p.IdleBytes() != 0 {
		t.Errorf("after Warm the pool has learned %v and keeps %d bytes", p.usual.spans.Load(), p.IdleBytes())
	}
	for range 4 {
		run(t, p, 3<<20)
	}
	if got := p.usual.bytes.Load(); got != 3<<20 {
		t.Errorf("after runs in warm regions the pool takes %d KiB for usual; want 3072", got>>10)
	}
}

// However pools are used at once, their accounts add up, and at the end are empty.
func TestPool_hammerAccounts(t *testing.T) {
	const regionsMax, retainMax = 24, 2 << 20
	a := newArenaOptions(t, ArenaOptions{MappingsMax: 3 * regionsMax, RetainMax: retainMax})
	var pools []*Pool
	for range 3 {
		img, err := newImageSegments(1<<20, []Segment{{0, []byte("x")}})
		if err != nil {
			t.Fatal(err)
		}
		pools = append(pools, NewPool(a, img, 4))
	}
	var users, watcher sync.WaitGroup
	done := make(chan struct{})
	watcher.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			// A region that is refused counts for a moment, in the arena only.
			if n := a.retained.Load(); n < 0 || n > retainMax+8<<20 {
				t.Errorf("the arena keeps %d bytes", n)
				return
			}
			for _, p := range pools {
				if n := p.retained.Load(); n < 0 || n > retainMax {
					t.Errorf("a pool keeps %d bytes", n)
					return
				}
				if p.Idle() < 0 || p.InUse() < 0 || a.Bound() > regionsMax {
					t.Errorf("idle %d, in use %d, bound %d", p.Idle(), p.InUse(), a.Bound())
					return
				}
			}
		}
	})
	for g := range 8 {
		users.Go(func() {
			for i := range 300 {
				p := pools[(g+i)%len(pools)]
				r, err := p.Take()
				if errors.Is(err, ErrExhausted) {
					p.Trim(0)
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				write(r, uint64(1+(i*7+g)%256)*PageSize)
				if _, err := p.Give(r, 1<<20); err != nil {
					t.Error(err)
				}
				switch i % 16 {
				case 3:
					p.Trim(g % 3)
				case 7:
					p.SetKeep(g)
				case 11:
					if err := p.Warm(g % 4); err != nil && !errors.Is(err, ErrExhausted) {
						t.Error(err)
					}
				}
			}
		})
	}
	users.Wait()
	close(done)
	watcher.Wait()
	for i, p := range pools {
		if i == 0 { // one is closed while a region is out
			r := take(t, p)
			write(r, 1<<20)
			if err := p.Close(); err != ErrInUse {
				t.Errorf("Close: %v; want ErrInUse", err)
			}
			p.Give(r, 1<<20)
		} else if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if p.Idle() != 0 || p.InUse() != 0 || p.IdleBytes() != 0 || p.image.refs.Load() != 0 {
			t.Errorf("a closed pool has %d idle, %d in use, %d bytes, and %d hold its image", p.Idle(), p.InUse(), p.IdleBytes(), p.image.refs.Load())
		}
	}
}
