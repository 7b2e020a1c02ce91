package seal

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// child makes the test binary print the ID of the key at that path, made if need be.
var child = flag.String("seal.child", "", "open the key file at this path and print its ID")

func TestMain(m *testing.M) {
	flag.Parse()
	if *child == "" {
		os.Exit(m.Run())
	}
	k, err := OpenKey(*child)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print(k.ID())
}

// fixed is a key that is the same in every run.
func fixed(b byte) Key {
	k := Key{new([keySize]byte)}
	for i := range k.secret {
		k.secret[i] = b
	}
	return k
}

func TestReadKey_refuses(t *testing.T) {
	digits := strings.Repeat("a5", keySize)
	for _, c := range []struct {
		name string
		text string
		mode os.FileMode
		want string // error, with PATH for the file's
	}{
		{"empty", "", 0o600, "read key file PATH: its length is 0 bytes; it must hold 64 hexadecimal digits and a newline"},
		{"newline only", "\n", 0o600, "read key file PATH: its length is 1 bytes; it must hold 64 hexadecimal digits and a newline"},
		{"one digit short", digits[1:] + "\n", 0o600, "read key file PATH: its length is 64 bytes; it must hold 64 hexadecimal digits and a newline"},
		{"one digit more", digits + "a\n", 0o600, "read key file PATH: its length is 66 bytes; it must hold 64 hexadecimal digits and a newline"},
		{"two newlines", digits + "\n\n", 0o600, "read key file PATH: its length is 66 bytes; it must hold 64 hexadecimal digits and a newline"},
		{"carriage return", digits + "\r\n", 0o600, "read key file PATH: its length is 66 bytes; it must hold 64 hexadecimal digits and a newline"},
		{"huge", strings.Repeat("a5", 1<<20), 0o600, "read key file PATH: its length is 2097152 bytes; it must hold 64 hexadecimal digits and a newline"},
		{"not hexadecimal", strings.Repeat("g", 2*keySize) + "\n", 0o600, "read key file PATH: it holds something else than hexadecimal digits"},
		{"zeros", strings.Repeat("0", 2*keySize) + "\n", 0o600, "read key file PATH: the key is all zeros; remove the file to have one made"},
		{"others read", digits + "\n", 0o604, "read key file PATH: others than its owner have access (mode 0604): chmod 600 PATH"},
		{"group reads", digits + "\n", 0o640, "read key file PATH: others than its owner have access (mode 0640): chmod 600 PATH"},
		{"group writes", digits + "\n", 0o620, "read key file PATH: others than its owner have access (mode 0620): chmod 600 PATH"},
		{"directory", "", fs.ModeDir, "read key file PATH: it is not a regular file"},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if c.mode.IsDir() {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		} else if err := errors.Join(os.WriteFile(path, []byte(c.text), 0o600), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		want := strings.ReplaceAll(c.want, "PATH", path)
		for name, open := range map[string]func(string) (Key, error){"ReadKey": ReadKey, "OpenKey": OpenKey} {
			k, err := open(path)
			if err == nil || err.Error() != want || k != (Key{}) {
				t.Errorf("%s: %s: %v, want %s and no key", c.name, name, err, want)
			}
		}
		if text, err := os.ReadFile(path); !c.mode.IsDir() && string(text) != c.text {
			t.Errorf("%s: the file has changed (%v)", c.name, err)
		}
	}

	path := filepath.Join(t.TempDir(), "none", "key")
	if _, err := ReadKey(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("ReadKey of no file: %v, want fs.ErrNotExist with the path", err)
	}
	if _, err := OpenKey(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("OpenKey in no directory: %v, want fs.ErrNotExist with the path", err)
	}
}

func TestReadKey_forms(t *testing.T) {
	for _, text := range []string{strings.Repeat("a5", keySize) + "\n", strings.Repeat("a5", keySize), strings.Repeat("A5", keySize) + "\n"} {
		for _, mode := range []os.FileMode{0o600, 0o400} {
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, []byte(text), mode); err != nil {
				t.Fatal(err)
			}
			if k, err := ReadKey(path); err != nil || k.ID() != fixed(0xa5).ID() {
				t.Errorf("ReadKey of %q, mode %o: %v, %v", text, mode, k, err)
			}
		}
	}
}

func TestOpenKey_makes(t *testing.T) {
	// A mask that takes nothing away shows that the mode does not come from it.
	defer syscall.Umask(syscall.Umask(0))
	dir := t.TempDir()
	path := filepath.Join(dir, "cluster.key")
	made, err := OpenKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 || info.Size() != 65 {
		t.Errorf("key file has mode %v and %d bytes, want 0600 and 65", info.Mode(), info.Size())
	}
	if files, err := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("files beside the key: %v, %v", files, err)
	}
	for name, open := range map[string]func(string) (Key, error){"ReadKey": ReadKey, "OpenKey": OpenKey} {
		if k, err := open(path); err != nil || k.ID() != made.ID() {
			t.Errorf("%s after it was made: %v, %v, want %v", name, k, err, made)
		}
	}
	if other, err := OpenKey(filepath.Join(dir, "other.key")); err != nil || other.ID() == made.ID() {
		t.Errorf("a second key file holds the key of the first (%v)", err)
	}
}

// Goroutines and processes that open a key which is not there yet all end with one.
func TestOpenKey_race(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "key")
		ids := make([]string, 8)
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				k, err := OpenKey(path)
				if err != nil {
					t.Error(err)
					return
				}
				ids[i] = k.ID()
			})
		}
		wg.Wait()
		for _, id := range ids {
			if id != ids[0] {
				t.Fatalf("keys %v, want the same one", ids)
			}
		}
	}

	path := filepath.Join(t.TempDir(), "key")
	ids := make([]string, 4)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			out, err := exec.CommandContext(t.Context(), os.Args[0], "-seal.child", path).CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
			ids[i] = string(out)
		})
	}
	wg.Wait()
	k, err := ReadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if id != k.ID() {
			t.Errorf("processes got the keys %v, the file holds %s", ids, k.ID())
		}
	}
}

// Of a crash between the steps a file beside the key's may be left, and no half key.
func TestOpenKey_afterCrash(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	if err := os.WriteFile(filepath.Join(dir, ".key.new-1"), []byte("a5a5"), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := OpenKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ReadKey(path); err != nil || again.ID() != k.ID() {
		t.Errorf("ReadKey: %v, %v, want %v", again, err, k)
	}
}

func TestMakeKeyFile_keepsWhatIsThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("somebody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := makeKeyFile(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("makeKeyFile over a file: %v, want fs.ErrExist", err)
	}
	if text, err := os.ReadFile(path); string(text) != "somebody's" {
		t.Errorf("the file holds %q now (%v)", text, err)
	}
}

func TestKey_isNotPrinted(t *testing.T) {
	k := fixed(0xa5)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%T%v"} {
		got := fmt.Sprintf(verb, k)
		if strings.Contains(verb, "T") {
			got = fmt.Sprintf(verb, k, k)
		}
		if !strings.Contains(got, k.ID()) || strings.Contains(strings.ToLower(got), "a5a5") || strings.Contains(got, "165") {
			t.Errorf("%s of a key is %s", verb, got)
		}
		if got := fmt.Sprintf(verb, &k); strings.Contains(got, "165") || strings.Contains(strings.ToLower(got), "a5a5") {
			t.Errorf("%s of a key's address is %s", verb, got)
		}
	}
	// fmt does not call the methods of fields that are not exported.
	if got := fmt.Sprintf("%+v %#v", struct{ key Key }{k}, []any{struct{ key *Key }{&k}}); strings.Contains(got, "165") || strings.Contains(got, "0xa5, 0xa5") {
		t.Errorf("a struct that holds a key is %s", got)
	}
}

// The values are part of the format of what is sealed and derived: other ones would lock
// hosts out of their own store. They were computed once by another program:
//
//	prf() { python3 -c 'import hmac,hashlib,struct,sys; print(hmac.new(b"\xa5"*32, b"".join(struct.pack("<Q",len(p))+p for p in [a.encode() for a in sys.argv[1:]]), hashlib.sha256).hexdigest())' "$@"; }
func TestKey_derived(t *testing.T) {
	k := fixed(0xa5)
	if got, want := k.ID(), "3f25a1d60c32094b"; got != want {
		t.Errorf("ID is %s, want %s", got, want)
	}
	seen := map[string]string{}
	for _, c := range []struct {
		purpose string
		data    []string
		want    string // "": only unlike the others
	}{
		{"", nil, ""},
		{"ab", nil, ""},
		{"a", []string{"b"}, ""},
		{"a", []string{"b", ""}, ""},
		{"a", []string{"", "b"}, ""},
		{"", []string{"ab"}, ""},
		{"random", []string{"t", "f"}, "7f6358233a23035f591bbc5cd77b5c127054e3094df30749232b12620a1064f6"},
		{"random", []string{"tf"}, ""},
	} {
		sub := k.Derive(c.purpose, c.data...)
		got := fmt.Sprintf("%x", sub)
		if c.want != "" && got != c.want {
			t.Errorf("Derive(%q, %q) is %s, want %s", c.purpose, c.data, got, c.want)
		}
		call := fmt.Sprintf("Derive(%q, %q)", c.purpose, c.data)
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s are the same", call, other)
		}
		seen[got] = call
		if sub == fixed(0xa6).Derive(c.purpose, c.data...) {
			t.Errorf("%s does not depend on the key", call)
		}
	}
}

func TestKey_zeroPanics(t *testing.T) {
	defer func() {
		if r := recover(); r != "BUG: seal: use of the zero Key" {
			t.Errorf("recovered %v", r)
		}
	}()
	Key{}.Derive("x")
}
