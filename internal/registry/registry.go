// Package registry keeps functions in an object store, which is a directory or a bucket that
// several hosts share:
//
//	modules/SHA256.wasm            what was uploaded
//	artefacts/MODULE/FINGERPRINT   machine code of a module, for one kind of host
//	protos/SHA256                  Proto-Faaslets
//	versions/TENANT/NAME/ID.json   what a version is made of
//	functions/TENANT/NAME.json     which version serves, and which did before
//	deleted/…                      what a Collect or a Remove is about to delete
//
// The last but one is the pointer. It is written last, in one piece, so a crash between
// two steps leaves the previous version serving.
//
// The package does not compile or run anything, and keeps nothing in memory. Artefacts and
// Proto-Faaslets are bytes to it: whoever stores them seals them, and whoever reads them
// checks them.
package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/blob/s3blob"
)

var (
	// ErrNotFound is returned for what the store does not have.
	ErrNotFound = errors.New("not in the registry")
	// ErrNoPrevious is returned by Rollback for a function of which no other version served.
	ErrNoPrevious = errors.New("no version served before this one")
)

// Version is what is recorded of a version of a function.
type Version struct {
	Tenant        string        `json:"tenant"`
	Name          string        `json:"name"`
	Version       string        `json:"version"` // of VersionOf
	Module        string        `json:"module"`  // SHA-256 of the upload, hexadecimal
	WasmBytes     int64         `json:"wasmBytes"`
	MemoryMax     uint64        `json:"memoryMax"` // bytes
	Timeout       time.Duration `json:"timeout"`   // nanoseconds
	Entry         string        `json:"entry"`
	Imports       int           `json:"imports"`
	Uploaded      time.Time     `json:"uploaded"`
	CompileNs     int64         `json:"compileNs"`
	Initialises   bool          `json:"initialises,omitempty"` // the module has something to run once
	InitialiseNs  int64         `json:"initialiseNs,omitempty"`
	Proto         string        `json:"proto,omitempty"`         // content hash of its Proto-Faaslet; empty: it has none
	SnapshotBytes int64         `json:"snapshotBytes,omitempty"` // of the Proto-Faaslet at rest
	StoredBytes   int64         `json:"storedBytes,omitempty"`   // of the Proto-Faaslet in the store; Publish sets it
	StartNs       int64         `json:"startNs,omitempty"`       // of a Faaslet from the Proto-Faaslet
}

// Key names a function.
type Key struct{ Tenant, Name string }

func (k Key) String() string { return k.Tenant + "/" + k.Name }

func (v Version) key() Key { return Key{v.Tenant, v.Name} }

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

// Options of Open. The zero value is good.
type Options struct {
	// AtStep, if not nil, is called before each access to the store. Tests break off there.
	AtStep func(Step)
}

// Registry is safe for concurrent use by the hosts that share its store.
type Registry struct {
	bucket *blob.Bucket
	dir    string // that bucket is; empty if it is none
	o      Options

	collecting sync.Mutex // held by Collect
}

// Open opens a store. The location is the path of a directory, which is made if it is not
// there, or the URL of a bucket that is there:
//
//	s3://BUCKET?region=REGION
//	s3://BUCKET?region=REGION&endpoint=http://HOST:PORT&use_path_style=true
//
// The first is Amazon's, the second any server with S3's interface; &prefix=a/b/ keeps to
// a part of the bucket. Credentials come from where the AWS SDK looks for them: the
// variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws (&profile=NAME), or the
// role of the machine. A server that knows no checksums needs
// &request_checksum_calculation=when_required.
//
// A directory belongs to one process at a time. A bucket should have a rule that ends
// multipart uploads which were never completed: a deployment that breaks off leaves them
// behind.
func Open(ctx context.Context, location string, o Options) (*Registry, error) {
	if !strings.Contains(location, "://") {
		return openDirectory(location, o)
	}
	u, err := url.Parse(location)
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	mux := blob.DefaultURLMux()
	// Opened by its URL, a directory would get other options than openDirectory's.
	schemes := slices.DeleteFunc(mux.BucketSchemes(), func(s string) bool { return s == fileblob.Scheme })
	if !slices.Contains(schemes, u.Scheme) {
		return nil, fmt.Errorf("open registry %s: scheme %q is not one of %s; a directory is given by its path", u.Redacted(), u.Scheme, strings.Join(schemes, ", "))
	}
	if q := u.Query(); u.Scheme == s3blob.Scheme && !q.Has(checksumParam) {
		// Modules are checked by their hashes and the rest by who reads it. The driver would
		// do it once more, and log each time that it can't for an object of several parts.
		q.Set(checksumParam, "when_required")
		u.RawQuery = q.Encode()
	}
	bucket, err := mux.OpenBucketURL(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("open registry %s: %w", u.Redacted(), err)
	}
	ok, err := bucket.IsAccessible(ctx)
	if err == nil && !ok {
		err = fmt.Errorf("there is no bucket %s", u.Host)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open registry %s: %w", u.Redacted(), err), bucket.Close())
	}
	return &Registry{bucket: bucket, o: o}, nil
}

const checksumParam = "response_checksum_validation"

func openDirectory(dir string, o Options) (*Registry, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	// An object is written beside its place and renamed (NoTempDir), because the system's
	// temporary directory may be on another file system.
	bucket, err := fileblob.OpenBucket(dir, &fileblob.Options{NoTempDir: true, Metadata: fileblob.MetadataDontWrite, DirFileMode: 0o700})
	if err != nil {
		return nil, fmt.Errorf("open registry %s: %w", dir, err)
	}
	return &Registry{bucket: bucket, dir: dir, o: o}, nil
}

// Close closes the store.
func (r *Registry) Close() error { return r.bucket.Close() }

// Shared tells whether other hosts may write to the store too.
func (r *Registry) Shared() bool { return r.dir == "" }
