package seal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"
)

// What a Reader refuses. Errors that wrap these say more; what the source of the bytes
// reports itself is passed on as it is.
var (
	ErrNotSealed = errors.New("not sealed")
	ErrOtherKey  = errors.New("sealed with another key")
	ErrTampered  = errors.New("sealed bytes were changed, or belong elsewhere")
	ErrTruncated = errors.New("sealed bytes end early")
)

// A sealed stream is a magic, the key's ID, and frames: a frame is its payload's length
// (4 bytes, little-endian), the payload, and a MAC of everything up to there: the label
// (after its length), the key's ID, and the lengths and payloads of all frames so far. A
// frame without payload is the last one, and no other is empty.
//
// A MAC for each frame, rather than one at the end, means that no byte is ever handed out
// before it was checked, so that what parses the payload is not exposed to a stranger's.
const (
	magic    = "FSLSEAL1"
	idSize   = 8
	frameMax = 64 << 10 // bytes of payload
	macSize  = sha256.Size
)

// mac is what the frames of one stream are authenticated with. HMAC lets one take a sum
// and go on: each sum is that of another message.
func (k Key) mac(label string) hash.Hash {
	return newMAC(k.prf("seal").Sum(nil), label, string(k.id()))
}

// Writer seals what is written to it. Only Close makes it whole: one that is dropped
// leaves a stream which every Reader refuses.
type Writer struct {
	w      io.Writer
	header []byte // nil once it is written
	mac    hash.Hash
	frame  []byte // room for a length, and the payload gathered so far
	err    error  // the first one, or os.ErrClosed
}

// NewWriter returns a writer that seals for holders of k. The label says what the bytes
// are: a reader must name the same one, so that one sealed thing can't take the place of
// another. Nothing is written to w before the first full frame, or Close.
func (k Key) NewWriter(w io.Writer, label string) *Writer {
	return &Writer{
		w:      w,
		header: append([]byte(magic), k.id()...),
		mac:    k.mac(label),
		frame:  make([]byte, 4, 4+frameMax+macSize),
	}
}

func (s *Writer) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 && s.err == nil {
		n := min(len(b), 4+frameMax-len(s.frame))
		s.frame = append(s.frame, b[:n]...)
		b, written = b[n:], written+n
		if len(s.frame) == 4+frameMax {
			s.flush()
		}
	}
	return written, s.err
}

// flush writes one frame.
func (s *Writer) flush() {
	if s.header != nil {
		if _, s.err = s.w.Write(s.header); s.err != nil {
			return
		}
		s.header = nil
	}
	binary.LittleEndian.PutUint32(s.frame, uint32(len(s.frame)-4))
	s.mac.Write(s.frame)
	_, s.err = s.w.Write(s.mac.Sum(s.frame))
	s.frame = s.frame[:4]
}

// Close writes what is left and the end. It does not close the writer below. After an
// error, of Write or its own, the stream is not whole; closing again returns os.ErrClosed.
func (s *Writer) Close() error {
	if s.err == nil && len(s.frame) > 4 {
		s.flush()
	}
	if s.err == nil {
		s.flush()
	}
	err := s.err
	s.err = os.ErrClosed
	return err
}

// Reader reads what a Writer sealed. Every byte that it returns was sealed by a holder of
// the key under the label, and stands where it stood. But only io.EOF tells that nothing
// is missing: the bytes of a Reader that has not come so far may be a part.
type Reader struct {
	r      io.Reader
	label  string
	mac    hash.Hash
	frame  []byte // length, payload, MAC
	unread []byte // of the frame's payload, checked
	err    error  // the first one; io.EOF after the last frame
}

// NewReader reads the header of a sealed stream. It refuses what is not sealed
// (ErrNotSealed) or sealed with another key than k (ErrOtherKey).
func (k Key) NewReader(r io.Reader, label string) (*Reader, error) {
	var header [len(magic) + idSize]byte
	n, err := io.ReadFull(r, header[:])
	switch {
	case !strings.HasPrefix(string(header[:n]), magic[:min(n, len(magic))]), n == 0 && err == io.EOF:
		return nil, fmt.Errorf("open sealed %s: %w: it begins with %q", label, ErrNotSealed, header[:min(n, len(magic))])
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return nil, fmt.Errorf("open sealed %s: %w: after %d bytes", label, ErrTruncated, n)
	case err != nil:
		return nil, fmt.Errorf("open sealed %s: %w", label, err)
	}
	if id := hex.EncodeToString(header[len(magic):]); id != k.ID() {
		return nil, fmt.Errorf("open sealed %s: %w: it is %s and ours is %s", label, ErrOtherKey, id, k.ID())
	}
	return &Reader{r: r, label: label, mac: k.mac(label), frame: make([]byte, 4+frameMax+macSize)}, nil
}

func (s *Reader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if len(s.unread) == 0 && s.err == nil {
		if s.unread, s.err = s.next(); s.err != nil && s.err != io.EOF {
			s.err = fmt.Errorf("read sealed %s: %w", s.label, s.err)
		}
	}
	if len(s.unread) == 0 {
		return 0, s.err
	}
	n := copy(b, s.unread)
	s.unread = s.unread[n:]
	return n, nil
}

// next returns the payload of the next frame. Its error is io.EOF for the last one.
func (s *Reader) next() ([]byte, error) {
	if err := s.fill(s.frame[:4]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(s.frame)
	if n > frameMax {
		return nil, fmt.Errorf("%w: a frame of %d bytes", ErrTampered, n)
	}
	if err := s.fill(s.frame[4 : 4+n+macSize]); err != nil {
		return nil, err
	}
	s.mac.Write(s.frame[:4+n])
	if !hmac.Equal(s.mac.Sum(nil), s.frame[4+n:4+n+macSize]) {
		return nil, ErrTampered
	}
	if n > 0 {
		return s.frame[4 : 4+n], nil
	}
	if m, err := io.ReadFull(s.r, s.frame[:1]); m == 0 {
		return nil, err // io.EOF if all is well
	}
	return nil, fmt.Errorf("%w: bytes after the end", ErrTampered)
}

func (s *Reader) fill(b []byte) error {
	_, err := io.ReadFull(s.r, b)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return ErrTruncated
	}
	return err
}
