// Package labtest runs the real gatemesh program with stock WireGuard clients
// in network namespaces of one Linux machine.
//
//	   client   client  …  client            stock wireguard-go, one namespace each
//	     .50      .51       .250
//	══════╧════════╧═════════╧══════════════  "internet" 192.0.2.0/24, router .254
//	  .1  │        │ .2      │ .3
//	   gateway  gateway   gateway            gatemesh, one namespace each
//	  .1  │        │ .2      │ .3
//	══════╧════════╧═════════╧══════╤═══════  "lan" 198.51.100.0/24
//	                                │ .200
//	                             LAN host    iperf3, echo
//
// A [Client] is a process with a TUN; of a [Device], the same stock client in
// the memory of the test, there can be hundreds.
//
// Both networks are bridges in a namespace of their own, with multicast and
// without any rule. The LAN host has no route to the devices: gateways
// masquerade. There is no delay; loss is made by [Node.Loss].
//
// The package knows the program by its command line, its log line "gateway
// ready" and its JSON only, and the clients by wg(8) and ping(8). It imports
// nothing of gatemesh and decides nothing: what a figure must reach is in the
// tests, which state it with [Lab.Bar].
//
// It needs Linux, root, /dev/net/tun and a few tools. A test that asks for a
// lab where they are missing is skipped and says what is missing.
//
// Flags of a test that imports it:
//
//	-lab.full    the long forms: all runs, all clients, all minutes (-timeout 30m)
//	-lab.strict  a figure below its bar fails the test
//	-lab.soak=D  the soak test runs for D, such as 30m (-timeout 60m)
//
// Environment: GATEMESH_LAB_RACE=1 builds gatemesh with the race detector and
// fails a test whose gateways report a race. GATEMESH_LAB_KEEP=1 keeps the data
// directories and logs.
package labtest
