package linux

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxMapCount is the number of mappings that a process may hold (vm.max_map_count).
func MaxMapCount() (int, error) {
	b, err := os.ReadFile("/proc/sys/vm/max_map_count")
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("read vm.max_map_count: %w", err)
	}
	return n, nil
}

// SetMaxMapCount raises vm.max_map_count for the whole machine; it needs root.
func SetMaxMapCount(n int) error {
	return os.WriteFile("/proc/sys/vm/max_map_count", []byte(strconv.Itoa(n)), 0o644)
}

// MemTotal is the machine's usable memory in bytes.
func MemTotal() (uint64, error) { return meminfo("MemTotal:") }

func meminfo(key string) (uint64, error) { return kilobytes("/proc/meminfo", key) }

// kilobytes reads a line "Key:   123 kB" of a file of /proc, in bytes.
func kilobytes(file, key string) (uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			kb, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read %s %s %w", file, key, err)
			}
			return kb << 10, nil
		}
	}
	return 0, errors.New("read " + file + ": no " + key)
}

// PSS is the proportional set size of this process in bytes: private memory plus its
// share of what it shares (/proc/self/smaps_rollup, since kernel 4.14).
func PSS() (uint64, error) { return smaps("Pss:") }

func smaps(key string) (uint64, error) { return kilobytes("/proc/self/smaps_rollup", key) }

// Threads is the number of OS threads of this process.
func Threads() (int, error) {
	dir, err := os.Open("/proc/self/task")
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	return len(names), err
}

// OpenFiles is the number of file descriptors this process holds.
func OpenFiles() (int, error) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	return len(names) - 1, err // less the directory itself
}

// Maps is the number of mappings this process holds.
func Maps() (int, error) {
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return 0, err
	}
	return strings.Count(string(b), "\n"), nil
}

// KernelRelease is uname's release, such as "6.18.44".
func KernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// Random fills b from the kernel.
func Random(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Getrandom(b, 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("getrandom: %w", err)
		}
		b = b[max(n, 0):]
	}
	return nil
}

// MappingPermissions is how the page at addr is mapped, as /proc/self/maps writes it:
// "rw-p", or "" where nothing is mapped.
func MappingPermissions(addr uintptr) (string, error) {
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		var start, end uintptr
		var perms string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &start, &end, &perms); err != nil {
			return "", fmt.Errorf("read /proc/self/maps: %w", err)
		}
		if start <= addr && addr < end {
			return perms, nil
		}
	}
	return "", nil
}
