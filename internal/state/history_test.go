package state

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/rpc"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/faasm-go/faasm/internal/state/global"
	"github.com/faasm-go/faasm/internal/state/redistest"
	"github.com/faasm-go/faasm/internal/state/statemodel"
)

// seed is what random operations are drawn from.
var seed = flag.Uint64("state.seed", 1, "seed of random operations")

// long is how long the tests of histories run.
var long = flag.Duration("state.long", 0, "how long each test of histories runs, instead of a short time")

// hostOf makes the test binary the host of a history, which its parent may kill.
var hostOf = flag.String("state.host", "", "serve a history as a host of the Redis with this address")

func TestMain(m *testing.M) {
	flag.Parse()
	if *hostOf != "" {
		serveHost(*hostOf)
		return
	}
	os.Exit(m.Run())
}

const histClients = 4 // even ones on host 0, odd ones on host 1

// host is a tier and its clients, each with a session. It is served by net/rpc.
type host struct {
	tier    *Tier
	clients [histClients]struct {
		*Session
		ctx  context.Context // of its waits
		view View
	}
}

func newHost(tier *Tier) *host {
	h := &host{tier: tier}
	for i := range h.clients {
		c := &h.clients[i]
		c.Session = tier.Session("t", func(wait func(context.Context)) { wait(c.ctx) })
	}
	return h
}

// end closes the sessions.
func (h *host) end() {
	for i := range h.clients {
		h.clients[i].Close()
	}
}

// Do does what a client asks, one thing after another.
func (h *host) Do(op statemodel.Op, out *statemodel.Answer) error {
	const patience = 2 * time.Second // with locks
	c := &h.clients[op.Client]
	var cancel context.CancelFunc
	c.ctx, cancel = context.WithTimeout(context.Background(), 30*time.Second)
	if op.Do == "lock" {
		c.ctx, cancel = context.WithTimeout(context.Background(), patience)
	}
	defer cancel()
	off, n := op.Range()
	mode := global.LockRead
	if op.Write {
		mode = global.LockWrite
	}
	var err error
	switch op.Do {
	case "set":
		value := make([]byte, op.Kind.Size())
		for i := range statemodel.Slots {
			value[op.Kind.Offset(i)] = op.Tag
		}
		err = c.Set(op.Name, value)
	case "set at":
		err = c.SetAt(op.Name, off, []byte{op.Tag})
	case "read at":
		b := make([]byte, 1)
		_, err = c.ReadAt(op.Name, off, b)
		out.Tags[0] = b[0]
	case "view":
		c.view, err = c.View(op.Name, Access{}, 0, -1)
	case "poke":
		c.view.Memory.Bytes()[c.view.Offset:][off] = op.Tag
	case "peek":
		out.Tags[0] = c.view.Memory.Bytes()[c.view.Offset:][off]
	case "push":
		err = c.Push(op.Name)
	case "push dirty":
		err = c.PushDirty(op.Name)
	case "push range":
		err = c.PushRange(op.Name, off, n)
	case "pull":
		err = c.Pull(op.Name)
	case "pull range":
		err = c.PullRange(op.Name, off, n)
	case "append":
		err = c.Append(op.Name, []byte(fmt.Sprint(op.Tag)))
	case "clear":
		err = c.ClearList(op.Name)
	case "list":
		var list [][]byte
		list, err = c.ReadList(op.Name, 0, 1000, 1<<20)
		for _, e := range list {
			out.List += string(e) + " "
		}
	case "lock":
		err = c.Lock(op.Name, mode)
	case "unlock":
		err = c.Unlock(op.Name)
	case "lock global":
		err = c.LockGlobal(op.Name, mode, patience)
	case "unlock global":
		err = c.UnlockGlobal(op.Name)
	default:
		panic("BUG: no such operation: " + op.Do)
	}
	switch {
	case errors.Is(err, global.ErrNotFound):
		out.None = true
	case errors.Is(err, global.ErrTimeout), errors.Is(err, context.DeadlineExceeded) && op.Do == "lock":
		out.NoLock = true
	case errors.Is(err, global.ErrFenced):
		out.Fenced = true
	case err != nil:
		out.Unknown = err.Error()
	}
	return nil
}

// doer is a host of this process or of another.
type doer interface {
	Do(op statemodel.Op, out *statemodel.Answer) error
}

// remoteHost is a host that can be killed.
type remoteHost struct {
	cmd    *exec.Cmd
	client *rpc.Client
}

type pipes struct {
	io.ReadCloser
	io.WriteCloser
}

func (p pipes) Close() error { return errors.Join(p.ReadCloser.Close(), p.WriteCloser.Close()) }

func startHost(t testing.TB, url string) *remoteHost {
	cmd := exec.Command(os.Args[0], "-state.host", url)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &remoteHost{cmd, rpc.NewClient(pipes{out, in})}
}

func (h *remoteHost) Do(op statemodel.Op, out *statemodel.Answer) error {
	return h.client.Call("host.Do", op, out)
}

func (h *remoteHost) kill() {
	h.cmd.Process.Kill()
	h.cmd.Wait()
	h.client.Close()
}

// serveHost is what a remote host runs.
func serveHost(url string) {
	store, err := global.OpenRedis(context.Background(), url, shortLease)
	if err != nil {
		panic(err)
	}
	tier, err := New(Options{Store: store})
	if err != nil {
		panic(err)
	}
	if err := rpc.RegisterName("host", newHost(tier)); err != nil {
		panic(err)
	}
	rpc.ServeConn(pipes{os.Stdin, os.Stdout})
}

var shortLease = global.RedisOptions{Lease: time.Second}

// history is what the clients did to one key.
type history struct {
	statemodel.History
	kind statemodel.Kind
	tags atomic.Int64
	made atomic.Bool  // the global tier has the value
	done atomic.Int64 // calls
	// reached is closed when so many are done.
	target  int64
	reached chan struct{}
}

func now() int64 { return int64(time.Since(begun)) }

var begun = time.Now()

// call makes a call and records it.
func (h *history) call(to doer, op statemodel.Op) statemodel.Answer {
	call := now()
	var a statemodel.Answer
	if err := to.Do(op, &a); err != nil {
		a = statemodel.Answer{Unknown: err.Error()}
	}
	h.Add(op, a, call, now())
	if h.done.Add(1) == h.target {
		close(h.reached)
	}
	return a
}

// client does n random operations, or fewer if the result of one is not known: each of
// those multiplies what a history may mean.
func (h *history) client(id int, to doer, name string, random *rand.Rand, n int) {
	held, viewed, well := "", false, true
	pointers := h.kind == statemodel.Pointers
	write := false // what is held, if something is
	do := func(what string) statemodel.Answer {
		op := statemodel.Op{Client: id, Do: what, Name: name, Kind: h.kind, Slot: random.IntN(statemodel.Slots), Write: write}
		op.Slots = 1 + random.IntN(statemodel.Slots-op.Slot)
		if slices.Contains([]string{"set", "set at", "poke", "append"}, what) {
			tag := h.tags.Add(1)
			if tag > 255 {
				return statemodel.Answer{} // no byte is left that nobody wrote
			}
			op.Tag = byte(tag)
		}
		a := h.call(to, op)
		well = well && a.Unknown == ""
		return a
	}
	for range n {
		if !well {
			break
		}
		switch dice := random.IntN(100); {
		case dice < 8:
			if held == "" {
				write = random.IntN(2) == 0
				kind := []string{"", " global"}[random.IntN(2)]
				if a := do("lock" + kind); !a.NoLock && a.Unknown == "" {
					held = kind + "!"
				}
			} else {
				do("unlock" + strings.TrimSuffix(held, "!"))
				held = ""
			}
		case dice < 12:
			do("append")
		case dice < 13:
			do("clear")
		case dice < 16:
			do("list")
		case dice < 20:
			do("set")
		case dice < 26:
			a := do("push")
			if !a.None && a.Unknown == "" && !a.Fenced {
				h.made.Store(true)
			}
		case dice < 32 && h.made.Load():
			do("push range")
		case dice < 38:
			do("push dirty")
		case dice < 42 && h.made.Load():
			do("pull range")
		case dice < 46:
			do("pull")
		case dice < 50 || !pointers && dice < 74:
			do("set at")
		case dice < 54 || !pointers:
			do("read at")
		case !viewed:
			a := do("view")
			viewed = !a.None && a.Unknown == ""
		case dice < 77:
			do("poke")
		default:
			do("peek")
		}
	}
	if held != "" {
		do("unlock" + strings.TrimSuffix(held, "!"))
	}
}

// runHistory has the clients of two hosts work on one key, in rounds of two halves.
// Between them, while the first still runs, between makes things go wrong, and returns when
// all is well again. The history of each round must be one that the model allows.
func runHistory(t *testing.T, kind statemodel.Kind, begin func() [statemodel.Hosts]doer, between func(h *history, hosts *[statemodel.Hosts]doer)) (unknown []string) {
	deadline := time.Now().Add(max(*long, time.Second/2))
	total, rounds, undecided := 0, 0, 0
	for round := 0; round < 5 || time.Now().Before(deadline); round++ {
		h := &history{kind: kind}
		on := begin()
		name := fmt.Sprint("history ", round)
		random := rand.New(rand.NewPCG(*seed+uint64(round), 0))
		half := func(part uint64, n, target int, meanwhile func()) {
			h.reached, h.target = make(chan struct{}), int64(target)
			h.done.Store(0)
			var g sync.WaitGroup
			for id := range histClients {
				random := rand.New(rand.NewPCG(*seed+uint64(round), 1+part<<8+uint64(id)))
				to := on[id%statemodel.Hosts]
				g.Go(func() { h.client(id, to, name, random, n) })
			}
			ended := make(chan struct{})
			go func() { g.Wait(); close(ended) }()
			select {
			case <-h.reached:
				meanwhile()
			case <-ended:
			}
			<-ended
			h.Settle(now())
		}
		half(0, 14, 10+random.IntN(40), func() { between(h, &on) })
		half(1, 7, 0, nil)
		for _, d := range on {
			if d, ok := d.(*host); ok {
				d.end()
			}
		}
		v := h.Check(10 * time.Second)
		if v.Illegal != "" {
			t.Fatalf("seed %d, round %d: the model does not allow the history of %s", *seed, round, v.Illegal)
		}
		undecided += len(v.Undecided)
		total += v.Phases
		rounds++
		unknown = append(unknown, h.Unknown()...)
	}
	t.Logf("seed %d: %d rounds, %d phases of calls; of %d calls the result is not known; %d not checked to the end", *seed, rounds, total, len(unknown), undecided)
	// What takes too long to check shows nothing, but is no fault.
	if undecided > 1+rounds/10 {
		t.Errorf("seed %d: %d of %d rounds were not checked to the end", *seed, undecided, rounds)
	}
	return unknown
}

func histories(t *testing.T, run func(t *testing.T, kind statemodel.Kind)) {
	t.Run("calls", func(t *testing.T) { run(t, statemodel.Calls) })
	t.Run("pointers", func(t *testing.T) { run(t, statemodel.Pointers) })
}

// twoHosts are two tiers of this process, each over its own Store.
func twoHosts(t *testing.T, open hosts) func() [statemodel.Hosts]doer {
	tiers := [statemodel.Hosts]*Tier{tierOver(t, Options{Store: open(t)}), tierOver(t, Options{Store: open(t)})}
	return func() (on [statemodel.Hosts]doer) {
		for i := range on {
			on[i] = newHost(tiers[i])
		}
		return on
	}
}

func TestHistory(t *testing.T) {
	histories(t, func(t *testing.T, kind statemodel.Kind) {
		drivers(t, func(t *testing.T, open hosts) {
			for _, err := range runHistory(t, kind, twoHosts(t, open), func(*history, *[statemodel.Hosts]doer) {}) {
				t.Errorf("seed %d: %s", *seed, err)
			}
		})
	})
}

// Redis is killed in the middle of each round, and started again with what it had synced.
func TestHistory_killRedis(t *testing.T) {
	histories(t, func(t *testing.T, kind statemodel.Kind) {
		server := redistest.New(t, "--appendonly", "yes", "--appendfsync", "always")
		open := redisHosts(server, global.RedisOptions{Timeout: 2 * time.Second})
		runHistory(t, kind, twoHosts(t, open), func(*history, *[statemodel.Hosts]doer) {
			server.Kill()
			if err := server.Start(); err != nil {
				t.Error(err)
			}
			ready(t, server)
		})
	})
}

// ready waits until a server that was started again answers.
func ready(t testing.TB, server *redistest.Server) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		store, err := global.OpenRedis(t.Context(), server.URL(), global.RedisOptions{})
		if err == nil {
			store.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// One of the hosts is killed in the middle of each round, and another takes its place.
func TestHistory_killHost(t *testing.T) {
	histories(t, func(t *testing.T, kind statemodel.Kind) {
		server := redistest.New(t)
		tier := tierOver(t, Options{Store: redisHosts(server, shortLease)(t)})
		victim := startHost(t, server.URL())
		t.Cleanup(func() { victim.kill() })
		begin := func() [statemodel.Hosts]doer { return [statemodel.Hosts]doer{newHost(tier), victim} }
		runHistory(t, kind, begin, func(h *history, on *[statemodel.Hosts]doer) {
			from := now()
			victim.kill()
			victim = startHost(t, server.URL())
			on[1] = victim
			h.Crash(1, from, now())
		})
	})
}
