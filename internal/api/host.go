package api

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/call"
	"github.com/faasm-go/faasm/internal/state/global"
)

// Host is what the HTTP interface stands in front of. The daemon implements it; the
// tests of this package do it a second time.
//
// Tenant and function names have been checked (client.ValidName) before a method sees
// them. An error that is a *client.Problem (see NewProblem and its kin) is sent as it
// is; the errors of package call have problems of their own; any other is logged and
// sent as an internal error without its text. All methods may be called at once.
type Host interface {
	// Invoke runs a call and returns how it ended, misbehaviour of the guest included.
	// When ctx is done the client is gone: the call is cancelled, and Invoke returns
	// soon after. An error means that the call never began; done is nil then. The
	// result is read, and not changed, until the reply is written; done is called once
	// after that, and is where the host cleans up without anybody waiting for it.
	Invoke(ctx context.Context, inv Invocation) (id call.ID, res *call.Result, done func(), err error)

	// Submit returns once the call is durable; it then runs whatever becomes of ctx.
	Submit(ctx context.Context, inv Invocation) (call.Record, error)

	// Call returns what is known of a call, or call.ErrNotFound.
	Call(ctx context.Context, id call.ID) (call.Record, error)

	// Wait is Call that returns only when the call or ctx is done. The end of ctx is
	// not an error.
	Wait(ctx context.Context, id call.ID) (call.Record, error)

	// Calls lists calls, newest first.
	Calls(ctx context.Context, filter call.Filter) ([]call.Record, error)

	// Output returns a finished call's output, which is read and not changed;
	// call.ErrNotFinished, call.ErrNotFound or call.ErrOutputDropped.
	Output(ctx context.Context, id call.ID) ([]byte, error)

	// Cancel cancels a call and its descendants, and returns what is known of it
	// then. It leaves a finished call as it is.
	Cancel(ctx context.Context, id call.ID) (call.Record, error)

	// CallLogs returns what the call printed, oldest first. A known call that printed
	// nothing has no lines and no error.
	CallLogs(ctx context.Context, id call.ID) ([]call.Line, error)

	// Deploy makes the upload the function's serving version, and tells whether the
	// function is new. Only its info has what initialisation printed (InitLog), of which
	// the client gets the end.
	Deploy(ctx context.Context, up Upload) (info client.FunctionInfo, created bool, err error)

	// Function describes the serving version.
	Function(ctx context.Context, tenant, function string) (client.FunctionInfo, error)

	// Functions lists the functions of a tenant, or of all if tenant is empty, by
	// tenant and name.
	Functions(ctx context.Context, tenant string) ([]client.FunctionInfo, error)

	// Versions lists the function's versions, newest first.
	Versions(ctx context.Context, tenant, function string) (client.VersionList, error)

	// Rollback makes another version serve, and describes it: the given one, or if
	// version is empty the one that served before. It returns NoSuchVersion or
	// NoPreviousVersion if there is none; the same version then serves on.
	Rollback(ctx context.Context, tenant, function, version string) (client.FunctionInfo, error)

	// Warm loads the function's code and image and keeps count clean regions at hand,
	// until the function changes or the host ends; a count of 0 takes that back.
	Warm(ctx context.Context, tenant, function string, count int) (client.WarmInfo, error)

	// Collect deletes from the store what nothing refers to any more. Of each function
	// it leaves the newest keep versions; if keep is 0, as many as the host is set to.
	Collect(ctx context.Context, keep int) (client.CollectInfo, error)

	// Remove takes the function out of service.
	Remove(ctx context.Context, tenant, function string) error

	// FunctionLogs returns the last tail lines that the function's calls printed,
	// oldest first.
	FunctionLogs(ctx context.Context, tenant, function string, tail int) ([]call.Line, error)

	// FollowLogs returns the last tail lines and then every new one, until ctx is done
	// or the loop is left.
	FollowLogs(ctx context.Context, tenant, function string, tail int) (iter.Seq[call.Line], error)

	// State is people's access to state. It is the same at each call.
	State() State

	// Ready returns nil if the host takes calls, else why not (Draining).
	Ready() error

	// Info returns the host's basic facts.
	Info() client.HostInfo
}

// State is people's access to the global tier, as state.Tier has it, with the errors of
// packages state and global. Tenants, keys and bounds have been checked.
type State interface {
	Stat(ctx context.Context, key global.Key) (global.Info, error)
	Read(ctx context.Context, key global.Key, off int64, dst []byte) (int, global.Info, error)
	Put(ctx context.Context, key global.Key, size int64, src io.ReaderAt, c global.Condition) (global.Info, error)
	Delete(ctx context.Context, key global.Key, c global.Condition) error
	List(ctx context.Context, tenant, prefix, after string, limit int) ([]global.Entry, error)
	Usage(ctx context.Context, tenant string) (global.Usage, error)
	Lock(ctx context.Context, key global.Key, mode global.LockMode) (*global.Lease, error)
}

// Invocation is a call as a client asks for it.
type Invocation struct {
	Tenant   string
	Function string
	Input    []byte        // the host's from here on; nothing else refers to it
	Timeout  time.Duration // lowers the function's own; zero: the function's own
}

// Upload is a module as a client sends it.
type Upload struct {
	Tenant      string
	Function    string
	Wasm        []byte        // the host's from here on
	MemoryBytes uint64        // zero: the host's default
	Timeout     time.Duration // zero: the host's default
}
