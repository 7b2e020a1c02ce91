package hostif

import (
	"encoding/binary"
	"fmt"
)

var le = binary.LittleEndian

// Errno is what a host function tells its guest: WASI preview 1's numbers.
type Errno uint16

const (
	Success  Errno = 0
	E2BIG    Errno = 1
	EAGAIN   Errno = 6
	EBADF    Errno = 8
	EFAULT   Errno = 21
	EFBIG    Errno = 22
	EINVAL   Errno = 28
	EIO      Errno = 29
	EMFILE   Errno = 33
	ENOSYS   Errno = 52
	ENOTSUP  Errno = 58
	ESPIPE   Errno = 70
	TIMEDOUT Errno = 73
)

var errnoNames = map[Errno]string{
	Success: "ok", E2BIG: "E2BIG", EAGAIN: "EAGAIN", EBADF: "EBADF", EFAULT: "EFAULT",
	EFBIG: "EFBIG", EINVAL: "EINVAL", EIO: "EIO", EMFILE: "EMFILE", ENOSYS: "ENOSYS",
	ENOTSUP: "ENOTSUP", ESPIPE: "ESPIPE", TIMEDOUT: "ETIMEDOUT",
}

// String is the name that C programs know it by.
func (e Errno) String() string {
	if s, ok := errnoNames[e]; ok {
		return s
	}
	return fmt.Sprintf("errno %d", uint16(e))
}
