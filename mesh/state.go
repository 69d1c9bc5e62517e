package mesh

import "iter"

// State is anything that is replicated. Merge must be commutative,
// associative and idempotent: parts come late, twice and in any order. All
// methods may be called from several goroutines.
type State interface {
	// Digest says what we have, in at most 64 KiB. Equal bytes mean equal
	// knowledge. The slice is the caller's to read.
	Digest() []byte

	// Delta yields, in parts of at most 256 KiB, all that the holder of
	// digest lacks; nothing if it lacks nothing. The nil digest lacks
	// everything. The parts are the caller's. An error ends it; so does the
	// caller.
	Delta(digest []byte) iter.Seq2[[]byte, error]

	// Merge takes in one part. It may block for a write to disk. behind says
	// that something in between is missing.
	Merge(part []byte) (behind bool, err error)

	// Changed has a token, in a buffer of one, when local changes want to be
	// pushed.
	Changed() <-chan struct{}
}
