package linux

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func (p *Pagemap) written(start, end uintptr, vec []PageRange) (int, uintptr, error) {
	arg := pmScanArg{
		start: uint64(start), end: uint64(end),
		vec: uint64(uintptr(unsafe.Pointer(&vec[0]))), vecLen: uint64(len(vec)),
		categoryInverted: pageIsFile | pageIsPFNZero,
		categoryMask:     pageIsFile | pageIsPFNZero,
		categoryAnyof:    pageIsPresent | pageIsSwapped,
		returnMask:       pageIsPresent,
	}
	arg.size = uint64(unsafe.Sizeof(arg))
	for {
		// SAFETY: arg's address is converted in the call itself. vec's is not, so vec must
		// not be on a stack, which may move; Written says so.
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(p.fd), pagemapScan, uintptr(unsafe.Pointer(&arg)))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, start, errno
		}
		return int(n), uintptr(arg.walkEnd), nil
	}
}

// Readable tells whether this process can read the byte at addr, without a fault: the
// kernel is asked to write it to a pipe.
func Readable(addr uintptr) bool {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return false
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	_, _, errno := unix.Syscall(unix.SYS_WRITE, uintptr(fds[1]), addr, 1)
	return errno == 0
}
