package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"
)

// kind tells frames apart. A frame of an unknown kind is ignored, so that an
// older member can talk to a newer one. Numbers are never used again.
type kind uint8

const (
	kindHello  kind = 1 // both ways, first
	kindRefuse kind = 2 // the end: why not
	kindOpen   kind = 3 // dialer: your hello is good, too

	kindBeat    kind = 8  // control: heartbeat
	kindAsk     kind = 9  // control: do you hear this one?
	kindTell    kind = 10 // control: the answer
	kindSend    kind = 11 // control: message
	kindCall    kind = 12 // control: message that wants an answer
	kindAnswer  kind = 13 // control: the answer
	kindClosing kind = 14 // control: this process stops
	kindLeaving kind = 15 // control: this member leaves for good

	kindDigest kind = 24 // bulk: what I have of a state
	kindPart   kind = 25 // bulk, join: something of what you lack
	kindEnd    kind = 26 // bulk, join: that was all

	kindProof   kind = 32 // join, claim: proof of the secret
	kindWelcome kind = 33 // join: what the sponsor gives a newcomer
	kindDone    kind = 34 // join: the newcomer has it all

	kindOffer kind = 40 // claim: what the member offers
	kindTaken kind = 41 // claim: it is accepted, and what comes of it
	kindLogon kind = 42 // logon: name and password of an administrator
	kindGrant kind = 43 // logon: what the newcomer joins with
)

// Limits of what one frame may be, by where it is read.
const (
	helloLimit   = 16 << 10          // before the other side is admitted
	controlLimit = MaxAnswer + 4<<10 // answers are the largest
	bulkLimit    = 256<<10 + 64<<10  // a part, or a digest
	joinLimit    = bulkLimit + 4<<10 // a part, or a welcome
	frameHeader  = 4 + 1             // length of what follows, kind
	wireChunk    = 64 << 10          // allocated at a time while a frame comes in
	maxNames     = 32                // states of one member
	maxNameLen   = 64                // of a state, message, gateway, version
	maxVoucher   = 4 << 10           // what a peer carries from its sponsor
	maxReason    = 256               // text of a refusal
	maxBeat      = 4 << 10           // payload of a heartbeat
	maxWelcome   = 64 << 10          // what a sponsor gives a newcomer
	maxDigest    = 64 << 10          // of one state
	maxPart      = 256 << 10         // of one delta
)

var errFrame = errors.New("malformed frame")

var (
	encMode = must(cbor.CoreDetEncOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  4,
		MaxArrayElements: 1024,
		MaxMapPairs:      64,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// encode returns the frame of kind k with body, or with none if it is nil.
// Bodies are our own types, so that it cannot fail.
func encode(k kind, body any) []byte {
	var b []byte
	if body != nil {
		b = must(encMode.Marshal(body))
	}
	f := make([]byte, frameHeader+len(b))
	binary.BigEndian.PutUint32(f, uint32(1+len(b)))
	f[4] = byte(k)
	copy(f[frameHeader:], b)
	return f
}

// decode reads the body of a frame into v. Fields that it does not know are
// ignored.
func decode(body []byte, v any) error {
	if err := decMode.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %v", errFrame, err) //nolint:errorlint // the decoder's errors are text to us
	}
	return nil
}

// readFrame reads one frame of at most limit bytes. Memory is taken as bytes
// arrive, not as they are promised. The body is the caller's.
func readFrame(r io.Reader, limit int) (kind, []byte, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	n := int64(binary.BigEndian.Uint32(h[:])) - 1
	if n < 0 || n > int64(limit) {
		return 0, nil, fmt.Errorf("%w: %d bytes of kind %d", errFrame, n, h[4])
	}
	body := make([]byte, 0, min(n, wireChunk))
	for int64(len(body)) < n {
		if len(body) == cap(body) {
			body = append(make([]byte, 0, min(n, int64(2*cap(body)))), body...)
		}
		m, err := io.ReadFull(r, body[len(body):cap(body)])
		body = body[:len(body)+m]
		if err != nil {
			return 0, nil, io.ErrUnexpectedEOF
		}
	}
	return kind(h[4]), body, nil
}
