package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// ErrBadKey is returned, before anything is sent, for a key that no value can have; see
// ValidKey.
var ErrBadKey = errors.New("key is not 1 to 1024 bytes of UTF-8")

// ReadStateOptions are the choices of ReadState.
type ReadStateOptions struct {
	// Range is the part to read, in bytes, as HTTP writes it: "0-99" the first hundred,
	// "100-" all from the hundredth on, "-10" the last ten. Empty: all.
	Range string

	// IfVersion is the version that the value must have, or zero.
	IfVersion StateVersion
}

// StateValue is a value, or part of one, on its way. All of it is of one version.
type StateValue struct {
	StateInfo       // of the whole value
	Offset    int64 // of the part in the value
	Length    int64 // of the part

	// Body is the part. Its reader gets io.ErrUnexpectedEOF if it does not come whole: the
	// value was replaced while it was read, or the connection broke. The caller closes it.
	Body io.ReadCloser
}

// ReadState reads a value of the global tier.
func (c *Client) ReadState(ctx context.Context, tenant, key string, opts ReadStateOptions) (*StateValue, error) {
	req, err := c.keyRequest(ctx, http.MethodGet, "state", tenant, key, nil, nil)
	if err != nil {
		return nil, err
	}
	if opts.Range != "" {
		req.Header["Range"] = []string{"bytes=" + opts.Range}
	}
	setIfVersion(req, opts.IfVersion)
	resp, err := c.send(req)
	if err != nil {
		return nil, err
	}
	v := &StateValue{Length: resp.ContentLength, Body: resp.Body}
	v.Size = v.Length
	err = v.Version.parseETag(resp.Header.Get("ETag"))
	if err == nil && resp.StatusCode == http.StatusPartialContent {
		err = v.parseContentRange(resp.Header.Get("Content-Range"))
	} else if opts.Range != "" {
		err = errors.New("the whole value, though a range was asked for")
	}
	if err == nil && v.Length < 0 {
		err = errors.New("it has no length")
	}
	if err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("%s %s: not the reply of a Faasm host: %w", req.Method, req.URL.Redacted(), err)
	}
	return v, nil
}

func (v *StateVersion) parseETag(tag string) error {
	text, err := strconv.Unquote(tag)
	if err == nil {
		err = v.UnmarshalText([]byte(text))
	}
	if err != nil {
		return fmt.Errorf("ETag %q is no version", tag)
	}
	return nil
}

func (v *StateValue) parseContentRange(header string) error {
	var first, last, size int64
	if n, err := fmt.Sscanf(header, "bytes %d-%d/%d", &first, &last, &size); n != 3 || err != nil || last-first+1 != v.Length {
		return fmt.Errorf("Content-Range %q of %d bytes", header, v.Length)
	}
	v.Offset, v.Size = first, size
	return nil
}

// WriteStateOptions are the conditions of WriteState and DeleteState. If one does not
// hold, nothing changes.
type WriteStateOptions struct {
	IfVersion StateVersion // the version that the value must have, or zero; else CodeVersionMismatch
	IfAbsent  bool         // there must be no value; else CodeVersionMismatch. Not of DeleteState

	// Fence is the token of a lock of the key that must not have been lost, or zero; else
	// CodeFenced. See Lock.
	Fence uint64
}

func (o WriteStateOptions) set(req *http.Request) {
	setIfVersion(req, o.IfVersion)
	if o.IfAbsent {
		req.Header["If-None-Match"] = []string{"*"}
	}
	if o.Fence != 0 {
		req.Header["Faasm-Fence"] = []string{strconv.FormatUint(o.Fence, 10)}
	}
}

func setIfVersion(req *http.Request, v StateVersion) {
	if v != 0 {
		req.Header["If-Match"] = []string{`"` + v.String() + `"`}
	}
}

// WriteState makes body (nil: nothing) the value, and tells whether there was none before.
// Nothing has changed if body does not come whole.
func (c *Client) WriteState(ctx context.Context, tenant, key string, body io.Reader, opts WriteStateOptions) (info *StateInfo, created bool, err error) {
	req, err := c.keyRequest(ctx, http.MethodPut, "state", tenant, key, nil, body)
	if err != nil {
		return nil, false, err
	}
	opts.set(req)
	resp, err := c.send(req)
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	info, err = decode[StateInfo](resp)
	return info, resp.StatusCode == http.StatusCreated, err
}

// DeleteState forgets the value, its published versions, and the list under the key.
func (c *Client) DeleteState(ctx context.Context, tenant, key string, opts WriteStateOptions) error {
	req, err := c.keyRequest(ctx, http.MethodDelete, "state", tenant, key, nil, nil)
	if err != nil {
		return err
	}
	opts.set(req)
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// ListStateOptions choose what ListState lists.
type ListStateOptions struct {
	Prefix string // only names that begin with it
	After  string // only names that come after it
	Limit  int    // at most so many; zero: as many as the host gives by itself
}

// ListState lists what a tenant has, in order of the names' bytes. If there may be more,
// Next is what to go on after.
func (c *Client) ListState(ctx context.Context, tenant string, opts ListStateOptions) (*StateList, error) {
	query := url.Values{}
	if opts.Prefix != "" {
		query.Set("prefix", opts.Prefix)
	}
	if opts.After != "" {
		query.Set("after", opts.After)
	}
	if opts.Limit != 0 {
		query.Set("limit", strconv.Itoa(opts.Limit))
	}
	return fetch[StateList](ctx, c, http.MethodGet, []string{"v1", "state", orDefault(tenant)}, query, nil, nil)
}

// StatState describes what is under a key. It returns a problem of CodeNoSuchValue if
// there is neither a value nor a list.
func (c *Client) StatState(ctx context.Context, tenant, key string) (*StateEntry, error) {
	if !ValidKey(key) {
		return nil, fmt.Errorf("%q: %w", key, ErrBadKey)
	}
	// The key itself is the first of all that begin with it.
	list, err := c.ListState(ctx, tenant, ListStateOptions{Prefix: key, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(list.Values) == 0 || list.Values[0].Name != key {
		return nil, &Problem{Type: "/problems/" + string(CodeNoSuchValue), Title: "No such value", Status: http.StatusNotFound, Code: CodeNoSuchValue,
			Detail: fmt.Sprintf("tenant %q has no value %q", orDefault(tenant), key), Tenant: orDefault(tenant)}
	}
	return &list.Values[0], nil
}

// keyRequest makes a request about a key. All of the key is one segment of the path, with
// dots that a proxy might take for steps in it escaped.
func (c *Client) keyRequest(ctx context.Context, method, root, tenant, key string, query url.Values, body io.Reader) (*http.Request, error) {
	tenant = orDefault(tenant)
	if tenant == "." || tenant == ".." {
		return nil, fmt.Errorf("%s of tenant %q: %w", method, tenant, ErrEmptyName)
	}
	if !ValidKey(key) {
		return nil, fmt.Errorf("%s of %q: %w", method, key, ErrBadKey)
	}
	escaped := url.PathEscape(key)
	if key == "." || key == ".." {
		escaped = strings.ReplaceAll(key, ".", "%2E")
	}
	return c.pathRequest(ctx, method, "/v1/"+root+"/"+tenant+"/"+key, "/v1/"+root+"/"+url.PathEscape(tenant)+"/"+escaped, query, body)
}

// LockSilenceMax is how long a holder of a lock hears nothing from the host before it
// must take the lock for lost. A host says something every few seconds.
const LockSilenceMax = 20 * time.Second

// ErrLockLost is what Lock.Unlock returns, wrapped with the reason, if the lock had been
// lost before.
var ErrLockLost = errors.New("the lock was lost")

// LockOptions are the choices of Client.Lock.
type LockOptions struct {
	Read    bool          // share the lock with others that read; else it is the caller's alone
	Timeout time.Duration // how long to wait for it; zero: as long as the host waits by itself
}

// Lock is a global lock that is held, until Unlock, or until the host has not heard of
// this process for some seconds. A write that must not happen without the lock names its
// token: see WriteStateOptions.Fence.
type Lock struct {
	token  uint64
	cancel context.CancelFunc
	done   chan struct{} // closed when watch has returned
	lost   chan struct{} // closed when the lock is lost
	why    error         // set before lost is closed

	unlocked atomic.Bool
}

// Lock waits for the lock of a key, which need not have a value. ctx bounds the waiting
// only; a problem of CodeLockTimeout says that it was not to be had in time.
func (c *Client) Lock(ctx context.Context, tenant, key string, opts LockOptions) (*Lock, error) {
	query := url.Values{"mode": {"write"}}
	if opts.Read {
		query.Set("mode", "read")
	}
	if opts.Timeout != 0 {
		query.Set("timeout", opts.Timeout.String())
	}
	l := &Lock{done: make(chan struct{}), lost: make(chan struct{})}
	held, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.cancel = cancel
	waiting := context.AfterFunc(ctx, cancel)
	err := l.open(held, c, tenant, key, query)
	if !waiting() {
		if err == nil {
			<-l.done
		}
		return nil, ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return l, nil
}

// open gets the lock, which is then held until ctx ends.
func (l *Lock) open(ctx context.Context, c *Client, tenant, key string, query url.Values) error {
	req, err := c.keyRequest(ctx, http.MethodPost, "locks", tenant, key, query, nil)
	if err != nil {
		return err
	}
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(resp.Body)
	first, err := nextEvent(lines)
	if err == nil && first.Token == 0 {
		err = errors.New("it has no token")
	}
	if err != nil {
		resp.Body.Close()
		return fmt.Errorf("%s %s: read reply: %w", req.Method, req.URL.Redacted(), err)
	}
	l.token = first.Token
	go l.watch(resp.Body, lines)
	return nil
}

// nextEvent reads a line. Empty ones are signs of life.
func nextEvent(lines *bufio.Scanner) (e LockEvent, err error) {
	if !lines.Scan() {
		if err := lines.Err(); err != nil {
			return e, err
		}
		return e, io.ErrUnexpectedEOF
	}
	if len(lines.Bytes()) == 0 {
		return e, nil
	}
	return e, json.Unmarshal(lines.Bytes(), &e)
}

// watch reads what the host says until the lock is over. Unlock waits for it.
func (l *Lock) watch(body io.ReadCloser, lines *bufio.Scanner) {
	defer close(l.done)
	defer body.Close()
	var silent atomic.Bool
	silence := time.AfterFunc(LockSilenceMax, func() { silent.Store(true); l.cancel() })
	defer silence.Stop()
	for {
		e, err := nextEvent(lines)
		silence.Reset(LockSilenceMax)
		switch {
		case l.unlocked.Load():
			return
		case silent.Load():
			l.why = fmt.Errorf("%w: the host has said nothing for %s", ErrLockLost, LockSilenceMax)
		case err != nil:
			l.why = fmt.Errorf("%w: the connection to the host broke: %w", ErrLockLost, err)
		case e.Lost != "":
			l.why = fmt.Errorf("%w: %s", ErrLockLost, e.Lost)
		default:
			continue
		}
		close(l.lost)
		return
	}
}

// Token is greater than those of all who held the lock before.
func (l *Lock) Token() uint64 { return l.token }

// Lost is closed when the lock is lost. It stays open after Unlock.
func (l *Lock) Lost() <-chan struct{} { return l.lost }

// Unlock lets go of the lock: the host does so as soon as it notices. It returns an error
// that is ErrLockLost if the lock had been lost.
func (l *Lock) Unlock() error {
	l.unlocked.Store(true)
	l.cancel()
	<-l.done
	return l.why
}
