package main

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for _, test := range []struct {
		text string
		want time.Duration
		err  string
	}{
		{"", 0, "is not like"},
		{"5", 0, "has no unit; write 5s or 5ms"},
		{"-5", 0, "has no unit"},
		{"1e400", 0, "has no unit"},
		{"0s", 0, "is not above zero"},
		{"-1s", 0, "is not above zero"},
		{"5 s", 0, "is not like"},
		{"5d", 0, "is not like"},
		{"soon", 0, "is not like"},
		{"9223372036855s", 0, "is not like"},
		{"5s", 5 * time.Second, ""},
		{" 1m30s ", 90 * time.Second, ""},
		{"1.5ms", 1500 * time.Microsecond, ""},
	} {
		got, err := parseDuration(test.text)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("parseDuration(%q) = %v, %v; want an error with %q", test.text, got, err, test.err)
			}
			continue
		}
		if err != nil || got != test.want {
			t.Errorf("parseDuration(%q) = %v, %v; want %v", test.text, got, err, test.want)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	for _, test := range []struct {
		d    time.Duration
		want string
	}{
		{0, "0 ns"},
		{913, "913 ns"},
		{999, "999 ns"},
		{1000, "1.0 µs"},
		{2913, "2.9 µs"},
		{99_949, "99.9 µs"},
		{99_950, "100 µs"},
		{999_499, "999 µs"},
		{999_500, "1.0 ms"},
		{1_200_000, "1.2 ms"},
		{340 * time.Millisecond, "340 ms"},
		{999_500 * time.Microsecond, "1.0 s"},
		{1500 * time.Millisecond, "1.5 s"},
		{59_949 * time.Millisecond, "59.9 s"},
		{59_950 * time.Millisecond, "1m00s"},
		{123 * time.Second, "2m03s"},
		{time.Hour - time.Millisecond, "1h00m"},
		{62 * time.Minute, "1h02m"},
		{-2913, "-2.9 µs"},
		{math.MaxInt64, "2562047h47m"},
	} {
		if got := formatDuration(test.d); got != test.want {
			t.Errorf("formatDuration(%d) = %q, want %q", test.d, got, test.want)
		}
	}
}

func TestFormatAge(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		age  time.Duration
		want string
	}{
		{-time.Hour, "now"},
		{0, "now"},
		{999 * time.Millisecond, "now"},
		{time.Second, "1s ago"},
		{59 * time.Second, "59s ago"},
		{time.Minute, "1m ago"},
		{210 * time.Minute, "3h ago"},
		{47 * time.Hour, "47h ago"},
		{48 * time.Hour, "2d ago"},
	} {
		if got := formatAge(now, now.Add(-test.age)); got != test.want {
			t.Errorf("age %v is %q, want %q", test.age, got, test.want)
		}
	}
	if got := formatAge(now, time.Time{}); got != "-" {
		t.Errorf("age of no moment is %q, want -", got)
	}
}
