package linux

import (
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSealMemfd(t *testing.T) {
	f, err := NewMemfd("test")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v: a child would inherit it", flags, err)
	}
	if _, err := f.WriteAt(make([]byte, 8192), 0); err != nil {
		t.Fatal(err)
	}

	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	if err := SealMemfd(f); !errors.Is(err, unix.EBUSY) {
		t.Errorf("seal a file that is mapped to be written: %v; want EBUSY", err)
	}
	if _, err := f.WriteAt([]byte("still"), 0); err != nil {
		t.Errorf("write after a seal that failed: %v", err)
	}
	if err := unix.Munmap(m); err != nil {
		t.Fatal(err)
	}

	if err := SealMemfd(f); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		do   func() error
	}{
		{"write", func() error { _, err := f.WriteAt([]byte("x"), 0); return err }},
		{"append", func() error { _, err := f.WriteAt([]byte("x"), 8192); return err }},
		{"shrink", func() error { return f.Truncate(4096) }},
		{"grow", func() error { return f.Truncate(16384) }},
		{"punch a hole", func() error {
			return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
		}},
		{"map to be written", func() error {
			_, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			return err
		}},
		{"add a seal", func() error { return SealMemfd(f) }},
	} {
		if err := tt.do(); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v; want EPERM", tt.name, err)
		}
	}
}

func TestSyncFS(t *testing.T) {
	dir := t.TempDir()
	if err := SyncFS(filepath.Join(dir, "none")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("sync a directory that does not exist: %v", err)
	}
	if err := SyncFS(dir); err != nil {
		t.Error(err)
	}
}
