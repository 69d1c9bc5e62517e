// Package cli is the command line: flags in, tables and JSON out. It starts a
// gateway (up) and is otherwise a client of a running one, by the same door as
// everybody else (node/api).
//
// Rules of what it prints: data goes to stdout, talk to stderr. An error is one
// line "gatemesh: what went wrong" and, where it is known, one line "hint: what
// to do". The exit status is 0, 1 for an error, 2 for a command line that makes
// no sense.
package cli
