// Package seal authenticates bytes that the hosts of a cluster hand each other through a
// store which they do not trust. Machine code is among them: who could replace it there
// would otherwise run what he likes on every host.
//
// All hosts of a cluster hold one key, in a file. What one of them seals, the others open;
// what anyone else made, changed, cut short or moved to another place they refuse. Nothing
// is encrypted, and nothing says when a thing was sealed: a store may still hand out an
// older thing that bore the same label.
//
// The package does not know what is sealed, nor where it is kept.
package seal

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// keySize is the length of a key in bytes; in its file it is written in hexadecimal.
const keySize = 32

// A Key is the secret of a cluster. It is never printed: all that fmt shows of it is its
// ID. The zero Key is no key, and using it is a panic. Keys are told apart by their IDs.
type Key struct {
	// A pointer, because fmt prints the unexported field of some other struct without
	// asking Format.
	secret *[keySize]byte
}

// NewKey makes a key from the system's randomness.
func NewKey() Key {
	k := Key{new([keySize]byte)}
	rand.Read(k.secret[:]) // never returns an error
	return k
}

// OpenKey reads the key file at path, and makes it, readable by its owner only, if it is
// not there. Hosts that do so at once end with the same key, and a crash leaves the whole
// file or none. The directory must exist.
func OpenKey(path string) (Key, error) {
	k, err := ReadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := makeKeyFile(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return Key{}, fmt.Errorf("make key file %s: %w", path, err)
	}
	return ReadKey(path) // ours, or that of another who was first
}

// ReadKey reads the key file at path: 64 hexadecimal digits and a newline. It refuses a
// file that others than its owner can read or write. If there is none, the error is
// fs.ErrNotExist.
func ReadKey(path string) (Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return Key{}, fmt.Errorf("read key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Key{}, fmt.Errorf("read key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return Key{}, fmt.Errorf("read key file %s: it is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return Key{}, fmt.Errorf("read key file %s: others than its owner have access (mode %04o): chmod 600 %s", path, mode, path)
	}
	// One byte more than there may be tells a longer file.
	text, err := io.ReadAll(io.LimitReader(f, 2*keySize+2))
	if err != nil {
		return Key{}, fmt.Errorf("read key file: %w", err)
	}
	digits := bytes.TrimSuffix(text, []byte("\n"))
	if len(digits) != 2*keySize {
		return Key{}, fmt.Errorf("read key file %s: its length is %d bytes; it must hold %d hexadecimal digits and a newline", path, info.Size(), 2*keySize)
	}
	k := Key{new([keySize]byte)}
	if _, err := hex.Decode(k.secret[:], digits); err != nil {
		// The decoder's error would quote a byte of the file.
		return Key{}, fmt.Errorf("read key file %s: it holds something else than hexadecimal digits", path)
	}
	if *k.secret == ([keySize]byte{}) {
		return Key{}, fmt.Errorf("read key file %s: the key is all zeros; remove the file to have one made", path)
	}
	return k, nil
}

// makeKeyFile puts a new key at path, or returns fs.ErrExist if a file is there. The key
// is written beside its place and then linked there: unlike a rename, a link never
// replaces what another process has put there in between.
func makeKeyFile(path string) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	k := NewKey()
	_, err = fmt.Fprintf(f, "%x\n", *k.secret)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ID is the key's public name, 16 hexadecimal digits. It tells nothing of the key.
func (k Key) ID() string { return hex.EncodeToString(k.id()) }

// String is the key's ID.
func (k Key) String() string { return k.ID() }

// Format writes the key's ID under every verb, so that no format shows the key.
func (k Key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, k.ID()) }

func (k Key) id() []byte { return k.prf("id").Sum(nil)[:idSize] }

// Derive returns a key for another use, which depends on the purpose and each of the data,
// and tells nothing of k.
func (k Key) Derive(purpose string, data ...string) [32]byte {
	return [32]byte(k.prf(append([]string{"derive", purpose}, data...)...).Sum(nil))
}

// prf is HMAC-SHA256 under k of the parts, each after its length, so that no two lists of
// parts are the same bytes. The first part keeps the uses of k apart.
func (k Key) prf(parts ...string) hash.Hash {
	if k.secret == nil {
		panic("BUG: seal: use of the zero Key")
	}
	return newMAC(k.secret[:], parts...)
}

func newMAC(key []byte, parts ...string) hash.Hash {
	mac := hmac.New(sha256.New, key)
	for _, p := range parts {
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(p)))
		mac.Write(n[:])
		io.WriteString(mac, p)
	}
	return mac
}
