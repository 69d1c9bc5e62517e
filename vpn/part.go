package vpn

// The send counters of a key are cut so that its holders never meet. A fresh key's are [0, 2^60). Whoever holds a part
// sends only in the first of its 32 pieces; the n-th time it hands the key over it gives the n-th piece away, which the
// receiver cuts again. So an heir is above its owner, and a later heir above an earlier one.
//
//	fresh key  │0 owner sends│1 first export        │2 second export │ … │31│
//	                         │0 heir sends│1│ … │31│
const (
	cutBits   = 5
	maxDepth  = 4              // takeovers of one key: the piece to send in has 2^35 counters then
	maxPiece  = 1<<cutBits - 1 // exports of one part
	maxOffset = 1 << 30        // an heir begins below this in its piece: 32-bit kernels take distances in their window modulo 2^37
	keyMargin = 1 << 32        // what a sender needs for RejectAfterTime at 20 million messages a second
)

// part is a range of a key's send counters. Its size follows from how often it was cut; the zero value is a fresh key's.
type part struct {
	lo    uint64
	depth uint8
}

func (r part) size() uint64 { return RekeyAfterMessages >> (cutBits * r.depth) }

// end is the first counter after those that the part's holder sends itself.
func (r part) end() uint64 { return r.lo + r.size()>>cutBits }

// piece is what the n-th export gives away, n from 1; ok is false when there is no such piece.
func (r part) piece(n int) (piece part, ok bool) {
	if r.depth >= maxDepth || n < 1 || n > maxPiece {
		return part{}, false
	}
	piece.depth = r.depth + 1
	piece.lo = r.lo + uint64(n)*piece.size()
	return piece, true
}

// valid reports whether r can have come out of piece.
func (r part) valid() bool {
	return r.depth >= 1 && r.depth <= maxDepth && r.lo%r.size() == 0 && r.lo >= r.size() && r.lo <= RekeyAfterMessages-r.size()
}
