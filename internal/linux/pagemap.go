package linux

import "golang.org/x/sys/unix"

// PageRange is a run of pages, as PAGEMAP_SCAN reports it: [Start, End) are addresses.
type PageRange struct {
	Start, End, Categories uint64
}

// The kernel's struct pm_scan_arg (since kernel 6.7).
type pmScanArg struct {
	size             uint64
	flags            uint64
	start, end       uint64
	walkEnd          uint64
	vec, vecLen      uint64
	maxPages         uint64
	categoryInverted uint64
	categoryMask     uint64
	categoryAnyof    uint64
	returnMask       uint64
}

const (
	pagemapScan   = 0xc0606610 // _IOWR('f', 16, struct pm_scan_arg)
	pageIsFile    = 1 << 2
	pageIsPresent = 1 << 3
	pageIsSwapped = 1 << 4
	pageIsPFNZero = 1 << 5
)

// Pagemap finds pages of this process that were copied on write.
type Pagemap struct{ fd int }

// OpenPagemap opens /proc/self/pagemap, and probes PAGEMAP_SCAN (since kernel 6.7) by
// doing it once. It returns an error where the kernel lacks it.
func OpenPagemap() (*Pagemap, error) {
	fd, err := unix.Open("/proc/self/pagemap", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	p := &Pagemap{fd: fd}
	if _, _, err := p.Written(0, 4096, probe[:]); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return p, nil
}

// probe is OpenPagemap's; see Written.
var probe [1]PageRange

// Close closes the file.
func (p *Pagemap) Close() error { return unix.Close(p.fd) }

// Written reports the runs of pages in [start, end) that are the process's own:
// neither the file's nor the shared zero page, so in a private mapping those that were
// written (swapped-out ones included). It fills vec and returns how many entries it used
// and where the walk ended; next < end means that vec was too small and that the caller
// goes on from next.
//
// Preconditions: vec is not on a goroutine's stack, which may move while the kernel has
// its address.
func (p *Pagemap) Written(start, end uintptr, vec []PageRange) (n int, next uintptr, err error) {
	return p.written(start, end, vec)
}
