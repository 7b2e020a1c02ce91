package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/faasm-go/faasm/internal/api"
	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/faaslet"
	"github.com/faasm-go/faasm/internal/proto"
	"github.com/faasm-go/faasm/internal/registry"
)

// loadedHow tells how a function's code came into memory.
type loadedHow int

const (
	fromStore   loadedHow = iota // artefact and Proto-Faaslet were loaded
	compiled                     // the module was compiled, and its Proto-Faaslet loaded
	initialised                  // the module was compiled and initialised
)

func (how loadedHow) String() string { return [...]string{"store", "compiled", "initialised"}[how] }

// compile compiles a module.
func (f *functions) compile(wasm []byte, limits faaslet.Limits) (*faaslet.Code, error) {
	f.compiling.Lock()
	defer f.compiling.Unlock()
	return f.host.runtime.Compile(wasm, limits)
}

// initialise makes the Proto-Faaslet of a function that is being deployed, as a call of its
// tenant: it waits for its turn, and ends when the client goes away. It returns what the
// guest printed besides.
func (h *Host) initialise(ctx context.Context, code *faaslet.Code, tenant, name string) (p *proto.File, took time.Duration, log string, err error) {
	c := call.New(&call.Request{ID: call.NewID(), Tenant: tenant, Function: name, Accepted: time.Now(), Attempt: 1}, nil)
	defer context.AfterFunc(ctx, func() { c.Cancel(call.Cancelled) })()
	defer context.AfterFunc(h.ctx, func() { c.Cancel(call.HostLost) })()
	done := h.sched.DoWith(c, func(c *call.Call) {
		var r call.Result
		p, r, err = code.Initialise(c, h.opts.InitTimeout, h.opts.Trace)
		c.Finish(r)
	})
	done()
	r := c.Result()
	switch {
	case err != nil:
		return nil, 0, "", fmt.Errorf("initialise: %w", err)
	case r.Outcome == call.Refused:
		return nil, 0, "", api.Overloaded(r.Failure.Message, time.Second)
	case p == nil:
		return nil, 0, "", api.InitialisationFailed(*r.Failure, string(r.Output))
	}
	return p, r.Finished.Sub(r.Started), string(r.Output), nil
}

// publish makes record the function's serving version in the store, and returns it with
// what the store knows of it.
//
// Preconditions: f.publishing is held.
func (f *functions) publish(ctx context.Context, record registry.Version, wasm []byte, code *faaslet.Code, p *proto.File) (registry.Version, error) {
	artefact, err := f.sealedArtefact(code)
	if err != nil {
		return record, err
	}
	return f.store.Publish(ctx, record, registry.Blobs{
		Wasm: wasm, Fingerprint: f.host.runtime.Fingerprint(), Artefact: artefact, Proto: f.sealedProto(p),
	})
}

// What goes into the store is sealed with the cluster's key under a label that says what it
// is, so that nothing can take another's place.

func (f *functions) artefactLabel(module string) string {
	return "artefact " + module + " " + f.host.runtime.Fingerprint()
}

func protoLabel(hash string) string { return "proto " + hash }

func (f *functions) sealedArtefact(code *faaslet.Code) (func(io.Writer) error, error) {
	artefact, err := code.Artefact()
	if err != nil {
		return nil, err
	}
	return func(w io.Writer) error {
		sealed := f.key.NewWriter(w, f.artefactLabel(code.Module()))
		z, err := zstd.NewWriter(sealed, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return err
		}
		_, err = z.Write(artefact)
		return errors.Join(err, z.Close(), sealed.Close())
	}, nil
}

func (f *functions) sealedProto(p *proto.File) func(io.Writer) error {
	return func(w io.Writer) error {
		sealed := f.key.NewWriter(w, protoLabel(p.Hash()))
		return errors.Join(p.Encode(sealed), sealed.Close())
	}
}

// loadCode makes a version's code: from the store if it has an artefact for this machine and
// the Proto-Faaslet, which is a matter of milliseconds; else anew from the module. It
// returns the Proto-Faaslet's hash, which is another one in the last case if this host's
// key is not the one it was made with.
func (f *functions) loadCode(r registry.Version) (code *faaslet.Code, hash string, err error) {
	ctx, log := f.host.ctx, f.host.log.With("tenant", r.Tenant, "function", r.Name, "version", r.Version)
	limits := faaslet.Limits{MemoryMax: r.MemoryMax, Timeout: r.Timeout}
	how := fromStore
	defer func() {
		if err == nil {
			f.loads[how].Add(1)
			code.Warm()
		} else if code != nil {
			err = errors.Join(err, code.Close())
			code = nil
		}
	}()

	code, err = f.loadArtefact(ctx, r.Module, limits)
	if err != nil {
		log.Info("compile function", "because", err)
		how = compiled
		if code, err = f.compileStored(ctx, r.Module, limits); err != nil {
			return nil, "", err
		}
	}
	p, err := f.loadProto(ctx, r)
	if err == nil {
		defer p.Close()
		if err = code.StartFrom(p); err == nil {
			return code, r.Proto, nil
		}
	}
	log.Warn("initialise function again", "because", err)
	if how == fromStore {
		err = code.Close()
		code = nil
		if err != nil {
			return nil, "", err
		}
		if code, err = f.compileStored(ctx, r.Module, limits); err != nil {
			return nil, "", err
		}
	}
	how = initialised
	cl := call.New(&call.Request{ID: call.NewID(), Tenant: r.Tenant, Function: r.Name, Accepted: time.Now(), Attempt: 1}, nil)
	p, result, err := code.Initialise(cl, f.host.opts.InitTimeout, f.host.opts.Trace)
	if err != nil {
		return code, "", err
	}
	if p == nil {
		return code, "", fmt.Errorf("initialise: %s", result.Failure.Message)
	}
	defer p.Close()
	if err := code.StartFrom(p); err != nil {
		return code, "", err
	}
	// That it can't be kept is no reason not to serve.
	err = f.store.PutProto(ctx, p.Hash(), f.sealedProto(p))
	if err == nil && p.Hash() != r.Proto {
		r.Proto = p.Hash()
		err = f.store.PutVersion(ctx, r)
	}
	if err != nil {
		log.Error("keep Proto-Faaslet", "error", err)
	}
	return code, p.Hash(), nil
}

// artefactBytesMax bounds what a stored artefact may unpack to.
const artefactBytesMax = 1 << 30

func (f *functions) loadArtefact(ctx context.Context, module string, limits faaslet.Limits) (*faaslet.Code, error) {
	object, err := f.store.Artefact(ctx, module, f.host.runtime.Fingerprint())
	if err != nil {
		return nil, err
	}
	defer object.Close()
	sealed, err := f.key.NewReader(object, f.artefactLabel(module))
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(sealed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(artefactBytesMax))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	artefact, err := io.ReadAll(io.LimitReader(z, artefactBytesMax))
	if err != nil {
		return nil, err
	}
	// Nothing may be believed before the seal has been read to its end.
	if _, err := io.Copy(io.Discard, sealed); err != nil {
		return nil, err
	}
	code, err := f.host.runtime.Load(artefact, limits)
	if err == nil && code.Module() != module {
		panic("BUG: artefact of module " + code.Module() + " is sealed as that of " + module)
	}
	return code, err
}

// compileStored compiles a module of the store, and keeps the artefact there.
func (f *functions) compileStored(ctx context.Context, module string, limits faaslet.Limits) (*faaslet.Code, error) {
	wasm, err := f.store.Module(ctx, module)
	if err != nil {
		return nil, err
	}
	code, err := f.compile(wasm, limits)
	if err != nil {
		return nil, err
	}
	artefact, err := f.sealedArtefact(code)
	if err == nil {
		err = f.store.PutArtefact(ctx, module, f.host.runtime.Fingerprint(), artefact)
	}
	if err != nil {
		f.host.log.Error("keep artefact", "module", module, "error", err)
	}
	return code, nil
}

func (f *functions) loadProto(ctx context.Context, r registry.Version) (*proto.File, error) {
	if r.Proto == "" {
		return nil, errors.New("the version was deployed without a Proto-Faaslet")
	}
	object, err := f.store.Proto(ctx, r.Proto)
	if err != nil {
		return nil, err
	}
	defer object.Close()
	sealed, err := f.key.NewReader(object, protoLabel(r.Proto))
	if err != nil {
		return nil, err
	}
	p, err := proto.Decode(sealed, proto.DecodeOptions{MemoryMax: r.MemoryMax})
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, sealed)
	if err == nil && p.Hash() != r.Proto {
		err = fmt.Errorf("Proto-Faaslet %s has the content of %s", r.Proto, p.Hash())
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}
