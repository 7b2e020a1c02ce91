// Package boltfile opens bbolt files of ours and outlives damage to them: a file is held
// by one process, is what it is taken for, is not cut short, and its name is on the disk
// once it is open. The call log and the embedded store of state are such files.
//
// It does not know what a file holds beside the record of its format, and makes no
// changes to it later: transactions are those of whoever opened it.
package boltfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// lockTimeout is how long Open waits for another process to let go of the file. It is for
// a host that is just going away.
const lockTimeout = time.Second

// A Kind is what the files of one use have in common.
type Kind struct {
	// MetaBucket tells these files from other programs', and has under FormatKey the
	// version of the file, a big-endian uint32. A host opens no other Format than its
	// own: it neither guesses at a newer file nor half understands an older.
	MetaBucket []byte
	FormatKey  []byte
	Format     uint32

	Buckets [][]byte // the other buckets that Create makes

	// InitialMapBytes is how much of the file is mapped from the beginning; zero is
	// what bbolt takes.
	InitialMapBytes int

	// What errors wrap: the file is open in another process, is not of this kind and
	// format, or cannot be read.
	ErrLocked, ErrForeign, ErrDamaged error
}

// Open opens the file at path, or makes it, and has prepare check it and fill it if it is
// empty; prepare runs in Guard. The directory must exist. The caller closes the database.
//
// It returns ErrLocked if another process has the file open, ErrForeign for one that is
// no bbolt file, ErrDamaged for one that bbolt cannot read, and what prepare returned.
// After an error nothing is open or locked, but a new file stays, and if bbolt panicked
// while it opened the file, its mapping does, until the process ends.
func (k *Kind) Open(path string, prepare func(*bbolt.DB) error) (*bbolt.DB, error) {
	_, statErr := os.Stat(path)

	var db *bbolt.DB
	var file *os.File // what bbolt opened, to be closed if bbolt panics
	panicked := true
	err := k.Guard(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout: lockTimeout,
			// The map is faster than the list once there is much free space, as after
			// many deletions. The free list itself is written with each commit: without,
			// bbolt has to search the file for free pages when it opens it, and does so
			// in a goroutine of its own, where a panic about damage could not be caught.
			FreelistType:    bbolt.FreelistMapType,
			NoStatistics:    true,
			InitialMmapSize: k.InitialMapBytes,
			OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
				f, err := os.OpenFile(name, flag, perm)
				file = f
				return f, err
			},
		})
		panicked = false
		return err
	})
	switch {
	case panicked:
		// bbolt's mapping of the file stays until the process ends, and would keep the
		// lock.
		return nil, errors.Join(err, syscall.Flock(int(file.Fd()), syscall.LOCK_UN), file.Close())
	case errors.Is(err, berrors.ErrTimeout):
		return nil, k.ErrLocked
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%w: %w", k.ErrForeign, err)
	case errors.Is(err, berrors.ErrChecksum):
		return nil, fmt.Errorf("%w: %w", k.ErrDamaged, err)
	case err != nil:
		return nil, err
	}
	if err := k.Guard(func() error { return prepare(db) }); err != nil {
		db.Close()
		return nil, err
	}
	if os.IsNotExist(statErr) {
		if err := syncDirectory(filepath.Dir(path)); err != nil {
			db.Close()
			return nil, err
		}
	}
	return db, nil
}

// syncDirectory makes the name of a new file durable; bbolt sees to its content.
func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Meta returns the meta bucket of the file, or nil for an empty file, which Create is for.
// It is to be called before anything else of the file is read.
//
// It returns ErrDamaged for a file that was cut short, and ErrForeign for another
// program's. What the meta bucket has, its format too, is not checked.
func (k *Kind) Meta(tx *bbolt.Tx) (*bbolt.Bucket, error) {
	// A file that was cut short has pages that the mapping shows and the disk does not:
	// to touch them is a SIGBUS.
	info, err := os.Stat(tx.DB().Path())
	if err != nil {
		return nil, err
	}
	if info.Size() < tx.Size() {
		return nil, fmt.Errorf("%w: it has %d bytes of %d", k.ErrDamaged, info.Size(), tx.Size())
	}
	meta := tx.Bucket(k.MetaBucket)
	if meta == nil {
		if name, _ := tx.Cursor().First(); name != nil {
			return nil, fmt.Errorf("%w: it is the bbolt file of something else", k.ErrForeign)
		}
	}
	return meta, nil
}

// CheckFormat returns ErrForeign if format, the four bytes under FormatKey, is not that of
// this host. That there are four is for the caller to see to, who knows what else the meta
// bucket should have.
func (k *Kind) CheckFormat(format []byte) error {
	if v := binary.BigEndian.Uint32(format); v != k.Format {
		return fmt.Errorf("%w: it has format %d, and this is %d", k.ErrForeign, v, k.Format)
	}
	return nil
}

// Create makes the buckets in an empty file, and the record of its format. After an error
// the transaction must be rolled back.
func (k *Kind) Create(tx *bbolt.Tx) error {
	meta, err := tx.CreateBucket(k.MetaBucket)
	if err != nil {
		return err
	}
	for _, name := range k.Buckets {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return meta.Put(k.FormatKey, binary.BigEndian.AppendUint32(nil, k.Format))
}

// Guard runs f, which uses the file, and turns a panic at damage into ErrDamaged. This is
// not recovering from our own mistakes, which say BUG and go on; bbolt and the mapping of
// a file that others can change leave no other way to outlive damage.
//
// After a panic in a change, what bbolt holds in memory is not to be trusted with another.
func (k *Kind) Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch p := recover().(type) {
		case nil:
		case string:
			if strings.HasPrefix(p, "BUG:") {
				panic(p)
			}
			err = fmt.Errorf("%w: %s", k.ErrDamaged, p)
		default:
			err = fmt.Errorf("%w: %v", k.ErrDamaged, p)
		}
	}()
	return f()
}
