// Package nodetest runs whole gateways in one process, in a fake-clock bubble
// (testing/synctest), with devices that are the stock client. Gateways reach
// each other over a [gatemesh/mesh/meshtest.Network], devices and gateways over
// a [gatemesh/vpn/vpntest.Internet]; only the stores are on a real disk.
//
//	device ──┐                     ┌── gateway ──┐
//	device ──┼──── Internet ───────┼── gateway ──┼── Network
//	device ──┘                     └── gateway ──┘
//
// Host i has the address meshtest.Addr(i) on both.
package nodetest
