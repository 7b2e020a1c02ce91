package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// How a Collect and a Publish on another host get along
//
// The store has no locks. A Collect that finds a module unneeded may be about to delete it
// while a Publish of the same module writes the pointer that needs it. Each writes first
// and looks then:
//
//	Publish: write the pointer; look whether what it needs is there, write what is not.
//	Collect: set the module aside; look whether a pointer needs it, and put it back if so.
//
// Whichever of the two looks last sees what the other has done. If the pointer was there
// before Collect looked, Collect puts the module back. If not, then Publish looks after
// that, finds the module gone and writes it again. Neither depends on time: Grace only
// makes it rare. A host that reads meanwhile finds what was set aside too; only between the
// two looks it may miss something for a moment, and its error then goes away.
//
// To set aside is to rename to deleted/KEY@TIME-RANDOM, under a name of this Collect alone;
// so no other can put it back or delete it in between. If the process dies there, the
// next Collect to come when Grace has passed does what was left to do. So Grace must be
// longer than a Collect takes, and than the clocks of hosts differ.

// aside returns where an object is set aside at a time.
func aside(key string, at time.Time) string {
	return fmt.Sprintf("%s%016x-%s", asidePrefix(key), at.UnixNano(), rand.Text())
}

func asidePrefix(key string) string { return "deleted/" + key + "@" }

// parseAside undoes aside.
func parseAside(name string) (key string, at time.Time, ok bool) {
	name, ok = strings.CutPrefix(name, "deleted/")
	i := strings.LastIndexByte(name, '@')
	if !ok || i < 0 {
		return "", time.Time{}, false
	}
	stamp, _, ok := strings.Cut(name[i+1:], "-")
	ns, err := strconv.ParseInt(stamp, 16, 64)
	return name[:i], time.Unix(0, ns), ok && err == nil
}

// isTemporary tells whether an object is a file that was never completed.
func isTemporary(o object) bool { return strings.HasSuffix(o.key, ".tmp") }

func isRecord(key string) bool { return strings.HasPrefix(key, "versions/") }

// references are what is needed: versions by pointers, and the rest by versions.
type references struct {
	pointers map[Key]pointer
	versions map[string]Version // by their records' keys

	modules, protos map[string]bool   // that versions name
	listed          map[string]object // what it was read from
}

// refers tells whether an object is needed.
func (s references) refers(key string) bool {
	if isRecord(key) {
		k, version, ok := parseKey(key)
		p, exists := s.pointers[k]
		return ok && exists && p.refers(version)
	}
	kind, hash, _ := strings.Cut(key, "/")
	if kind == "protos" {
		return s.protos[hash]
	}
	module, _, _ := strings.Cut(strings.TrimSuffix(hash, ".wasm"), "/")
	return s.modules[module]
}

// references reads all pointers and all versions, but for those that have not changed
// since before. It fails if any can't be read, because nobody knows what those need.
func (r *Registry) references(ctx context.Context, before references) (references, error) {
	s := references{
		pointers: map[Key]pointer{}, versions: map[string]Version{},
		modules: map[string]bool{}, protos: map[string]bool{},
		listed: map[string]object{},
	}
	var keys []string
	for _, prefix := range []string{"functions/", "versions/"} {
		list, err := r.list(ctx, prefix)
		if err != nil {
			return s, err
		}
		for _, o := range list {
			if isTemporary(o) {
				continue
			}
			k, version, ok := parseKey(o.key)
			if !ok {
				return s, fmt.Errorf("read %s: that is no record's key", o.key)
			}
			s.listed[o.key] = o
			if o.etag == "" || o.etag != before.listed[o.key].etag {
				keys = append(keys, o.key)
			} else if p, ok := before.pointers[k]; ok && version == "" {
				s.pointers[k] = p
			} else if v, ok := before.versions[o.key]; ok && version != "" {
				s.versions[o.key] = v
			} else {
				keys = append(keys, o.key) // it was gone when it should have been read
			}
		}
	}
	if err := r.readReferences(ctx, &s, keys); err != nil {
		return s, err
	}
	// Versions that are set aside and may be put back are as good as there.
	keys = nil
	for k, p := range s.pointers {
		for _, version := range append([]string{p.Serving}, p.History...) {
			key := versionKey(k, version)
			if _, ok := s.versions[key]; ok {
				continue
			}
			if p.first != nil && version == p.first.Version {
				s.versions[key] = *p.first
			} else {
				keys = append(keys, key)
			}
		}
	}
	if err := r.readReferences(ctx, &s, keys); err != nil {
		return s, err
	}
	for _, v := range s.versions {
		s.modules[v.Module], s.protos[v.Proto] = true, true
	}
	return s, nil
}

// readReferences adds records to s. Those that are not there any more are left out.
func (r *Registry) readReferences(ctx context.Context, s *references, keys []string) error {
	pointers, versions, errs := make([]pointer, len(keys)), make([]Version, len(keys)), make([]error, len(keys))
	r.each(len(keys), func(i int) {
		if isRecord(keys[i]) {
			versions[i], errs[i] = r.readVersion(ctx, keys[i])
		} else {
			k, _, _ := parseKey(keys[i])
			pointers[i], errs[i] = r.readPointer(ctx, k)
		}
	})
	for i, key := range keys {
		switch {
		case errors.Is(errs[i], ErrNotFound):
			errs[i] = nil
		case errs[i] != nil:
		case isRecord(key):
			s.versions[key] = versions[i]
		default:
			k, _, _ := parseKey(key)
			s.pointers[k] = pointers[i]
		}
	}
	return errors.Join(errs...)
}

// CollectOptions say what Collect keeps.
type CollectOptions struct {
	KeepVersions int           // of each function, the last uploaded ones
	Grace        time.Duration // what is younger stays: it may be of a Publish that is under way
	Now          time.Time     // compared with the store's clock to tell what is young
}

// Collected is what Collect deleted.
type Collected struct {
	Versions, Modules, Artefacts, Protos int
	Bytes                                int64
}

// Collect deletes what nothing needs. Of each function there stay the version that
// serves, those in its history, and the last KeepVersions; of modules, artefacts and
// Proto-Faaslets those of a version that stays. An artefact stays for as long as its module
// does, even if there is no host of its kind any more.
//
// If any record can't be read, nothing more is deleted and the error names it. After an
// error or a crash there may be garbage left, and nothing is missing.
func (r *Registry) Collect(ctx context.Context, o CollectOptions) (Collected, error) {
	r.collecting.Lock()
	defer r.collecting.Unlock()
	c, err := r.collect(ctx, o)
	if err == nil && r.dir != "" {
		err = r.collectTemporary(ctx, o, &c)
	}
	return c, err
}

func (o CollectOptions) old(obj object) bool { return o.Now.Sub(obj.modTime) > o.Grace }

func (r *Registry) collect(ctx context.Context, o CollectOptions) (Collected, error) {
	var c Collected
	var refs references
	look := func() (references, error) {
		next, err := r.references(ctx, refs)
		if err == nil {
			refs = next
		}
		return next, err
	}

	// What others left when they died: their records, and then the rest.
	listed, err := r.list(ctx, "deleted/")
	if err != nil {
		return c, err
	}
	var left [2][]setAside
	for _, obj := range listed {
		if key, at, ok := parseAside(obj.key); ok && !isTemporary(obj) && time.Since(at) > o.Grace {
			i := 1
			if isRecord(key) {
				i = 0
			}
			left[i] = append(left[i], setAside{object{key: key, size: obj.size}, obj.key})
		}
	}
	for _, aside := range left {
		if err := r.resolve(ctx, aside, look, &c); err != nil {
			return c, err
		}
	}

	// Records before what they name, so that a crash in between leaves none that names
	// what is gone.
	var blobs []object
	for _, prefix := range []string{"modules/", "artefacts/", "protos/"} {
		list, err := r.list(ctx, prefix)
		if err != nil {
			return c, err
		}
		blobs = append(blobs, list...)
	}
	if _, err := look(); err != nil {
		return c, err
	}
	records := slices.DeleteFunc(refs.unneeded(o.KeepVersions), func(obj object) bool { return !o.old(obj) })
	n, err := r.discard(ctx, records, look)
	c.add(n)
	if err != nil {
		return c, err
	}
	blobs = slices.DeleteFunc(blobs, func(obj object) bool { return isTemporary(obj) || !o.old(obj) || refs.refers(obj.key) })
	n, err = r.discard(ctx, blobs, look)
	c.add(n)
	return c, err
}

// collectTemporary deletes the files that a process was writing when it was killed.
func (r *Registry) collectTemporary(ctx context.Context, o CollectOptions, c *Collected) error {
	listed, err := r.list(ctx, "")
	if err != nil {
		return err
	}
	for _, obj := range listed {
		if isTemporary(obj) && o.old(obj) {
			if err := r.delete(ctx, obj.key); err != nil {
				return err
			}
			c.Bytes += obj.size
		}
	}
	return nil
}

// unneeded returns the records that no pointer names and that are not among the newest
// of their function. Those of a function without a pointer are never needed.
func (s references) unneeded(keep int) []object {
	byFunction := map[Key][]string{}
	for key := range s.versions {
		k, _, _ := parseKey(key)
		byFunction[k] = append(byFunction[k], key)
	}
	var out []object
	for k, keys := range byFunction {
		slices.SortFunc(keys, func(a, b string) int { return s.versions[b].Uploaded.Compare(s.versions[a].Uploaded) })
		if _, ok := s.pointers[k]; ok {
			keys = keys[min(keep, len(keys)):]
		}
		for _, key := range keys {
			// One that is not listed is set aside by another Collect, or a part of a
			// pointer of format 1.
			if obj, ok := s.listed[key]; ok && !s.refers(key) {
				out = append(out, obj)
			}
		}
	}
	return out
}

// setAside is an object that is to be deleted, and where it is until then.
type setAside struct {
	object
	at string
}

// discard deletes objects, unless they turn out to be needed when they have been set
// aside: look is called then to tell. After an error they are set aside or where they
// were.
func (r *Registry) discard(ctx context.Context, objects []object, look func() (references, error)) (Collected, error) {
	var c Collected
	var moved []setAside
	for _, o := range objects {
		to := aside(o.key, time.Now())
		err := r.move(ctx, o.key, to)
		if errors.Is(err, ErrNotFound) {
			continue // another host was faster
		}
		if err != nil {
			return c, err
		}
		moved = append(moved, setAside{o, to})
	}
	return c, r.resolve(ctx, moved, look, &c)
}

// resolve puts back what is needed, and deletes the rest.
func (r *Registry) resolve(ctx context.Context, moved []setAside, look func() (references, error), c *Collected) error {
	if len(moved) == 0 {
		return nil
	}
	refs, err := look()
	if err != nil {
		return err
	}
	for _, m := range moved {
		if refs.refers(m.key) {
			// A Publish may have written it again, and what that wrote is newer.
			there, err := r.exists(ctx, m.key)
			if err == nil && !there {
				err = r.move(ctx, m.at, m.key)
			} else if err == nil {
				err = r.delete(ctx, m.at)
			}
			if err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
			continue
		}
		if err := r.delete(ctx, m.at); err != nil {
			return err
		}
		c.count(m.object)
	}
	return nil
}

func (c *Collected) count(o object) {
	c.Bytes += o.size
	switch kind, _, _ := strings.Cut(o.key, "/"); kind {
	case "versions":
		c.Versions++
	case "modules":
		c.Modules++
	case "artefacts":
		c.Artefacts++
	case "protos":
		c.Protos++
	}
}

func (c *Collected) add(n Collected) {
	c.Versions += n.Versions
	c.Modules += n.Modules
	c.Artefacts += n.Artefacts
	c.Protos += n.Protos
	c.Bytes += n.Bytes
}
