package state

import (
	"context"
	"errors"
	"fmt"

	"github.com/faasm-go/faasm/internal/state/global"
)

// Delete forgets the value, its published versions and its list in the global tier, and
// what this host has of it. Who has it mapped keeps the memory, which is no value any more.
// ErrNotFound if neither tier has anything.
func (s *Session) Delete(name string) error {
	if err := s.delete(name); err != nil {
		return fmt.Errorf("delete %s: %w", s.key(name), err)
	}
	return nil
}

func (s *Session) delete(name string) error {
	do := func(ctx context.Context, r *replica) error {
		err := s.tier.store.Delete(ctx, s.key(name), s.condition(name))
		if r != nil && errors.Is(err, global.ErrNotFound) {
			err = nil // it was here alone
		}
		if err == nil {
			s.tier.forget(s.key(name))
		}
		return err
	}
	here, err := s.moveValue(func() (*replica, error) { return s.find(s.slot(name)) }, do)
	if here || err != nil {
		return err
	}
	return s.blocking(func(ctx context.Context) error { return do(ctx, nil) })
}
