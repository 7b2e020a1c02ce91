package api

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"
)

// A request id joins a reply to the host's log. A client may choose it with the header
// X-Request-Id, and gets it back; one is made only for a problem, because a call that
// succeeds has its call id.

const requestIDBytesMax = 128

// validRequestID tells whether s can be sent back and logged as it is.
func validRequestID(s string) bool {
	if len(s) == 0 || len(s) > requestIDBytesMax {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func newRequestIDTag() string {
	var b [6]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:]) + "-"
}

func (h *Handler) newRequestID() string {
	return h.requestIDTag + strconv.FormatUint(h.requestIDs.Add(1), 10)
}
