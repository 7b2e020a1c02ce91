// Package redistest runs real Redis servers for tests, redis-server on temporary
// directories, as processes of their own on free ports. Where there is no redis-server,
// tests are skipped, unless REQUIRE_FEATURES names redis.
//
// Nothing but tests imports it.
package redistest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Need skips a test where there is no redis-server, or fails it on a host whose
// REQUIRE_FEATURES names redis.
func Need(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err == nil {
		return
	}
	const why = "there is no redis-server"
	if slices.Contains(strings.Split(os.Getenv("REQUIRE_FEATURES"), ","), "redis") {
		t.Fatalf("redis is required, and %s", why)
	}
	t.Skip(why)
}

// Server is a redis-server on a port of the loopback interface.
type Server struct {
	Port int

	dir  string
	args []string
	cmd  *exec.Cmd
	out  bytes.Buffer
}

// FreePort returns a port that nobody listened on a moment ago.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// New starts a server for a test, which ends with it. It keeps nothing on a disk unless
// args, options of redis-server, say so. %d in them is the port.
func New(t testing.TB, args ...string) *Server {
	t.Helper()
	Need(t)
	s, err := Open(t.TempDir(), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Kill() })
	return s
}

// Open is New for a server that outlives a test. Its files are in dir. The caller kills it.
func Open(dir string, args ...string) (*Server, error) {
	port, err := FreePort()
	if err != nil {
		return nil, err
	}
	s := &Server{Port: port, dir: dir, args: args}
	return s, s.Start()
}

// Start starts a server that was killed, on its port and directory, and returns when it
// accepts connections.
func (s *Server) Start() error {
	args := []string{"--bind", "127.0.0.1", "--port", fmt.Sprint(s.Port), "--dir", s.dir, "--save", ""}
	if slices.Contains(s.args, "--tls-port") {
		args[3] = "0"
	}
	for _, a := range s.args {
		args = append(args, strings.ReplaceAll(a, "%d", fmt.Sprint(s.Port)))
	}
	s.out.Reset()
	s.cmd = exec.Command("redis-server", args...)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Port))
		if err == nil {
			return c.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("start redis-server: %w: %s", err, s.Kill())
		}
		time.Sleep(5 * time.Millisecond) // between looks at another process
	}
}

// Signal sends the server a signal.
func (s *Server) Signal(sig syscall.Signal) error { return s.cmd.Process.Signal(sig) }

// Kill ends the server as a crash does, and returns what it said. It may be killed
// already.
func (s *Server) Kill() string {
	s.cmd.Process.Kill()
	s.cmd.Wait()
	return s.out.String()
}

// URL is the server's address.
func (s *Server) URL() string { return fmt.Sprintf("redis://127.0.0.1:%d", s.Port) }
