package test

import (
	"bufio"
	"bytes"
	"context"
	encoding "encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/daemon"
	"github.com/faasm-go/faasm/internal/state/global"
	"github.com/faasm-go/faasm/internal/state/redistest"
	"github.com/faasm-go/faasm/internal/state/statemodel"
	"github.com/faasm-go/faasm/workloads"
)

var (
	historyLong = flag.Duration("state-history-long", 0, "how long each driver's TestState_history runs, instead of a short time")
	historySeed = flag.Uint64("state-history-seed", uint64(time.Now().UnixNano()), "seed of the histories of state")
	// historyHosts makes the test binary the hosts of a history, which its parent may kill.
	historyHosts = flag.String("state-history-hosts", "", "serve two hosts over one embedded store in this directory")
)

// serveHistoryHosts is what runs in that process. It prints the addresses of the hosts.
func serveHistoryHosts(dir string) error {
	store, err := global.OpenEmbedded(filepath.Join(dir, "state.db"))
	if err != nil {
		return err
	}
	for i := range statemodel.Hosts {
		h, err := daemon.New(daemon.Options{DataDir: filepath.Join(dir, fmt.Sprint(i)), Store: store})
		if err != nil {
			return err
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		fmt.Printf("http://%s\n", listener.Addr())
		server := h.Server()
		go server.Serve(listener)
	}
	select {} // until it is killed
}

// historyWorkers call functions all the time, one after another each: even ones on host 0,
// odd ones on host 1. What they do is done by a Faaslet of its own each time.
const historyWorkers = 4

// historyOpsMax is how many operations on a value one Faaslet does, besides locks.
const historyOpsMax = 3

// historyLost is the client of what a worker's Faaslet does after n operations of which the
// result is not known: they may take effect still.
func historyLost(worker, n int) int { return worker + n*historyWorkers }

// system is two hosts and what can go wrong with them.
type system struct {
	clients [statemodel.Hosts]*client.Client
	// disturb lets something go wrong, at random, or nothing, and returns what, when all is
	// well again.
	disturb func(random *rand.Rand, h *statemodel.History) (what string)
}

// The whole system, on both kinds of global tier, does what docs/STATE.md says, for calls of
// many Faaslets on two hosts, and although hosts and Redis are killed.
func TestState_history(t *testing.T) {
	t.Run("redis", func(t *testing.T) {
		server := redistest.New(t, "--appendonly", "yes", "--appendfsync", "always")
		var s system
		var hosts [statemodel.Hosts]*host
		dirs := [statemodel.Hosts]string{t.TempDir(), t.TempDir()}
		start := func(i int) {
			hosts[i] = serve(t, dirs[i], "--state", server.URL())
			s.clients[i] = hosts[i].Client
		}
		for i := range hosts {
			start(i)
		}
		s.disturb = func(random *rand.Rand, h *statemodel.History) (what string) {
			if i := random.IntN(3); i < statemodel.Hosts {
				what = fmt.Sprintf("host %d was killed. ", i)
				from := time.Now().UnixNano()
				hosts[i].kill()
				start(i)
				h.Crash(i, from, time.Now().UnixNano())
			}
			if random.IntN(2) == 0 {
				what += "Redis was killed."
				server.Kill()
				if err := server.Start(); err != nil {
					t.Fatal(err)
				}
			}
			for _, host := range hosts {
				host.until("the host has Redis again", func() bool {
					select {
					case <-host.done:
						t.Fatalf("a host ended: %v", host.err)
					default:
					}
					_, err := host.ListState(withTimeout(t, time.Minute), "", client.ListStateOptions{Limit: 1})
					return err == nil
				})
			}
			return what
		}
		runHistories(t, &s)
	})
	t.Run("embedded", func(t *testing.T) {
		dir := t.TempDir()
		var s system
		var cmd *exec.Cmd
		kill := func() {
			cmd.Process.Kill()
			cmd.Wait()
		}
		log := &lockedBuffer{}
		start := func() {
			cmd = exec.Command(os.Args[0], "-state-history-hosts", dir)
			cmd.Stderr = log
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for i := range s.clients {
				if !lines.Scan() {
					kill()
					t.Fatalf("start the hosts: %v\n%s", lines.Err(), log)
				}
				if s.clients[i], err = client.New(lines.Text(), client.Options{}); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(s.clients[i].Close)
			}
		}
		start()
		t.Cleanup(func() {
			kill()
			if t.Failed() {
				t.Logf("log of the hosts:\n%s", log)
			}
		})
		s.disturb = func(random *rand.Rand, h *statemodel.History) (what string) {
			if random.IntN(3) == 0 {
				return ""
			}
			from := time.Now().UnixNano()
			kill()
			start()
			for i := range s.clients {
				h.Crash(i, from, time.Now().UnixNano())
			}
			return "The process of both hosts was killed."
		}
		runHistories(t, &s)
	})
}

// After kill -9 of a host with the embedded global tier every acknowledged push is there,
// whole, and so is every element that was appended.
func TestState_killedHostKeepsPushes(t *testing.T) {
	const workers, keysMax = 8, 5
	random := rand.New(rand.NewPCG(*historySeed, 0))
	t.Logf("seed %d", *historySeed)
	data := t.TempDir()
	for range 3 {
		h := serve(t, data)
		h.deploy("", client.DeployOptions{Timeout: time.Minute}, "state_ops")
		// A push is known by the byte that its value consists of: acked is the last that was
		// acknowledged, and begun the last that began.
		type value struct{ size, acked, begun int }
		var values [workers][keysMax]value
		var elements [workers]int
		var acked atomic.Int64
		target := 200 + random.Int64N(200)
		reached := make(chan struct{})
		var g sync.WaitGroup
		run := time.Now().UnixNano()
		key := func(worker, k int) string { return fmt.Sprintf("%d/%d/%d", run, worker, k) }
		for worker := range workers {
			random := rand.New(rand.NewPCG(*historySeed, uint64(worker)))
			sizes := [keysMax]int{1, 100, 64 << 10, 64<<10 + 1, 200_000}
			g.Go(func() {
				for n := 1; ; n++ {
					k := random.IntN(keysMax)
					v := &values[worker][k]
					v.size, v.begun = sizes[k], 1+n%255
					input := fmt.Sprintf("set_fill %[1]s %[2]d %[3]d\npush %[1]s\nappend %[4]s %[5]d", key(worker, k), v.size, v.begun, key(worker, 0), n)
					reply, err := h.Invoke(context.Background(), "", "state_ops", strings.NewReader(input), client.InvokeOptions{})
					if err != nil {
						return // it is dead
					}
					if string(reply.Output) != "0\n0\n0\n" {
						t.Errorf("%q gave %q", input, reply.Output)
						return
					}
					v.acked, elements[worker] = v.begun, n
					if acked.Add(1) == target {
						close(reached)
					}
				}
			})
		}
		select {
		case <-reached:
		case <-time.After(2 * time.Minute):
			t.Error("no end of it in two minutes")
		}
		h.kill()
		g.Wait()

		h = serve(t, data)
		pushes := 0
		for worker := range workers {
			for k, v := range values[worker] {
				if v.acked == 0 {
					continue
				}
				pushes++
				got, err := h.ReadState(withTimeout(t, time.Minute), "", key(worker, k), client.ReadStateOptions{})
				if err != nil {
					t.Errorf("%s, which was pushed: %v", key(worker, k), err)
					continue
				}
				b, err := io.ReadAll(got.Body)
				got.Body.Close()
				is := byte(v.acked)
				if len(b) > 0 && b[0] == byte(v.begun) {
					is = b[0]
				}
				if err != nil || !bytes.Equal(b, bytes.Repeat([]byte{is}, v.size)) {
					t.Errorf("%s: %d bytes that begin %.10x, %v; want %d of %x, or all %x", key(worker, k), len(b), b, err, v.size, v.acked, v.begun)
				}
			}
			got := h.commands("state_ops", fmt.Sprintf("read_list %s 0 100000", key(worker, 0)))
			want := "0"
			for n := 1; n <= elements[worker]; n++ {
				want += " " + strconv.Itoa(n)
			}
			if got != want && got != want+" "+strconv.Itoa(elements[worker]+1) {
				t.Errorf("the list of %d acknowledged elements: %s", elements[worker], got)
			}
		}
		t.Logf("%d pushes were acknowledged, to %d values", acked.Load(), pushes)
		h.kill()
	}
}

// runHistories has the workers call functions, in rounds of two halves. While the first
// still runs something goes wrong. The history of each round must be one that the model
// allows.
func runHistories(t *testing.T, s *system) {
	for i, c := range s.clients {
		if _, _, err := c.Deploy(withTimeout(t, time.Minute), "", "state_ops", strings.NewReader(string(workloads.Wasm("state_ops"))), client.DeployOptions{Timeout: time.Minute}); err != nil {
			t.Fatalf("deploy to host %d: %v", i, err)
		}
	}
	t.Logf("seed %d", *historySeed)
	deadline := time.Now().Add(max(*historyLong, 2*time.Second))
	rounds, faaslets, phases, lost := 0, 0, 0, 0
	var undecided []string
	for ; rounds < 3 || time.Now().Before(deadline); rounds++ {
		seed := *historySeed + uint64(rounds)
		random := rand.New(rand.NewPCG(seed, 0))
		r := newHistoryRound(t, s, seed)
		what := ""
		r.half(1, 14, 10+random.Int64N(30), func() { what = s.disturb(random, &r.History) })
		r.half(2, 6, 0, nil)
		r.look()
		v := r.Check(10 * time.Second)
		if v.Illegal != "" {
			t.Fatalf("seed %d: %s The model does not allow the history of %s", seed, what, v.Illegal)
		}
		if unknown := r.Unknown(); what == "" && len(unknown) > 0 {
			t.Errorf("seed %d: nothing was done to the hosts: %q", seed, unknown)
		}
		undecided = append(undecided, v.Undecided...)
		phases += v.Phases
		faaslets += int(r.faaslets.Load())
		lost += len(r.Unknown())
	}
	t.Logf("%d rounds, %d Faaslets, %d phases of operations; of %d operations the result is not known; not checked to the end: %q",
		rounds, faaslets, phases, lost, undecided)
	// What takes too long to check shows nothing, but is no fault.
	if len(undecided) > 1+rounds/10 {
		t.Errorf("of %d rounds too many histories were not checked to the end", rounds)
	}
}

// historyRound is a history on keys of its own.
type historyRound struct {
	statemodel.History
	t        *testing.T
	system   *system
	seed     uint64
	keys     [4]historyKey
	faaslets atomic.Int64
}

type historyKey struct {
	name string
	kind statemodel.Kind
	tags atomic.Int64
}

func newHistoryRound(t *testing.T, s *system, seed uint64) *historyRound {
	r := &historyRound{t: t, system: s, seed: seed}
	for kind := range r.keys {
		k := &r.keys[kind]
		k.kind = statemodel.Kind(kind)
		k.name = fmt.Sprintf("%s/%d/%d", []string{"calls", "pointers", "versions", "sum"}[kind], seed, time.Now().UnixNano())
		w := &historyScript{round: r, key: k}
		if k.kind == statemodel.Sum {
			w.do("make", 0)
			w.do("merge", 0)
		} else {
			w.do("set", 0)
			w.do("push", 0)
		}
		if well := w.run(0); !well {
			t.Fatalf("seed %d: make the values: %q", seed, r.Unknown())
		}
	}
	return r
}

// half has each worker make so many calls. When target of all have been made it calls
// meanwhile.
func (r *historyRound) half(part uint64, calls int, target int64, meanwhile func()) {
	reached, ended := make(chan struct{}), make(chan struct{})
	var made atomic.Int64
	var g sync.WaitGroup
	clients := r.system.clients // of before meanwhile
	for worker := range historyWorkers {
		random := rand.New(rand.NewPCG(r.seed, part<<8+uint64(worker)))
		g.Go(func() {
			for range calls {
				w := &historyScript{round: r, random: random, key: &r.keys[random.IntN(len(r.keys))], client: clients[worker%statemodel.Hosts]}
				w.compose()
				well := w.run(worker)
				if made.Add(1) == target {
					close(reached)
				}
				if !well {
					return
				}
			}
		})
	}
	go func() { g.Wait(); close(ended) }()
	select {
	case <-reached:
		meanwhile()
	case <-ended:
	}
	<-ended
	r.Settle(time.Now().UnixNano())
}

// look has both hosts pull and read all, when nothing happens any more.
func (r *historyRound) look() {
	for i := range r.keys {
		for worker := range statemodel.Hosts {
			w := &historyScript{round: r, key: &r.keys[i]}
			w.do("see", 0)
			w.run(worker)
			switch w.ops = nil; w.key.kind {
			case statemodel.Sum:
				w.do("lock", 0)
				w.do("pull", 0)
				w.do("view", 0)
				w.do("add", 0)
				w.do("unlock", 0)
				w.run(worker)
			default:
				for slot := range statemodel.Slots {
					w.ops = nil
					w.do("pull", 0)
					w.do("read at", slot)
					w.run(worker)
				}
			}
		}
	}
	w := &historyScript{round: r, key: &r.keys[0]}
	w.do("list", 0)
	w.run(0)
	w.run(1)
}

// historyScript is what one Faaslet does.
type historyScript struct {
	round  *historyRound
	random *rand.Rand
	key    *historyKey
	client *client.Client // nil: that of the worker's host as it is now
	ops    []statemodel.Op
}

func (w *historyScript) do(what string, slot int) {
	op := statemodel.Op{Do: what, Name: w.key.name, Kind: w.key.kind, Slot: slot, Slots: 1}
	if w.random != nil {
		op.Slots += w.random.IntN(statemodel.Slots - slot)
		op.Delta = w.random.Int64N(1 << 40)
	}
	if slices.Contains([]string{"set", "set at", "poke", "append"}, what) {
		tag := w.key.tags.Add(1)
		if tag > 255 {
			return // no byte is left that nobody wrote
		}
		op.Tag = byte(tag)
	}
	w.ops = append(w.ops, op)
}

// compose makes a script up.
func (w *historyScript) compose() {
	some := func(from ...string) {
		for range 1 + w.random.IntN(historyOpsMax) {
			w.do(from[w.random.IntN(len(from))], w.random.IntN(statemodel.Slots))
		}
	}
	dice := w.random.IntN(100)
	switch w.key.kind {
	case statemodel.Calls:
		switch {
		case dice < 6:
			w.do("push dirty", 0) // traps if it goes wrong, so that no more is known
			return
		case dice < 12:
			w.do("see", 0)
			return
		case dice < 24:
			w.do([]string{"append", "append", "clear", "list"}[w.random.IntN(4)], 0)
			w.do([]string{"append", "list"}[w.random.IntN(2)], 0)
			return
		}
		some("set", "set at", "set at", "set at", "read at", "read at", "read at", "push", "push range", "push range", "pull", "pull range")
		if dice < 60 {
			w.lock([]string{"", " global", " global"}[dice%3], w.random.IntN(2) == 0)
		}
	case statemodel.Pointers:
		w.do([]string{"view", "view at"}[w.random.IntN(2)], w.random.IntN(statemodel.Slots))
		slot := w.ops[0].Slot // which is mapped
		for range 1 + w.random.IntN(historyOpsMax-1) {
			do := []string{"poke", "poke", "poke", "peek", "peek", "set at", "read at", "push", "push range", "push range", "pull", "pull range"}[w.random.IntN(12)]
			w.do(do, slot)
		}
	case statemodel.Versions:
		if dice < 10 {
			w.do("see", 0)
			return
		}
		some("set", "set", "read at", "read at", "push", "push", "pull", "publish", "latest", "delete")
	case statemodel.Sum:
		if dice < 20 {
			w.do("see", 0)
			return
		}
		w.do("view", 0)
		for range 1 + w.random.IntN(historyOpsMax-1) {
			w.do([]string{"add", "add", "merge", "pull"}[w.random.IntN(4)], 0)
		}
		w.lock("", true)
	}
}

// lock has the script hold a lock all the time.
func (w *historyScript) lock(tier string, write bool) {
	op := statemodel.Op{Name: w.key.name, Kind: w.key.kind, Write: write}
	first, last := op, op
	first.Do, last.Do = "lock"+tier, "unlock"+tier
	w.ops = append(append([]statemodel.Op{first}, w.ops...), last)
}

// lines are an operation as state_ops knows it.
func historyLines(op statemodel.Op) []string {
	key := strings.ReplaceAll(op.Name, "-", "%2d")
	at, length := op.Range()
	mode := "read"
	if op.Write {
		mode = "write"
	}
	line := func(format string, a ...any) []string { return []string{fmt.Sprintf(format, a...)} }
	switch op.Do {
	case "set":
		return line("set_fill %s %d %d", key, op.Kind.Size(), op.Tag)
	case "set at":
		return line("set_at %s %d %%%02x", key, at, op.Tag)
	case "poke":
		return line("poke %s %d %%%02x", key, at, op.Tag)
	case "read at":
		return line("read %s %d 1", key, at)
	case "peek":
		return line("peek %s %d 1", key, at)
	case "view":
		return line("get %s - 0", key)
	case "view at":
		return line("get_at %s - %d 1", key, at)
	case "make":
		return line("get %s c 8", key)
	case "add":
		return line("add %s 0 %d", key, op.Delta)
	case "merge":
		return line("merge %s i64 sum", key)
	case "push", "pull", "delete", "publish":
		return line("%s %s", op.Do, key)
	case "push dirty":
		return line("push_dirty %s", key)
	case "push range":
		return line("push_range %s %d %d", key, at, length)
	case "pull range":
		return line("pull_range %s %d %d", key, at, length)
	case "latest":
		lines := line("get %s vp 0", key)
		for slot := range statemodel.Slots {
			lines = append(lines, fmt.Sprintf("peek %s %d 1", key, op.Kind.Offset(slot)))
		}
		return lines
	case "append":
		return line("append %s %d", key, op.Tag)
	case "clear":
		return line("clear_list %s", key)
	case "list":
		return line("read_list %s 0 1000", key)
	case "lock":
		return line("lock %s %s", key, mode)
	case "unlock":
		return line("unlock %s", key)
	case "lock global":
		return append(line("lock_global %s %s 300", key, mode), "sleep 1") // others are to want it
	case "unlock global":
		return line("unlock_global %s", key)
	}
	panic("BUG: state_ops can't " + op.Do)
}

// run has a worker's host run the script, and records what came of it. It is false if the
// result of something is not known.
func (w *historyScript) run(worker int) (well bool) {
	c := w.client
	if c == nil {
		c = w.round.system.clients[worker%statemodel.Hosts]
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if len(w.ops) > 0 && w.ops[0].Do == "see" {
		return w.see(ctx, c, worker)
	}
	w.round.faaslets.Add(1)
	input := "times\n"
	for _, op := range w.ops {
		input += strings.Join(historyLines(op), "\n") + "\n"
	}
	call := time.Now().UnixNano()
	reply, err := c.Invoke(ctx, "", "state_ops", strings.NewReader(input), client.InvokeOptions{})
	back := time.Now().UnixNano()
	if err != nil {
		// It was cut off somewhere.
		for n, op := range w.ops {
			op.Client = historyLost(worker, n)
			w.round.Add(op, statemodel.Answer{Unknown: err.Error()}, call, back)
		}
		return false
	}
	lines := strings.Split(strings.TrimSuffix(string(reply.Output), "\n"), "\n")[1:]
	lost, first := 0, int64(0)
	for i, op := range w.ops {
		n := len(historyLines(op))
		if len(lines) < n {
			w.round.t.Errorf("seed %d: %q has too few lines for %q", w.round.seed, reply.Output, input)
			return false
		}
		a, call, back, done := historyAnswer(op, lines[:n])
		lines = lines[n:]
		if i == 0 {
			first = call
		}
		if a.Fenced && op.Do == "unlock global" {
			call = first // it was lost some time before
		}
		op.Client = historyLost(worker, lost)
		if a.Unknown != "" {
			lost++
		}
		if done {
			w.round.Add(op, a, call, back)
		}
	}
	return lost == 0
}

// see reads the global tier as people do.
func (w *historyScript) see(ctx context.Context, c *client.Client, worker int) (well bool) {
	op, a := w.ops[0], statemodel.Answer{}
	op.Client = worker
	call := time.Now().UnixNano()
	var b []byte
	v, err := c.ReadState(ctx, "", op.Name, client.ReadStateOptions{})
	if err == nil {
		b, err = io.ReadAll(v.Body)
		err = errors.Join(err, v.Body.Close())
	}
	back := time.Now().UnixNano()
	var p *client.Problem
	switch {
	case errors.As(err, &p) && p.Code == client.CodeNoSuchValue:
		a.None = true
	case err != nil:
		a.Unknown = err.Error()
	case len(b) != op.Kind.Size():
		w.round.t.Errorf("seed %d: %s has %d bytes; want %d", w.round.seed, op.Name, len(b), op.Kind.Size())
		return false
	case op.Kind == statemodel.Sum:
		a.Sum = int64(encoding.LittleEndian.Uint64(b))
	default:
		for slot := range a.Tags {
			a.Tags[slot] = b[op.Kind.Offset(slot)]
		}
	}
	w.round.Add(op, a, call, back)
	return a.Unknown == ""
}

// The errnos that say something of state.
const (
	errnoInvalid    = "28"
	errnoNoValue    = "44"
	errnoNotHeld    = "63"
	errnoFenced     = "72"
	errnoTimedOut   = "73"
	errnoNotReached = "23"
)

// historyAnswer reads the lines that an operation put out. It is not done if it can't have
// had an effect, for what came before it failed.
func historyAnswer(op statemodel.Op, lines []string) (a statemodel.Answer, call, back int64, done bool) {
	for i, line := range lines {
		result, times, ok := strings.Cut(line, "@")
		var begin, end int64
		if _, err := fmt.Sscan(times, &begin, &end); !ok || err != nil {
			a.Unknown = "no times: " + line
			return a, call, back, true
		}
		if i == 0 {
			call, back = begin, end
		}
		errno, result, _ := strings.Cut(strings.TrimSpace(result), " ")
		switch {
		case errno == errnoInvalid && slices.Contains([]string{"poke", "peek", "add"}, op.Do),
			errno == errnoNotHeld && strings.HasPrefix(op.Do, "unlock"):
			return a, call, back, false
		case errno == errnoInvalid && op.Do == "latest" && i > 0:
			return a, call, back, true // nothing is mapped, as the first line says
		case errno == errnoNoValue:
			a.None = true
		case errno == errnoTimedOut:
			a.NoLock = true
		case errno == errnoFenced:
			a.Fenced = true
		case errno != "0":
			a.Unknown = "errno " + errno
		case op.Do == "list":
			if result != "" {
				a.List = result + " "
			}
		case op.Do == "add":
			a.Sum, _ = strconv.ParseInt(result, 10, 64)
		case op.Do == "latest" && i > 0:
			a.Tags[i-1] = historyByte(result)
		case op.Do == "read at", op.Do == "peek":
			a.Tags[0] = historyByte(result)
		}
	}
	return a, call, back, true
}

// historyByte decodes a byte as state_ops writes it.
func historyByte(s string) byte {
	if len(s) == 3 && s[0] == '%' {
		b, _ := strconv.ParseUint(s[1:], 16, 8)
		return byte(b)
	}
	if len(s) == 1 {
		return s[0]
	}
	return 0
}
