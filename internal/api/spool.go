package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"syscall"

	"github.com/faasm-go/faasm/client"
)

// upload is a body that has come whole, to be read at any place: from memory if it is
// small, else from a file without a name, which is gone with the process.
type upload struct {
	at   io.ReaderAt
	size int64

	h      *Handler
	memory body
	file   *os.File
	held   int64 // of opts.SpoolBytesMax
}

// close forgets the upload.
func (u *upload) close() {
	u.memory.release()
	if u.file != nil {
		u.file.Close() // nobody needs what is in it
	}
	u.h.spooled.Add(-u.held)
}

// readUpload reads r's body, of at most bytesMax bytes; what names it in errors. The
// caller closes the result, also after an error.
func (h *Handler) readUpload(w http.ResponseWriter, r *http.Request, what string, bytesMax int64) (u upload, err error) {
	u.h = h
	length := r.ContentLength
	switch {
	case length > bytesMax:
		return u, tooLarge(what, bytesMax)
	case 0 <= length && length <= bodyStepBytes:
		u.memory, err = h.readBody(w, r, what, bytesMax)
		u.at, u.size = bytes.NewReader(u.memory.bytes), int64(len(u.memory.bytes))
		return u, err
	}
	if u.file, err = os.CreateTemp(h.opts.SpoolDir, "faasm-body-*"); err != nil {
		return u, fmt.Errorf("keep %s: %w", what, err)
	}
	if err := os.Remove(u.file.Name()); err != nil {
		return u, fmt.Errorf("keep %s: %w", what, err)
	}
	u.at = u.file
	from := http.MaxBytesReader(unwrap(w), r.Body, bytesMax)
	for buf := make([]byte, 256<<10); ; {
		n, readErr := from.Read(buf)
		if n > 0 {
			u.held += int64(n)
			if h.spooled.Add(int64(n)) > h.opts.SpoolBytesMax {
				abandonBody(w, r)
				return u, Overloaded(fmt.Sprintf("bodies of requests take more than %d bytes of the disk", h.opts.SpoolBytesMax), bodyRetryAfter)
			}
			if _, err := u.file.Write(buf[:n]); err != nil {
				abandonBody(w, r)
				if errors.Is(err, syscall.ENOSPC) {
					return u, NewProblem(client.CodeStateFull, "the host's disk has no room for it")
				}
				return u, fmt.Errorf("keep %s: %w", what, err)
			}
			u.size += int64(n)
		}
		if readErr == io.EOF {
			break
		}
		if _, ok := errors.AsType[*http.MaxBytesError](readErr); ok {
			return u, tooLarge(what, bytesMax)
		}
		if readErr != nil {
			return u, bodyProblem(what, int(u.size), readErr)
		}
	}
	if length > 0 && u.size != length {
		return u, bodyProblem(what, int(u.size), io.ErrUnexpectedEOF)
	}
	return u, nil
}
