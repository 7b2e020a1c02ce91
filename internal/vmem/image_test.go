package vmem

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/faasm-go/faasm/internal/linux"
	"golang.org/x/sys/unix"
)

func memfd(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := linux.NewMemfd("test")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

func seal(t *testing.T, f *os.File) *os.File {
	t.Helper()
	if err := linux.SealMemfd(f); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestNewImage_refusesBadFilesAndExtents(t *testing.T) {
	const page, size = PageSize, 4 * WasmPageSize
	sealed := func(t *testing.T) *os.File { return seal(t, memfd(t, 8*page)) }
	seals := func(seals int) func(*testing.T) *os.File {
		return func(t *testing.T) *os.File {
			f := memfd(t, 8*page)
			if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
				t.Fatal(err)
			}
			return f
		}
	}
	good := []Extent{{0, page, 0}}
	for _, tt := range []struct {
		name    string
		file    func(*testing.T) *os.File
		size    uint64
		extents []Extent
		want    string
	}{
		{"a file that anybody may write", func(t *testing.T) *os.File { return memfd(t, 8*page) }, size, good, "not sealed"},
		{"a file that may shrink", seals(unix.F_SEAL_WRITE | unix.F_SEAL_GROW), size, good, "not sealed"},
		{"a file that may be written, but not sized", seals(unix.F_SEAL_SHRINK | unix.F_SEAL_GROW), size, good, "not sealed"},
		{"a file that may be written by who has it mapped", seals(unix.F_SEAL_FUTURE_WRITE | unix.F_SEAL_SHRINK), size, good, "not sealed"},
		{"a file on a disk", func(t *testing.T) *os.File {
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, make([]byte, 8*page), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}, size, good, "seals"},
		{"an empty file", func(t *testing.T) *os.File { return seal(t, memfd(t, 0)) }, size, good, "past its file's"},
		{"a size between Wasm pages", sealed, size + 1, good, "not a multiple"},
		{"an empty extent", sealed, size, []Extent{{page, page, 0}}, "empty"},
		{"an extent that ends before it begins", sealed, size, []Extent{{2 * page, page, 0}}, "empty"},
		{"a start between pages", sealed, size, []Extent{{1, page, 0}}, "not at multiples"},
		{"an end between pages", sealed, size, []Extent{{0, page + 512, 0}}, "not at multiples"},
		{"an offset between pages", sealed, size, []Extent{{0, page, 8}}, "not at multiples"},
		{"overlapping", sealed, size, []Extent{{0, 2 * page, 0}, {page, 3 * page, 2 * page}}, "before"},
		{"not sorted", sealed, size, []Extent{{2 * page, 3 * page, 0}, {0, page, page}}, "before"},
		{"past the image", sealed, size, []Extent{{size - page, size + page, 0}}, "past the image's"},
		{"far past the image", sealed, size, []Extent{{1 << 62, 1<<62 + page, 0}}, "past the image's"},
		{"past the file", sealed, size, []Extent{{0, 2 * page, 7 * page}}, "past its file's"},
		{"longer than the file", sealed, size, []Extent{{0, 9 * page, 0}}, "past its file's"},
		{"an offset that wraps", sealed, size, []Extent{{0, page, 1<<64 - page}}, "past its file's"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			maps, err := linux.Maps()
			if err != nil {
				t.Fatal(err)
			}
			f := tt.file(t)
			if _, err := NewImage(f, tt.size, tt.extents); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("NewImage: %v; want an error with %q", err, tt.want)
			}
			if err := f.Close(); err != nil {
				t.Errorf("after the error the file is not the caller's any more: %v", err)
			}
			if now, _ := linux.Maps(); now > maps+2 { // Go's heap may have grown
				t.Errorf("mappings went from %d to %d", maps, now)
			}
		})
	}
}

// The file's parts may lie in it in any order, and between other things.
func TestNewImage_mapsExtents(t *testing.T) {
	const page = PageSize
	f := memfd(t, 4*page+100)
	for i, b := range []byte{'h', '1', '2', '3'} {
		if _, err := f.WriteAt(bytes.Repeat([]byte{b}, page), int64(i)*page); err != nil {
			t.Fatal(err)
		}
	}
	img, err := NewImage(seal(t, f), 2*WasmPageSize, []Extent{{page, 2 * page, 3 * page}, {2 * page, 3 * page, page}, {20 * page, 21 * page, 2 * page}})
	if err != nil {
		t.Fatal(err)
	}
	p := NewPool(newArena(t), img, 8)
	defer p.Close()
	want := make([]byte, img.Size)
	copy(want[page:], bytes.Repeat([]byte{'3'}, page))
	copy(want[2*page:], bytes.Repeat([]byte{'1'}, page))
	copy(want[20*page:], bytes.Repeat([]byte{'2'}, page))
	for round := range 3 {
		r := take(t, p)
		if !bytes.Equal(memory(r), want) {
			t.Errorf("round %d: the region is not what the extents say", round)
		}
		for i := range memory(r) {
			memory(r)[i] = 0xee
		}
		p.Give(r, img.Size)
	}
}

func TestImage_Bytes_countsWhatIsResident(t *testing.T) {
	img, err := newImageSegments(1<<20, []Segment{{0, []byte("x")}, {600 << 10, []byte("y")}})
	if err != nil {
		t.Fatal(err)
	}
	p := NewPool(newArena(t), img, 8)
	defer p.Close()
	if got := img.Bytes(); got != 2*PageSize {
		t.Errorf("two pages in a file of 1 MiB: Bytes %d; want %d", got, 2*PageSize)
	}
	r := take(t, p)
	memory(r)[300<<10] = 1
	p.Give(r, 1<<20)
	if got := img.Bytes(); got != 3*PageSize {
		t.Errorf("after a guest wrote to a hole: Bytes %d; want %d", got, 3*PageSize)
	}
	zeros, err := NewImage(nil, 1<<20, nil)
	if err != nil || zeros.Bytes() != 0 {
		t.Errorf("an image of zeros: Bytes %d, %v; want 0", zeros.Bytes(), err)
	}
}

func TestImage_release_freesTheFile(t *testing.T) {
	f := seal(t, memfd(t, PageSize))
	img, err := NewImage(f, WasmPageSize, []Extent{{0, PageSize, 0}})
	if err != nil {
		t.Fatal(err)
	}
	view := img.view
	img.release()
	if _, err := f.Stat(); err == nil {
		t.Error("the file is open still")
	}
	if perms := permissions(t, view); perms == "r--s" {
		t.Error("the file is mapped still")
	}
}
