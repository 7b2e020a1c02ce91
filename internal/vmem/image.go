package vmem

import (
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// An Image is what a linear memory contains when its Faaslet starts: Size bytes, of which
// those outside the extents are zero. It is immutable once made.
type Image struct {
	Size    uint64 // of the linear memory, a multiple of WasmPageSize
	extents []Extent
	file    *os.File // nil if there are no extents
	view    uintptr  // the file, mapped shared and read-only; what cleaning copies from
	length  uint64   // of the view

	refs atomic.Int64 // the maker's, and one for each bound region
}

// An Extent is a part of an image that is in its file: the guest addresses [Start, End)
// are the file's bytes from Offset. All three are multiples of PageSize.
type Extent struct {
	Start, End uint64
	Offset     uint64
}

// Segment is a run of bytes at a guest address.
type Segment struct {
	Offset uint64
	Data   []byte
}

// HoleMin is the least run of zeros that is worth being left out of an image's extents.
// Each gap between two extents costs a region two mappings, of which a process has few
// (vm.max_map_count); zeros in the file are a hole of it, which costs nothing until a
// guest touches it, and then a page of the file's for as long as the image lives.
const HoleMin = 1 << 20

// NewImage makes an image of size bytes whose content is the extents of a sealed file in
// memory (linux.SealMemfd), sorted by guest address and apart from each other, and zeros
// elsewhere. With no extents the file may be nil. The image owns the file and closes it;
// after an error the file is the caller's still.
func NewImage(file *os.File, size uint64, extents []Extent) (*Image, error) {
	if size%WasmPageSize != 0 {
		return nil, fmt.Errorf("image size %d is not a multiple of %d", size, WasmPageSize)
	}
	img := &Image{Size: size, file: file, extents: extents}
	img.refs.Store(1)
	if len(extents) == 0 {
		return img, nil
	}
	fd := int(file.Fd())
	// Cleaning and mapping rely on it: a page beyond the end of a file that was truncated
	// raises SIGBUS, and one that was written would show in every Faaslet.
	const sealed = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK
	if seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err != nil {
		return nil, fmt.Errorf("read the seals of image file %s: %w", file.Name(), err)
	} else if seals&sealed != sealed {
		return nil, fmt.Errorf("image file %s is not sealed against writing and shrinking", file.Name())
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("read the size of image file %s: %w", file.Name(), err)
	}
	img.length = uint64(st.Size)
	if err := checkExtents(extents, size, img.length); err != nil {
		return nil, err
	}
	view, err := mapFile(0, uintptr(img.length), unix.PROT_READ, unix.MAP_SHARED, fd, 0)
	if err != nil {
		return nil, fmt.Errorf("map image file %s: %w: %w", file.Name(), ErrExhausted, err)
	}
	img.view = view
	return img, nil
}

func checkExtents(extents []Extent, size, length uint64) error {
	var end uint64
	for _, e := range extents {
		switch {
		case (e.Start|e.End|e.Offset)%PageSize != 0:
			return fmt.Errorf("image extent %+v: not at multiples of %d", e, PageSize)
		case e.Start >= e.End:
			return fmt.Errorf("image extent %+v: empty", e)
		case e.Start < end:
			return fmt.Errorf("image extent %+v: begins before %#x, the end of the one before it", e, end)
		case e.End > size:
			return fmt.Errorf("image extent %+v: ends past the image's %#x bytes", e, size)
		case e.Offset > length || e.End-e.Start > length-e.Offset:
			return fmt.Errorf("image extent %+v: ends past its file's %#x bytes", e, length)
		}
		end = e.End
	}
	return nil
}

// Bytes is the memory that the image's file takes now: its holes count from when a guest
// first touched them.
//
// Preconditions: a pool of the image, or the caller, still holds it.
func (img *Image) Bytes() uint64 {
	if img.file == nil {
		return 0
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(img.file.Fd()), &st); err != nil {
		panic(fmt.Sprintf("BUG: stat image file: %v", err))
	}
	return uint64(st.Blocks) * 512
}

// mappings is how many a bound region has: its stack, the guard behind its memory, and its
// memory, in which each extent may have zeros before it.
func (img *Image) mappings() int { return 2 + max(1, 2*len(img.extents)-1) }

func (img *Image) retain() { img.refs.Add(1) }

// release gives up one reference; the last one frees the file.
func (img *Image) release() {
	if img.refs.Add(-1) == 0 {
		img.destroy()
	}
}

func (img *Image) destroy() {
	if img.view != 0 {
		_ = unmap(img.view, uintptr(img.length))
		img.view = 0
	}
	if img.file != nil {
		_ = img.file.Close()
		img.file = nil
	}
}
