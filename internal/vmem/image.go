package vmem

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// An Image is what a linear memory contains when its Faaslet starts: Size bytes, of which
// those outside the extents are zero. It is immutable once made.
type Image struct {
	Size    uint64 // of the linear memory, a multiple of WasmPageSize
	extents []extent
	fd      int
	view    uintptr // the file, mapped shared and read-only; what Clean copies from
	length  uint64  // of the file

	refs atomic.Int64 // the maker's, and one for each bound region
}

// An extent is a part of the image that is in the file; [Start, End) are guest addresses.
type extent struct {
	start, end uint64
	offset     uint64 // in the file
}

// Segment is a run of bytes at a guest address.
type Segment struct {
	Offset uint64
	Data   []byte
}

// holeMin is the least run of zeros that is mapped as anonymous memory rather than as a
// hole of the file. A hole costs no mapping, but a page read from it is allocated to the
// file, for as long as the image lives.
const holeMin = 1 << 20

// NewImage makes an image of size bytes from segments, which are sorted by offset, do not
// overlap, and end at or before size. The bytes are copied.
func NewImage(size uint64, segments []Segment) (*Image, error) {
	if size%WasmPageSize != 0 {
		return nil, fmt.Errorf("image size %d is not a multiple of %d", size, WasmPageSize)
	}
	img := &Image{Size: size, fd: -1}
	img.refs.Store(1)
	var end uint64
	for _, s := range segments {
		if len(s.Data) == 0 {
			continue
		}
		if s.Offset < end || s.Offset+uint64(len(s.Data)) > size {
			return nil, fmt.Errorf("image segment at %#x, %d bytes: overlaps or passes the end %#x", s.Offset, len(s.Data), size)
		}
		end = s.Offset + uint64(len(s.Data))
		start := s.Offset &^ (PageSize - 1)
		stop := (end + PageSize - 1) &^ (PageSize - 1)
		if n := len(img.extents); n > 0 && start < img.extents[n-1].end+holeMin {
			img.extents[n-1].end = stop
		} else {
			img.extents = append(img.extents, extent{start: start, end: stop})
		}
	}
	if n := len(img.extents); n > 0 {
		// Small margins become holes: one mapping instead of three.
		if img.extents[0].start < holeMin {
			img.extents[0].start = 0
		}
		if size-img.extents[n-1].end < holeMin {
			img.extents[n-1].end = size
		}
	}
	for i := range img.extents {
		e := &img.extents[i]
		e.offset = img.length
		img.length += e.end - e.start
	}
	if img.length == 0 {
		return img, nil
	}
	if err := img.fill(segments); err != nil {
		img.destroy()
		return nil, err
	}
	return img, nil
}

// fill makes the file and seals it.
func (img *Image) fill(segments []Segment) error {
	fd, err := unix.MemfdCreate("faasm-image", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("make image file: %w", err)
	}
	img.fd = fd
	if err := unix.Ftruncate(fd, int64(img.length)); err != nil {
		return fmt.Errorf("size image file to %d: %w", img.length, err)
	}
	i := 0
	for _, s := range segments {
		if len(s.Data) == 0 {
			continue
		}
		for s.Offset >= img.extents[i].end {
			i++
		}
		e := img.extents[i]
		if err := pwriteAll(fd, s.Data, int64(e.offset+s.Offset-e.start)); err != nil {
			return fmt.Errorf("write image: %w", err)
		}
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal image: %w", err)
	}
	view, err := mapFile(0, uintptr(img.length), unix.PROT_READ, unix.MAP_SHARED, fd, 0)
	if err != nil {
		return fmt.Errorf("map image: %w", err)
	}
	img.view = view
	return nil
}

func pwriteAll(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// Bytes is how much the image holds in its file, holes included.
func (img *Image) Bytes() uint64 { return img.length }

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
	if img.fd >= 0 {
		_ = unix.Close(img.fd)
		img.fd = -1
	}
}
