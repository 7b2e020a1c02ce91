package hostif

import (
	"encoding/binary"
	"fmt"
)

var le = binary.LittleEndian

// Errno is what a host function tells its guest: WASI preview 1's numbers.
type Errno uint16

const (
	Success      Errno = 0
	E2BIG        Errno = 1
	EAGAIN       Errno = 6
	EBADF        Errno = 8
	ECANCELED    Errno = 11
	EDEADLK      Errno = 16
	EDQUOT       Errno = 19
	EFAULT       Errno = 21
	EFBIG        Errno = 22
	EHOSTUNREACH Errno = 23
	EINVAL       Errno = 28
	EIO          Errno = 29
	EMFILE       Errno = 33
	ENOENT       Errno = 44
	ENOLCK       Errno = 46
	ENOMEM       Errno = 48
	ENOSPC       Errno = 51
	ENOSYS       Errno = 52
	ENOTSUP      Errno = 58
	EPERM        Errno = 63
	ESPIPE       Errno = 70
	ESTALE       Errno = 72
	TIMEDOUT     Errno = 73
)

var errnoNames = map[Errno]string{
	Success: "ok", E2BIG: "E2BIG", EAGAIN: "EAGAIN", EBADF: "EBADF", ECANCELED: "ECANCELED",
	EDEADLK: "EDEADLK", EDQUOT: "EDQUOT", EFAULT: "EFAULT", EFBIG: "EFBIG",
	EHOSTUNREACH: "EHOSTUNREACH", EINVAL: "EINVAL", EIO: "EIO", EMFILE: "EMFILE",
	ENOENT: "ENOENT", ENOLCK: "ENOLCK", ENOMEM: "ENOMEM", ENOSPC: "ENOSPC", ENOSYS: "ENOSYS",
	ENOTSUP: "ENOTSUP", EPERM: "EPERM", ESPIPE: "ESPIPE", ESTALE: "ESTALE",
	TIMEDOUT: "ETIMEDOUT",
}

// String is the name that C programs know it by.
func (e Errno) String() string {
	if s, ok := errnoNames[e]; ok {
		return s
	}
	return fmt.Sprintf("errno %d", uint16(e))
}
