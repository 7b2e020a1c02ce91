package hostif

import (
	"math"
	"time"

	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/engine"
)

// WASI preview 1, as far as a command needs it to compute and print. The file system is a
// later step: its functions link, and answer ENOSYS.

// A wasiRow is a function of WASI; params has a letter for each parameter, i for i32 and I
// for i64.
type wasiRow struct {
	name    string
	init    InitRule
	params  string
	names   []string
	handler func(*Guest, *Args) Errno
	fast    engine.Fast
}

var wasiRows = []wasiRow{
	{name: "args_get", init: InitDeterministic, params: "ii", names: []string{"argv", "buf"}, handler: argsGet},
	{name: "args_sizes_get", init: InitDeterministic, params: "ii", names: []string{"argc", "size"}, handler: argsSizesGet},
	{name: "environ_get", init: InitDeterministic, params: "ii", names: []string{"environ", "buf"}, handler: environGet},
	{name: "environ_sizes_get", init: InitDeterministic, params: "ii", names: []string{"count", "size"}, handler: environSizesGet},
	{name: "clock_res_get", init: InitAllowed, params: "ii", names: []string{"id", "res"}, fast: engine.ClockResGet},
	{name: "clock_time_get", init: InitDeterministic, params: "iIi", names: []string{"id", "precision", "time"}, fast: engine.ClockTimeGet},
	{name: "fd_close", params: "i", names: []string{"fd"}, handler: fdClose},
	{name: "fd_fdstat_get", init: InitAllowed, params: "ii", names: []string{"fd", "stat"}, handler: fdFdstatGet},
	{name: "fd_prestat_get", init: InitAllowed, params: "ii", names: []string{"fd", "prestat"}, handler: fdPrestat},
	{name: "fd_prestat_dir_name", init: InitAllowed, params: "iii", names: []string{"fd", "path", "len"}, handler: fdPrestat},
	{name: "fd_read", init: InitDeterministic, params: "iiii", names: []string{"fd", "iovs", "iovs_len", "nread"}, handler: fdRead},
	{name: "fd_seek", init: InitAllowed, params: "iIii", names: []string{"fd", "offset", "whence", "position"}, handler: fdSeek},
	{name: "fd_write", init: InitAllowed, params: "iiii", names: []string{"fd", "iovs", "iovs_len", "nwritten"}, handler: fdWrite},
	{name: "poll_oneoff", init: InitDeterministic, params: "iiii", names: []string{"in", "out", "nsubscriptions", "nevents"}, handler: pollOneoff},
	{name: "proc_exit", init: InitAllowed, params: "i", names: []string{"code"}, handler: procExit},
	{name: "proc_raise", params: "i", names: []string{"signal"}, handler: refuse(ENOTSUP)},
	{name: "random_get", init: InitDeterministic, params: "ii", names: []string{"buf", "len"}, handler: randomGet},
	{name: "sched_yield", init: InitAllowed, fast: engine.SchedYield},
	{name: "sock_accept", params: "iii", names: []string{"fd", "flags", "result"}, handler: refuse(ENOTSUP)},

	{name: "fd_advise", params: "iIIi"},
	{name: "fd_allocate", params: "iII"},
	{name: "fd_datasync", params: "i"},
	{name: "fd_fdstat_set_flags", params: "ii"},
	{name: "fd_fdstat_set_rights", params: "iII"},
	{name: "fd_filestat_get", params: "ii"},
	{name: "fd_filestat_set_size", params: "iI"},
	{name: "fd_filestat_set_times", params: "iIIi"},
	{name: "fd_pread", params: "iiiIi"},
	{name: "fd_pwrite", params: "iiiIi"},
	{name: "fd_readdir", params: "iiiIi"},
	{name: "fd_renumber", params: "ii"},
	{name: "fd_sync", params: "i"},
	{name: "fd_tell", params: "ii"},
	{name: "path_create_directory", params: "iii"},
	{name: "path_filestat_get", params: "iiiii"},
	{name: "path_filestat_set_times", params: "iiiiIIi"},
	{name: "path_link", params: "iiiiiii"},
	{name: "path_open", params: "iiiiiIIii"},
	{name: "path_readlink", params: "iiiiii"},
	{name: "path_remove_directory", params: "iii"},
	{name: "path_rename", params: "iiiiii"},
	{name: "path_symlink", params: "iiiii"},
	{name: "path_unlink_file", params: "iii"},
	{name: "sock_recv", params: "iiiiii"},
	{name: "sock_send", params: "iiiii"},
	{name: "sock_shutdown", params: "ii"},
}

func wasiFunctions(module string) []Function {
	var out []Function
	for _, row := range wasiRows {
		f := Function{HostFunc: engine.HostFunc{Module: module, Name: row.name, Fast: row.fast}, Names: row.names, Init: row.init}
		for i, letter := range row.params {
			t := engine.I32
			if letter == 'I' {
				t = engine.I64
			}
			f.Params = append(f.Params, t)
			if row.names == nil || i >= len(row.names) {
				f.Names = append(f.Names, "arg")
			}
		}
		if row.name != "proc_exit" {
			f.Results = []engine.ValType{engine.I32}
		}
		handler := row.handler
		if handler == nil {
			handler = refuse(ENOSYS)
		}
		f.handler = func(g *Guest, a *Args) uint64 { return uint64(handler(g, a)) }
		out = append(out, f)
	}
	return out
}

func refuse(e Errno) func(*Guest, *Args) Errno {
	return func(*Guest, *Args) Errno { return e }
}

func argsGet(g *Guest, a *Args) Errno { return g.putStrings(g.argv(), a.u32(0), a.u32(1)) }
func argsSizesGet(g *Guest, a *Args) Errno {
	return g.putStringSizes(g.argv(), a.u32(0), a.u32(1))
}
func environGet(g *Guest, a *Args) Errno { return g.putStrings(g.environ(), a.u32(0), a.u32(1)) }
func environSizesGet(g *Guest, a *Args) Errno {
	return g.putStringSizes(g.environ(), a.u32(0), a.u32(1))
}

// putStrings writes each string with a NUL to buf, and its address to the array at ptrs.
func (g *Guest) putStrings(list []string, ptrs, buf uint32) Errno {
	if !g.fits(ptrs, 4*uint32(len(list))) || !g.fits(buf, stringsSize(list)) {
		return EFAULT
	}
	for _, s := range list {
		b, _ := g.bytes(buf, uint32(len(s))+1)
		b[copy(b, s)] = 0
		g.putU32(ptrs, buf)
		ptrs += 4
		buf += uint32(len(b))
	}
	return Success
}

func (g *Guest) putStringSizes(list []string, countAt, sizeAt uint32) Errno {
	if !g.fits(countAt, 4) || !g.fits(sizeAt, 4) {
		return EFAULT
	}
	g.putU32(countAt, uint32(len(list)))
	g.putU32(sizeAt, stringsSize(list))
	return Success
}

// stringsSize is how many bytes the strings take, each with its NUL.
func stringsSize(list []string) uint32 {
	n := 0
	for _, s := range list {
		n += len(s) + 1
	}
	return uint32(n)
}

// stdio tells whether fd is an open stdin, stdout or stderr. There are no others yet.
func (g *Guest) stdio(fd uint32) bool { return fd <= 2 && !g.closed[fd] }

func fdClose(g *Guest, a *Args) Errno {
	fd := a.u32(0)
	if !g.stdio(fd) {
		return EBADF
	}
	g.closed[fd] = true
	return Success
}

const (
	fileTypeCharacterDevice = 2
	rightRead, rightWrite   = 1 << 1, 1 << 6
)

// fdFdstatGet says that stdio is a character device without seek, so that a C library
// buffers stdout by lines.
func fdFdstatGet(g *Guest, a *Args) Errno {
	fd := a.u32(0)
	if !g.stdio(fd) {
		return EBADF
	}
	b, ok := g.bytes(a.u32(1), 24)
	if !ok {
		return EFAULT
	}
	clear(b)
	b[0] = fileTypeCharacterDevice
	rights := uint64(rightWrite)
	if fd == 0 {
		rights = rightRead
	}
	le.PutUint64(b[8:], rights)
	return Success
}

// fdPrestat: there is no preopened directory yet.
func fdPrestat(*Guest, *Args) Errno { return EBADF }

func fdSeek(g *Guest, a *Args) Errno {
	if !g.stdio(a.u32(0)) {
		return EBADF
	}
	return ESPIPE
}

// iovsMax bounds a scattered read or write, as POSIX's IOV_MAX does.
const iovsMax = 1024

// iovec yields the buffers of a scattered read or write, after checking them all: a
// negative errno case leaves memory and streams untouched.
func (g *Guest) iovec(at, n uint32) ([][]byte, Errno) {
	if n > iovsMax {
		return nil, EINVAL
	}
	list, ok := g.bytes(at, 8*n)
	if !ok {
		return nil, EFAULT
	}
	out := make([][]byte, 0, 4)
	total := uint64(0)
	for i := uint32(0); i < n; i++ {
		b, ok := g.bytes(le.Uint32(list[8*i:]), le.Uint32(list[8*i+4:]))
		if !ok {
			return nil, EFAULT
		}
		if total += uint64(len(b)); total > math.MaxInt32 {
			return nil, EINVAL
		}
		out = append(out, b)
	}
	return out, Success
}

// fdRead reads the call's input as stdin.
func fdRead(g *Guest, a *Args) Errno {
	fd := a.u32(0)
	if fd != 0 || !g.stdio(fd) {
		return EBADF
	}
	bufs, errno := g.iovec(a.u32(1), a.u32(2))
	if errno != Success {
		return errno
	}
	if !g.fits(a.u32(3), 4) {
		return EFAULT
	}
	input, n := g.input(), 0
	for _, b := range bufs {
		n += copy(b, input[g.read+n:])
	}
	g.read += n
	g.putU32(a.u32(3), uint32(n))
	return Success
}

// fdWrite takes stdout, which is the output as long as none was written through the host
// interface, and stderr, which is log. During initialisation it takes both for the
// uploader.
//
// EFBIG: stdout would exceed the output limit; nothing of it is taken.
func fdWrite(g *Guest, a *Args) Errno {
	fd := a.u32(0)
	if fd == 0 || !g.stdio(fd) {
		return EBADF
	}
	bufs, errno := g.iovec(a.u32(1), a.u32(2))
	if errno != Success {
		return errno
	}
	if !g.fits(a.u32(3), 4) {
		return EFAULT
	}
	n := 0
	for _, b := range bufs {
		n += len(b)
	}
	isOutput := g.Init == nil && fd == 1 && !g.explicit
	if isOutput && len(g.stdout)+n > g.Limits.OutputMax {
		return EFBIG
	}
	for _, b := range bufs {
		switch {
		case isOutput:
			g.stdout = append(g.stdout, b...)
		case g.Init != nil:
			g.Init.print(b)
		case fd == 1:
			g.Log.Write(call.Stdout, b)
		default:
			g.Log.Write(call.Stderr, b)
		}
	}
	g.putU32(a.u32(3), uint32(n))
	return Success
}

// flushStdout sends what was printed so far to the log: it turned out not to be output.
func (g *Guest) flushStdout() {
	if len(g.stdout) > 0 {
		g.Log.Write(call.Stdout, g.stdout)
		g.stdout = nil
	}
}

func procExit(g *Guest, a *Args) Errno {
	g.Exited, g.ExitCode = true, a.i32(0)
	return Success
}

// randomGet fills a buffer; see Guest.random.
func randomGet(g *Guest, a *Args) Errno {
	b, ok := g.bytes(a.u32(0), a.u32(1))
	if !ok {
		return EFAULT
	}
	// In pieces, so that a cancelled call is not held up by a large buffer.
	for len(b) > 0 {
		if _, cancelled := g.Call.Cancelled(); cancelled {
			return EAGAIN
		}
		piece := b[:min(len(b), 1<<20)]
		if err := g.random(piece); err != nil {
			return EIO
		}
		b = b[len(piece):]
	}
	return Success
}

const (
	subscriptionSize, eventSize          = 48, 32
	eventClock, eventRead                = 0, 1
	eventWrite                           = 2
	clockRealtime, clockMonotonic        = 0, 1
	clockAbsolute                        = 1
	subscriptionsMax              uint32 = 1024
)

// pollOneoff waits for the first of several clocks or descriptors. Stdio is always ready.
//
// EINVAL: no subscription, more than 1,024, or one of an unknown kind.
func pollOneoff(g *Guest, a *Args) Errno {
	in, out, n, countAt := a.u32(0), a.u32(1), a.u32(2), a.u32(3)
	if n == 0 || n > subscriptionsMax {
		return EINVAL
	}
	subs, ok := g.bytes(in, n*subscriptionSize)
	if !ok || !g.fits(out, n*eventSize) || !g.fits(countAt, 4) {
		return EFAULT
	}
	var ready, clocks []event
	soonest := time.Duration(math.MaxInt64)
	for i := range n {
		s := subs[i*subscriptionSize:][:subscriptionSize]
		e := event{userdata: le.Uint64(s), kind: s[8]}
		switch e.kind {
		case eventClock:
			wait, errno := g.clockWait(s[16:])
			if errno != Success {
				e.errno = errno
				ready = append(ready, e)
				continue
			}
			if wait < soonest {
				soonest, clocks = wait, clocks[:0]
			}
			if wait == soonest {
				clocks = append(clocks, e)
			}
		case eventRead, eventWrite:
			if fd := le.Uint32(s[16:]); !g.stdio(fd) {
				e.errno = EBADF
			}
			ready = append(ready, e)
		default:
			return EINVAL
		}
	}
	if len(ready) > 0 {
		return g.putEvents(out, countAt, ready)
	}
	return g.sleep(soonest, func() Errno { return g.putEvents(out, countAt, clocks) })
}

// An event is that a subscription of pollOneoff is ready.
type event struct {
	userdata uint64
	errno    Errno
	kind     byte
}

// putEvents writes events and their number to where pollOneoff has seen that they fit.
func (g *Guest) putEvents(out, countAt uint32, events []event) Errno {
	for i, e := range events {
		b, _ := g.bytes(out+uint32(i)*eventSize, eventSize)
		clear(b)
		le.PutUint64(b, e.userdata)
		le.PutUint16(b[8:], uint16(e.errno))
		b[10] = e.kind
	}
	g.putU32(countAt, uint32(len(events)))
	return Success
}

// clockWait reads {id u32, timeout u64, precision u64, flags u16} and tells how long to
// wait for it.
func (g *Guest) clockWait(b []byte) (time.Duration, Errno) {
	id, timeout, flags := le.Uint32(b), le.Uint64(b[8:]), le.Uint16(b[24:])
	if flags&clockAbsolute != 0 {
		now, ok := g.now(id)
		if !ok {
			return 0, EINVAL
		}
		timeout -= min(timeout, now)
	}
	return time.Duration(min(timeout, math.MaxInt64)), Success
}

// now is what one of the guest's clocks shows, in nanoseconds.
func (g *Guest) now(id uint32) (uint64, bool) {
	switch id {
	case clockRealtime:
		if g.Init != nil {
			return logicalEpoch + uint64(g.Instance.Elapsed()), true
		}
		return uint64(time.Now().UnixNano()), true
	case clockMonotonic:
		return uint64(g.Instance.Elapsed()), true
	}
	return 0, false
}

// logicalEpoch is when the logical realtime clock begins, 2020-01-01, as in engine.c.
const logicalEpoch = 1_577_836_800 * uint64(time.Second)

// sleep is what a handler returns to go on with then after d. During initialisation time
// passes without anyone waiting for it.
func (g *Guest) sleep(d time.Duration, then func() Errno) Errno {
	switch {
	case d <= 0:
		return then()
	case g.Init != nil:
		g.Instance.AdvanceClock(d)
		return then()
	}
	return suspend(g, &call.Wait{For: d}, then)
}
