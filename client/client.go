// Package client is the Go client of a host's HTTP interface, and the definition of
// what goes over that wire: wire.go is imported by the server too, so that the two
// cannot come apart.
//
// It holds no policy: it does not retry, cache or choose among hosts. Every method
// takes a context, and returns a *Problem where the host replied with one.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// expectContinueBytes is the size from which a body waits for the host's consent, so
// that one the host will refuse is not sent in vain (and its refusal not lost in a
// broken connection).
const expectContinueBytes = 1 << 20

// waitStep is how long one request of Wait waits at the host. It is shorter than the
// idle timeouts of common proxies.
const waitStep = 30 * time.Second

// waitPause is the least time between two requests of Wait.
const waitPause = 250 * time.Millisecond

// problemBytesMax bounds what is read of an error reply.
const problemBytesMax = 1 << 20

// Client speaks to one host. It is safe for concurrent use.
type Client struct {
	base      url.URL // without a trailing slash in its path
	http      *http.Client
	userAgent string
}

// Options are the choices of New. The zero value is right for most.
type Options struct {
	// HTTPClient sends the requests. Nil: one of its own, on a copy of
	// http.DefaultTransport with room for many idle connections to the one host.
	// Its Timeout should be zero: calls and followed logs last as long as they last.
	HTTPClient *http.Client

	// UserAgent is sent with each request. Empty: "faasm-go".
	UserAgent string
}

// New returns a client of the host at baseURL, which is http or https with an
// optional path prefix ("http://127.0.0.1:8080"). It sends nothing.
func New(baseURL string, opts Options) (*Client, error) {
	u, err := url.Parse(baseURL)
	if err != nil {
		return nil, fmt.Errorf("parse host URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("host URL %q is not like http://127.0.0.1:8080", baseURL)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("host URL %q has a query or a fragment", baseURL)
	}
	c := &Client{
		base:      url.URL{Scheme: u.Scheme, User: u.User, Host: u.Host, Path: strings.TrimRight(u.Path, "/"), RawPath: strings.TrimRight(u.EscapedPath(), "/")},
		http:      opts.HTTPClient,
		userAgent: opts.UserAgent,
	}
	if c.http == nil {
		t := &http.Transport{Proxy: http.ProxyFromEnvironment}
		if d, ok := http.DefaultTransport.(*http.Transport); ok {
			t = d.Clone()
		}
		t.MaxIdleConnsPerHost = 64
		c.http = &http.Client{Transport: t}
	}
	if c.userAgent == "" {
		c.userAgent = "faasm-go"
	}
	return c, nil
}

// BaseURL is the address that New was given, normalised.
func (c *Client) BaseURL() string { return c.base.String() }

// Close drops idle connections. Calls in flight go on.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// InvokeOptions are the choices of Invoke and Submit.
type InvokeOptions struct {
	// Timeout lowers the function's own. Zero: the function's own.
	Timeout time.Duration
}

// Reply is a call that returned 0.
type Reply struct {
	CallID      string
	Output      []byte
	ContentType string // as the host sniffed it from Output
	Usage       Usage
}

// Invoke runs the function on input (nil: none) and waits for its end; cancelling ctx
// cancels the call. An empty tenant is DefaultTenant. A function that fails gives a
// *Problem with the call's id.
func (c *Client) Invoke(ctx context.Context, tenant, function string, input io.Reader, opts InvokeOptions) (*Reply, error) {
	resp, err := c.do(ctx, http.MethodPost, []string{"f", orDefault(tenant), function}, opts.query(), input, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	usage := headerUsage(resp.Header)
	if usage == nil {
		return nil, fmt.Errorf("%s %s: not the reply of a Faasm host: it has no header Faasm-Wall-Us",
			resp.Request.Method, resp.Request.URL.Redacted())
	}
	output, err := readBody(resp)
	if err != nil {
		return nil, err
	}
	return &Reply{
		CallID:      resp.Header.Get("Faasm-Call-Id"),
		Output:      output,
		ContentType: resp.Header.Get("Content-Type"),
		Usage:       *usage,
	}, nil
}

// Submit starts a call that outlives the request: once it returns, the call is on the
// host's disk and runs even if the host crashes. See Wait and Output.
func (c *Client) Submit(ctx context.Context, tenant, function string, input io.Reader, opts InvokeOptions) (*CallInfo, error) {
	return fetch[CallInfo](ctx, c, http.MethodPost, []string{"f", orDefault(tenant), function}, opts.query(), input,
		http.Header{"Prefer": {"respond-async"}})
}

func (o InvokeOptions) query() url.Values {
	if o.Timeout == 0 {
		return nil
	}
	return url.Values{"timeout": {o.Timeout.String()}}
}

// Call returns what the host knows of the call now.
func (c *Client) Call(ctx context.Context, id string) (*CallInfo, error) {
	return fetch[CallInfo](ctx, c, http.MethodGet, []string{"v1", "calls", id}, nil, nil, nil)
}

// Wait returns once the call is done, however it ended; look at Outcome. It waits as
// long as ctx lets it.
func (c *Client) Wait(ctx context.Context, id string) (*CallInfo, error) {
	query := url.Values{"wait": {waitStep.String()}}
	for {
		asked := time.Now()
		info, err := fetch[CallInfo](ctx, c, http.MethodGet, []string{"v1", "calls", id}, query, nil, nil)
		if err != nil || info.Done() {
			return info, err
		}
		// A host that shuts down answers at once; what stands before it may go on
		// sending it requests.
		if time.Since(asked) < waitPause {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(waitPause):
			}
		}
	}
}

// CallFilter chooses calls. A zero field chooses all.
type CallFilter struct {
	Tenant   string
	Function string
	State    State
	Limit    int // zero: as many as the host gives by itself
}

// Calls lists calls, newest first.
func (c *Client) Calls(ctx context.Context, filter CallFilter) ([]CallInfo, error) {
	query := url.Values{}
	if filter.Tenant != "" {
		query.Set("tenant", filter.Tenant)
	}
	if filter.Function != "" {
		query.Set("function", filter.Function)
	}
	if filter.State != "" {
		query.Set("state", string(filter.State))
	}
	if filter.Limit != 0 {
		query.Set("limit", strconv.Itoa(filter.Limit))
	}
	list, err := fetch[CallList](ctx, c, http.MethodGet, []string{"v1", "calls"}, query, nil, nil)
	if err != nil {
		return nil, err
	}
	return list.Calls, nil
}

// Output returns the output of a call that is done; else a problem of CodeNotFinished.
func (c *Client) Output(ctx context.Context, id string) ([]byte, error) {
	return c.fetchBytes(ctx, []string{"v1", "calls", id, "output"})
}

// CallLogs returns what the call has printed so far, one line each as FunctionLogs.
func (c *Client) CallLogs(ctx context.Context, id string) ([]byte, error) {
	return c.fetchBytes(ctx, []string{"v1", "calls", id, "logs"})
}

// Cancel ends the call and its descendants. A call that is done stays as it is.
func (c *Client) Cancel(ctx context.Context, id string) (*CallInfo, error) {
	return fetch[CallInfo](ctx, c, http.MethodDelete, []string{"v1", "calls", id}, nil, nil, nil)
}

// DeployOptions are the choices of Deploy.
type DeployOptions struct {
	MemoryBytes uint64        // limit of the linear memory; zero: the host's default
	Timeout     time.Duration // deadline of each call; zero: the host's default

	// Progress, if not nil, is told how many bytes of the module have been sent, from
	// a goroutine of the HTTP client, never two at once. When all are sent the host
	// still compiles and initialises.
	Progress func(sentBytes int64)
}

// Deploy uploads a Wasm module as the function's new version, and tells whether the
// function is new. After an error the previous version serves on.
func (c *Client) Deploy(ctx context.Context, tenant, function string, wasm io.Reader, opts DeployOptions) (info *FunctionInfo, created bool, err error) {
	query := url.Values{}
	if opts.MemoryBytes != 0 {
		query.Set("memory", strconv.FormatUint(opts.MemoryBytes, 10))
	}
	if opts.Timeout != 0 {
		query.Set("timeout", opts.Timeout.String())
	}
	req, err := c.newRequest(ctx, http.MethodPut, []string{"v1", "functions", orDefault(tenant), function}, query, wasm)
	if err != nil {
		return nil, false, err
	}
	req.Header["Content-Type"] = []string{"application/wasm"}
	if opts.Progress != nil {
		trackProgress(req, opts.Progress)
	}
	resp, err := c.send(req)
	if err != nil {
		return nil, false, err
	}
	defer resp.Body.Close()
	info, err = decode[FunctionInfo](resp)
	return info, resp.StatusCode == http.StatusCreated, err
}

// Function describes the version that now serves.
func (c *Client) Function(ctx context.Context, tenant, function string) (*FunctionInfo, error) {
	return fetch[FunctionInfo](ctx, c, http.MethodGet, []string{"v1", "functions", orDefault(tenant), function}, nil, nil, nil)
}

// Functions lists the tenant's functions, or every tenant's if tenant is empty.
func (c *Client) Functions(ctx context.Context, tenant string) ([]FunctionInfo, error) {
	query := url.Values{}
	if tenant != "" {
		query.Set("tenant", tenant)
	}
	list, err := fetch[FunctionList](ctx, c, http.MethodGet, []string{"v1", "functions"}, query, nil, nil)
	if err != nil {
		return nil, err
	}
	return list.Functions, nil
}

// Versions lists the versions of a function that the host's registry keeps.
func (c *Client) Versions(ctx context.Context, tenant, function string) (*VersionList, error) {
	return fetch[VersionList](ctx, c, http.MethodGet, []string{"v1", "functions", orDefault(tenant), function, "versions"}, nil, nil, nil)
}

// Rollback makes an older version serve, and returns it: the given one, or if version is
// empty the one that served before this one. Calls that run go on. It returns a problem
// of CodeNoSuchVersion or CodeNoPreviousVersion if there is none.
func (c *Client) Rollback(ctx context.Context, tenant, function, version string) (*FunctionInfo, error) {
	query := url.Values{}
	if version != "" {
		query.Set("version", version)
	}
	return fetch[FunctionInfo](ctx, c, http.MethodPost, []string{"v1", "functions", orDefault(tenant), function, "rollback"}, query, nil, nil)
}

// Warm loads the function's code and image and keeps count clean regions at hand for its
// calls, on this host, until the host restarts, the function is deployed, rolled back or
// removed, or Warm says otherwise. A count of 0 takes it back.
func (c *Client) Warm(ctx context.Context, tenant, function string, count int) (*WarmInfo, error) {
	query := url.Values{"count": {strconv.Itoa(count)}}
	return fetch[WarmInfo](ctx, c, http.MethodPost, []string{"v1", "functions", orDefault(tenant), function, "warm"}, query, nil, nil)
}

// Collect deletes from the host's store what nothing refers to any more: all but the
// newest keep versions of each function (zero: as many as the host keeps by itself), and
// what only they used. Versions that serve, or that a rollback would go back to, stay.
func (c *Client) Collect(ctx context.Context, keep int) (*CollectInfo, error) {
	query := url.Values{}
	if keep != 0 {
		query.Set("keep", strconv.Itoa(keep))
	}
	return fetch[CollectInfo](ctx, c, http.MethodPost, []string{"v1", "collect"}, query, nil, nil)
}

// Remove takes the function out of service. Calls that run go on.
func (c *Client) Remove(ctx context.Context, tenant, function string) error {
	resp, err := c.do(ctx, http.MethodDelete, []string{"v1", "functions", orDefault(tenant), function}, nil, nil, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// LogOptions are the choices of FunctionLogs.
type LogOptions struct {
	Tail   int  // begin with the last so many lines; zero: the host's default; negative: none
	Follow bool // go on with what is printed from now
}

// FunctionLogs returns what the function's calls have printed, as text: lines of
// "<RFC 3339 time> <last 8 digits of the call's id> <stdout|stderr|system> <text>".
// With Follow the reader blocks for more until ctx is done or the host goes.
// The caller closes it.
func (c *Client) FunctionLogs(ctx context.Context, tenant, function string, opts LogOptions) (io.ReadCloser, error) {
	query := url.Values{}
	if opts.Tail != 0 {
		query.Set("tail", strconv.Itoa(max(opts.Tail, 0)))
	}
	if opts.Follow {
		query.Set("follow", "true")
	}
	resp, err := c.do(ctx, http.MethodGet, []string{"v1", "functions", orDefault(tenant), function, "logs"}, query, nil, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Host returns the host's basic facts.
func (c *Client) Host(ctx context.Context) (*HostInfo, error) {
	return fetch[HostInfo](ctx, c, http.MethodGet, []string{"v1", "host"}, nil, nil, nil)
}

// Healthy returns nil if the host's process answers.
func (c *Client) Healthy(ctx context.Context) error {
	_, err := c.fetchBytes(ctx, []string{"healthz"})
	return err
}

// Ready returns nil if the host takes calls, and a problem of CodeDraining if it is
// on its way out.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.fetchBytes(ctx, []string{"readyz"})
	return err
}

// Metrics returns the host's metrics in Prometheus's text format.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	return c.fetchBytes(ctx, []string{"metrics"})
}

// OpenAPI returns the OpenAPI 3.1 document of the HTTP interface.
func (c *Client) OpenAPI(ctx context.Context) ([]byte, error) {
	return c.fetchBytes(ctx, []string{"openapi.json"})
}

// ProblemPage returns the host's page that explains a problem and what to do.
func (c *Client) ProblemPage(ctx context.Context, code Code) ([]byte, error) {
	return c.fetchBytes(ctx, []string{"problems", string(code)})
}

func orDefault(tenant string) string {
	if tenant == "" {
		return DefaultTenant
	}
	return tenant
}

// ErrEmptyName is returned, before anything is sent, for a function, tenant or id
// that is empty, "." or "..": as a segment of a path each would name another route.
var ErrEmptyName = errors.New("name is empty or a dot segment")

func (c *Client) newRequest(ctx context.Context, method string, segments []string, query url.Values, body io.Reader) (*http.Request, error) {
	var path, raw strings.Builder
	for _, s := range segments {
		if s == "" || s == "." || s == ".." {
			return nil, fmt.Errorf("%s /%s: %q: %w", method, strings.Join(segments, "/"), s, ErrEmptyName)
		}
		path.WriteString("/" + s)
		raw.WriteString("/" + url.PathEscape(s))
	}
	return c.pathRequest(ctx, method, path.String(), raw.String(), query, body)
}

// pathRequest makes a request for a path below the base's; raw is its escaped form.
func (c *Client) pathRequest(ctx context.Context, method, path, raw string, query url.Values, body io.Reader) (*http.Request, error) {
	u := c.base
	u.Path, u.RawPath = c.base.Path+path, c.base.EscapedPath()+raw
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	req.Header["User-Agent"] = []string{c.userAgent}
	if body != nil && (req.ContentLength < 0 || req.ContentLength == 0 && req.Body != http.NoBody || req.ContentLength >= expectContinueBytes) {
		req.Header["Expect"] = []string{"100-continue"}
	}
	return req, nil
}

// send returns a reply of 2xx, whose body the caller closes; anything else is an error.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, readProblem(resp)
}

func (c *Client) do(ctx context.Context, method string, segments []string, query url.Values, body io.Reader, header http.Header) (*http.Response, error) {
	req, err := c.newRequest(ctx, method, segments, query, body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	return c.send(req)
}

func fetch[T any](ctx context.Context, c *Client, method string, segments []string, query url.Values, body io.Reader, header http.Header) (*T, error) {
	resp, err := c.do(ctx, method, segments, query, body, header)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return decode[T](resp)
}

func decode[T any](resp *http.Response) (*T, error) {
	v := new(T)
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return nil, fmt.Errorf("%s %s: decode reply: %w", resp.Request.Method, resp.Request.URL.Redacted(), err)
	}
	// What is left is at most a newline; reading it lets the connection be used again.
	io.CopyN(io.Discard, resp.Body, 64)
	return v, nil
}

func (c *Client) fetchBytes(ctx context.Context, segments []string) ([]byte, error) {
	resp, err := c.do(ctx, http.MethodGet, segments, nil, nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return readBody(resp)
}

func readBody(resp *http.Response) ([]byte, error) {
	var buf bytes.Buffer
	if n := resp.ContentLength; 0 < n && n < expectContinueBytes {
		buf.Grow(int(n) + bytes.MinRead)
	}
	if _, err := buf.ReadFrom(resp.Body); err != nil {
		return nil, fmt.Errorf("%s %s: read reply: %w", resp.Request.Method, resp.Request.URL.Redacted(), err)
	}
	return buf.Bytes(), nil
}

// readProblem makes an error of a reply outside 2xx. What is not a problem document
// gives a Problem without a Code, with the beginning of the reply as its detail.
func readProblem(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, problemBytesMax))
	if err != nil {
		return fmt.Errorf("%s %s: read reply of status %d: %w", resp.Request.Method, resp.Request.URL.Redacted(), resp.StatusCode, err)
	}
	p := &Problem{}
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if mediaType != "application/problem+json" || json.Unmarshal(body, p) != nil {
		*p = Problem{Title: http.StatusText(resp.StatusCode), Detail: strings.ToValidUTF8(string(body[:min(len(body), 512)]), "\uFFFD")}
	}
	p.Status = resp.StatusCode
	if s, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 31); err == nil {
		p.RetryAfter = time.Duration(s) * time.Second
	}
	p.Outcome = resp.Header.Get("Faasm-Outcome")
	p.Usage = headerUsage(resp.Header)
	return p
}

// headerUsage returns nil if the headers tell of no run.
func headerUsage(h http.Header) *Usage {
	if h.Get("Faasm-Wall-Us") == "" {
		return nil
	}
	integer := func(key string) int64 {
		n, _ := strconv.ParseInt(h.Get(key), 10, 64) // an unreadable figure is 0: it is no reason to lose the output
		return n
	}
	start, _ := strconv.ParseFloat(h.Get("Faasm-Start-Us"), 64)
	return &Usage{
		QueuedUs:    integer("Faasm-Queued-Us"),
		StartUs:     start,
		WallUs:      integer("Faasm-Wall-Us"),
		CPUUs:       integer("Faasm-Cpu-Us"),
		MemoryBytes: uint64(integer("Faasm-Memory-Bytes")),
	}
}

// trackProgress makes report be told of each read of req's body.
func trackProgress(req *http.Request, report func(int64)) {
	if req.Body == nil || req.Body == http.NoBody {
		return
	}
	req.Body = &progressReader{body: req.Body, report: report}
	if again := req.GetBody; again != nil {
		req.GetBody = func() (io.ReadCloser, error) {
			body, err := again()
			if err != nil {
				return nil, err
			}
			return &progressReader{body: body, report: report}, nil
		}
	}
}

type progressReader struct {
	body   io.ReadCloser
	report func(int64)
	sent   int64
}

func (p *progressReader) Read(b []byte) (int, error) {
	n, err := p.body.Read(b)
	if n > 0 {
		p.sent += int64(n)
		p.report(p.sent)
	}
	return n, err
}

func (p *progressReader) Close() error { return p.body.Close() }
