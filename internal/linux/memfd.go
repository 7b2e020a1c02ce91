package linux

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NewMemfd makes an empty file in memory that can be sealed. The name is for
// /proc/self/fd only; names need not differ. The caller closes the file, and its memory is
// freed with the last descriptor and mapping of it.
func NewMemfd(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make memory file %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// SealMemfd makes a file of NewMemfd immutable for ever, whoever holds it: neither its
// bytes nor its size change any more. It returns EBUSY while a writable shared mapping of
// the file exists; the file is then as it was.
func SealMemfd(f *os.File) error {
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal memory file %s: %w", f.Name(), err)
	}
	return nil
}

// SyncFS writes what the file system that holds dir has not written yet to its device, and
// returns when it is there.
func SyncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		err := unix.Syncfs(int(f.Fd()))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("sync the file system of %s: %w", dir, err)
		}
		return nil
	}
}
