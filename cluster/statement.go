package cluster

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"time"
)

// A statement has fixed places, so there is one encoding of each:
//
//	version  cluster  newcomer  sponsor  at       signature
//	1        16       32        32       8        64
//
// at is in Unix milliseconds, big-endian. The signature is the sponsor's over a
// context and all that stands before it.
const (
	statementVersion = 1
	statementSigned  = 1 + 16 + 32 + 32 + 8
	statementSize    = statementSigned + ed25519.SignatureSize
	statementContext = "gatemesh admission statement v1\x00"
)

// SignAdmission returns the sponsor's word that a newcomer was admitted to a
// cluster. It introduces the newcomer to members that have not got the admission
// yet. Time is kept to the millisecond.
func SignAdmission(sponsor ed25519.PrivateKey, cluster [16]byte, newcomer ed25519.PublicKey, at time.Time) []byte {
	b := make([]byte, 0, statementSize)
	b = append(b, statementVersion)
	b = append(b, cluster[:]...)
	b = append(b, newcomer...)
	b = append(b, sponsor.Public().(ed25519.PublicKey)...)
	b = binary.BigEndian.AppendUint64(b, uint64(at.UnixMilli())) //nolint:gosec // two's complement, as read
	return append(b, ed25519.Sign(sponsor, append([]byte(statementContext), b...))...)
}

// VerifyAdmission reads a statement that was made for this cluster. Whether the
// sponsor may sponsor is for the caller to know. Any error wraps
// ErrInvalidStatement. The keys are copies.
func VerifyAdmission(statement []byte, cluster [16]byte) (newcomer, sponsor ed25519.PublicKey, at time.Time, err error) {
	if len(statement) != statementSize || statement[0] != statementVersion {
		return nil, nil, time.Time{}, fmt.Errorf("%w: unknown form", ErrInvalidStatement)
	}
	if [16]byte(statement[1:17]) != cluster {
		return nil, nil, time.Time{}, fmt.Errorf("%w: made for another cluster", ErrInvalidStatement)
	}
	newcomer = bytes.Clone(statement[17:49])
	sponsor = bytes.Clone(statement[49:81])
	signed := append([]byte(statementContext), statement[:statementSigned]...)
	if !ed25519.Verify(sponsor, signed, statement[statementSigned:]) {
		return nil, nil, time.Time{}, fmt.Errorf("%w: signature does not fit", ErrInvalidStatement)
	}
	ms := int64(binary.BigEndian.Uint64(statement[81:])) //nolint:gosec // two's complement, as written
	return newcomer, sponsor, time.UnixMilli(ms).UTC(), nil
}
