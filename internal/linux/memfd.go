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

// SealSize makes sure that a file of NewMemfd never shrinks, whoever holds it: what of it is
// mapped can be touched for ever. It can grow, and be written.
func SealSize(f *os.File) error {
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		return fmt.Errorf("seal the size of memory file %s: %w", f.Name(), err)
	}
	return nil
}

// PunchHole gives the memory of n bytes of f, from off, back to the kernel. They read as
// zeroes afterwards, also where they are mapped shared; the file's size stays as it is.
func PunchHole(f *os.File, off, n int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("punch a hole of %d bytes at %d in %s: %w", n, off, f.Name(), err)
		}
		return nil
	}
}

// Blocks is how many bytes of memory or storage the file takes; its holes take none.
func Blocks(f *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("read the size of file %s: %w", f.Name(), err)
	}
	return uint64(st.Blocks) * 512, nil
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
