package api

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/state/global"
)

// Paths that end in a key do not go through the mux. A key is any text: "a//b", "..",
// "/" are three, and the mux would clean them, that is change them.

// keyRoute has the endpoints of one such path, by method; the empty one is any other's.
type keyRoute map[string]*endpoint

// keyEndpoint returns the endpoint of a path that ends in a tenant and a key, which it
// leaves in r's path values, or nil if p is no such path. p is the path as it was sent:
// a slash and %2F are the same in a key, and nothing of it is left out.
func (h *Handler) keyEndpoint(r *http.Request, p string) *endpoint {
	if !strings.HasPrefix(p, "/v1/") {
		return nil
	}
	for root, methods := range h.keyed {
		rest, ok := strings.CutPrefix(p, root)
		if !ok {
			continue
		}
		tenant, key, ok := strings.Cut(rest, "/")
		if !ok || tenant == "" || tenant == "." || tenant == ".." {
			return nil
		}
		for segment := range strings.SplitSeq(key, "/") {
			if segment == "." || segment == ".." {
				// Whoever stands between the client and us, and decides by the path, may
				// take it for a path to another tenant.
				return h.dotted
			}
		}
		var errTenant, errKey error
		tenant, errTenant = url.PathUnescape(tenant)
		key, errKey = url.PathUnescape(key)
		if errTenant != nil || errKey != nil {
			return nil
		}
		r.SetPathValue("tenant", tenant)
		r.SetPathValue("key", key)
		method := r.Method
		if method == http.MethodHead && methods[http.MethodGet] != nil {
			method = http.MethodGet
		}
		if e := methods[method]; e != nil && method != "" {
			return e
		}
		return methods[""]
	}
	return nil
}

func handleDotted(_ *Handler, _ http.ResponseWriter, r *http.Request) error {
	return NewProblem(client.CodeBadKey, fmt.Sprintf(
		`%s has a step in it ("." or ".."); write the slashes of such a key as %%2F and a key of dots alone as %%2E`, quote(r.URL.EscapedPath())))
}

// pathTenant returns the tenant that the path names.
func pathTenant(r *http.Request) (string, error) {
	tenant := r.PathValue("tenant")
	if !client.ValidName(tenant) {
		return "", badName("tenant", tenant)
	}
	return tenant, nil
}

// pathKey returns the key that the path names.
func pathKey(r *http.Request) (global.Key, error) {
	tenant, err := pathTenant(r)
	if err != nil {
		return global.Key{}, err
	}
	key := r.PathValue("key")
	if !client.ValidKey(key) {
		return global.Key{}, badKey("key", key)
	}
	return global.Key{Tenant: tenant, Name: key}, nil
}

func badKey(what, key string) *client.Problem {
	return NewProblem(client.CodeBadKey, fmt.Sprintf("%s %s is not 1 to %d bytes of UTF-8", what, quote(key), client.KeyBytesMax))
}

// text returns "" if the key is not there. It may be the beginning of a name.
func (q query) text(key string) (string, error) {
	text := q[key]
	if len(text) > client.KeyBytesMax || !utf8.ValidString(text) {
		return "", badKey(key, text)
	}
	return text, nil
}

// etag is the entity tag (RFC 9110, 8.8.3) of a version.
func etag(version uint64) string { return `"` + strconv.FormatUint(version, 10) + `"` }

// tags is a list of entity tags, or *. What is not a version is no tag of ours, and in
// no list.
type tags struct {
	given  bool
	any    bool     // *
	strong []uint64 // versions
	weak   []uint64 // W/"…", equal only where a weak comparison will do
}

// parseTags reads the fields of If-Match or If-None-Match; name is for errors.
func parseTags(name string, fields []string) (t tags, err error) {
	if len(fields) == 0 {
		return t, nil
	}
	all := strings.TrimSpace(strings.Join(fields, ","))
	bad := badRequest(`%s: %s is neither * nor a list of quoted versions like "42"`, name, quote(all))
	t.given = true
	if all == "*" {
		t.any = true
		return t, nil
	}
	for some := false; ; some = true {
		all = strings.TrimLeft(all, " \t,")
		if all == "" {
			if !some {
				return t, bad
			}
			return t, nil
		}
		rest, weak := strings.CutPrefix(all, "W/")
		rest, ok := strings.CutPrefix(rest, `"`)
		if !ok {
			return t, bad
		}
		opaque, rest, ok := strings.Cut(rest, `"`)
		rest = strings.TrimLeft(rest, " \t")
		if !ok || rest != "" && rest[0] != ',' {
			return t, bad
		}
		if v, err := strconv.ParseUint(opaque, 10, 64); err == nil && strconv.FormatUint(v, 10) == opaque {
			if weak {
				t.weak = append(t.weak, v)
			} else {
				t.strong = append(t.strong, v)
			}
		}
		all = rest
	}
}

// conditions are what a request demands of the value's version (RFC 9110, 13).
type conditions struct{ match, noneMatch tags }

func readConditions(h http.Header) (c conditions, err error) {
	if c.match, err = parseTags("If-Match", h["If-Match"]); err != nil {
		return c, err
	}
	c.noneMatch, err = parseTags("If-None-Match", h["If-None-Match"])
	return c, err
}

func (c *conditions) given() bool { return c.match.given || c.noneMatch.given }

// matches tells whether If-Match holds for a version, or for no value if it is 0.
func (c *conditions) matches(version uint64) bool {
	return !c.match.given || version != 0 && (c.match.any || contains(c.match.strong, version))
}

// noneMatches tells the same of If-None-Match, which compares weakly.
func (c *conditions) noneMatches(version uint64) bool {
	return !c.noneMatch.given || version == 0 ||
		!c.noneMatch.any && !contains(c.noneMatch.strong, version) && !contains(c.noneMatch.weak, version)
}

func contains(versions []uint64, v uint64) bool {
	for _, other := range versions {
		if other == v {
			return true
		}
	}
	return false
}

// byteRange is a range of bytes as it is asked for. If suffix is set, it is the last so
// many; else from first to last, both included.
type byteRange struct {
	first, last int64
	suffix      int64 // -1: none
}

// parseRange reads the header Range. It returns nil if there is none that must be obeyed
// (RFC 9110, 14.2): another unit's, or more than one range, which nobody needs to serve.
func parseRange(fields []string) (*byteRange, error) {
	if len(fields) != 1 {
		return nil, nil
	}
	set, ok := strings.CutPrefix(fields[0], "bytes=")
	if !ok || strings.Contains(set, ",") {
		return nil, nil
	}
	first, last, ok := strings.Cut(strings.TrimSpace(set), "-")
	b := byteRange{last: global.ValueBytesMax, suffix: -1}
	var okFirst, okLast bool
	if first == "" {
		b.suffix, okLast = parseBytes(last)
		okFirst = true
	} else {
		b.first, okFirst = parseBytes(first)
		if okLast = last == ""; !okLast {
			b.last, okLast = parseBytes(last)
		}
	}
	if !ok || !okFirst || !okLast || b.suffix < 0 && b.last < b.first {
		return nil, NewProblem(client.CodeRangeNotSatisfiable, fmt.Sprintf("Range %s is not like bytes=0-99, bytes=100- or bytes=-100", quote(fields[0])))
	}
	return &b, nil
}

// parseBytes reads a number of bytes. One that is larger than any value can be is that.
func parseBytes(digits string) (int64, bool) {
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return 0, false
		}
	}
	if digits == "" {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > global.ValueBytesMax {
		n = global.ValueBytesMax
	}
	return n, true
}

// in returns where the range is in a value of size bytes, or false if it is nowhere.
func (b *byteRange) in(size int64) (off, n int64, ok bool) {
	if b.suffix >= 0 {
		n = min(b.suffix, size)
		return size - n, n, n > 0
	}
	if b.first >= size {
		return 0, 0, false
	}
	return b.first, min(b.last, size-1) - b.first + 1, true
}
