package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Blobs is what a version is made of. Artefact and Proto write the sealed bytes; they may be
// called twice, or not at all if the store has them, and one that is nil is not stored. If
// one returns an error, nothing of what it wrote is stored.
type Blobs struct {
	Wasm        []byte
	Fingerprint string // of the hosts that the artefact is for
	Artefact    func(io.Writer) error
	Proto       func(io.Writer) error
}

// A need is an object that must be in the store when a pointer is written.
type need struct {
	key   string
	write func(io.Writer) error
	again bool // to be written even if it is there
}

// Publish stores a version and makes it the serving one. It returns it as it is
// recorded, with its StoredBytes.
//
// After an error the previous version serves. If the store broke off just while the pointer
// was written, or when that was done, either may serve; Function tells. Whichever does is
// complete, and to Publish again is right in any case.
//
// Of two Publishes of the same function at once the later pointer wins. The other version
// is kept like any, but may be missing in the history.
func (r *Registry) Publish(ctx context.Context, v Version, b Blobs) (Version, error) {
	k := v.key()
	switch {
	case v.Module != Hash(b.Wasm):
		panic("BUG: module hash of " + k.String() + " is not the module's")
	case b.Artefact != nil && b.Fingerprint == "":
		panic("BUG: artefact of " + k.String() + " has no fingerprint")
	case b.Proto != nil && v.Proto == "":
		panic("BUG: Proto-Faaslet of " + k.String() + " has no hash")
	case !isPart(k.Tenant) || !isPart(k.Name):
		return v, fmt.Errorf("publish %s: the name can't be a key of the store", k)
	}
	p, err := r.readPointer(ctx, k)
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, errDamaged) {
		return v, fmt.Errorf("publish %s: %w", k, err)
	}
	// The module and the record are always written: this mends one that was damaged, and
	// the record of a version that is deployed again is another. Artefacts and
	// Proto-Faaslets are large, and whoever finds one damaged puts another.
	needs := []need{{moduleKey(v.Module), all(b.Wasm), true}}
	if b.Artefact != nil {
		needs = append(needs, need{artefactKey(v.Module, b.Fingerprint), b.Artefact, false})
	}
	if b.Proto != nil {
		needs = append(needs, need{protoKey(v.Proto), b.Proto, false})
	}
	record := func(w io.Writer) error {
		if b.Proto != nil && v.StoredBytes == 0 {
			// It was stored just now. If it is gone, the record is no less needed: the last
			// look comes to the Proto-Faaslet after it.
			if v.StoredBytes, err = r.size(ctx, protoKey(v.Proto)); err != nil {
				return err
			}
		}
		_, err := w.Write(encodeVersion(v))
		return err
	}
	if err := r.serve(ctx, k, p, p.to(v.Version), append(needs, need{versionKey(k, v.Version), record, true})); err != nil {
		return v, fmt.Errorf("publish %s: %w", k, err)
	}
	return v, nil
}

// Rollback makes a version serve that is there: the one with that name, or, if it is
// empty, the one that served before. Version by version it goes back in history when it is
// called again, and a version that was left like this is not in the history any more.
//
// It returns the version that serves now. It returns ErrNotFound if there is no such
// function or version, and ErrNoPrevious if no other version served before. After an error
// the same holds as for Publish.
func (r *Registry) Rollback(ctx context.Context, tenant, name, to string) (Version, error) {
	k := Key{tenant, name}
	p, err := r.readPointer(ctx, k)
	if err != nil {
		return Version{}, fmt.Errorf("roll back: %w", err)
	}
	next, err := p.rollback(to)
	if err != nil {
		return Version{}, fmt.Errorf("roll back %s: %w", k, err)
	}
	if next.Serving == p.Serving {
		return r.serving(ctx, k)
	}
	v, err := r.version(ctx, k, p, next.Serving)
	if err != nil {
		return Version{}, fmt.Errorf("roll back: %w", err)
	}
	// A module that is missing or damaged is told before the switch, not after it.
	wasm, err := r.Module(ctx, v.Module)
	if err != nil {
		return Version{}, fmt.Errorf("roll back %s: %w", k, err)
	}
	if err := r.serve(ctx, k, p, next, []need{
		{moduleKey(v.Module), all(wasm), false},
		{versionKey(k, v.Version), all(encodeVersion(v)), false},
	}); err != nil {
		return Version{}, fmt.Errorf("roll back %s: %w", k, err)
	}
	return v, nil
}

// serve writes a function's pointer, after what the version needs.
func (r *Registry) serve(ctx context.Context, k Key, old, next pointer, needs []need) error {
	if old.first != nil && slices.Contains(next.History, old.first.Version) {
		needs = append(needs, need{versionKey(k, old.first.Version), all(encodeVersion(*old.first)), false})
	}
	for _, n := range needs {
		if !n.again {
			if ok, err := r.exists(ctx, n.key); err != nil {
				return err
			} else if ok {
				continue
			}
		}
		if err := r.put(ctx, n.key, n.write); err != nil {
			return err
		}
	}
	if err := r.sync(); err != nil {
		return err
	}
	next.Written = time.Now().UTC()
	if err := r.put(ctx, functionsKey(k), all(encodePointer(next))); err != nil {
		return err
	}
	if err := r.sync(); err != nil {
		return err
	}
	// The last look: what a Collect took for garbage before the pointer was there is
	// written again. Records come first, so that a Collect which does not find the
	// record deletes before the modules are looked for; see Collect.
	again := false
	for _, n := range slices.Backward(needs) {
		if ok, err := r.exists(ctx, n.key); err != nil {
			return err
		} else if ok {
			continue
		}
		again = true
		if err := r.put(ctx, n.key, n.write); err != nil {
			return err
		}
	}
	if again {
		return r.sync()
	}
	return nil
}

// PutVersion replaces the record of a version: that of a host which had to initialise
// again. It does not change what serves, and Changed does not tell it.
func (r *Registry) PutVersion(ctx context.Context, v Version) error {
	if err := r.sync(); err != nil { // so that the record is not there before what it names
		return err
	}
	return r.put(ctx, versionKey(v.key(), v.Version), all(encodeVersion(v)))
}

// PutArtefact stores the machine code of a module for hosts with that fingerprint, and
// replaces what is there. After an error the store has what it had before.
func (r *Registry) PutArtefact(ctx context.Context, module, fingerprint string, write func(io.Writer) error) error {
	return r.put(ctx, artefactKey(module, fingerprint), write)
}

// PutProto stores a Proto-Faaslet, and replaces what is there. After an error the store has
// what it had before.
func (r *Registry) PutProto(ctx context.Context, hash string, write func(io.Writer) error) error {
	return r.put(ctx, protoKey(hash), write)
}

// Remove takes a function out of the registry, with all its versions, or returns
// ErrNotFound. What only they needed is left for Collect. A function whose records can't be
// read can be removed too. After an error it may be gone, but for garbage.
func (r *Registry) Remove(ctx context.Context, tenant, name string) error {
	k := Key{tenant, name}
	if !isPart(k.Tenant) || !isPart(k.Name) {
		return fmt.Errorf("remove %s: %w", k, ErrNotFound)
	}
	if ok, err := r.exists(ctx, functionsKey(k)); err != nil {
		return fmt.Errorf("remove %s: %w", k, err)
	} else if !ok {
		return fmt.Errorf("remove %s: %w", k, ErrNotFound)
	}
	if err := r.delete(ctx, functionsKey(k)); err != nil {
		return fmt.Errorf("remove %s: %w", k, err)
	}
	if err := r.sync(); err != nil {
		return fmt.Errorf("remove %s: %w", k, err)
	}
	records, err := r.list(ctx, versionsKey(k))
	if err != nil {
		return fmt.Errorf("remove %s: %w", k, err)
	}
	records = slices.DeleteFunc(records, isTemporary)
	// Another host may deploy the function at this moment.
	if _, err = r.discard(ctx, records, func() (references, error) {
		p, err := r.readPointer(ctx, k)
		if errors.Is(err, ErrNotFound) {
			return references{}, nil
		}
		return references{pointers: map[Key]pointer{k: p}}, err
	}); err != nil {
		return fmt.Errorf("remove %s: %w", k, err)
	}
	return nil
}

// RollbackTarget returns what Rollback would make serve, without doing so. Its errors are
// Rollback's.
func (r *Registry) RollbackTarget(ctx context.Context, tenant, name, to string) (Version, error) {
	k := Key{tenant, name}
	p, err := r.readPointer(ctx, k)
	if err != nil {
		return Version{}, fmt.Errorf("roll back: %w", err)
	}
	next, err := p.rollback(to)
	if err != nil {
		return Version{}, fmt.Errorf("roll back %s: %w", k, err)
	}
	return r.version(ctx, k, p, next.Serving)
}
