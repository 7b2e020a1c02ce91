package state

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/faasm-go/faasm/internal/vmem"
)

// stage is memory for what is on its way, which the budget does not count. What is in it at
// first is whatever was there before.
type stage struct {
	bytes  []byte
	memory *vmem.Shared
}

// stages keeps some at hand: to have the kernel make and take back 1 MiB costs as much as
// to pull it.
type stages struct {
	mu   sync.Mutex
	idle []*vmem.Shared // the one used last is the last
	kept uint64         // bytes, of idle
	over bool           // what is given back is freed
}

const (
	// stagesKept is how much is kept at hand, in bytes, and stagesIdleMax how many: each has
	// a file open.
	stagesKept    = 16 << 20
	stagesIdleMax = 64
)

// take returns a stage of size bytes, which the caller gives back. If it is to be exact its
// memory has as many chunks as they are on, and not more: a replica can swap it for its own.
func (s *stages) take(size int64, exact bool) (stage, error) {
	need := uint64(max(chunkCount(size), 1) * chunkBytes)
	m := s.takeIdle(need, need)
	if m == nil && !exact {
		m = s.takeIdle(need, 4*need)
	}
	if m == nil {
		var err error
		if m, err = vmem.NewShared(nil, need); err != nil {
			return stage{}, memoryError(err)
		}
	}
	return stage{m.Bytes()[:size], m}, nil
}

// takeIdle returns what is at hand of a size from least to most, the last used, or nil.
func (s *stages) takeIdle(least, most uint64) *vmem.Shared {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, m := range slices.Backward(s.idle) {
		if size := m.Size(); least <= size && size <= most {
			s.idle = slices.Delete(s.idle, i, i+1)
			s.kept -= size
			return m
		}
	}
	return nil
}

// give takes a stage back. Its memory need not be the one that it was taken with.
func (s *stages) give(st stage) {
	s.mu.Lock()
	s.idle = append(s.idle, st.memory)
	s.kept += st.memory.Size()
	var surplus []*vmem.Shared
	for s.kept > stagesKept || len(s.idle) > stagesIdleMax || s.over && len(s.idle) > 0 {
		surplus = append(surplus, s.idle[0])
		s.kept -= s.idle[0].Size()
		s.idle = slices.Delete(s.idle, 0, 1)
	}
	s.mu.Unlock()
	for _, m := range surplus {
		closeStage(m)
	}
}

// close frees what is at hand, and has what is under way freed when it is given back.
func (s *stages) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	var errs []error
	for _, m := range s.idle {
		errs = append(errs, m.Close())
	}
	s.idle, s.kept = nil, 0
	return errors.Join(errs...)
}

func closeStage(m *vmem.Shared) {
	if err := m.Close(); err != nil {
		panic(fmt.Sprintf("BUG: free a stage: %v", err))
	}
}
