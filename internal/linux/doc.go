// Package linux is the door to the kernel: small wrappers that retry on EINTR, and
// probes that find out what the running kernel can do by doing it once.
//
// It is not a place for policy: what to do when a probe says no is decided by the
// package that asked. Besides vmem, which lives from mmap, no other package imports
// golang.org/x/sys/unix.
package linux
