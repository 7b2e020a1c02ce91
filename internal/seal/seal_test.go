package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"testing/iotest"
)

func sealed(t testing.TB, k Key, label string, payload []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := k.NewWriter(&out, label)
	if n, err := w.Write(payload); n != len(payload) || err != nil {
		t.Fatalf("Write of %d bytes: %d, %v", len(payload), n, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func open(k Key, label string, r io.Reader) ([]byte, error) {
	s, err := k.NewReader(r, label)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(s)
}

// pattern is n bytes of which no two neighbouring frames are alike.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8*13 + i>>16)
	}
	return b
}

func TestReader_refuses(t *testing.T) {
	k, label := fixed(1), "proto 12"
	payload := pattern(2*frameMax + 10)
	whole := sealed(t, k, label, payload)
	frame := 4 + frameMax + macSize
	const header = len(magic) + idSize
	part := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	one, two, rest := whole[header:header+frame], whole[header+frame:header+2*frame], whole[header+2*frame:]
	end := whole[len(whole)-4-macSize:]
	other := sealed(t, k, label, append([]byte("other"), payload...))
	for _, c := range []struct {
		name  string
		key   Key
		label string
		bytes []byte
		is    error
		want  string
	}{
		{"nothing", k, label, nil, ErrNotSealed, `open sealed proto 12: not sealed: it begins with ""`},
		{"an ELF file", k, label, []byte("\x7fELF\x02\x01\x01 and more than a header"), ErrNotSealed, `open sealed proto 12: not sealed: it begins with "\x7fELF\x02\x01\x01 "`},
		{"a short other thing", k, label, []byte("FSX"), ErrNotSealed, `open sealed proto 12: not sealed: it begins with "FSX"`},
		{"the payload alone", k, label, payload, ErrNotSealed, ""},
		{"a later format", k, label, part([]byte("FSLSEAL2"), whole[8:]), ErrNotSealed, `open sealed proto 12: not sealed: it begins with "FSLSEAL2"`},
		{"half a magic", k, label, whole[:5], ErrTruncated, "open sealed proto 12: sealed bytes end early: after 5 bytes"},
		{"half an ID", k, label, whole[:12], ErrTruncated, "open sealed proto 12: sealed bytes end early: after 12 bytes"},
		{"another key", fixed(2), label, whole, ErrOtherKey,
			fmt.Sprintf("open sealed proto 12: sealed with another key: it is %s and ours is %s", fixed(1), fixed(2))},
		{"another key, and our ID written over its own", fixed(2), label, part([]byte(magic), fixed(2).id(), whole[header:]), ErrTampered, ""},
		{"another label", k, "proto 13", whole, ErrTampered, "read sealed proto 13: sealed bytes were changed, or belong elsewhere"},
		{"a label that ends elsewhere", k, "proto 1", whole, ErrTampered, ""},
		{"no label", k, "", whole, ErrTampered, ""},
		{"header only", k, label, whole[:header], ErrTruncated, "read sealed proto 12: sealed bytes end early"},
		{"first frame left out", k, label, part(whole[:header], two, rest), ErrTampered, ""},
		{"frames swapped", k, label, part(whole[:header], two, one, rest), ErrTampered, ""},
		{"frame doubled", k, label, part(whole[:header], one, one, two, rest), ErrTampered, ""},
		{"last frame left out", k, label, whole[:header+2*frame], ErrTruncated, ""},
		{"end left out", k, label, whole[:len(whole)-len(end)], ErrTruncated, ""},
		{"end too early", k, label, part(whole[:header], one, end), ErrTampered, ""},
		{"end at once", k, label, part(whole[:header], end), ErrTampered, ""},
		{"frame of another stream", k, label, part(whole[:header], one, other[header+frame:]), ErrTampered, ""},
		{"frame too long", k, label, part(whole[:header], []byte{0xff, 0xff, 0xff, 0xff}, whole[header+4:]), ErrTampered, "read sealed proto 12: sealed bytes were changed, or belong elsewhere: a frame of 4294967295 bytes"},
		{"a byte after the end", k, label, part(whole, []byte{0}), ErrTampered, "read sealed proto 12: sealed bytes were changed, or belong elsewhere: bytes after the end"},
		{"twice", k, label, part(whole, whole), ErrTampered, ""},
	} {
		got, err := open(c.key, c.label, bytes.NewReader(c.bytes))
		if !errors.Is(err, c.is) || c.want != "" && err.Error() != c.want {
			t.Errorf("%s: %v, want %v %s", c.name, err, c.is, c.want)
		}
		if !bytes.HasPrefix(payload, got) {
			t.Errorf("%s: %d bytes came out which were not sealed so", c.name, len(got))
		}
	}
}

// Whatever bit is flipped, it is refused, and so are all lengths but the right one; what
// comes out before that is what was put in.
func TestReader_everyBitAndLength(t *testing.T) {
	k, label := fixed(1), "x"
	payload := pattern(100)
	whole := sealed(t, k, label, payload)
	for bit := range 8 * len(whole) {
		b := slices.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		got, err := open(k, label, bytes.NewReader(b))
		if !errors.Is(err, ErrNotSealed) && !errors.Is(err, ErrOtherKey) && !errors.Is(err, ErrTampered) && !errors.Is(err, ErrTruncated) {
			t.Errorf("bit %d of byte %d flipped: %v", bit%8, bit/8, err)
		}
		if !bytes.HasPrefix(payload, got) {
			t.Errorf("bit %d of byte %d flipped: changed bytes came out", bit%8, bit/8)
		}
	}
	for n := range whole {
		got, err := open(k, label, bytes.NewReader(whole[:n]))
		if want := ErrTruncated; n > 0 && !errors.Is(err, want) || n == 0 && !errors.Is(err, ErrNotSealed) {
			t.Errorf("cut to %d of %d bytes: %v, want %v", n, len(whole), err, want)
		}
		if !bytes.HasPrefix(payload, got) {
			t.Errorf("cut to %d bytes: changed bytes came out", n)
		}
	}
}

func TestReader_roundTrip(t *testing.T) {
	k := NewKey()
	for _, n := range []int{0, 1, 2, frameMax - 1, frameMax, frameMax + 1, 3 * frameMax, 3*frameMax + 7} {
		payload := pattern(n)
		whole := sealed(t, k, "label", payload)
		frames := (n+frameMax-1)/frameMax + 1
		if want := len(magic) + idSize + n + frames*(4+macSize); len(whole) != want {
			t.Errorf("%d bytes sealed are %d, want %d", n, len(whole), want)
		}
		for name, chunked := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r },
			"bytes": iotest.OneByteReader, "halves": iotest.HalfReader, "data with EOF": iotest.DataErrReader,
		} {
			got, err := open(k, "label", chunked(bytes.NewReader(whole)))
			if err != nil || !bytes.Equal(got, payload) {
				t.Errorf("%d bytes, read in %s: %d bytes, %v", n, name, len(got), err)
			}
		}
		r, err := k.NewReader(bytes.NewReader(whole), "label")
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(r, payload); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// How the bytes were cut into writes does not show.
func TestWriter_chunks(t *testing.T) {
	k := fixed(3)
	payload := pattern(2*frameMax + 100)
	want := sealed(t, k, "l", payload)
	for _, size := range []int{1, 1000, frameMax - 1, frameMax + 1} {
		var got bytes.Buffer
		w := k.NewWriter(&got, "l")
		for chunk := range slices.Chunk(payload, size) {
			if _, err := w.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("written in %d bytes at a time: %v, %d bytes; they differ from those of one write", size, err, got.Len())
		}
	}
}

// The payload of a frame is only returned after its MAC was read: a reader that stalls
// before it has shown nothing yet.
func TestReader_checksBeforeItReturns(t *testing.T) {
	k := fixed(1)
	whole := sealed(t, k, "l", pattern(10))
	stalled := errors.New("stalled")
	for n := len(magic) + idSize; n < len(magic)+idSize+4+10+macSize; n++ {
		got, err := open(k, "l", io.MultiReader(bytes.NewReader(whole[:n]), iotest.ErrReader(stalled)))
		if len(got) != 0 || !errors.Is(err, stalled) || errors.Is(err, ErrTruncated) {
			t.Errorf("source fails after %d bytes: %d bytes, %v, want none and the source's error", n, len(got), err)
		}
	}
	if _, err := open(k, "l", iotest.ErrReader(stalled)); !errors.Is(err, stalled) || errors.Is(err, ErrNotSealed) {
		t.Errorf("source fails at once: %v", err)
	}
	// One that fails where the end should be has not shown that nothing follows.
	if got, err := open(k, "l", io.MultiReader(bytes.NewReader(whole), iotest.ErrReader(stalled))); len(got) != 10 || !errors.Is(err, stalled) {
		t.Errorf("source fails after the end: %d bytes, %v", len(got), err)
	}
}

func TestReader_errorsStay(t *testing.T) {
	k := fixed(1)
	whole := sealed(t, k, "l", pattern(10))
	r, err := k.NewReader(bytes.NewReader(whole[:len(whole)-1]), "l")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, ErrTruncated) {
		t.Fatal(err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, ErrTruncated) {
		t.Errorf("Read after an error: %d, %v", n, err)
	}
}

// failAfter fails from the nth write on.
type failAfter struct {
	n   int
	err error
}

func (f *failAfter) Write(b []byte) (int, error) {
	if f.n--; f.n < 0 {
		return 0, f.err
	}
	return len(b), nil
}

func TestWriter_errors(t *testing.T) {
	full := errors.New("full")
	const writes = 4 // header, two frames, end
	for n := range writes + 1 {
		w := fixed(1).NewWriter(&failAfter{n, full}, "l")
		_, err := w.Write(pattern(frameMax + 1))
		if closing := w.Close(); err == nil {
			err = closing
		} else if closing != err {
			t.Errorf("the sink fails at write %d: Close says %v after %v", n, closing, err)
		}
		if want := n < writes; errors.Is(err, full) != want || !want && err != nil {
			t.Errorf("the sink fails at write %d: %v", n, err)
		}
		if _, err := w.Write([]byte{1}); err != os.ErrClosed {
			t.Errorf("Write after Close: %v, want os.ErrClosed", err)
		}
		if err := w.Close(); err != os.ErrClosed {
			t.Errorf("Close again: %v, want os.ErrClosed", err)
		}
	}
}

// A writer that is dropped leaves nothing that reads as whole.
func TestWriter_dropped(t *testing.T) {
	for _, n := range []int{0, 1, frameMax, frameMax + 1} {
		var out bytes.Buffer
		w := fixed(1).NewWriter(&out, "l")
		if _, err := w.Write(pattern(n)); err != nil {
			t.Fatal(err)
		}
		if _, err := open(fixed(1), "l", &out); !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrNotSealed) {
			t.Errorf("%d bytes written and not closed: %v", n, err)
		}
	}
}

// The layout, which another program computed from its description. A change of it needs
// another magic.
func TestWriter_layout(t *testing.T) {
	got := fmt.Sprintf("%x", sealed(t, fixed(0xa5), "label", []byte("payload")))
	if want := "46534c5345414c313f25a1d60c32094b070000007061796c6f61646bbd972bc0" +
		"989c80a6629ce984f6b92feb718c213789aafd893cb17c2960d9d900000000a6" +
		"4a380dc5108494a20e0ed3e45f138825bc563da660983705e445c2ad681445"; got != want {
		t.Errorf("sealed:\n%s\nwant\n%s", got, want)
	}
}
