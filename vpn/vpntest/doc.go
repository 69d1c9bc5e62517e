// Package vpntest is the in-memory twin of the edges of package vpn: an [Internet] of UDP hosts that loses, delays,
// doubles and reorders datagrams, a [TUN] without an operating system, and a [Client] that is the stock
// wireguard-go device between the two. They know WireGuard datagrams only by their first byte. A [Forger] makes an
// attacker's initiations, an [Initiator] makes handshakes in bulk, for loads.
//
// Everything but [Flood], which attacks over real sockets, may be used in a testing/synctest bubble, nothing blocks: what
// does not fit is dropped. Nothing else here starts a goroutine; datagrams that are delayed are delivered by timers.
package vpntest
