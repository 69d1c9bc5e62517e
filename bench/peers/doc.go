// Command peers measures gatemesh beside its neighbours on one Linux machine, as root: plain wireguard-go, the
// Tailscale fork of it, and Debian's OpenVPN. It is a module of its own, so that the fork is in nobody else's graph.
//
//	just peers                                  # all of it
//	cd bench/peers && go run . -short           # one quick round, three minutes
//
// A gateway and a client run in a network namespace each, with a veth between:
//
//	pf-c: iperf3 ─► client's TUN ─► stock wireguard-go ─┐ veth
//	pf-g: iperf3 ◄─ gateway's TUN ◄─ gateway ◄──────────┘
//
// The client is the same everywhere but for OpenVPN, which is its own. Each round takes every gateway once, every other
// round in reverse order, so that what drifts on the machine hits all. Figures are the CPU time of the gateway's
// process, which neighbours on the machine disturb less than the clock on the wall. Ratios are made within a round.
package main
