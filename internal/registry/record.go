package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// format is that of pointers and version records. In format 1 a pointer was the record of
// the one version there was; it is still read.
const format = 2

// historyMax bounds a pointer.
const historyMax = 8

// errDamaged is what is wrong with a record that a new deployment may replace.
var errDamaged = errors.New("the record is damaged")

// errNoRecord is wrong for more than a moment only if someone deleted the record by hand.
var errNoRecord = errors.New("there is no record of the version that serves")

// A pointer says which version of a function serves.
type pointer struct {
	Serving string    `json:"serving"`
	History []string  `json:"history,omitempty"` // versions that served before, newest last; none twice
	Written time.Time `json:"written"`           // so that no two pointers are the same bytes

	// first is the version that a pointer of format 1 is the record of. It counts for as
	// long as there is no other record of it.
	first *Version
}

// refers tells whether the pointer needs a version's record.
func (p pointer) refers(version string) bool {
	return version == p.Serving || slices.Contains(p.History, version)
}

// to returns the pointer after a switch to a version.
func (p pointer) to(version string) pointer {
	history := slices.Clone(p.History)
	if p.Serving != "" {
		history = append(history, p.Serving)
	}
	history = slices.DeleteFunc(history, func(v string) bool { return v == version })
	return pointer{Serving: version, History: history[max(0, len(history)-historyMax):]}
}

// rollback is the pointer after a Rollback to a version, or to the last of the history.
func (p pointer) rollback(to string) (pointer, error) {
	n := len(p.History)
	switch {
	case to == p.Serving:
		return p, nil
	case to != "":
		return p.to(to), nil
	case n == 0:
		return pointer{}, ErrNoPrevious
	}
	return pointer{Serving: p.History[n-1], History: p.History[:n-1]}, nil
}

func encode(v any) []byte {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic("BUG: encode a record: " + err.Error())
	}
	return text
}

func encodeVersion(v Version) []byte {
	return encode(struct {
		Format int `json:"format"`
		Version
	}{format, v})
}

func encodePointer(p pointer) []byte {
	return encode(struct {
		Format int `json:"format"`
		pointer
	}{format, p})
}

// decode reads a record of one of the formats from oldest to today's, and returns its
// format.
func decode(key string, text []byte, oldest int, into any) (int, error) {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return 0, fmt.Errorf("read %s: %w: %w", key, errDamaged, err)
	}
	if head.Format > format {
		return 0, fmt.Errorf("read %s: format %d is newer than %d, this host's: upgrade the host", key, head.Format, format)
	}
	if head.Format < oldest {
		return 0, fmt.Errorf("read %s: %w: there is no format %d", key, errDamaged, head.Format)
	}
	if head.Format < format {
		return head.Format, nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return 0, fmt.Errorf("read %s: %w: %w", key, errDamaged, err)
	}
	return head.Format, nil
}

func (r *Registry) readVersion(ctx context.Context, key string) (Version, error) {
	text, err := r.get(ctx, key)
	if err != nil {
		return Version{}, err
	}
	var v Version
	if _, err := decode(key, text, format, &v); err != nil {
		return Version{}, err
	}
	if got := versionKey(v.key(), v.Version); got != key {
		return Version{}, fmt.Errorf("read %s: %w: it is that of %s", key, errDamaged, got)
	}
	return v, nil
}

func (r *Registry) readPointer(ctx context.Context, k Key) (pointer, error) {
	if !isPart(k.Tenant) || !isPart(k.Name) {
		return pointer{}, fmt.Errorf("read %s: %w", k, ErrNotFound)
	}
	key := functionsKey(k)
	text, err := r.get(ctx, key)
	if err != nil {
		return pointer{}, err
	}
	var p pointer
	f, err := decode(key, text, 1, &p)
	if err != nil {
		return pointer{}, err
	}
	if f == 1 {
		p.first = new(Version)
		if err := json.Unmarshal(text, p.first); err != nil {
			return pointer{}, fmt.Errorf("read %s: %w: %w", key, errDamaged, err)
		}
		if p.first.key() != k {
			return pointer{}, fmt.Errorf("read %s: %w: it is that of %s", key, errDamaged, p.first.key())
		}
		p.Serving = p.first.Version
	}
	if p.Serving == "" {
		return pointer{}, fmt.Errorf("read %s: %w: it names no version", key, errDamaged)
	}
	return p, nil
}

// version returns the record of one of a function's versions, or ErrNotFound.
func (r *Registry) version(ctx context.Context, k Key, p pointer, version string) (Version, error) {
	if !isPart(version) {
		return Version{}, fmt.Errorf("read version %q of %s: %w", version, k, ErrNotFound)
	}
	v, err := r.readVersion(ctx, versionKey(k, version))
	if errors.Is(err, ErrNotFound) && p.first != nil && p.first.Version == version {
		return *p.first, nil
	}
	return v, err
}

// serving returns a function's serving version.
func (r *Registry) serving(ctx context.Context, k Key) (Version, error) {
	p, err := r.readPointer(ctx, k)
	for err == nil {
		var v Version
		v, err = r.version(ctx, k, p, p.Serving)
		if !errors.Is(err, ErrNotFound) {
			return v, err
		}
		// It may have stopped serving meanwhile, and been collected.
		before := p.Written
		p, err = r.readPointer(ctx, k)
		if err == nil && p.Written.Equal(before) {
			err = fmt.Errorf("read %s: %w, %s: deploy it again", functionsKey(k), errNoRecord, p.Serving)
		}
	}
	return Version{}, err
}

// Function returns a function's serving version, or ErrNotFound.
func (r *Registry) Function(ctx context.Context, tenant, name string) (Version, error) {
	return r.serving(ctx, Key{tenant, name})
}

// Functions returns the serving versions of all functions, by tenant and name. Those whose
// records can't be read are left out of the list and joined in err.
func (r *Registry) Functions(ctx context.Context) (list []Version, err error) {
	c, err := r.Changed(ctx, nil)
	return c.Versions, err
}

// Changes is what Changed found.
type Changes struct {
	Versions []Version      // that serve now, of functions that are new or were written, by tenant and name
	Removed  []Key          // functions that were known and are no more
	Known    map[Key]string // for the next call
}

// Changed tells what other hosts have done to the functions since the call that returned
// known, at the price of one listing and of reading what changed; it returns all if known
// is nil. What this host writes comes back too, and so may a version that was not
// changed.
//
// Functions whose records can't be read are joined in err. They are not among the changes,
// and are tried again by the next call.
func (r *Registry) Changed(ctx context.Context, known map[Key]string) (Changes, error) {
	c := Changes{Known: map[Key]string{}}
	listed, err := r.list(ctx, "functions/")
	if err != nil {
		c.Known = known
		return c, err
	}
	type found struct {
		key     Key
		etag    string
		version Version
		err     error
	}
	var read []found
	var errs []error
	for _, o := range listed {
		if !strings.HasSuffix(o.key, ".json") {
			continue
		}
		k, _, ok := parseKey(o.key)
		if !ok {
			errs = append(errs, fmt.Errorf("read %s: that is no function's key", o.key))
			continue
		}
		etag, isKnown := known[k]
		if isKnown {
			c.Known[k] = etag
		}
		if o.etag == "" || etag != o.etag {
			read = append(read, found{key: k, etag: o.etag})
		}
	}
	r.each(len(read), func(i int) { read[i].version, read[i].err = r.serving(ctx, read[i].key) })
	for _, f := range read {
		switch {
		case errors.Is(f.err, ErrNotFound):
			delete(c.Known, f.key) // since it was listed
		case f.err != nil:
			errs = append(errs, f.err)
		default:
			c.Known[f.key] = f.etag
			c.Versions = append(c.Versions, f.version)
		}
	}
	for k := range known {
		if _, ok := c.Known[k]; !ok {
			c.Removed = append(c.Removed, k)
		}
	}
	slices.SortFunc(c.Versions, func(a, b Version) int { return a.key().compare(b.key()) })
	slices.SortFunc(c.Removed, Key.compare)
	return c, errors.Join(errs...)
}

func (k Key) compare(other Key) int {
	if c := strings.Compare(k.Tenant, other.Tenant); c != 0 {
		return c
	}
	return strings.Compare(k.Name, other.Name)
}

// Versions returns the versions of a function that are still there, the last uploaded
// first, and which of them serves; or ErrNotFound. Those whose records can't be read are
// left out of the list and joined in err.
func (r *Registry) Versions(ctx context.Context, tenant, name string) (list []Version, serving string, err error) {
	k := Key{tenant, name}
	p, err := r.readPointer(ctx, k)
	if err != nil {
		return nil, "", err
	}
	listed, err := r.list(ctx, versionsKey(k))
	if err != nil {
		return nil, p.Serving, err
	}
	listed = slices.DeleteFunc(listed, func(o object) bool { return !strings.HasSuffix(o.key, ".json") })
	versions, errs := make([]Version, len(listed)), make([]error, len(listed))
	r.each(len(listed), func(i int) { versions[i], errs[i] = r.readVersion(ctx, listed[i].key) })
	for i, v := range versions {
		if errs[i] == nil {
			list = append(list, v)
		} else if errors.Is(errs[i], ErrNotFound) {
			errs[i] = nil // collected since it was listed
		}
	}
	if p.first != nil && !slices.ContainsFunc(list, func(v Version) bool { return v.Version == p.first.Version }) {
		list = append(list, *p.first)
	}
	slices.SortStableFunc(list, func(a, b Version) int { return b.Uploaded.Compare(a.Uploaded) })
	return list, p.Serving, errors.Join(errs...)
}

// Module returns the module with that hash, after checking it, or ErrNotFound.
func (r *Registry) Module(ctx context.Context, hash string) ([]byte, error) {
	wasm, err := r.get(ctx, moduleKey(hash))
	if err != nil {
		return nil, err
	}
	if got := Hash(wasm); got != hash {
		return nil, fmt.Errorf("read module %s: the stored file is damaged (its hash is %s): deploy it again", hash, got)
	}
	return wasm, nil
}

// Artefact opens the machine code of a module for hosts with that fingerprint, or returns
// ErrNotFound. The caller closes it, before ctx ends.
func (r *Registry) Artefact(ctx context.Context, module, fingerprint string) (io.ReadCloser, error) {
	return r.stream(ctx, artefactKey(module, fingerprint))
}

// Proto opens the Proto-Faaslet with that hash, or returns ErrNotFound. The caller closes
// it, before ctx ends.
func (r *Registry) Proto(ctx context.Context, hash string) (io.ReadCloser, error) {
	return r.stream(ctx, protoKey(hash))
}

func (r *Registry) stream(ctx context.Context, key string) (io.ReadCloser, error) {
	rd, err := r.open(ctx, key)
	if err != nil {
		return nil, err // not rd, which would be an interface that is not nil
	}
	return rd, nil
}
