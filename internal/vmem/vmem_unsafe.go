package vmem

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The x/sys mmap wrappers keep a table of slices under a lock and refuse fixed addresses;
// these speak in addresses.

func mapAnon(addr, length uintptr, prot, flags int) (uintptr, error) {
	return mmap(addr, length, prot, flags|unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, -1, 0)
}

// mapInRegion is mapAnon at a fixed address in a region, whose mappings are all alike in what
// they tell the kernel, or it could not merge them.
func mapInRegion(addr, length uintptr, prot int) error {
	if _, err := mapAnon(addr, length, prot, unix.MAP_FIXED|unix.MAP_NORESERVE); err != nil {
		return err
	}
	_ = smallPages(addr, length) // for what relies on it, bind asks again
	return nil
}

// smallPages has the kernel never put a huge page there, neither when somebody writes nor, as
// it else may, at any later time (khugepaged).
func smallPages(addr, length uintptr) error {
	err := madvise(addr, length, unix.MADV_NOHUGEPAGE)
	if err == unix.EINVAL {
		return nil // a kernel that has none
	}
	return err
}

func mapFile(addr, length uintptr, prot, flags, fd int, offset int64) (uintptr, error) {
	return mmap(addr, length, prot, flags, fd, offset)
}

func mmap(addr, length uintptr, prot, flags, fd int, offset int64) (uintptr, error) {
	p, _, errno := unix.Syscall6(unix.SYS_MMAP, addr, length, uintptr(prot), uintptr(flags), uintptr(fd), uintptr(offset))
	if errno != 0 {
		return 0, errno
	}
	return p, nil
}

func unmap(addr, length uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, addr, length, 0); errno != 0 {
		return errno
	}
	return nil
}

func mprotect(addr, length uintptr, prot int) error {
	if _, _, errno := unix.Syscall(unix.SYS_MPROTECT, addr, length, uintptr(prot)); errno != 0 {
		return errno
	}
	return nil
}

func madvise(addr, length uintptr, advice int) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, addr, length, uintptr(advice))
		switch errno {
		case 0:
			return nil
		case unix.EINTR, unix.EAGAIN:
			continue
		}
		return errno
	}
}

// bytesAt is the memory at addr as a slice. Preconditions: all of it is mapped, and stays
// so for as long as the slice is used.
func bytesAt(addr, length uintptr) []byte {
	// SAFETY: addr is memory from mmap, outside of Go's heap, which the collector neither
	// moves nor frees. The conversion goes through a pointer to addr because vet takes a
	// direct one for a mistake.
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&addr)), length)
}
