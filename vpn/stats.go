package vpn

import "sync/atomic"

// Stats counts since New. Packets are WireGuard transport messages, keepalives included; bytes are those of whole
// messages, without UDP and IP headers.
type Stats struct {
	RxPackets, RxBytes uint64 // authenticated and not replayed
	TxPackets, TxBytes uint64

	InitiationsReceived uint64 // with a right mac1
	InitiationsInjected uint64 // of these, handed to us by Inject
	InitiationsSteered  uint64 // of these, passed to another gateway
	InitiationsSent     uint64
	ResponsesSent       uint64
	ResponsesReceived   uint64 // authenticated
	CookiesReceived     uint64 // authenticated
	Confirmed           uint64 // handshakes confirmed, both roles
	GivenUp             uint64 // handshakes given up

	Malformed         uint64 // datagrams of no known type and length, and batches that the bind could not take apart
	BadMAC            uint64 // handshake messages whose mac1 is wrong
	QueueFull         uint64 // handshake messages dropped before a worker saw them
	BadHandshake      uint64 // handshake messages that do not authenticate, or answer nothing
	UnknownDevice     uint64 // initiations of devices that Lookup does not know
	StaleTimestamp    uint64 // initiations refused as replays
	TooFrequent       uint64 // initiations above 50 per second and device
	UnknownIndex      uint64 // transport messages for a receiver index nobody has
	Expired           uint64 // transport messages under expired or erased keys
	Forged            uint64 // transport messages that do not authenticate
	Replayed          uint64 // transport messages with a counter seen before or out of the window
	BadPacket         uint64 // authentic, but no IP packet inside
	BadSource         uint64 // inner source address is not the device's
	NoSession         uint64 // packets from the TUN for an address without session
	Overflow          uint64 // packets waiting for keys that were pushed out or given up
	Fenced            uint64 // messages held back by the sender's fence
	SendErrors        uint64
	ReceiveErrors     uint64 // of the socket
	ReadErrors        uint64 // of the TUN
	WriteErrors       uint64 // batches that the TUN refused, whole or in part
	Exports           uint64
	Imports           uint64 // held
	ImportsRefused    uint64
	TakenOver         uint64 // sessions
	Forwarded         uint64 // packets for devices that were exported for good
	Muted             uint64 // packets for devices that are claimed by another gateway, dropped
	TransportInjected uint64 // transport messages handed to us by InjectTransport
	StrangersDropped  uint64 // of UnknownIndex, too many to be told
	RequestsDropped   uint64 // own initiations dropped because too many were waiting
}

// counters is Stats while it is being counted.
type counters struct {
	rxPackets, rxBytes, txPackets, txBytes                                                 atomic.Uint64
	initiationsReceived, initiationsInjected, initiationsSteered, initiationsSent          atomic.Uint64
	responsesSent, responsesReceived, cookiesReceived, confirmed, givenUp                  atomic.Uint64
	malformed, badMAC, queueFull, badHandshake, unknownDevice, staleTimestamp, tooFrequent atomic.Uint64
	unknownIndex, expired, forged, replayed, badPacket, badSource                          atomic.Uint64
	noSession, overflow, fenced, requestsDropped                                           atomic.Uint64
	exports, imports, importsRefused, takenOver                                            atomic.Uint64
	forwarded, muted, transportInjected, strangersDropped                                  atomic.Uint64
	sendErrors, receiveErrors, readErrors, writeErrors                                     atomic.Uint64
}

// Stats returns the counters. It may be called at any time.
func (g *Gateway) Stats() Stats {
	c := &g.count
	return Stats{
		RxPackets: c.rxPackets.Load(), RxBytes: c.rxBytes.Load(), TxPackets: c.txPackets.Load(), TxBytes: c.txBytes.Load(),
		InitiationsReceived: c.initiationsReceived.Load(), InitiationsInjected: c.initiationsInjected.Load(),
		InitiationsSteered: c.initiationsSteered.Load(), InitiationsSent: c.initiationsSent.Load(),
		ResponsesSent: c.responsesSent.Load(), ResponsesReceived: c.responsesReceived.Load(),
		CookiesReceived: c.cookiesReceived.Load(), Confirmed: c.confirmed.Load(), GivenUp: c.givenUp.Load(),
		Malformed: c.malformed.Load(), BadMAC: c.badMAC.Load(), QueueFull: c.queueFull.Load(), BadHandshake: c.badHandshake.Load(),
		UnknownDevice: c.unknownDevice.Load(), StaleTimestamp: c.staleTimestamp.Load(), TooFrequent: c.tooFrequent.Load(),
		UnknownIndex: c.unknownIndex.Load(), Expired: c.expired.Load(), Forged: c.forged.Load(), Replayed: c.replayed.Load(),
		BadPacket: c.badPacket.Load(), BadSource: c.badSource.Load(), NoSession: c.noSession.Load(), Overflow: c.overflow.Load(),
		Exports: c.exports.Load(), Imports: c.imports.Load(), ImportsRefused: c.importsRefused.Load(), TakenOver: c.takenOver.Load(),
		Forwarded: c.forwarded.Load(), Muted: c.muted.Load(), TransportInjected: c.transportInjected.Load(), StrangersDropped: c.strangersDropped.Load(),
		Fenced: c.fenced.Load(), SendErrors: c.sendErrors.Load(), ReceiveErrors: c.receiveErrors.Load(),
		ReadErrors: c.readErrors.Load(), WriteErrors: c.writeErrors.Load(), RequestsDropped: c.requestsDropped.Load(),
	}
}
