// Package registry keeps functions in an object store: each version's module under its
// content hash, and for each function a small record that says which version serves.
//
// The record is written last, in one piece, so a crash between two steps leaves the
// previous version serving. Old modules are kept.
//
// The package does not compile or run anything, and keeps nothing in memory.
package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/gcerrors"
)

// ErrNotFound is returned for a function or a module that the store does not have.
var ErrNotFound = errors.New("not in the registry")

// Function is a function's record: its serving version.
type Function struct {
	Tenant    string        `json:"tenant"`
	Name      string        `json:"name"`
	Version   string        `json:"version"` // of the module and its limits
	Module    string        `json:"module"`  // SHA-256 of the upload, hexadecimal
	WasmBytes int64         `json:"wasmBytes"`
	MemoryMax uint64        `json:"memoryMax"` // bytes
	Timeout   time.Duration `json:"timeout"`   // nanoseconds
	Entry     string        `json:"entry"`
	Imports   int           `json:"imports"`
	Uploaded  time.Time     `json:"uploaded"`
	CompileNs int64         `json:"compileNs"`
}

// record is the stored form of a Function.
type record struct {
	Format int `json:"format"`
	Function
}

const format = 1

// Hash names a module by its content.
func Hash(wasm []byte) string {
	sum := sha256.Sum256(wasm)
	return hex.EncodeToString(sum[:])
}

// VersionOf names a version: the same module with other limits is another version.
func VersionOf(module string, memoryMax uint64, timeout time.Duration) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", module, memoryMax, timeout))
	return hex.EncodeToString(sum[:8])
}

// Registry is safe for concurrent use by the hosts that share its store.
type Registry struct {
	bucket *blob.Bucket
}

// Open opens the store in a directory, which is made if it is not there.
func Open(dir string) (*Registry, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	// An object is written beside its place and renamed (NoTempDir), because the system's
	// temporary directory may be on another file system.
	bucket, err := fileblob.OpenBucket(dir, &fileblob.Options{NoTempDir: true, Metadata: fileblob.MetadataDontWrite})
	if err != nil {
		return nil, fmt.Errorf("open registry %s: %w", dir, err)
	}
	return &Registry{bucket: bucket}, nil
}

// Close closes the store.
func (r *Registry) Close() error { return r.bucket.Close() }

func functionKey(tenant, name string) string { return "functions/" + tenant + "/" + name + ".json" }
func moduleKey(hash string) string           { return "modules/" + hash + ".wasm" }

// Publish stores the module and then makes f the function's serving version. After an
// error the previous version serves.
func (r *Registry) Publish(ctx context.Context, f Function, wasm []byte) error {
	if f.Module != Hash(wasm) {
		panic("BUG: module hash of " + f.Tenant + "/" + f.Name + " is not the module's")
	}
	key := moduleKey(f.Module)
	exists, err := r.bucket.Exists(ctx, key)
	if err != nil {
		return fmt.Errorf("look for module %s: %w", f.Module, err)
	}
	if !exists {
		if err := r.bucket.WriteAll(ctx, key, wasm, nil); err != nil {
			return fmt.Errorf("store module of %s/%s: %w", f.Tenant, f.Name, err)
		}
	}
	text, err := json.MarshalIndent(record{format, f}, "", "  ")
	if err != nil {
		return err
	}
	if err := r.bucket.WriteAll(ctx, functionKey(f.Tenant, f.Name), text, nil); err != nil {
		return fmt.Errorf("store record of %s/%s: %w", f.Tenant, f.Name, err)
	}
	return nil
}

// Function returns a function's record, or ErrNotFound.
func (r *Registry) Function(ctx context.Context, tenant, name string) (Function, error) {
	return r.read(ctx, functionKey(tenant, name))
}

func (r *Registry) read(ctx context.Context, key string) (Function, error) {
	text, err := r.bucket.ReadAll(ctx, key)
	if err != nil {
		return Function{}, notFound("read record "+key, err)
	}
	var rec record
	if err := json.Unmarshal(text, &rec); err != nil {
		return Function{}, fmt.Errorf("read record %s: %w", key, err)
	}
	if rec.Format != format {
		return Function{}, fmt.Errorf("read record %s: format %d is not %d, the one this version of Faasm knows", key, rec.Format, format)
	}
	return rec.Function, nil
}

func notFound(what string, err error) error {
	if gcerrors.Code(err) == gcerrors.NotFound {
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Module returns the module with that hash, after checking it.
func (r *Registry) Module(ctx context.Context, hash string) ([]byte, error) {
	wasm, err := r.bucket.ReadAll(ctx, moduleKey(hash))
	if err != nil {
		return nil, notFound("read module "+hash, err)
	}
	if got := Hash(wasm); got != hash {
		return nil, fmt.Errorf("read module %s: the stored file is damaged (its hash is %s)", hash, got)
	}
	return wasm, nil
}

// Functions returns all records, by tenant and name. Records that can't be read are left
// out of the list and joined in err.
func (r *Registry) Functions(ctx context.Context) (list []Function, err error) {
	var errs []error
	it := r.bucket.List(&blob.ListOptions{Prefix: "functions/"})
	for {
		obj, err := it.Next(ctx)
		if err == io.EOF {
			return list, errors.Join(errs...)
		}
		if err != nil {
			return list, errors.Join(append(errs, fmt.Errorf("list functions: %w", err))...)
		}
		if !strings.HasSuffix(obj.Key, ".json") {
			continue
		}
		f, err := r.read(ctx, obj.Key)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, f)
	}
}

// Remove takes a function out of the registry, or returns ErrNotFound. Its modules stay.
func (r *Registry) Remove(ctx context.Context, tenant, name string) error {
	if err := r.bucket.Delete(ctx, functionKey(tenant, name)); err != nil {
		return notFound("remove "+tenant+"/"+name, err)
	}
	return nil
}
