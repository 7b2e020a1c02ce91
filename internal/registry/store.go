package registry

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/faasm-go/faasm/internal/linux"
)

// A Step is an access to the store: what is done, and the first part of the key it's done
// to.
type Step string

// The steps of Publish, in this order. Between them it looks at what is there already, and
// streams ("put" before the first byte, "commit" after the last, before the object is
// there).
const (
	StepModule   Step = "put modules"
	StepArtefact Step = "put artefacts"
	StepProto    Step = "put protos"
	StepVersion  Step = "put versions"
	StepPointer  Step = "put functions"
)

func (r *Registry) at(op, key string) {
	if r.o.AtStep != nil {
		prefix, _, _ := strings.Cut(key, "/")
		r.o.AtStep(Step(strings.TrimSuffix(op+" "+prefix, " ")))
	}
}

// An escape is what the store's driver takes for an escaped character when it lists keys,
// and escapes in turn when it is written. Names may contain it, but no capital letter: so
// keys do not contain it.
const escape, escaped = "__0x", "__0X"

func functionsKey(k Key) string {
	return "functions/" + strings.ReplaceAll(k.String(), escape, escaped) + ".json"
}

func versionsKey(k Key) string {
	return "versions/" + strings.ReplaceAll(k.String(), escape, escaped) + "/"
}

func versionKey(k Key, version string) string   { return versionsKey(k) + version + ".json" }
func moduleKey(hash string) string              { return "modules/" + hash + ".wasm" }
func artefactKey(module, fingerp string) string { return "artefacts/" + module + "/" + fingerp }
func protoKey(hash string) string               { return "protos/" + hash }

// parseKey undoes functionsKey and versionKey, where version is empty for the first.
func parseKey(key string) (k Key, version string, ok bool) {
	key, ok = strings.CutSuffix(key, ".json")
	parts := strings.Split(strings.ReplaceAll(key, escaped, escape), "/")
	switch {
	case ok && len(parts) == 3 && parts[0] == "functions":
		return Key{parts[1], parts[2]}, "", true
	case ok && len(parts) == 4 && parts[0] == "versions":
		return Key{parts[1], parts[2]}, parts[3], true
	}
	return Key{}, "", false
}

// isPart tells whether s can be a part of a key. All that the API accepts as a name can.
func isPart(s string) bool {
	return s != "" && len(s) <= 128 && s[0] != '.' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// put stores an object, which is not there before all of it is. After an error the store
// has what it had before, unless it broke off while it committed: then it may have either.
func (r *Registry) put(ctx context.Context, key string, write func(io.Writer) error) error {
	r.at("put", key)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var file *os.File // if the store is a directory
	w, err := r.bucket.NewWriter(ctx, key, &blob.WriterOptions{
		ContentType: "application/octet-stream",
		BeforeWrite: func(as func(any) bool) error { as(&file); return nil },
	})
	if err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	err = write(w)
	if err == nil && file != nil {
		// The driver doesn't, and after a power cut the new name could stand for an
		// empty file.
		err = file.Sync()
	}
	if err != nil {
		cancel() // Close then commits nothing
		w.Close()
		return fmt.Errorf("store %s: %w", key, err)
	}
	r.at("commit", key)
	if err := w.Close(); err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	return nil
}

func all(content []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	}
}

// sync returns when all that was put is on the device, names included.
func (r *Registry) sync() error {
	if r.dir == "" {
		return nil
	}
	r.at("sync", "")
	return linux.SyncFS(r.dir)
}

func (r *Registry) exists(ctx context.Context, key string) (bool, error) {
	r.at("look", key)
	ok, err := r.bucket.Exists(ctx, key)
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", key, err)
	}
	return ok, nil
}

// size returns an object's size in bytes, which is zero if it is not there.
func (r *Registry) size(ctx context.Context, key string) (int64, error) {
	r.at("look", key)
	a, err := r.bucket.Attributes(ctx, key)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for %s: %w", key, err)
	}
	return a.Size, nil
}

// get returns an object's content, or ErrNotFound.
func (r *Registry) get(ctx context.Context, key string) ([]byte, error) {
	rd, err := r.open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer rd.Close()
	content := bytes.NewBuffer(make([]byte, 0, rd.Size()))
	if _, err := content.ReadFrom(rd); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return content.Bytes(), nil
}

// open opens an object, or returns ErrNotFound. It also finds what is set aside to be
// deleted, because that may be put back (see collect.go).
func (r *Registry) open(ctx context.Context, key string) (*blob.Reader, error) {
	r.at("get", key)
	rd, err := r.bucket.NewReader(ctx, key, nil)
	if gcerrors.Code(err) == gcerrors.NotFound && !strings.HasPrefix(key, "functions/") {
		aside, lerr := r.list(ctx, asidePrefix(key))
		if lerr != nil {
			return nil, lerr
		}
		// It may be put back right now, so the last place to look is the first.
		for _, o := range append(aside, object{key: key}) {
			r.at("get", o.key)
			if rd, err = r.bucket.NewReader(ctx, o.key, nil); gcerrors.Code(err) != gcerrors.NotFound {
				break
			}
		}
	}
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, fmt.Errorf("read %s: %w", key, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return rd, nil
}

// An object is one as it is listed.
type object struct {
	key     string
	size    int64
	modTime time.Time
	etag    string // differs when the content does; empty if that can't be told
}

// settled is the age from which a bucket's object is what the listing says.
const settled = 30 * time.Second

// list returns the objects whose keys begin with prefix.
func (r *Registry) list(ctx context.Context, prefix string) ([]object, error) {
	r.at("list", prefix)
	if r.dir != "" {
		return listDirectory(ctx, r.dir, prefix)
	}
	var list []object
	it := r.bucket.List(&blob.ListOptions{Prefix: prefix})
	for {
		o, err := it.Next(ctx)
		if err == io.EOF {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		found := object{o.Key, o.Size, o.ModTime, hex.EncodeToString(o.MD5)}
		// A server may list an object as it is and yet, for a moment, hand out what it was
		// (versitygw was seen to). What was read of it then must not be taken for known.
		if age := time.Since(o.ModTime); age.Abs() < settled {
			found.etag = ""
		}
		list = append(list, found)
	}
}

// listDirectory lists a store that is a directory. Its driver would leave out, without a
// word, what it could not read, and Collect must not take that for what is not there.
func listDirectory(ctx context.Context, dir, prefix string) ([]object, error) {
	var list []object
	now := time.Now()
	root := filepath.Join(dir, prefix[:strings.LastIndex(prefix, "/")+1]) + "/" // follows a link
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return errors.Join(err, ctx.Err())
		}
		key := strings.TrimPrefix(path, dir+"/")
		if !strings.HasPrefix(key, prefix) {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		o := object{key: key, size: info.Size(), modTime: info.ModTime()}
		// The clock of a file system may be coarse: a file that was just written can be
		// written again without a change of its time.
		if now.Sub(o.modTime) > 2*time.Second {
			o.etag = fmt.Sprintf("%x-%x", o.modTime.UnixNano(), o.size)
		}
		list = append(list, o)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	return list, nil
}

// move renames an object, and replaces what had the new name. It returns ErrNotFound if
// there is no such object.
func (r *Registry) move(ctx context.Context, from, to string) error {
	r.at("move", from)
	if r.dir != "" {
		// In place of a copy: a full disk must not keep anyone from deleting.
		to := filepath.Join(r.dir, to)
		err := os.MkdirAll(filepath.Dir(to), 0o700)
		if err == nil {
			err = os.Rename(filepath.Join(r.dir, from), to)
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = ErrNotFound
		}
		if err != nil {
			return fmt.Errorf("move %s: %w", from, err)
		}
		return nil
	}
	err := r.bucket.Copy(ctx, to, from, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("move %s: %w", from, err)
	}
	return r.delete(ctx, from)
}

// delete deletes an object, if it is there.
func (r *Registry) delete(ctx context.Context, key string) error {
	r.at("delete", key)
	if err := r.bucket.Delete(ctx, key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// each calls f with 0 to n-1, some at once because a bucket may be far away. Tests need an
// order that they can repeat.
func (r *Registry) each(n int, f func(i int)) {
	atOnce := 16
	if r.o.AtStep != nil {
		atOnce = 1
	}
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(n, atOnce) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	workers.Wait()
}
