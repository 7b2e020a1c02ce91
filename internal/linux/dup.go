package linux

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Dup returns a second descriptor of an open file. The caller closes it; the file stays
// open until both are closed.
func Dup(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor of %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
