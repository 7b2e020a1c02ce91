package global

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/faasm-go/faasm/internal/state/redistest"
)

// Every operation ends soon, with ErrUnavailable, when Redis hangs and when it is gone;
// and works again when Redis does.
func TestRedis_unavailable(t *testing.T) {
	s := redistest.New(t, "--appendonly", "yes", "--appendfsync", "always")
	r := openRedis(t, s.URL(), RedisOptions{Timeout: time.Second, Lease: time.Second})
	large := make([]byte, 100*ChunkBytes)
	patient := openRedis(t, s.URL(), RedisOptions{})
	write(t, patient, aKey, large)
	write(t, patient, Key{"t", "small"}, []byte("x"))
	operations := map[string]func(ctx context.Context) error{
		"Stat": func(ctx context.Context) error { _, err := r.Stat(ctx, aKey); return err },
		"Read": func(ctx context.Context) error {
			_, _, err := r.Read(ctx, Key{"t", "small"}, 0, make([]byte, 1))
			return err
		},
		"Read large": func(ctx context.Context) error {
			_, _, err := r.Read(ctx, aKey, 0, make([]byte, len(large)))
			return err
		},
		"Write": func(ctx context.Context) error {
			_, err := r.Write(ctx, Key{"t", "small"}, 1, strings.NewReader("y"), Condition{})
			return err
		},
		"Write large": func(ctx context.Context) error {
			_, err := r.Write(ctx, aKey, int64(len(large)), bytes.NewReader(large), Condition{})
			return err
		},
		"Patch": func(ctx context.Context) error {
			_, err := r.Patch(ctx, Key{"t", "small"}, []Range{{0, []byte("z")}}, Condition{})
			return err
		},
		"Patch large": func(ctx context.Context) error {
			_, err := r.Patch(ctx, aKey, []Range{{5, large[:9*ChunkBytes]}}, Condition{})
			return err
		},
		"Merge": func(ctx context.Context) error {
			_, err := r.Merge(ctx, aKey, 0, Int64, Sum, large, Condition{})
			return err
		},
		"Append":   func(ctx context.Context) error { _, err := r.Append(ctx, aKey, nil); return err },
		"ReadList": func(ctx context.Context) error { _, err := r.ReadList(ctx, aKey, 0, 1, 1); return err },
		"List":     func(ctx context.Context) error { _, err := r.List(ctx, "t", "", "", 10); return err },
		"Usage":    func(ctx context.Context) error { _, err := r.Usage(ctx, "t"); return err },
		"Publish":  func(ctx context.Context) error { _, err := r.Publish(ctx, aKey, Condition{}); return err },
		"Lock":     func(ctx context.Context) error { _, err := r.Lock(ctx, Key{"t", "free"}, LockRead); return err },
		"Sweep":    func(ctx context.Context) error { _, err := r.Sweep(ctx); return err },
	}
	fail := func(how string) {
		t.Helper()
		var g sync.WaitGroup
		for name, f := range operations {
			g.Go(func() {
				// The deadline is only there for an operation that hangs.
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				if err := f(ctx); !errors.Is(err, ErrUnavailable) {
					t.Errorf("%s while Redis %s: %v, want ErrUnavailable", name, how, err)
				}
			})
		}
		g.Wait()
	}
	work := func(after string) {
		t.Helper()
		for name, f := range operations {
			for deadline := time.Now().Add(20 * time.Second); ; {
				err := f(t.Context())
				if err == nil {
					break
				}
				// What was sent before may still be carried out, and a connection may
				// only now be found to be broken.
				if time.Now().After(deadline) || !errors.Is(err, ErrUnavailable) {
					t.Errorf("%s after Redis %s: %v", name, after, err)
					break
				}
			}
		}
	}
	held := take(t, r, aKey, LockWrite)
	s.Signal(syscall.SIGSTOP)
	fail("hangs")
	select { // a lease that cannot be renewed is lost, though Redis says nothing
	case <-held.Lost():
	case <-time.After(20 * time.Second):
		t.Error("the lease is not lost")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	if _, err := r.Lock(ctx, aKey, LockRead); !errors.Is(err, ErrTimeout) {
		t.Errorf("Lock with a deadline sooner than the time-out: %v, want ErrTimeout", err)
	}
	cancel()
	s.Signal(syscall.SIGCONT)
	work("hung")
	s.Kill()
	fail("is gone")
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	ready(t, s)
	work("was gone")
}

// certificate makes a certificate that signs itself, for 127.0.0.1, and returns it and
// the names of the files that it and its key are in.
func certificate(t testing.TB) (ca []byte, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	if err := errors.Join(os.WriteFile(certFile, ca, 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)); err != nil {
		t.Fatal(err)
	}
	return ca, certFile, keyFile
}

func TestOpenRedis(t *testing.T) {
	ca, cert, key := certificate(t)
	otherCA, _, _ := certificate(t)
	s := redistest.New(t, "--requirepass", "sesame", "--tls-port", "%d",
		"--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no")
	plain := redistest.New(t, "--requirepass", "sesame")
	free, err := redistest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	at := func(format string, port int) string { return fmt.Sprintf(format, port) }
	short := RedisOptions{Timeout: 2 * time.Second}
	trusting := RedisOptions{Timeout: 2 * time.Second, CA: ca}
	for name, row := range map[string]struct {
		url  string
		opts RedisOptions
		want error // nil: any
	}{
		"no URL":             {"redis://:sesame@[::1", short, ErrInvalid},
		"control character":  {"redis://:sesame\x7f@127.0.0.1", short, ErrInvalid},
		"another scheme":     {"http://:sesame@127.0.0.1", short, ErrInvalid},
		"no database":        {at("redis://:sesame@127.0.0.1:%d/x", plain.Port), short, ErrInvalid},
		"database too large": {at("redis://:sesame@127.0.0.1:%d/99", plain.Port), short, nil},
		"nobody there":       {at("redis://:sesame@127.0.0.1:%d", free), short, ErrUnavailable},
		"negative time-out":  {at("redis://:sesame@127.0.0.1:%d", plain.Port), RedisOptions{Timeout: -1}, ErrInvalid},
		"tiny lease":         {at("redis://:sesame@127.0.0.1:%d", plain.Port), RedisOptions{Lease: 1}, ErrInvalid},
		"wrong password":     {at("redis://:sesames@127.0.0.1:%d", plain.Port), short, nil},
		"no password":        {at("redis://127.0.0.1:%d", plain.Port), short, nil},
		"CA without TLS":     {at("redis://:sesame@127.0.0.1:%d", plain.Port), trusting, ErrInvalid},
		"no certificates":    {at("rediss://:sesame@127.0.0.1:%d", s.Port), RedisOptions{CA: []byte("x")}, ErrInvalid},
		"unknown CA":         {at("rediss://:sesame@127.0.0.1:%d", s.Port), short, ErrUnavailable},
		"another CA":         {at("rediss://:sesame@127.0.0.1:%d", s.Port), RedisOptions{Timeout: 2 * time.Second, CA: otherCA}, ErrUnavailable},
		"TLS to plain":       {at("rediss://:sesame@127.0.0.1:%d", plain.Port), trusting, ErrUnavailable},
		"TLS wrong password": {at("rediss://:sesames@127.0.0.1:%d", s.Port), trusting, nil},
	} {
		r, err := OpenRedis(t.Context(), row.url, row.opts)
		if err == nil {
			r.Close()
			t.Errorf("%s: no error", name)
			continue
		}
		if row.want != nil && !errors.Is(err, row.want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v, want %v and no password", name, err, row.want)
		}
	}
	// A hanging server does not keep the caller longer than the context.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := OpenRedis(ctx, "redis://"+listener.Addr().String(), short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a server that hangs: %v", err)
	}

	for _, url := range []string{at("redis://:sesame@127.0.0.1:%d", plain.Port), at("redis://default:sesame@127.0.0.1:%d/3", plain.Port), at("rediss://:sesame@127.0.0.1:%d", s.Port)} {
		opts := short
		if strings.HasPrefix(url, "rediss") {
			opts = trusting
		}
		r := openRedis(t, url, opts)
		value := pattern(3*ChunkBytes, 1)
		write(t, r, aKey, value)
		got, _ := read(t, r, aKey)
		diffBytes(t, url, got, value)
		unlock(t, take(t, r, aKey, LockWrite))
	}
	// Databases are apart.
	r := openRedis(t, at("redis://:sesame@127.0.0.1:%d/4", plain.Port), short)
	if _, err := r.Stat(t.Context(), aKey); !errors.Is(err, ErrNotFound) {
		t.Errorf("a value of another database: %v", err)
	}
}

// What a host has stored and not committed when it crashed is deleted by Sweep once nobody
// can be about to commit it; what only looks like that is not touched.
func TestRedis_sweepAbandoned(t *testing.T) {
	r := openRedis(t, redisURL(t), RedisOptions{})
	ctx := t.Context()
	old := str(time.Now().Add(-2*abandonedGrace).Unix()) + "-X"
	keep := []string{newName("t", r.newID()), newName("t", "5"+str(time.Now().Unix())+"-X"), newName("t", "x-X"),
		"faasm:n:" + old, "faasm:{t}v:}n:" + old, "other:{t}n:" + old}
	dead := []string{newName("t", old), newName("a}b:{", old)}
	for _, name := range append(slices.Clone(keep), dead...) {
		if err := r.do(ctx, r.client.B().Set().Key(name).Value("x").Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; { // one sweep may miss what changes meanwhile
		if _, err := r.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		left := names(t, shared.single, "*")
		if !slices.ContainsFunc(dead, func(name string) bool { return slices.Contains(left, name) }) {
			for _, name := range keep {
				if !slices.Contains(left, name) {
					t.Errorf("%s is gone", name)
				}
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left are %q", left)
		}
	}
}

// A large value's chunks are on all nodes, and what belongs together is on one.
func TestRedis_placement(t *testing.T) {
	r := openRedis(t, clusterURL(t), RedisOptions{})
	for i := range 6 {
		// Braces in names must not put all in one slot, nor apart what belongs together.
		key := Key{fmt.Sprintf("te{n}ant%d", i), "{name}"}
		write(t, r, key, make([]byte, 90*ChunkBytes))
		patch(t, r, key, ChunkBytes, []byte("x"))
		if _, err := r.Publish(t.Context(), key, Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	tenants := map[string]int{}
	for i, n := range shared.cluster {
		chunks := names(t, n, "faasm:c:*")
		if len(chunks) < 6*89/6 {
			t.Errorf("node %d has %d chunks of %d", i, len(chunks), 6*89)
		}
		for _, name := range names(t, n, "faasm:{*") {
			tenant, _, _ := strings.Cut(name, "}")
			if at, ok := tenants[tenant]; ok && at != i {
				t.Errorf("tenant %s is on nodes %d and %d", tenant, at, i)
			}
			tenants[tenant] = i
		}
	}
	if len(tenants) != 6 {
		t.Errorf("the tenants are %v", tenants)
	}
}

// What a host that crashed has left is deleted by Sweep: chunks of writers, once their
// registration has run out, and what was dropped and not collected. Such a writer can
// not commit any more.
func TestRedis_sweep(t *testing.T) {
	for name, url := range map[string]func(testing.TB) string{"redis": redisURL, "cluster": clusterURL} {
		t.Run(name, func(t *testing.T) {
			r := openRedis(t, url(t), RedisOptions{})
			nodes := []*redistest.Server{shared.single}
			if name == "cluster" {
				nodes = shared.cluster
			}
			all := func() (keys []string) {
				for _, n := range nodes {
					keys = append(keys, names(t, n, "*")...)
				}
				slices.Sort(keys)
				return slices.DeleteFunc(keys, func(k string) bool { return strings.HasSuffix(k, "clock") })
			}
			ctx := t.Context()
			key := Key{"te:n{ant", "na:m}e"}
			value := pattern(20*ChunkBytes, 3)
			write(t, r, key, value)
			patch(t, r, key, 5*ChunkBytes, []byte("patched"))
			patch(t, r, key, 0, []byte("patched"))
			if _, err := r.Publish(ctx, key, Condition{}); err != nil {
				t.Fatal(err)
			}
			patch(t, r, key, 5*ChunkBytes, []byte("again"))
			copy(value[5*ChunkBytes:], "agained")
			copy(value, "patched")
			for d, ok := r.oldest(-1); ok; d, ok = r.oldest(-1) { // the replaced chunk 5
				r.collect(ctx, d)
			}
			want := all()

			// A writer that stores its chunks and crashes, and one that patches.
			_, p, err := r.run(ctx, scriptBegin, key, []string{"0", "0", "0", microseconds(writerTTL)})
			if err != nil {
				t.Fatal(err)
			}
			gen := p.uint(0)
			if err := r.writeChunks(ctx, key, gen, 40, 40*ChunkBytes, bytes.NewReader(make([]byte, 40*ChunkBytes))); err != nil {
				t.Fatal(err)
			}
			patches := splitRanges([]Range{{3, make([]byte, 4*ChunkBytes)}}, ChunkBytes)
			_, p, err = r.run(ctx, scriptBegin, key, []string{"0", "0", "0", microseconds(writerTTL)})
			if err != nil {
				t.Fatal(err)
			}
			v := r.remembered(key)
			if v == nil {
				read(t, r, key)
				v = r.remembered(key)
			}
			made := make([]bool, len(patches))
			if err := r.makeChunks(ctx, key, v.gen, p.uint(0), ChunkBytes, patches, func(i int64) uint64 { return v.number(patches[i].index) }, made, nil); err != nil {
				t.Fatal(err)
			}
			if slices.Contains(made, false) {
				t.Fatalf("made %v", made)
			}
			crashed := all()
			if swept, err := r.Sweep(ctx); err != nil || swept != (Swept{}) {
				t.Errorf("sweep while the writers may be alive: %+v, %v", swept, err)
			}
			if diff := cmp.Diff(crashed, all()); diff != "" {
				t.Errorf("the sweep deleted what is being written (-want +got):\n%s", diff)
			}
			for _, n := range []uint64{gen, p.uint(0)} {
				field := r.client.B().Hset().Key(prefix(key.Tenant)+"w:"+key.Name).FieldValue().FieldValue("w"+str(n), "1").Build()
				if err := r.client.Do(ctx, field).Error(); err != nil {
					t.Fatal(err)
				}
			}
			// In one pass if the registrations are found first, else in two.
			var swept Swept
			for range 2 {
				once, err := r.Sweep(ctx)
				if err != nil {
					t.Fatal(err)
				}
				swept.Chunks += once.Chunks
				swept.Writers += once.Writers
			}
			if swept != (Swept{Chunks: 39 + 5, Writers: 2}) {
				t.Errorf("swept %+v", swept)
			}
			if diff := cmp.Diff(want, all()); diff != "" {
				t.Errorf("keys after the sweep (-want +got):\n%s", diff)
			}
			condition := []string{"0", "0", "0"}
			_, err = r.commit(ctx, key, gen, 40, 40*ChunkBytes, bytes.NewReader(make([]byte, 40*ChunkBytes)), condition)
			if !errors.Is(err, ErrConflict) {
				t.Errorf("the commit of a writer that was swept: %v, want ErrConflict", err)
			}
			got, _ := read(t, r, key)
			diffBytes(t, "the value", got, value)

			// A host that replaces the value and crashes before it has deleted the old one.
			replaced, err := r.commit(ctx, key, 0, 1, ChunkBytes, bytes.NewReader(value), condition)
			if err != nil {
				t.Fatal(err)
			}
			number := replaced.dropped
			old := prefix(key.Tenant)
			for _, cmd := range [][]string{
				{"RENAME", old + "x:" + number + ":" + key.Name, old + "x:5:" + key.Name},
				{"HSET", old + "w:" + key.Name, "t5", fmt.Sprintf("%d 20 %d %d", v.gen, len(value), ChunkBytes)},
				{"HDEL", old + "w:" + key.Name, "t" + number},
			} {
				if err := r.client.Do(ctx, r.client.B().Arbitrary(cmd[0]).Keys(cmd[1]).Args(cmd[2:]...).Build()).Error(); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.Unpublish(ctx, key, func() uint64 { i, _ := r.Published(ctx, key); return i.Version }()); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(20 * time.Second); ; {
				if _, err := r.Sweep(ctx); err != nil {
					t.Fatal(err)
				}
				left := all()
				if len(left) == 4 { // bytes, names, the manifest, chunk 0
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("left are %q", left)
				}
			}
		})
	}
}

// A chunk that is gone, for example because Redis evicts keys, is damage and not zeroes.
func TestRedis_lostChunk(t *testing.T) {
	r := openRedis(t, redisURL(t), RedisOptions{})
	other := openRedis(t, shared.single.URL(), RedisOptions{})
	ctx := t.Context()
	for index, pattern := range map[int64]string{0: "faasm:{t}0:*", 3: "faasm:c:*.3}*"} {
		write(t, r, aKey, make([]byte, 5*ChunkBytes))
		read(t, r, aKey)
		if err := r.unlink(ctx, names(t, shared.single, pattern)); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*Redis{r, other, r} {
			for _, span := range [][2]int64{{0, 5 * ChunkBytes}, {index*ChunkBytes + 5, 3}} {
				if _, _, err := s.Read(ctx, aKey, span[0], make([]byte, span[1])); !errors.Is(err, ErrDamaged) {
					t.Errorf("read %v without chunk %d: %v, want ErrDamaged", span, index, err)
				}
			}
		}
		_, err := r.Patch(ctx, aKey, []Range{{index * ChunkBytes, []byte("x")}}, Condition{})
		_, mergeErr := r.Merge(ctx, aKey, index*ChunkBytes, Int32, Sum, make([]byte, 4), Condition{})
		if !errors.Is(err, ErrDamaged) || !errors.Is(mergeErr, ErrDamaged) {
			t.Errorf("patch and merge of chunk %d, which is gone: %v, %v", index, err, mergeErr)
		}
		write(t, r, aKey, []byte("a new value"))
	}
}

// A Redis that is full refuses, and nothing is changed.
func TestRedis_full(t *testing.T) {
	s := redistest.New(t, "--maxmemory", "8mb")
	r := openRedis(t, s.URL(), RedisOptions{})
	before := write(t, r, aKey, []byte("small"))
	if _, err := r.Write(t.Context(), aKey, 400*ChunkBytes, bytes.NewReader(make([]byte, 400*ChunkBytes)), Condition{}); !errors.Is(err, ErrFull) {
		t.Errorf("a write that is too large: %v, want ErrFull", err)
	}
	if b, info := read(t, r, aKey); string(b) != "small" || info != before {
		t.Errorf("the value is %q, %+v", b, info)
	}
}

// Stores that make chunks of different sizes work on the same values.
func TestRedis_chunkSizes(t *testing.T) {
	url := redisURL(t)
	small, large := openRedis(t, url, RedisOptions{}), openRedis(t, url, RedisOptions{})
	large.chunk = redisChunkBytes
	const size = 2*redisChunkBytes + 5
	for _, row := range []struct {
		name           string
		writer, second *Redis
	}{{"made of large chunks", large, small}, {"made of small chunks", small, large}} {
		t.Run(row.name, func(t *testing.T) {
			key, want := Key{"t", row.name}, pattern(size, 1)
			replace := func(s *Redis, value []byte) {
				info, err := s.Write(t.Context(), key, int64(len(value)), bytes.NewReader(value), Condition{})
				if err != nil || info.ChunkBytes != s.chunk {
					t.Errorf("chunks of %d bytes, %v; want %d", info.ChunkBytes, err, s.chunk)
				}
			}
			replace(row.writer, want)
			for i, at := range []int64{0, ChunkBytes - 3, redisChunkBytes - 3, size - 1} {
				s := []*Redis{row.second, row.writer}[i%2]
				patch(t, s, key, at, []byte("patched"))
				want = append(want[:at], append([]byte("patched"), want[min(int(at)+7, len(want)):]...)...)
			}
			one := bytes.Repeat([]byte{1, 0, 0, 0}, 2*ChunkBytes)
			if _, err := row.second.Merge(t.Context(), key, ChunkBytes, Int32, Sum, one, Condition{}); err != nil {
				t.Fatal(err)
			}
			combine(want[ChunkBytes:ChunkBytes+len(one)], one, Int32, Sum)
			for _, s := range []*Redis{row.writer, row.second} {
				if got, _ := read(t, s, key); !bytes.Equal(got, want) {
					t.Errorf("read %d bytes, not the %d that were written", len(got), len(want))
				}
				part := make([]byte, 3*ChunkBytes)
				if n, _, err := s.Read(t.Context(), key, redisChunkBytes-ChunkBytes-1, part); err != nil || !bytes.Equal(part[:n], want[redisChunkBytes-ChunkBytes-1:][:len(part)]) {
					t.Errorf("read a part: %d bytes, %v", n, err)
				}
			}
			replace(row.second, want[:10])
			if got, _ := read(t, row.writer, key); !bytes.Equal(got, want[:10]) {
				t.Errorf("read %q after it was replaced", got)
			}
		})
	}
}
