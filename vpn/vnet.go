package vpn

import "errors"

// What stands before each packet of a TUN with IFF_VNET_HDR: struct virtio_net_hdr (linux/virtio_net.h), in the byte
// order of the machine, for which TUNs of all supported machines are little endian.
//
//	flags 1 │ gsoType 1 │ length of headers 2 │ gsoSize 2 │ checksum from 2 │ and its place behind that 2
//
// A packet with a gsoType is a super-packet: headers that stand for many packets, and their payloads one after the
// other, each of gsoSize bytes but for the last.
const (
	vnetSize = 10

	vnetNeedsChecksum = 1

	gsoNone = 0
	gsoTCP4 = 1
	gsoTCP6 = 4
	gsoUDP  = 5    // VIRTIO_NET_HDR_GSO_UDP_L4
	gsoECN  = 0x80 // beside a TCP type: the first packet has CWR
)

// Protocols and headers inside IP.
const (
	protocolTCP = 6
	protocolUDP = 17

	tcpHeader = 20 // without options
	udpHeader = 8

	tcpChecksum = 16 // where it stands in the header
	udpChecksum = 6

	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpACK = 0x10
	tcpECE = 0x40
	tcpCWR = 0x80
)

var errVnet = errors.New("packet does not fit the header that the kernel put before it")

type vnetHeader struct {
	flags, gsoType                               byte
	headers, gsoSize, checksumStart, checksumOff uint16
}

func parseVnet(b []byte) (h vnetHeader) {
	_ = b[vnetSize-1]
	return vnetHeader{
		flags: b[0], gsoType: b[1], headers: le.Uint16(b[2:]),
		gsoSize: le.Uint16(b[4:]), checksumStart: le.Uint16(b[6:]), checksumOff: le.Uint16(b[8:]),
	}
}

func (h vnetHeader) put(b *[vnetSize]byte) {
	b[0], b[1] = h.flags, h.gsoType
	le.PutUint16(b[2:], h.headers)
	le.PutUint16(b[4:], h.gsoSize)
	le.PutUint16(b[6:], h.checksumStart)
	le.PutUint16(b[8:], h.checksumOff)
}
