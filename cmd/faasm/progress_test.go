package main

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// In these tests time is synctest's: it passes when all goroutines wait.

func TestProgress_shortWorkIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w strings.Builder
		p := startProgress(&w, true, "uploading")
		time.Sleep(progressDelay - time.Millisecond)
		p.close()
		if w.Len() > 0 {
			t.Errorf("wrote %q, want nothing", w.String())
		}
	})
}

func TestProgress_invisible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w strings.Builder
		p := startProgress(&w, false, "uploading")
		time.Sleep(time.Minute)
		p.close()
		if w.Len() > 0 {
			t.Errorf("wrote %q, want nothing", w.String())
		}
	})
}

func TestProgress_longWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w strings.Builder
		p := startProgress(&w, true, "uploading")
		time.Sleep(progressDelay + time.Millisecond)
		p.set("uploading 1 of 2")
		time.Sleep(progressPeriod)
		p.step("compiling")
		time.Sleep(1250 * time.Millisecond)
		p.close()
		want := "\ruploading\x1b[K" + "\ruploading 1 of 2\x1b[K" + "\rcompiling\x1b[K" + "\rcompiling (1 s)\x1b[K" + "\r\x1b[K"
		if got := w.String(); got != want {
			t.Errorf("wrote %q, want %q", got, want)
		}
	})
}
