package global

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/faasm-go/faasm/internal/state/redistest"
)

// child makes the test binary run one of the children that tests start and kill.
var child = flag.String("global.child", "", "run as the named child process of a test")

// seed is what random operations are drawn from.
var seed = flag.Uint64("global.seed", 1, "seed of random operations")

// long is how long the tests of histories run.
var long = flag.Duration("global.long", 0, "how long each test of histories runs, instead of a short time")

func TestMain(m *testing.M) {
	flag.Parse()
	switch *child {
	case "":
		code := m.Run()
		if err := shared.stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	case "write":
		childWrite(flag.Arg(0))
	case "long-write":
		childLongWrite(flag.Arg(0))
	case "lock":
		childLock(flag.Arg(0))
	}
}

// sharedServers are those that many tests use.
type sharedServers struct {
	mu      sync.Mutex
	single  *redistest.Server
	cluster []*redistest.Server
	dir     string
}

var shared sharedServers

func (s *sharedServers) tempDir() (string, error) {
	if s.dir == "" {
		dir, err := os.MkdirTemp("", "faasm-redis")
		if err != nil {
			return "", err
		}
		s.dir = dir
	}
	return os.MkdirTemp(s.dir, "node")
}

func (s *sharedServers) stop() error {
	for _, n := range append(s.cluster, s.single) {
		if n != nil {
			n.Kill()
		}
	}
	if s.dir != "" {
		return os.RemoveAll(s.dir)
	}
	return nil
}

// redisURL returns the address of the shared Redis, emptied.
func redisURL(t testing.TB) string {
	t.Helper()
	redistest.Need(t)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.single == nil {
		dir, err := shared.tempDir()
		if err == nil {
			shared.single, err = redistest.Open(dir)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	flush(t, shared.single)
	return shared.single.URL()
}

// clusterURL returns the address of a node of the shared Redis Cluster of three, emptied.
func clusterURL(t testing.TB) string {
	t.Helper()
	redistest.Need(t)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.cluster == nil {
		args := []string{"--cluster", "create"}
		for range 3 {
			dir, err := shared.tempDir()
			if err != nil {
				t.Fatal(err)
			}
			bus, err := redistest.FreePort()
			if err != nil {
				t.Fatal(err)
			}
			n, err := redistest.Open(dir, "--cluster-enabled", "yes", "--cluster-port", fmt.Sprint(bus))
			if err != nil {
				t.Fatal(err)
			}
			shared.cluster = append(shared.cluster, n)
			args = append(args, fmt.Sprintf("127.0.0.1:%d", n.Port))
		}
		out, err := exec.Command("redis-cli", append(args, "--cluster-yes")...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, n := range shared.cluster {
			c := rawClient(t, n)
			for {
				info, err := c.Do(t.Context(), c.B().ClusterInfo().Build()).ToString()
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3") {
					break
				}
				time.Sleep(20 * time.Millisecond) // between looks at another process
			}
		}
	}
	for _, n := range shared.cluster {
		flush(t, n)
	}
	return shared.cluster[0].URL()
}

// rawClient is a client of one node.
func rawClient(t testing.TB, s *redistest.Server) rueidis.Client {
	t.Helper()
	c, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{fmt.Sprintf("127.0.0.1:%d", s.Port)}, ForceSingleClient: true, DisableCache: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func flush(t testing.TB, s *redistest.Server) {
	t.Helper()
	c := rawClient(t, s)
	if err := c.Do(context.Background(), c.B().Flushall().Build()).Error(); err != nil {
		t.Fatal(err)
	}
}

// names returns the keys of a server that match a pattern.
func names(t testing.TB, s *redistest.Server, pattern string) []string {
	t.Helper()
	c := rawClient(t, s)
	keys, err := c.Do(context.Background(), c.B().Keys().Pattern(pattern).Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	return keys
}

// hosts opens a Store as another host would.
type hosts func(t testing.TB) Store

// drivers calls f with each driver, empty.
func drivers(t *testing.T, f func(t *testing.T, open hosts)) {
	t.Run("embedded", func(t *testing.T) { f(t, embeddedHosts(t)) })
	t.Run("redis", func(t *testing.T) { f(t, redisHosts(redisURL(t), RedisOptions{})) })
	t.Run("cluster", func(t *testing.T) { f(t, redisHosts(clusterURL(t), RedisOptions{})) })
}

// embeddedHosts opens one file, which only one host can: all hosts are the same.
func embeddedHosts(t testing.TB) hosts {
	e := openEmbedded(t, filepath.Join(t.TempDir(), "state.db"))
	return func(testing.TB) Store { return e }
}

func redisHosts(url string, opts RedisOptions) hosts {
	return func(t testing.TB) Store { return openRedis(t, url, opts) }
}

func openEmbedded(t testing.TB, path string) *Embedded {
	t.Helper()
	e, err := OpenEmbedded(path)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, e)
	return e
}

func openRedis(t testing.TB, url string, opts RedisOptions) *Redis {
	t.Helper()
	r, err := OpenRedis(context.Background(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	r.chunk = ChunkBytes // so that values are many without being large
	closeAfter(t, r)
	return r
}

func closeAfter(t testing.TB, c io.Closer) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
