package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// duration is a time.Duration above zero as a flag. It differs from pflag's own in
// its errors, and in refusing what is not above zero.
type duration time.Duration

// durationVar defines a flag for a duration. A value of 0 stands for "not set".
func durationVar(flags *pflag.FlagSet, p *time.Duration, name string, value time.Duration, usage string) {
	*p = value
	flags.Var((*duration)(p), name, usage)
}

// Set parses s; see parseDuration.
func (d *duration) Set(s string) error {
	v, err := parseDuration(s)
	if err == nil {
		*d = duration(v)
	}
	return err
}

// String is a form that Set reads.
func (d *duration) String() string { return time.Duration(*d).String() }

// Type names the value in help texts.
func (d *duration) Type() string { return "duration" }

// parseDuration reads what time.ParseDuration reads, if it is above zero.
func parseDuration(text string) (time.Duration, error) {
	s := strings.TrimSpace(text)
	d, err := time.ParseDuration(s)
	if err != nil {
		if _, numErr := strconv.ParseFloat(s, 64); numErr == nil || errors.Is(numErr, strconv.ErrRange) {
			return 0, fmt.Errorf("duration %q has no unit; write %ss or %sms", text, s, s)
		}
		return 0, fmt.Errorf("duration %q is not like 500ms, 5s or 1m30s", text)
	}
	if d <= 0 {
		return 0, fmt.Errorf("duration %q is not above zero", text)
	}
	return d, nil
}

// formatDuration writes a duration for people, to two or three digits: 913 ns, 2.9 µs,
// 340 ms, 1.5 s, 2m03s, 1h02m.
func formatDuration(d time.Duration) string {
	if d < 0 {
		return "-" + formatDuration(-d)
	}
	v := float64(d)
	for _, unit := range []string{"ns", "µs", "ms"} {
		switch {
		case unit == "ns" && v < 999.5:
			return fmt.Sprintf("%.0f ns", v)
		case v < 99.95:
			return fmt.Sprintf("%.1f %s", v, unit)
		case v < 999.5:
			return fmt.Sprintf("%.0f %s", v, unit)
		}
		v /= 1000
	}
	if v < 59.95 {
		return fmt.Sprintf("%.1f s", v)
	}
	if s := d.Round(time.Second); s < time.Hour {
		return fmt.Sprintf("%dm%02ds", s/time.Minute, s%time.Minute/time.Second)
	}
	m := d.Round(time.Minute)
	return fmt.Sprintf("%dh%02dm", m/time.Hour, m%time.Hour/time.Minute)
}

// formatMicros is formatDuration of a number of microseconds.
func formatMicros(us float64) string {
	return formatDuration(time.Duration(us * float64(time.Microsecond)))
}

// formatAge writes how long ago a moment was, in its largest unit: 12s ago, 3h ago,
// 2d ago. Clocks differ between hosts, so a moment just ahead is "now".
func formatAge(now, then time.Time) string {
	d := now.Sub(then)
	switch {
	case then.IsZero():
		return "-"
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", d/time.Hour)
	}
	return fmt.Sprintf("%dd ago", d/(24*time.Hour))
}
