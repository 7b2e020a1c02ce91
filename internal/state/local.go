package state

import (
	"context"
	"errors"
	"fmt"

	"github.com/faasm-go/faasm/internal/state/global"
)

// present makes the chunks present that n bytes at off of r are on. ErrRange if the value
// has not all of them. They may be gone again when it returns, if somebody sets the value.
func (s *Session) present(r *replica, off, n int64) error {
	for {
		r.mu.RLock()
		size := r.size.Load()
		err := checkRange(off, n, size)
		chunks := chunksOf(off, n, size)
		done := err != nil || r.presentLocked(chunks)
		from := r.mu.origin
		r.mu.RUnlock()
		if done {
			return err
		}
		if from == originZeros {
			err = r.makeZeros(chunks)
		} else {
			err = s.moving(r, func(ctx context.Context) error {
				_, err := r.fill(ctx, chunks)
				return err
			})
		}
		if err != nil {
			return err
		}
	}
}

// makeZeros makes absent chunks of a value present that was made here, if it still is so.
func (r *replica) makeZeros(chunks span) error {
	absent := func(yield func(int64)) {
		if r.mu.origin != originZeros {
			return
		}
		for i := chunks.from; i < min(chunks.to, chunkCount(r.size.Load())); i++ {
			if r.mu.chunks[i] == nil {
				yield(i)
			}
		}
	}
	return r.change(
		func() (need uint64) {
			absent(func(int64) { need += chunkBytes })
			return need
		},
		func() error {
			absent(func(i int64) {
				r.preserveLocked(i)
				r.addLocked(i, baseZeros)
			})
			return nil
		})
}

// Size returns the value's size in bytes: of this host's replica, or, if there is none, of
// what the global tier has. ErrNotFound if neither tier has it.
func (s *Session) Size(name string) (int64, error) {
	r, err := s.find(s.slot(name))
	if r != nil {
		defer s.tier.unpin(r)
		return r.size.Load(), nil
	}
	var info global.Info
	if err == nil {
		err = s.blocking(func(ctx context.Context) error {
			info, err = s.tier.store.Stat(ctx, s.key(name))
			return err
		})
	}
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", s.key(name), err)
	}
	return info.Size, nil
}

// ReadAt copies the value's bytes from off to buf and returns how many that were: fewer
// than len(buf) only at the value's end. ErrRange if off is beyond that.
func (s *Session) ReadAt(name string, off int64, buf []byte) (int, error) {
	n, err := s.readAt(name, off, buf)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", s.key(name), err)
	}
	return n, nil
}

func (s *Session) readAt(name string, off int64, buf []byte) (int, error) {
	r, err := s.open(name, Access{})
	if err != nil {
		return 0, err
	}
	defer s.tier.unpin(r)
	for {
		if n, ok := r.read(off, buf); ok {
			return n, nil
		}
		size := r.size.Load()
		if err := checkRange(off, 0, size); err != nil {
			return 0, err
		}
		if err := s.present(r, off, min(int64(len(buf)), size-off)); err != nil && !errors.Is(err, ErrRange) {
			return 0, err
		}
	}
}

// read is ReadAt for what is present.
func (r *replica) read(off int64, buf []byte) (n int, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	size := r.size.Load()
	if checkRange(off, 0, size) != nil {
		return 0, false
	}
	n = int(min(int64(len(buf)), size-off))
	if n > 0 && !r.presentLocked(chunksOf(off, int64(n), size)) {
		return 0, false
	}
	return copy(buf[:n], r.mu.bytes[off:]), true
}

// Set replaces the value here with data, whatever the global tier has, and makes it as
// large. All of it is then to be pushed. Who has the value mapped sees it change.
func (s *Session) Set(name string, data []byte) error {
	if err := s.set(name, data); err != nil {
		return fmt.Errorf("set %s: %w", s.key(name), err)
	}
	return nil
}

func (s *Session) set(name string, data []byte) error {
	r, err := s.find(s.slot(name))
	if err != nil {
		return err
	}
	if r == nil {
		// It has its content before anybody can find it.
		if r, err = s.tier.newReplica(s.key(name), 0, originZeros, 0); err != nil {
			return err
		}
		if _, err := r.set(data); err != nil {
			r.close()
			return err
		}
		inserted := false
		if r, inserted, err = s.tier.insert(r); err != nil {
			return err
		}
		if inserted {
			s.tier.unpin(r)
			return nil
		}
	}
	defer s.tier.unpin(r)
	done, err := r.set(data)
	if !done && err == nil {
		err = s.moving(r, func(context.Context) error {
			_, err := r.set(data)
			return err
		})
	}
	return err
}

// set makes data the value, unless chunks are being filled: then it does nothing, and the
// caller has to wait until it may move the replica.
func (r *replica) set(data []byte) (done bool, err error) {
	size, count := int64(len(data)), chunkCount(int64(len(data)))
	err = r.change(
		func() uint64 { return r.needWholeLocked(size) },
		func() error {
			if r.mu.filling {
				return nil
			}
			if r.mu.snap != nil {
				for i := range chunkCount(r.size.Load()) {
					r.preserveLocked(i)
				}
			}
			if err := r.resizeLocked(size); err != nil {
				return err
			}
			copy(r.mu.bytes, data)
			for i := range count {
				c := r.mu.chunks[i]
				if c == nil {
					c = r.addLocked(i, baseZeros)
				}
				r.dropBaseLocked(i, c, baseZeros)
				r.forceLocked(c, func(f *byteSet) { *f = byteSet{all: true} })
			}
			r.mu.origin = originSet
			r.mu.sets++
			done = true
			return nil
		})
	return done, err
}

// SetAt puts data into the value at off. ErrRange if it does not lie within the value.
func (s *Session) SetAt(name string, off int64, data []byte) error {
	if err := s.setAt(name, off, data); err != nil {
		return fmt.Errorf("set %d bytes of %s: %w", len(data), s.key(name), err)
	}
	return nil
}

func (s *Session) setAt(name string, off int64, data []byte) error {
	r, err := s.open(name, Access{})
	if err != nil {
		return err
	}
	defer s.tier.unpin(r)
	for {
		if err := s.present(r, off, int64(len(data))); err != nil || len(data) == 0 {
			return err
		}
		if done, err := r.edit(off, int64(len(data)), func(dst []byte) { copy(dst, data) }); done || err != nil {
			return err
		}
	}
}

// edit runs do on n bytes at off, to be changed, if they are present; else it does nothing.
func (r *replica) edit(off, n int64, do func(content []byte)) (done bool, err error) {
	var chunks span
	there := func() bool {
		size := r.size.Load()
		if checkRange(off, n, size) != nil {
			return false
		}
		chunks = chunksOf(off, n, size)
		return r.presentLocked(chunks)
	}
	err = r.change(
		func() uint64 {
			if !there() {
				return 0
			}
			return r.needBasesLocked(chunks)
		},
		func() error {
			if !there() {
				return nil
			}
			if err := r.keepBasesLocked(chunks); err != nil {
				return err
			}
			for i := chunks.from; i < chunks.to; i++ {
				r.preserveLocked(i)
			}
			do(r.mu.bytes[off : off+n])
			done = true
			return nil
		})
	return done, err
}

// FlagDirty makes n bytes at off such that they are pushed with what is dirty, even if they
// are as they were pulled or pushed last. What was not brought here yet has not changed,
// and stays as it is.
func (s *Session) FlagDirty(name string, off, n int64) error {
	r, err := s.open(name, Access{})
	if err == nil {
		err = r.flag(off, n)
		s.tier.unpin(r)
	}
	if err != nil {
		return fmt.Errorf("flag %d bytes of %s: %w", n, s.key(name), err)
	}
	return nil
}

func (r *replica) flag(off, n int64) error {
	each := func(f func(c *chunk, from, to int)) error {
		size := r.size.Load()
		if err := checkRange(off, n, size); err != nil || n == 0 {
			return err
		}
		chunks := chunksOf(off, n, size)
		for i := chunks.from; i < chunks.to; i++ {
			if c := r.mu.chunks[i]; c != nil {
				f(c, int(max(off-i*chunkBytes, 0)), int(min(off+n-i*chunkBytes, chunkBytes)))
			}
		}
		return nil
	}
	return r.change(
		func() (need uint64) {
			_ = each(func(c *chunk, from, to int) {
				if c.forced == (byteSet{}) {
					need += bitsBytes
				}
			})
			return need
		},
		func() error {
			return each(func(c *chunk, from, to int) {
				r.forceLocked(c, func(f *byteSet) { f.add(from, to) })
			})
		})
}

// Dirty tells whether this host has something of the value that was not pushed. What is
// not here is not dirty, wherever else it is.
func (s *Session) Dirty(name string) (bool, error) {
	r, err := s.find(s.slot(name))
	if err != nil {
		return false, fmt.Errorf("look for changes of %s: %w", s.key(name), err)
	}
	if r == nil {
		return false, nil
	}
	defer s.tier.unpin(r)
	return r.dirty(), nil
}

func (r *replica) dirty() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.mu.origin != originGlobal {
		return true
	}
	for i, c := range r.mu.chunks {
		if !c.clean(r.contentLocked(i), r.baseLocked(i, c)) {
			return true
		}
	}
	return false
}
