package mesh

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

// The times of beginning a cluster.
const (
	listenTime  = 2 * time.Second        // nobody begins before
	claimTime   = 300 * time.Millisecond // of which the last part is a claim
	starterGone = 3 * time.Second        // a starter that is silent for so long
	claimGone   = 15 * time.Second       // one that was about to begin: it has work to do
	maxStarters = 64
)

// role is what a gateway says of itself on the LAN.
type role uint8

const (
	roleStarter role = 1 // looks for a cluster
	roleClaimer role = 2 // is about to begin one
	roleMember  role = 3
)

// hint is what a gateway announces on the LAN. Only holders of the cluster key
// can make or check one. It proves nothing about who sends it: an old one can
// be sent again, at the price of one failed proof, or of a starter that is
// taken for present as long as its count rises.
type hint struct {
	role  role
	id    ID
	boot  uint64 // of the process
	count uint32 // rises with each hint of the process
	// Of members: the beginning of the cluster's id, and when it began, in seconds since 1970.
	cluster [8]byte
	born    uint32
}

const (
	hintVersion = 2
	hintMAC     = 16
	hintLen     = 1 + 1 + 16 + 8 + 4 + 8 + 4 + hintMAC
)

// hintKey derives what hints are authenticated with.
func hintKey(clusterKey [32]byte) []byte {
	// It can only fail for lengths that SHA-256 does not give.
	return must(hkdf.Key(sha256.New, clusterKey[:], nil, "gatemesh lan hint v1", sha256.Size))
}

// seal encodes h for a gateway that listens at port.
func (h hint) seal(key []byte, port uint16) []byte {
	b := make([]byte, 0, hintLen)
	b = append(b, hintVersion, byte(h.role))
	b = append(b, h.id[:]...)
	b = binary.BigEndian.AppendUint64(b, h.boot)
	b = binary.BigEndian.AppendUint32(b, h.count)
	b = append(b, h.cluster[:]...)
	b = binary.BigEndian.AppendUint32(b, h.born)
	return append(b, hintSum(key, b, port)...)
}

func hintSum(key, b []byte, port uint16) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(b)
	mac.Write(binary.BigEndian.AppendUint16(nil, port))
	return mac.Sum(nil)[:hintMAC]
}

// openHint decodes and checks what was announced for port.
func openHint(key, b []byte, port uint16) (hint, error) {
	if len(b) != hintLen || b[0] != hintVersion {
		return hint{}, fmt.Errorf("%w: not a hint", errFrame)
	}
	if !hmac.Equal(b[hintLen-hintMAC:], hintSum(key, b[:hintLen-hintMAC], port)) {
		return hint{}, fmt.Errorf("%w: a hint of another cluster", errFrame)
	}
	return hint{
		role: role(b[1]), id: ID(b[2:18]),
		boot: binary.BigEndian.Uint64(b[18:]), count: binary.BigEndian.Uint32(b[26:]),
		cluster: [8]byte(b[30:38]), born: binary.BigEndian.Uint32(b[38:]),
	}, nil
}

// election decides which of several gateways that start with the same key
// begins the cluster: the lowest ID among those that are there.
//
//	starter ── 1.7 s, none lower, no claim ─► claimer ── 2.0 s ─► begins
//	   ▲                                        │
//	   └──────── a claim of a lower ID ─────────┘
//
// Times are since its own start.
type election struct {
	self    ID
	claimed time.Duration // when we became a claimer; 0: we are not
	others  map[ID]*starter
}

type starter struct {
	hint hint
	at   time.Duration // when its count last rose
}

// hear takes in the hint of another starter or claimer.
func (e *election) hear(h hint, now time.Duration) {
	if h.id == e.self || h.role != roleStarter && h.role != roleClaimer {
		return
	}
	s := e.others[h.id]
	switch {
	case s == nil && len(e.others) >= maxStarters:
	case s == nil:
		if e.others == nil {
			e.others = map[ID]*starter{}
		}
		e.others[h.id] = &starter{h, now}
	case s.hint.boot != h.boot, h.count > s.hint.count:
		s.hint, s.at = h, now
	}
}

// decide says what we are at now, and whether we begin.
func (e *election) decide(now time.Duration) (as role, begin bool) {
	lower, claim := false, false
	for id, s := range e.others {
		patience := starterGone
		if s.hint.role == roleClaimer {
			patience = claimGone
		}
		if now-s.at > patience {
			delete(e.others, id)
			continue
		}
		isLower := id.Compare(e.self) < 0
		lower = lower || isLower
		if s.hint.role == roleClaimer && (isLower || e.claimed == 0) {
			claim = true
		}
	}
	switch {
	case claim, e.claimed == 0 && (lower || now < listenTime-claimTime):
		e.claimed = 0
		return roleStarter, false
	case e.claimed == 0:
		e.claimed = now
	}
	return roleClaimer, now >= listenTime && now-e.claimed >= claimTime
}
