package global

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

const (
	// writerTTL is how long a writer that says nothing keeps its registration. It says
	// so again while it stores chunks.
	writerTTL = time.Minute

	// dropGrace is how long chunks that were replaced are kept, for readers that are in
	// the middle of them; but not if they are more than dropBytesMax, the last value apart.
	// Redis stores a value of 1 MiB in memory that it has just freed twice as fast as in
	// memory that it must find first (BenchmarkStore).
	dropGrace    = 500 * time.Millisecond
	dropBytesMax = 8 << 20

	// redisChunkBytes is the size of the chunks that new values are stored in. Each costs
	// Redis a command, and those beyond the first the writer two exchanges: a value of 1 MiB
	// in chunks of 64 KiB was pushed at half the rate. A patch copies a chunk within Redis,
	// which at 1 MiB adds a fifth to it.
	redisChunkBytes = 1 << 20

	// chunkBytesMax is more than any chunk ever has.
	chunkBytesMax = 1 << 30

	// exchangeBytes is how much goes in one exchange, or a chunk if that is more, and
	// exchangesMax how many exchanges of one operation are under way: what an operation has
	// in memory.
	exchangeBytes = 1 << 20
	exchangesMax  = 4

	// attemptsMax is how often an operation starts again because of others.
	attemptsMax = 100
)

// RedisOptions are how a Redis behaves. The zero value is ready for use.
type RedisOptions struct {
	// CA has the certificates, in PEM, that a server's may be signed by, for rediss
	// URLs. Nil: those of the system.
	CA []byte
	// Timeout is how long one exchange with a server may take; zero: 5 s. An operation
	// on a large value is many exchanges.
	Timeout time.Duration
	// Lease is how long a lock is held after its holder was last heard of; zero: 10 s.
	Lease time.Duration
}

// Validate returns an error for values that make no sense.
func (o RedisOptions) Validate() error {
	if o.Timeout < 0 || o.Lease < 0 || o.Lease > 0 && o.Lease < 10*time.Millisecond {
		return fmt.Errorf("%w: timeout %v, lease %v", ErrInvalid, o.Timeout, o.Lease)
	}
	return nil
}

// Redis is the global tier in Redis 7.0 or later, a single one or a Redis Cluster, shared
// by any number of hosts. It writes only keys that begin with "faasm:".
//
// Only reads are sent again when a connection breaks; a change that got no answer is
// ErrUnavailable.
type Redis struct {
	traffic
	client rueidis.Client
	wire   *wire
	opts   RedisOptions // without zeroes
	name   string       // no other has it
	host   string       // the channel that wakes who waits here for a lock
	ids    atomic.Uint64
	chunk  int64 // redisChunkBytes, but in tests

	ctx    context.Context // ends with ErrClosed
	cancel context.CancelCauseFunc
	once   sync.Once

	mu struct {
		sync.Mutex
		closed  bool
		work    sync.WaitGroup           // goroutines; none is added once closed
		leases  sync.WaitGroup           // those that keep leases; likewise
		waiters map[string]chan struct{} // who waits for a lock → told to ask again
		views   map[Key]*view            // of values as they were last seen
		dropped []droppedChunks          // oldest first
		bytes   int64                    // of dropped
	}
	listening sync.Once
	closing   chan struct{} // closed first of all by Close
	dropping  chan struct{} // of one: there is something in dropped

	merging [64]chan struct{} // of one: merges here that would only get into each other's way
}

var _ Store = (*Redis)(nil)

// OpenRedis connects to the Redis at an address like
// redis://USER:PASSWORD@HOST:PORT/DATABASE, with all parts optional, or rediss:// for TLS.
// Of a Redis Cluster it names any node, and with ?addr=HOST:PORT&addr=… others to try. The
// caller closes it.
//
// It returns ErrUnavailable if no server answers. No error repeats the password.
func OpenRedis(ctx context.Context, address string, opts RedisOptions) (*Redis, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if opts.Timeout == 0 {
		opts.Timeout = 5 * time.Second
	}
	if opts.Lease == 0 {
		opts.Lease = 10 * time.Second
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("open Redis: %w: it is no URL", ErrInvalid)
	}
	r := &Redis{opts: opts, chunk: redisChunkBytes, dropping: make(chan struct{}, 1), closing: make(chan struct{})}
	r.name = rand.Text()
	r.host = "faasm:wake:" + r.name
	if err := r.open(ctx, address); err != nil {
		return nil, fmt.Errorf("open %s: %w", u.Redacted(), err)
	}
	return r, nil
}

func (r *Redis) open(ctx context.Context, address string) error {
	option, err := rueidis.ParseURL(address)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if r.opts.CA != nil {
		if option.TLSConfig == nil {
			return fmt.Errorf("%w: certificates are for rediss only", ErrInvalid)
		}
		option.TLSConfig.RootCAs = x509.NewCertPool()
		if !option.TLSConfig.RootCAs.AppendCertsFromPEM(r.opts.CA) {
			return fmt.Errorf("%w: there is no certificate in what should have them", ErrInvalid)
		}
	}
	option.DisableCache = true
	option.AlwaysPipelining = true        // else a command that is under way alone would not end with its context
	option.WriteBufferEachConn = 64 << 10 // stays in the processor's cache; the usual 512 KiB do not
	option.Dialer.Timeout = r.opts.Timeout
	option.ConnWriteTimeout = r.opts.Timeout

	// The client knows no context while it connects. It gives up by itself.
	type opened struct {
		client rueidis.Client
		err    error
	}
	result := make(chan opened, 1)
	go func() {
		client, err := rueidis.NewClient(option)
		result <- opened{client, err}
	}()
	var o opened
	select {
	case o = <-result:
	case <-ctx.Done():
		go func() {
			if o := <-result; o.err == nil {
				o.client.Close()
			}
		}()
		return context.Cause(ctx)
	}
	if o.err != nil {
		if _, ok := rueidis.IsRedisErr(o.err); ok {
			return o.err
		}
		return fmt.Errorf("%w: %w", ErrUnavailable, o.err)
	}
	r.client = o.client
	r.wire = newWire(func() string {
		for at := range r.client.Nodes() {
			return at
		}
		return ""
	}, r.clusterSlots, option, r.opts.Timeout)
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	r.mu.waiters = make(map[string]chan struct{})
	r.mu.views = make(map[Key]*view)
	for i := range r.merging {
		r.merging[i] = make(chan struct{}, 1)
	}
	version, err := r.do(ctx, r.client.B().Eval().Script("return redis.REDIS_VERSION_NUM or 0").Numkeys(0).Build()).AsInt64()
	if err != nil {
		err = r.failure(ctx, err)
	} else if version < 0x070000 {
		err = fmt.Errorf("it is older than Redis 7.0")
	}
	if err != nil {
		r.client.Close()
		return err
	}
	r.spawn(r.collectAll)
	return nil
}

// Close implements Store.
func (r *Redis) Close() error {
	r.once.Do(func() {
		r.mu.Lock()
		r.mu.closed = true
		r.mu.Unlock()
		close(r.closing)
		r.mu.leases.Wait()
		ctx, cancel := context.WithTimeout(r.ctx, r.opts.Timeout)
		for d, ok := r.oldest(-1); ok && ctx.Err() == nil; d, ok = r.oldest(-1) {
			r.collect(ctx, d)
		}
		cancel()
		r.cancel(ErrClosed)
		r.wire.close()
		r.mu.work.Wait()
		r.client.Close()
	})
	return nil
}

// spawn starts a goroutine that Close waits for, unless it is too late for that.
func (r *Redis) spawn(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.closed {
		return false
	}
	r.mu.work.Go(f)
	return true
}

// exchangeChunks is how many chunks go in one exchange.
func (r *Redis) exchangeChunks() int64 { return max(1, exchangeBytes/r.chunk) }

// wireChunks is the same for an exchange of wire, which is with one node.
func (r *Redis) wireChunks() int64 {
	if r.cluster() {
		return 1
	}
	return r.exchangeChunks()
}

func (r *Redis) cluster() bool { return r.client.Mode() == rueidis.ClientModeCluster }

// clusterSlots asks where the slots of a Redis Cluster are, and returns what it is told.
func (r *Redis) clusterSlots(ctx context.Context) (all []slots) {
	list, _ := r.do(ctx, r.client.B().ClusterSlots().Build()).ToArray()
	for _, item := range list { // first, last, the master's [host, port, …], those of replicas
		parts, _ := item.ToArray()
		if len(parts) < 3 {
			continue
		}
		master, _ := parts[2].ToArray()
		if len(master) < 2 {
			continue
		}
		from, err1 := parts[0].AsInt64()
		to, err2 := parts[1].AsInt64()
		host, err3 := master[0].ToString()
		port, err4 := master[1].AsInt64()
		if errors.Join(err1, err2, err3, err4) == nil && host != "" && host != "?" {
			all = append(all, slots{from, to, net.JoinHostPort(host, str(port))})
		}
	}
	return all
}

// exchange returns the context of one exchange with a server.
func (r *Redis) exchange(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, r.opts.Timeout, ErrUnavailable)
}

func (r *Redis) do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	ctx, cancel := r.exchange(ctx)
	defer cancel()
	return r.client.Do(ctx, cmd)
}

// failure says what an error of the client means. ctx is that of the operation.
func (r *Redis) failure(ctx context.Context, err error) error {
	var says serverError
	if reply, ok := rueidis.IsRedisErr(err); ok {
		says = serverError(reply.Error())
	}
	if says != "" || errors.As(err, &says) {
		switch says.code() {
		case "OOM":
			return fmt.Errorf("%w: %w", ErrFull, err)
		case "LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "MISCONF", "READONLY", "NOREPLICAS", "BUSY":
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		case "WRONGTYPE":
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		case "ERR":
			if strings.Contains(string(says), "user_script:") { // a script could not go on with what is stored
				return fmt.Errorf("%w: %w", ErrDamaged, err)
			}
		}
		return err
	}
	r.mu.Lock()
	closed := r.mu.closed
	r.mu.Unlock()
	if closed {
		return ErrClosed
	}
	var source *sourceError
	if errors.Is(err, ErrDamaged) || errors.As(err, &source) {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= 0 {
		<-ctx.Done() // the client looks at the deadline, and may see it before the context does
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// prefix is what a tenant's keys begin with, up to and with the hash tag.
func prefix(tenant string) string { return "faasm:{" + url.QueryEscape(tenant) + "}" }

// chunkName is the key of a chunk.
func chunkName(key Key, gen uint64, index int64, number uint64) string {
	if index == 0 {
		return prefix(key.Tenant) + "0:" + str(number) + ":" + key.Name
	}
	return "faasm:c:{" + str(gen) + "." + strconv.FormatInt(index, 10) + "}" + str(number) + ":" + url.QueryEscape(key.Tenant) + ":" + key.Name
}

func str[T int | int64 | uint64](n T) string {
	if n < 0 {
		return strconv.FormatInt(int64(n), 10)
	}
	return strconv.FormatUint(uint64(n), 10)
}

func bit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// What scripts answer that is no error to a caller yet.
const (
	statusOK       = "OK"
	statusWait     = "WAIT"
	statusAborted  = "ABORTED"  // the registration of the writer ran out
	statusConflict = "CONFLICT" // a chunk has been changed
	statusGone     = "GONE"     // the value has been replaced
	statusLost     = "LOST"     // a chunk that is named is not there
	statusChunk    = "CHUNK"    // the value has chunks of another size
)

// reply is the answer of a script, without the status.
type reply []string

func (r reply) string(i int) string {
	if i >= len(r) {
		return ""
	}
	return r[i]
}

// numbers returns ErrDamaged unless all that it has are numbers, as uint and int return them.
func (r reply) numbers() error {
	for _, s := range r {
		if n, err := strconv.ParseInt(s, 10, 64); err != nil || n < 0 {
			return fmt.Errorf("%w: %.40q is no number", ErrDamaged, s)
		}
	}
	return nil
}

func (r reply) uint(i int) uint64 {
	n, _ := strconv.ParseUint(r.string(i), 10, 64)
	return n
}

func (r reply) int(i int) int64 { return int64(r.uint(i)) }

// run runs a script in the slot of the key's tenant; see answer.
func (r *Redis) run(ctx context.Context, s *luaScript, key Key, args []string) (status string, _ reply, err error) {
	if r.ctx.Err() != nil {
		return "", nil, ErrClosed
	}
	var list []string
	call := func(how, script string) error {
		at := prefix(key.Tenant)
		return r.wire.exchange(ctx, at, false, func(c *wireConn) (err error) {
			c.script(how, script, at, key.Name, args)
			if err := c.flush(); err != nil {
				return err
			}
			list, err = c.list()
			return err
		})
	}
	if err = call("EVALSHA", s.sha); unknownScript(err) {
		err = call("EVAL", s.text)
	}
	if err != nil {
		return "", nil, r.failure(ctx, err)
	}
	return answer(list)
}

// unknownScript tells whether an error is that Redis does not know a hash.
func unknownScript(err error) bool {
	var says serverError
	return errors.As(err, &says) && says.code() == "NOSCRIPT"
}

// answer takes the answer of a script apart. It makes errors of the statuses that mean one
// to every caller.
func answer(list []string) (status string, p reply, err error) {
	if len(list) == 0 {
		return "", nil, fmt.Errorf("%w: a script said nothing", ErrDamaged)
	}
	status, p = list[0], list[1:]
	switch status {
	case "FENCED":
		return status, nil, ErrFenced
	case "VERSION":
		return status, nil, fmt.Errorf("%w: it is at %s", ErrVersion, p.string(0))
	case "ABSENT":
		return status, nil, ErrNotFound
	}
	return status, p, nil
}

// inParallel calls f for pieces of [0, n) of up to step, up to exchangesMax at a time,
// until one returns an error, and returns the first, after all have ended. It does not
// cut others short: a command that nobody waits for is carried out all the same, perhaps
// after what is done next.
func inParallel(ctx context.Context, n, step int64, f func(first, last int64) error) error {
	if n <= step {
		if n <= 0 {
			return nil
		}
		return f(0, n)
	}
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var g sync.WaitGroup
	for range min(exchangesMax, (n+step-1)/step) {
		g.Go(func() {
			for failed.Load() == nil {
				first := next.Add(step) - step
				if first >= n {
					return
				}
				err := f(first, min(first+step, n))
				if err == nil && ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				if err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	g.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// errAgain ends an attempt of an operation that others came in between.
var errAgain = errors.New("others came in between")

// attempt calls f until it returns something else than errAgain, a little later each
// time.
func attempt(ctx context.Context, f func() error) error {
	for n := range attemptsMax {
		err := f()
		if !errors.Is(err, errAgain) {
			return err
		}
		if n < 2 {
			continue
		}
		var b [1]byte
		rand.Read(b[:])
		select {
		case <-time.After(time.Duration(b[0]) * 8 * time.Microsecond * time.Duration(min(n, 16))):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return ErrConflict
}
