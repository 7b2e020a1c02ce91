package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// progressDelay is how long work lasts before a line tells of it: what is over
	// sooner needs no word.
	progressDelay = 300 * time.Millisecond

	// progressPeriod is the time between two looks at the work.
	progressPeriod = 100 * time.Millisecond
)

// progress is a line on a terminal that tells what goes on and is gone afterwards.
// A goroutine of its own draws it, and close waits for that.
type progress struct {
	w    io.Writer
	stop chan struct{}
	done chan struct{}

	mu struct {
		sync.Mutex
		text  string
		since time.Time // when text's step began
	}
}

// startProgress shows text on w once progressDelay has passed. If visible is false
// nothing is ever shown. The caller closes the result.
func startProgress(w io.Writer, visible bool, text string) *progress {
	p := &progress{w: w, stop: make(chan struct{}), done: make(chan struct{})}
	p.step(text)
	if !visible {
		close(p.done)
		return p
	}
	go p.draw()
	return p
}

// set replaces the text within the same step.
func (p *progress) set(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.text = text
}

// step replaces the text and begins to count the seconds anew.
func (p *progress) step(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.text, p.mu.since = text, time.Now()
}

// close takes the line away. After it returns nothing more is written.
func (p *progress) close() {
	close(p.stop)
	<-p.done
}

func (p *progress) draw() {
	defer close(p.done)
	timer := time.NewTimer(progressDelay)
	defer timer.Stop()
	shown := ""
	for {
		select {
		case <-p.stop:
			if shown != "" {
				io.WriteString(p.w, "\r\x1b[K") // a terminal that is gone needs no clearing
			}
			return
		case <-timer.C:
			if line := p.line(); line != shown {
				io.WriteString(p.w, "\r"+line+"\x1b[K")
				shown = line
			}
			timer.Reset(progressPeriod)
		}
	}
}

// line is the text and, from the first second of its step on, the seconds.
func (p *progress) line() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := time.Since(p.mu.since) / time.Second; s > 0 {
		return fmt.Sprintf("%s (%d s)", p.mu.text, s)
	}
	return p.mu.text
}
