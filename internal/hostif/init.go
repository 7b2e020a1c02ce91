package hostif

import (
	"fmt"
	"io"
	"slices"

	"github.com/faasm-go/faasm/internal/linux"
)

// A function is initialised once, at upload, and what its memory then holds starts every
// call, on any host. So a guest that is initialised must learn nothing that belongs to one
// caller, one host or one moment: it would be in every Faaslet afterwards, where it looks
// fresh and is not. Each row of Functions has its rule.

// InitRule says what a host function does while a guest is initialised (Guest.Init).
type InitRule uint8

const (
	// InitRefused: a function of faasm or WASI answers ENOTSUP; one of env, which has no
	// way to say no, traps and names itself. The handler does not run. This is the zero
	// value: a new row puts nothing into a snapshot before somebody has thought about it.
	InitRefused InitRule = iota
	// InitAllowed: as in a call, since it tells nothing of host, caller or time.
	InitAllowed
	// InitDeterministic: it answers, the same wherever and whenever the function is
	// initialised. Its handler sees to that.
	InitDeterministic
)

// Initialisation is what a guest has while it is initialised, in place of a caller and a
// host. It is for one goroutine.
type Initialisation struct {
	// Random is what random_get draws from. It never ends, and depends on nothing but the
	// module and a key of the cluster, so that the hosts of a cluster make one snapshot of
	// a module and nobody outside can tell what the guest drew.
	Random io.Reader

	output  []byte
	dropped int // bytes printed beyond initOutputMax
}

// initOutputMax bounds what is kept of what a guest prints while it is initialised.
const initOutputMax = 64 << 10

// Output is what the guest printed to stdout and stderr, in order: its first 64 KiB, and a
// note if there was more.
func (i *Initialisation) Output() []byte {
	if i.dropped == 0 {
		return i.output
	}
	return fmt.Appendf(slices.Clip(i.output), "\n[%d more bytes were printed, and are not kept]\n", i.dropped)
}

func (i *Initialisation) print(b []byte) {
	kept := min(len(b), initOutputMax-len(i.output))
	i.output = append(i.output, b[:kept]...)
	i.dropped += len(b) - kept
}

// serve runs f's handler, unless the guest is initialised and f is not to be had then.
func (g *Guest) serve(f *Function, a *Args) uint64 {
	switch {
	case g.Init == nil || f.Init != InitRefused:
		return f.handler(g, a)
	case f.Module == "env":
		return g.fault("%s.%s is not available during initialisation", f.Module, f.Name)
	}
	return uint64(ENOTSUP)
}

// input is the call's. There is none during initialisation.
func (g *Guest) input() []byte {
	if g.Init != nil {
		return nil
	}
	return g.Call.Request().Input
}

// argv is the function's name alone. During initialisation it is "function", since one
// snapshot of a module serves under all the names it is deployed as.
func (g *Guest) argv() []string {
	if g.Init != nil {
		return []string{"function"}
	}
	return []string{g.Name}
}

// environ is empty during initialisation: variables can be secrets, and can change without
// a new module.
func (g *Guest) environ() []string {
	if g.Init != nil {
		return nil
	}
	return g.Env
}

// random fills b from the kernel, or during initialisation from Init.Random. Refusing it
// would be no use: the runtimes of Rust, Go and Python abort without it. The kernel's
// would give every Faaslet the same draw while it looks fresh, and each host another
// snapshot of the same module.
func (g *Guest) random(b []byte) error {
	if g.Init != nil {
		_, err := io.ReadFull(g.Init.Random, b)
		return err
	}
	return linux.Random(b)
}
