package api

import (
	"fmt"
	"math/bits"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/faasm-go/faasm/client"
	"github.com/faasm-go/faasm/internal/call"
)

// Bounds of what a query may ask for.
const (
	minTimeout  = time.Millisecond
	maxTimeout  = 24 * time.Hour
	maxWait     = 5 * time.Minute
	tailDefault = 100
	tailMax     = 10_000
	memoryMax   = 4 << 30 // what a 32-bit linear memory can have
	warmMax     = 4096    // regions kept at hand for one function
	keepMax     = 10_000  // versions of a function that a collection keeps
)

// pathNames returns the tenant and the function that the path names.
func pathNames(r *http.Request) (tenant, function string, err error) {
	tenant, function = r.PathValue("tenant"), r.PathValue("function")
	if !client.ValidName(tenant) {
		return "", "", badName("tenant", tenant)
	}
	if !client.ValidName(function) {
		return "", "", badName("function", function)
	}
	return tenant, function, nil
}

func pathID(r *http.Request) (call.ID, error) {
	id, err := call.ParseID(r.PathValue("id"))
	if err != nil {
		return id, badRequest("call id %s is not 32 hexadecimal digits", quote(r.PathValue("id")))
	}
	return id, nil
}

// validVersion tells whether s can name a version: 12 to 64 hexadecimal digits in lower
// case. Hosts may make a version a part of a path.
func validVersion(s string) bool {
	if len(s) < 12 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// query is a request's query in which every key is known and given once: a misspelt
// limit must not be no limit.
type query map[string]string

func parseQuery(r *http.Request, known ...string) (query, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("the query cannot be parsed: %v", err)
	}
	q := make(query, len(values))
	for key, v := range values {
		if !slices.Contains(known, key) {
			if len(known) == 0 {
				return nil, badRequest("this route takes no query, but has %s", quote(key))
			}
			return nil, badRequest("query parameter %s is not one of %s", quote(key), strings.Join(known, ", "))
		}
		if len(v) > 1 {
			return nil, badRequest("query parameter %s is given %d times", key, len(v))
		}
		q[key] = v[0]
	}
	return q, nil
}

// duration returns 0 if the key is not there.
func (q query) duration(key string, least, most time.Duration) (time.Duration, error) {
	text, ok := q[key]
	if !ok {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, badRequest("%s=%s is not a duration like 500ms, 5s or 2m", key, quote(text))
	}
	if d < least || d > most {
		return 0, badRequest("%s=%s is not between %s and %s", key, quote(text), least, most)
	}
	return d, nil
}

// number returns other if the key is not there.
func (q query) number(key string, other, least, most int) (int, error) {
	text, ok := q[key]
	if !ok {
		return other, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, badRequest("%s=%s is not a number from %d to %d", key, quote(text), least, most)
	}
	return n, nil
}

// version returns "" if the key is not there.
func (q query) version(key string) (string, error) {
	version, ok := q[key]
	if ok && !validVersion(version) {
		return "", badRequest("%s=%s is not 12 to 64 hexadecimal digits in lower case", key, quote(version))
	}
	return version, nil
}

// flag returns false if the key is not there, and true for the key alone.
func (q query) flag(key string) (bool, error) {
	text, ok := q[key]
	switch {
	case !ok, text == "false":
		return false, nil
	case text == "", text == "true":
		return true, nil
	}
	return false, badRequest("%s=%s is neither true nor false", key, quote(text))
}

// name returns "" if the key is not there.
func (q query) name(key string) (string, error) {
	name, ok := q[key]
	if ok && !client.ValidName(name) {
		return "", badName(key, name)
	}
	return name, nil
}

// size returns 0 if the key is not there.
func (q query) size(key string, most uint64) (uint64, error) {
	text, ok := q[key]
	if !ok {
		return 0, nil
	}
	n, err := parseSize(text)
	if err != nil {
		return 0, badRequest("%s=%s: %v", key, quote(text), err)
	}
	if n == 0 || n > most {
		return 0, badRequest("%s=%s is not between 1 byte and %d", key, quote(text), most)
	}
	return n, nil
}

var sizeUnits = []struct {
	suffix string
	bytes  uint64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}, {"", 1},
}

// parseSize reads a whole number of bytes, KiB, MiB or GiB.
func parseSize(s string) (uint64, error) {
	for _, unit := range sizeUnits {
		digits, ok := strings.CutSuffix(s, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 64)
		if err != nil {
			break
		}
		hi, lo := bits.Mul64(n, unit.bytes)
		if hi != 0 {
			return 0, fmt.Errorf("too large")
		}
		return lo, nil
	}
	return 0, fmt.Errorf("not a size like 1048576, 64MiB or 1GiB")
}
