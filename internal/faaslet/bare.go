package faaslet

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/faasm-go/faasm/internal/engine"
)

// Parts is what the parts of a Faaslet's life took.
type Parts struct {
	Region   time.Duration // to take a region that is at hand
	Instance time.Duration // to make an instance in it, with its state restored, if there is none yet
	Guest    time.Duration // to run the entry point, and to ask for the thread's faults
	Clean    time.Duration // to reset the instance, clean the region and give it back
}

// BareParts does what Bare does, and times it.
func (c *Code) BareParts() (Parts, error) {
	var p Parts
	start := time.Now()
	region, err := c.pool.Take()
	if err != nil {
		return p, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	taken := time.Now()
	instance := c.instance(region)
	event := instance.Instantiate()
	made := time.Now()
	if event == engine.Finished {
		event = instance.Start(c.manifest.Entry.Export, c.manifest.Entry.Results)
	}
	region.NoFaults = c.rt.countsFaults && !engine.ThreadFaulted()
	ran := time.Now()
	if event != engine.Finished {
		err = fmt.Errorf("%s stopped with event %d", c.manifest.Entry.Export, event)
	}
	_, cleanErr := c.clean(region, instance, false)
	p = Parts{Region: taken.Sub(start), Instance: made.Sub(taken), Guest: ran.Sub(made), Clean: time.Since(ran)}
	return p, errors.Join(err, cleanErr)
}
