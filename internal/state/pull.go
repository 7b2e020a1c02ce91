package state

import (
	"context"
	"errors"
	"fmt"

	"github.com/faasm-go/faasm/internal/state/global"
)

// load reads from the global tier what r is a replica of.
func (r *replica) load(ctx context.Context, off int64, dst []byte) (n int, info global.Info, err error) {
	if r.version != 0 {
		n, info, err = r.tier.store.ReadPublished(ctx, r.key, r.version, off, dst)
	} else {
		n, info, err = r.tier.store.Read(ctx, r.key, off, dst)
	}
	if errors.Is(err, global.ErrNotFound) {
		r.missing()
	}
	return n, info, err
}

// missing takes note that the global tier does not have the value any more. If nothing of
// it is here either, who comes later must find nothing, and may make it anew.
func (r *replica) missing() {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.mu.origin != originGlobal {
		return
	}
	for i := range r.mu.chunks {
		if i < chunkCount(r.size.Load()) {
			return
		}
	}
	r.tier.giveUp(r)
}

// absentLocked returns the runs of absent chunks among the chunks, and how many there are.
func (r *replica) absentLocked(chunks span) (runs []span, n int64) {
	chunks.to = min(chunks.to, chunkCount(r.size.Load()))
	for i := chunks.from; i < chunks.to; i++ {
		if r.mu.chunks[i] != nil {
			continue
		}
		n++
		if last := len(runs) - 1; last >= 0 && runs[last].to == i {
			runs[last].to++
		} else {
			runs = append(runs, span{i, i + 1})
		}
	}
	return runs, n
}

// fill brings those of the chunks that are absent, each run of them in one version, and
// returns what the last run was of. The caller moves r. If the value was made or set here
// there is nothing to bring.
func (r *replica) fill(ctx context.Context, chunks span) (info global.Info, err error) {
	r.mu.RLock()
	_, n := r.absentLocked(chunks)
	r.mu.RUnlock()
	if n == 0 {
		return global.Info{}, nil
	}
	held := uint64(n * chunkBytes)
	if err := r.tier.reserve(r.key.Tenant, held); err != nil {
		return global.Info{}, err
	}
	defer func() { r.tier.budget.give(r.key.Tenant, held) }()

	r.mu.Lock()
	if r.mu.origin != originGlobal {
		r.mu.Unlock()
		return global.Info{}, nil
	}
	r.mu.filling = true
	runs, _ := r.absentLocked(chunks)
	size, memory := r.size.Load(), r.mu.bytes
	r.mu.Unlock()

	for _, run := range runs {
		var n int
		dst := memory[run.from*chunkBytes : min(run.to*chunkBytes, size)]
		if n, info, err = r.load(ctx, run.from*chunkBytes, dst); err != nil {
			break
		}
		clear(dst[n:]) // the value has become shorter, which is not seen before it is pulled
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.filling = false
	if err != nil {
		for _, run := range runs {
			r.zeroLocked(run.from, run.to)
		}
		return global.Info{}, err
	}
	r.mu.hold = held
	for _, run := range runs {
		for i := run.from; i < run.to; i++ {
			r.addLocked(i, baseSame)
		}
	}
	held, r.mu.hold = r.mu.hold, 0
	return info, nil
}

// Pull makes the value here what the global tier has, in one version throughout, and
// overwrites what was not pushed. ErrNotFound if the global tier has no value.
func (s *Session) Pull(name string) error {
	_, err := s.moveValue(
		func() (*replica, error) { return s.open(name, Access{}) },
		func(ctx context.Context, r *replica) error { return r.pull(ctx) },
	)
	if err != nil {
		return fmt.Errorf("pull %s: %w", s.key(name), err)
	}
	return nil
}

// pull is Pull. The caller moves r.
func (r *replica) pull(ctx context.Context) error {
	r.mu.RLock()
	size, empty := r.size.Load(), len(r.mu.chunks) == 0 && r.mu.origin == originGlobal
	r.mu.RUnlock()
	if empty && size > 0 {
		// What is all absent is read in one piece, straight to its place.
		info, err := r.fill(ctx, span{0, chunkCount(size)})
		if err != nil || info.Size == size {
			return err
		}
	}
	for {
		r.mu.RLock()
		swaps := r.swapsLocked(size)
		r.mu.RUnlock()
		stage, err := r.tier.stages.take(size, swaps)
		if err != nil {
			return err
		}
		n, info, err := r.load(ctx, 0, stage.bytes)
		if err == nil && info.Size == int64(n) {
			err = r.replace(stage, info.Size)
		} else if err == nil {
			err = r.fits(info.Size)
		}
		r.tier.stages.give(stage)
		if err != nil || info.Size == int64(n) {
			return err
		}
		size = info.Size
	}
}

// fits makes sure, before much is moved, that there is room for the value at that size.
func (r *replica) fits(size int64) error {
	r.mu.RLock()
	more := max(chunkCount(size)-int64(len(r.mu.chunks)), 0) * chunkBytes
	r.mu.RUnlock()
	if err := r.tier.reserve(r.key.Tenant, uint64(more)); err != nil {
		return err
	}
	r.tier.budget.give(r.key.Tenant, uint64(more))
	return nil
}

// replace makes the first size bytes of a stage, which have just been read from the global
// tier, the value. What is in the stage then means nothing. The caller moves r.
func (r *replica) replace(st stage, size int64) error {
	data, count := st.bytes[:size], chunkCount(size)
	return r.change(
		func() uint64 { return r.needWholeLocked(size) },
		func() error {
			for i := range count {
				if c := r.mu.chunks[i]; c != nil && c.writers > 0 {
					if err := r.growBasesLocked(); err != nil {
						return err
					}
					break
				}
			}
			if err := r.resizeLocked(size); err != nil {
				return err
			}
			r.mu.origin = originGlobal
			swapped := r.swapLocked(st)
			for i := range count {
				c := r.mu.chunks[i]
				if c == nil {
					c = r.addLocked(i, baseSame)
				}
				if swapped {
					r.sameLocked(i, c)
				} else {
					r.pulledLocked(i, part{0, data[i*chunkBytes : min((i+1)*chunkBytes, size)]})
				}
			}
			return nil
		})
}

// swapsLocked tells whether a value of size bytes that is pulled can bring its memory with
// it: nobody has a view of the replica's, which is not larger.
func (r *replica) swapsLocked(size int64) bool {
	if int64(len(r.mu.bytes)) > chunkCount(size)*chunkBytes {
		return false
	}
	for _, c := range r.mu.chunks {
		if c.views > 0 {
			return false
		}
	}
	return true
}

// swapLocked makes the memory of a stage the replica's, and the replica's the stage's, if
// that can be. The stage has the value, and the replica has its size. The caller moves r, so
// nobody fills or pushes it: the others use its memory with mu held, if they have no view.
func (r *replica) swapLocked(st stage) bool {
	size, length := r.size.Load(), uint64(len(r.mu.bytes))
	if !r.swapsLocked(size) || st.memory.Size() != length || !r.memory.Swap(st.memory) {
		return false
	}
	r.mu.bytes = r.memory.Bytes()
	zero(r.memory, r.mu.bytes, size, int64(length)) // it has what others' values left there
	return true
}

// pulledLocked puts what was read from the global tier into chunk i.
func (r *replica) pulledLocked(i int64, p part) {
	c, content := r.mu.chunks[i], r.contentLocked(i)
	copy(content[p.off:], p.data)
	if c.writers == 0 && len(p.data) == len(content) {
		r.sameLocked(i, c)
		return
	}
	r.syncLocked(i, c, []part{p})
}

// pullView is pull for who views n bytes at off: it brings no more than the chunks that they
// are on, unless the value has another size by now. The caller moves r.
func (r *replica) pullView(ctx context.Context, off, n int64) error {
	size := r.size.Load()
	if checkRange(off, n, size) == nil {
		chunks := chunksOf(off, n, size)
		start, end := chunks.from*chunkBytes, min(chunks.to*chunkBytes, size)
		info, err := r.pullRange(ctx, start, end-start)
		if err == nil && info.Size == size || err != nil && !errors.Is(err, ErrRange) {
			return err
		}
	}
	return r.pull(ctx)
}

// PullRange makes n bytes of the value from off what the global tier has, in one version
// throughout, and overwrites what was not pushed of them. Others change only where nothing
// was here. ErrRange if the value has not all of them, here and in the global tier.
func (s *Session) PullRange(name string, off, n int64) error {
	_, err := s.moveValue(
		func() (*replica, error) { return s.open(name, Access{}) },
		func(ctx context.Context, r *replica) error {
			_, err := r.pullRange(ctx, off, n)
			return err
		})
	if err != nil {
		return fmt.Errorf("pull %d bytes at %d of %s: %w", n, off, s.key(name), err)
	}
	return nil
}

// pullRange is PullRange. The caller moves r.
func (r *replica) pullRange(ctx context.Context, off, n int64) (global.Info, error) {
	r.mu.RLock()
	size := r.size.Load()
	err := checkRange(off, n, size)
	from, to := off, off+n
	if err == nil && n > 0 {
		// Absent chunks at its ends are brought as a whole.
		chunks := chunksOf(off, n, size)
		if r.mu.chunks[chunks.from] == nil {
			from = chunks.from * chunkBytes
		}
		if r.mu.chunks[chunks.to-1] == nil {
			to = min(chunks.to*chunkBytes, size)
		}
	}
	r.mu.RUnlock()
	if err != nil || n == 0 {
		return global.Info{}, err
	}
	stage, err := r.tier.stages.take(to-from, false)
	if err != nil {
		return global.Info{}, err
	}
	defer r.tier.stages.give(stage)
	got, info, err := r.load(ctx, from, stage.bytes)
	if err != nil {
		return global.Info{}, err
	}
	if from+int64(got) < off+n {
		return global.Info{}, rangeError(off, n, info.Size)
	}
	clear(stage.bytes[got:])
	return info, r.replaceRange(off, n, from, stage.bytes, info)
}

// replaceRange puts n bytes at off, which have just been read from the global tier, in their
// place, and, of chunks that are absent, all. data is what was read, from from on, of the
// value that info describes.
func (r *replica) replaceRange(off, n, from int64, data []byte, info global.Info) error {
	var chunks span
	check := func() error {
		size := r.size.Load()
		chunks = chunksOf(off, n, size)
		return checkRange(off, n, size)
	}
	return r.change(
		func() (need uint64) {
			if check() != nil {
				return 0
			}
			for i := chunks.from; i < chunks.to; i++ {
				if c := r.mu.chunks[i]; c == nil || c.base == baseZeros {
					need += chunkBytes
				}
			}
			return need
		},
		func() error {
			if err := check(); err != nil {
				return err
			}
			for i := chunks.from; i < chunks.to; i++ {
				if c := r.mu.chunks[i]; c != nil && c.base == baseZeros {
					if err := r.growBasesLocked(); err != nil {
						return err
					}
					break
				}
			}
			for i := chunks.from; i < chunks.to; i++ {
				start := i * chunkBytes
				at, end := max(off, start), min(off+n, start+chunkBytes)
				if r.mu.chunks[i] == nil {
					r.addLocked(i, baseSame)
					at, end = start, min(start+chunkBytes, r.size.Load())
				}
				r.pulledLocked(i, part{at - start, data[at-from : end-from]})
			}
			r.sizedLocked(info.Size)
			return nil
		})
}

// refresh makes this host's replica of key, if it has one, what the global tier has now;
// writes to it that were not pushed are lost. If that can't be done the replica is given
// up (as by forget), for it must not be served as it is.
func (t *Tier) refresh(ctx context.Context, key global.Key) error {
	r, err := t.pin(slot{key: key})
	if r == nil || err != nil {
		return err
	}
	defer t.unpin(r)
	if err = r.move(ctx); err == nil {
		err = r.pull(ctx)
		r.endMove()
	}
	if err != nil {
		t.giveUp(r)
	}
	return err
}
