package linux

import (
	"time"

	"golang.org/x/sys/unix"
)

// Sleep blocks the calling thread for d, and is late by some microseconds. Go's own sleep
// rounds up to a millisecond where no other goroutine runs, since it waits in epoll. The
// thread's later sleeps are as exact, which costs the machine wake-ups: it is for measuring.
func Sleep(d time.Duration) {
	// The kernel may else add 50 us, so as to wake several threads at once.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	t := unix.NsecToTimespec(d.Nanoseconds())
	// An interrupted sleep is a short one, which whoever looks at the clock sees.
	_ = unix.Nanosleep(&t, nil)
}

// ThreadTime is the CPU time that this thread has taken so far.
func ThreadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic("BUG: read the thread's clock: " + err.Error())
	}
	return time.Duration(t.Nano())
}
