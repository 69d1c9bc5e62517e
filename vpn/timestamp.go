package vpn

import (
	"bytes"
	"time"
)

// Timestamp is a TAI64N label: 8 bytes of seconds since 1970 TAI plus 2^62, 4 bytes of nanoseconds, big endian
// (D. J. Bernstein, "TAI64, TAI64N, and TAI64NA"). Labels are compared as bytes. Zero is before every other.
type Timestamp = [12]byte

const (
	tai64Base   = 0x400000000000000a
	nanosecond  = 1_000_000_000
	whitenerLow = 1<<24 - 1 // nanoseconds are cut to 2^24 as in wireguard-go, against timing leaks
)

// stamp is the label of a wall clock time.
func stamp(t time.Time) (ts Timestamp) {
	be.PutUint64(ts[:], tai64Base+uint64(t.Unix()))
	be.PutUint32(ts[8:], uint32(t.Nanosecond())&^whitenerLow)
	return ts
}

// after reports whether a is later than b.
func after(a, b Timestamp) bool { return bytes.Compare(a[:], b[:]) > 0 }

func later(a, b Timestamp) Timestamp {
	if after(b, a) {
		return b
	}
	return a
}

// successor is the least label after ts that still has a valid number of nanoseconds; ok is false at the end of time.
func successor(ts Timestamp) (next Timestamp, ok bool) {
	seconds, nanos := be.Uint64(ts[:]), be.Uint32(ts[8:])
	if nanos+1 < nanosecond {
		nanos++
	} else {
		seconds, nanos = seconds+1, 0
	}
	be.PutUint64(next[:], seconds)
	be.PutUint32(next[8:], nanos)
	return next, after(next, ts)
}

// nextSent is the label of our next initiation: max(now, floor+1), so that a clock that is behind delays nothing.
func nextSent(now time.Time, floor Timestamp) (Timestamp, bool) {
	ts := stamp(now)
	if after(ts, floor) {
		return ts, true
	}
	return successor(floor)
}
