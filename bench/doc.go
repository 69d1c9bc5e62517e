// Package bench measures whole gateways from the outside: how much, how soon.
//
//	connect_test.go    a gateway with all its parts on loopback: enrol, spread, first reply
//	gateway_test.go    the engine between two edges in memory: packets, sessions
//	handshake_test.go  the same: handshakes as responder
//
// The last two have the module's own device beside ours, in one run. Parts are measured beside their code: sealing,
// opening, the steps of a handshake and the deadlines in vpn, the steering decision in node, placement and the store in
// cluster. Command peers, a module of its own, measures processes in network namespaces.
//
//	just bench            # all benchmarks of the project, ten times, to new.txt
//	just bench-compare    # new.txt beside baseline.txt, whose head names the machine, the date and the load
//	just bench-engines    # ours beside the module's device, in new.txt
//	just peers            # beside wireguard-go, the Tailscale fork and OpenVPN
//
// A baseline is a new.txt of a quiet machine: cp bench/new.txt bench/baseline.txt.
//
// Times per operation do not see how many cores worked; cpu-ns/op does.
package bench
