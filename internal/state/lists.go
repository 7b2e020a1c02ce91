package state

import (
	"context"
	"fmt"
)

// The append list of a key is in the global tier only: no replica, and no part of the
// value. See global.Store for what its methods promise.

// Append adds an element at the end of the key's list. ErrQuota; after
// global.ErrUnavailable or the end of the Waiter's context it may have been added.
func (s *Session) Append(name string, element []byte) error {
	return s.blocking(func(ctx context.Context) error {
		if err := s.tier.room(ctx, s.tenant, int64(len(element))); err != nil {
			return fmt.Errorf("append to %s: %w", s.key(name), err)
		}
		_, err := s.tier.store.Append(ctx, s.key(name), element)
		return err
	})
}

// ReadList returns up to n elements of the key's list from the index first, as of one
// moment: as many as have bytesMax bytes together, but at least one if there is one.
func (s *Session) ReadList(name string, first int64, n int, bytesMax int64) (elements [][]byte, err error) {
	err = s.blocking(func(ctx context.Context) (err error) {
		elements, err = s.tier.store.ReadList(ctx, s.key(name), first, n, bytesMax)
		return err
	})
	return elements, err
}

// StatList returns how many elements the key's list has, and how many bytes they have.
func (s *Session) StatList(name string) (n, bytes int64, err error) {
	err = s.blocking(func(ctx context.Context) (err error) {
		n, bytes, err = s.tier.store.StatList(ctx, s.key(name))
		return err
	})
	return n, bytes, err
}

// ClearList forgets the key's list. It is no error if there is none.
func (s *Session) ClearList(name string) error {
	return s.blocking(func(ctx context.Context) error { return s.tier.store.ClearList(ctx, s.key(name)) })
}
