// Package api is the one door to a running gateway: what an administrator or
// a program may ask of it, as plain types, one small interface for each noun,
// and both ends of the HTTP that carries them.
//
// It knows names and JSON. It does not know how a gateway does what it is
// asked: node implements [Service], and the command line, the tests and later
// the web pages are all clients of the same [Handler].
package api
