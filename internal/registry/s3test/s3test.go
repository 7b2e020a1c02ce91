// Package s3test runs a real S3 server for tests, versitygw on a temporary directory, as a
// process of its own. It is one server for all tests of a test binary, each with its own
// bucket. The server is pinned in test/s3 and built by scripts/setup; where it is missing,
// tests are skipped, unless REQUIRE_FEATURES names s3.
//
// It is no stand-in for Amazon's service in what it costs or how it fails. Nothing but
// tests imports it.
package s3test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The credentials that Bucket puts into the environment of the test, where the AWS SDK of
// this process and of its children finds them.
const (
	accessKey = "s3test"
	secretKey = "s3test-secret"
)

type server struct {
	dir      string // holds all of it
	endpoint string // URL
	process  *os.Process
	ended    chan struct{} // closed when the process has ended
	buckets  int
}

var running struct {
	sync.Mutex
	tried bool
	s     *server
	err   error
}

// Bucket returns the URL of a new bucket, as registry.Open takes it. The first call starts
// the server and sets the AWS variables of the process's environment.
func Bucket(tb testing.TB) string {
	tb.Helper()
	running.Lock()
	defer running.Unlock()
	if !running.tried {
		running.tried = true
		running.s, running.err = start()
	}
	switch {
	case errors.Is(running.err, errMissing):
		if slices.Contains(strings.Split(os.Getenv("REQUIRE_FEATURES"), ","), "s3") {
			tb.Fatalf("feature s3 is required: %v", running.err)
		}
		tb.Skipf("feature s3 is missing: %v", running.err)
	case running.err != nil:
		tb.Fatal(running.err)
	}
	s := running.s
	s.buckets++
	name := fmt.Sprintf("bucket-%d", s.buckets)
	if err := os.Mkdir(filepath.Join(s.dir, "data", name), 0o700); err != nil {
		tb.Fatal(err)
	}
	return fmt.Sprintf("s3://%s?region=us-east-1&endpoint=%s&use_path_style=true", name, s.endpoint)
}

// Stop ends the server, if it was started, and deletes its buckets. TestMain calls it when
// the tests are done.
func Stop() {
	running.Lock()
	defer running.Unlock()
	if s := running.s; s != nil {
		s.process.Kill()
		<-s.ended
		os.RemoveAll(s.dir)
	}
	running.s, running.err, running.tried = nil, nil, false
}

var errMissing = errors.New("bin/tools/versitygw is not there; scripts/setup builds it")

// tool finds the server's binary from a package's directory, where its tests run.
func tool() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			path := filepath.Join(dir, "bin/tools/versitygw")
			if _, err := os.Stat(path); err != nil {
				return "", errMissing
			}
			return path, nil
		}
	}
	return "", errMissing
}

func start() (*server, error) {
	path, err := tool()
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": accessKey, "AWS_SECRET_ACCESS_KEY": secretKey,
		// What the machine's user has set up is no part of the test.
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_EC2_METADATA_DISABLED": "true",
	} {
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "s3test")
	if err != nil {
		return nil, err
	}
	// A port that is free now may be taken when the server asks for it.
	for range 3 {
		s, err2 := startIn(path, dir)
		if err2 == nil {
			return s, nil
		}
		err = err2
	}
	os.RemoveAll(dir)
	return nil, err
}

func startIn(path, dir string) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	l.Close()
	for _, sub := range []string{"data", "meta"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// --sidecar, because not every temporary directory has extended attributes.
	cmd := exec.Command(path, "--port", address, "--health", "/health", "--quiet",
		"posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "data"))
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+accessKey, "ROOT_SECRET_KEY="+secretKey)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	s := &server{dir: dir, endpoint: "http://" + address, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The server dies with the thread that started it, so this one lives as long: a test
		// binary that panics leaves no server behind.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
			close(s.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	s.process = cmd.Process
	deadline := time.After(30 * time.Second)
	for {
		if reply, err := http.Get(s.endpoint + "/health"); err == nil {
			reply.Body.Close()
			if reply.StatusCode == http.StatusOK {
				return s, nil
			}
		}
		select {
		case <-time.After(10 * time.Millisecond):
			continue
		case <-deadline:
			s.process.Kill()
			<-s.ended
		case <-s.ended:
		}
		said, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("start %s: it is not ready: %s", path, said)
	}
}
