// Package vpntest is the in-memory twin of the edges of package vpn: an [Internet] of UDP hosts that loses, delays,
// doubles and reorders datagrams, a [TUN] without an operating system, and a [Client] that is the stock
// wireguard-go device between the two. These know WireGuard datagrams only by their
// first byte. An [Initiator] makes handshakes in bulk, for loads.
//
// Everything may be used in a testing/synctest bubble, nothing blocks: what does not fit is dropped. Nothing here
// starts a goroutine; datagrams that are delayed are delivered by timers.
package vpntest
