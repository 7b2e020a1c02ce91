package call

import "time"

// A Wait is what a running call waits for, as data: so that neither a goroutine nor its
// stack need wait with it. It is over when one of Calls has finished, when For has passed,
// or when the call that waits is cancelled. It does not change once somebody waits.
type Wait struct {
	Calls []*Call       // children of the call that waits
	For   time.Duration // 0: as long as it takes
}

// Over tells whether c need not wait any longer, or can't know because the time is not
// looked at here. It takes no lock.
func (w *Wait) Over(c *Call) bool {
	if _, cancelled := c.Cancelled(); cancelled {
		return true
	}
	for _, child := range w.Calls {
		if child.Result() != nil {
			return true
		}
	}
	return false
}

// Children tells whether nothing but the end of a child of c, or c's cancellation, ends the
// wait.
func (w *Wait) Children() bool { return w.For == 0 }

// Block waits on this goroutine, which carries c.
func (w *Wait) Block(c *Call) {
	var expired <-chan time.Time
	if w.For > 0 {
		t := time.NewTimer(w.For)
		defer t.Stop()
		expired = t.C
	}
	for wake := c.Wake(); !w.Over(c); {
		select {
		case <-wake:
		case <-expired:
			return
		}
	}
}
