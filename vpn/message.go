package vpn

import "encoding/binary"

// Message types and sizes (whitepaper §5.4). All integers are little endian, the three bytes after the type are zero.
//
//	initiation  type 1 │ sender │ ephemeral │ static+tag │ timestamp+tag │ mac1 │ mac2
//	                 4        4          32           48              28     16     16   = 148
//	response    type 2 │ sender │ receiver │ ephemeral │ empty+tag │ mac1 │ mac2
//	                 4        4          4          32          16     16     16          = 92
//	cookie      type 3 │ receiver │ nonce │ cookie+tag
//	                 4          4      24           32                                    = 64
//	transport   type 4 │ receiver │ counter │ packet+padding+tag
//	                 4          4         8   16…                                         ≥ 32
const (
	typeInitiation = 1
	typeResponse   = 2
	typeCookie     = 3
	typeTransport  = 4

	initiationSize = 148
	responseSize   = 92
	cookieSize     = 64
	headerSize     = 16
	tagSize        = 16
	macSize        = 16
	keepaliveSize  = headerSize + tagSize
)

var (
	le = binary.LittleEndian
	be = binary.BigEndian
)

// messageType returns the type of a datagram whose length is right for it, else 0.
func messageType(b []byte) uint32 {
	if len(b) < keepaliveSize {
		return 0
	}
	switch t := le.Uint32(b); {
	case t == typeTransport,
		t == typeInitiation && len(b) == initiationSize,
		t == typeResponse && len(b) == responseSize,
		t == typeCookie && len(b) == cookieSize:
		return t
	}
	return 0
}

// padded returns the length of a packet of n bytes after padding: a multiple of 16 that never exceeds the MTU,
// except that a packet beyond the MTU is padded by what its last MTU-sized part needs (as wireguard-go does).
func padded(n, mtu int) int {
	last := n
	if last > mtu {
		last %= mtu
	}
	return n + min((last+paddingMultiple-1)&^(paddingMultiple-1), mtu) - last
}
