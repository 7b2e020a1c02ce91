// Package archtest holds the tests of the project's own rules: which package may know
// which, where danger may live, and that the specification's promises have tests. It has
// no code of its own.
package archtest
