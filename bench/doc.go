// Package bench measures whole gateways from the outside: how much, how soon.
// Parts are measured beside their code; what runs here is the assembly, over
// real sockets on loopback, with the stock client.
//
//	just bench            # all benchmarks of the project
//	go tool benchstat a b # two runs compared
package bench
