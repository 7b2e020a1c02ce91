package vmem

import (
	"errors"
	"fmt"

	"github.com/faasm-go/faasm/internal/linux"
)

// newImageSegments makes an image of size bytes from segments, which are sorted by offset,
// do not overlap, and end at or before size. The bytes are copied.
func newImageSegments(size uint64, segments []Segment) (*Image, error) {
	var extents []Extent
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
		if n := len(extents); n > 0 && start < extents[n-1].End+HoleMin {
			extents[n-1].End = stop
		} else {
			extents = append(extents, Extent{Start: start, End: stop})
		}
	}
	if n := len(extents); n > 0 {
		// Small margins become holes: one mapping instead of three.
		if extents[0].Start < HoleMin {
			extents[0].Start = 0
		}
		if size-extents[n-1].End < HoleMin {
			extents[n-1].End = size
		}
	}
	var length uint64
	for i := range extents {
		e := &extents[i]
		e.Offset = length
		length += e.End - e.Start
	}
	if length == 0 {
		return NewImage(nil, size, nil)
	}
	file, err := linux.NewMemfd("faasm-image")
	if err != nil {
		return nil, err
	}
	img, err := func() (*Image, error) {
		if err := file.Truncate(int64(length)); err != nil {
			return nil, fmt.Errorf("size image file to %d: %w", length, err)
		}
		i := 0
		for _, s := range segments {
			if len(s.Data) == 0 {
				continue
			}
			for s.Offset >= extents[i].End {
				i++
			}
			if _, err := file.WriteAt(s.Data, int64(extents[i].Offset+s.Offset-extents[i].Start)); err != nil {
				return nil, fmt.Errorf("write image: %w", err)
			}
		}
		if err := linux.SealMemfd(file); err != nil {
			return nil, err
		}
		return NewImage(file, size, extents)
	}()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return img, nil
}
