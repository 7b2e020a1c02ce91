package linux

import (
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSetUserTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	tcp := c.(*net.TCPConn)
	if err := SetUserTimeout(tcp, 15*time.Second); err != nil {
		t.Fatal(err)
	}
	if got := userTimeout(t, tcp); got != 15_000 {
		t.Errorf("TCP_USER_TIMEOUT is %d ms, want 15000", got)
	}
	c.Close()
	if err := SetUserTimeout(tcp, time.Second); err == nil {
		t.Error("no error of a closed connection")
	}
}

func userTimeout(t *testing.T, c syscall.Conn) (ms int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { ms, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ms
}
